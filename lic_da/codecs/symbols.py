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
from compressai.ans import RansDecoder
from compressai.entropy_models import EntropyModel
from compressai.models import CompressionModel
from numpy.typing import NDArray

_PIECE = 1 << 20


class SymbolChecksum:
    """CRC-32 over all symbols coded so far; ``value`` is the checksum."""

    def __init__(self) -> None:
        self.value = 0

    def add(self, symbols: Sequence[int] | NDArray[np.int32]) -> None:
        """Continue the checksum with more symbols."""
        little_endian = np.ascontiguousarray(symbols, dtype="<i4")
        self.value = zlib.crc32(little_endian.data, self.value)


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

    def decode_with_indexes(self, string: bytes, indexes: Sequence[int], *tables: Any) -> Any:
        """Symbols as an array, decoded piece by piece: a list takes eight times the memory."""
        decoder = RansDecoder()
        decoder.set_stream(string)
        symbols = np.empty(len(indexes), dtype="<i4")
        for start in range(0, len(indexes), _PIECE):
            piece = slice(start, start + _PIECE)
            symbols[piece] = decoder.decode_stream(indexes[piece], *tables)
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
