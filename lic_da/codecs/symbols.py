"""What identifies decoded latents: a checksum over the integers that go through the entropy coder.

A stream decodes to garbage, without any error, if sender and receiver compute different
probabilities. The checksum of the symbols, made while encoding and compared after decoding, tells.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from compressai.entropy_models import EntropyModel
from compressai.models import CompressionModel


class SymbolChecksum:
    """CRC-32 over all symbols coded so far; ``value`` is the checksum."""

    def __init__(self) -> None:
        self.value = 0

    def add(self, symbols: Sequence[int]) -> None:
        """Continue the checksum with more symbols."""
        self.value = zlib.crc32(np.asarray(symbols, dtype="<i4").tobytes(), self.value)


class _Listening:
    """An entropy coder that tells a checksum what passes through."""

    def __init__(self, coder: Any, checksum: SymbolChecksum) -> None:
        self._coder = coder
        self._checksum = checksum

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coder, name)

    def encode_with_indexes(self, symbols: Sequence[int], *args: Any) -> Any:
        self._checksum.add(symbols)
        return self._coder.encode_with_indexes(symbols, *args)

    def decode_with_indexes(self, *args: Any) -> Any:
        symbols = self._coder.decode_with_indexes(*args)
        self._checksum.add(symbols)
        return symbols


@contextmanager
def symbol_checksum(codec: CompressionModel) -> Iterator[SymbolChecksum]:
    """Checksum of the symbols that ``codec`` encodes or decodes inside the block."""
    checksum = SymbolChecksum()
    models = [m for m in codec.modules() if isinstance(m, EntropyModel)]
    coders = [m.entropy_coder for m in models]
    for model, coder in zip(models, coders, strict=True):
        model.entropy_coder = _Listening(coder, checksum)
    try:
        yield checksum
    finally:
        for model, coder in zip(models, coders, strict=True):
            model.entropy_coder = coder
