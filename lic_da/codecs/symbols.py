"""What identifies decoded latents: a checksum over the integers that go through the entropy coder.

A stream decodes to garbage, without any error, if sender and receiver compute different
probabilities. The checksum of the symbols, made while encoding and compared after decoding, tells.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from compressai.entropy_models import EntropyModel
from compressai.models import CompressionModel
from torch import Tensor


class SymbolChecksum:
    """CRC-32 over all symbols coded so far; ``value`` is the checksum."""

    def __init__(self) -> None:
        self.value = 0

    def add(self, symbols: Tensor) -> None:
        """Continue the checksum with more symbols, a tensor of whole numbers."""
        self.value = zlib.crc32(symbols.detach().cpu().numpy().astype("<i4").tobytes(), self.value)


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
    name = "quantize" if direction == "encode" else "dequantize"
    for model in models:
        setattr(model, name, _listening(getattr(model, name), checksum, direction))
    try:
        yield checksum
    finally:
        for model in models:
            delattr(model, name)  # the class's own method shows again


def _listening(method: Any, checksum: SymbolChecksum, direction: str) -> Any:
    def quantize(inputs: Tensor, mode: str, *args: Any, **kwargs: Any) -> Tensor:
        outputs: Tensor = method(inputs, mode, *args, **kwargs)
        if mode == "symbols":
            checksum.add(outputs)
        return outputs

    def dequantize(inputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        checksum.add(inputs)
        outputs: Tensor = method(inputs, *args, **kwargs)
        return outputs

    return quantize if direction == "encode" else dequantize
