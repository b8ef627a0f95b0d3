"""What identifies decoded latents: a checksum over the integers that go through the entropy coder.

A stream decodes to garbage, without any error, if sender and receiver compute different
probabilities. The checksum of the symbols, made while encoding and compared after decoding, tells.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from compressai.entropy_models import EntropyModel
from compressai.models import CompressionModel
from torch import Tensor

from lic_da.codecs.entropy.chunks import Integers, decompressor


class SymbolChecksum:
    """CRC-32 over all symbols coded so far; ``value`` is the checksum.

    Args:
        kept: where the symbols are appended, in their order; None: they are not kept.
    """

    def __init__(self, kept: list[Integers] | None = None) -> None:
        self.value = 0
        self._kept = kept

    def add(self, symbols: Tensor) -> None:
        """Continue the checksum with more symbols, a tensor of whole numbers."""
        self.add_array(symbols.detach().cpu().numpy())

    def add_array(self, symbols: Integers) -> None:
        """As :meth:`add`, for an array."""
        little_endian = np.ascontiguousarray(symbols, dtype="<i4")
        self.value = zlib.crc32(little_endian.data, self.value)
        if self._kept is not None:
            self._kept.append(symbols)


@contextmanager
def symbol_checksum(
    codec: CompressionModel,
    direction: Literal["encode", "decode"],
    kept: list[Integers] | None = None,
) -> Iterator[SymbolChecksum]:
    """Checksum of the symbols that ``codec`` encodes, or decodes, inside the block.

    CompressAI's entropy models make symbols by ``quantize(…, "symbols")`` before encoding. They are
    decoded by the models' ``decompress``, in whose place stands one that works in pieces and wants a
    :class:`~lic_da.codecs.entropy.chunks.PaddedString`; autoregressive codecs decode by themselves and have
    the models ``dequantize`` the symbols.
    """
    checksum = SymbolChecksum(kept)
    models = [m for m in codec.modules() if isinstance(m, EntropyModel)]
    for model in models:
        if direction == "encode":
            listening = {"quantize": _quantize(model.quantize, checksum)}
        else:
            listening = {
                "dequantize": _dequantize(model.dequantize, checksum),
                "decompress": decompressor(model, checksum.add_array),
            }
        for name, method in listening.items():
            setattr(model, name, method)
    try:
        yield checksum
    finally:
        for model in models:
            for name in listening:
                delattr(model, name)  # the class's own method shows again


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
