"""What identifies decoded latents: a checksum over the integers that go through the entropy coder.

A stream decodes to garbage, without any error, if sender and receiver compute different
probabilities. The checksum of the symbols, made while encoding and compared after decoding, tells.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from compressai.ans import RansDecoder
from compressai.entropy_models import EntropyModel
from compressai.models import CompressionModel
from numpy.typing import NDArray
from torch import Tensor

_PIECE = 1 << 20


class SymbolChecksum:
    """CRC-32 over all symbols coded so far; ``value`` is the checksum."""

    def __init__(self) -> None:
        self.value = 0

    def add(self, symbols: Tensor) -> None:
        """Continue the checksum with more symbols, a tensor of whole numbers."""
        little_endian = np.ascontiguousarray(symbols.detach().cpu().numpy(), dtype="<i4")
        self.value = zlib.crc32(little_endian.data, self.value)


@contextmanager
def symbol_checksum(
    codec: CompressionModel, direction: Literal["encode", "decode"]
) -> Iterator[SymbolChecksum]:
    """Checksum of the symbols that ``codec`` encodes, or decodes, inside the block.

    CompressAI's entropy models make symbols by ``quantize(…, "symbols")`` before encoding and take
    them in by ``dequantize`` after decoding, in autoregressive codecs as in all others.
    """
    checksum = SymbolChecksum()
    models = [m for m in codec.modules() if isinstance(m, EntropyModel)]
    coders = [m.entropy_coder for m in models]
    name, listening = (
        ("quantize", _quantize) if direction == "encode" else ("dequantize", _dequantize)
    )
    for model, coder in zip(models, coders, strict=True):
        setattr(model, name, listening(getattr(model, name), checksum))
        model.entropy_coder = _InPieces(coder)
    try:
        yield checksum
    finally:
        for model, coder in zip(models, coders, strict=True):
            delattr(model, name)  # the class's own method shows again
            model.entropy_coder = coder


def _quantize(method: Callable[..., Tensor], checksum: SymbolChecksum) -> Callable[..., Tensor]:
    def quantize(inputs: Tensor, mode: str, *args: Any, **kwargs: Any) -> Tensor:
        outputs = method(inputs, mode, *args, **kwargs)
        if mode == "symbols":
            checksum.add(outputs)
        return outputs

    return quantize


def _dequantize(method: Callable[..., Tensor], checksum: SymbolChecksum) -> Callable[..., Tensor]:
    def dequantize(inputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        checksum.add(inputs)
        return method(inputs, *args, **kwargs)

    return dequantize


class _InPieces:
    """An entropy coder that decodes piece by piece into an array: a list takes eight times the memory."""

    def __init__(self, coder: Any) -> None:
        self._coder = coder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coder, name)

    def decode_with_indexes(
        self, string: bytes, indexes: Sequence[int], *tables: Any
    ) -> NDArray[np.int32]:
        """As CompressAI's, which gives a list."""
        decoder = RansDecoder()
        decoder.set_stream(string)
        symbols = np.empty(len(indexes), dtype=np.int32)
        for start in range(0, len(indexes), _PIECE):
            piece = slice(start, start + _PIECE)
            symbols[piece] = decoder.decode_stream(indexes[piece], *tables)
        return symbols
