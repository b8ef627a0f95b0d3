"""Entropy decoding piece by piece, and not beyond the end of a string.

CompressAI's entropy models decode a latent in one go: its indexes and symbols exist as lists of Python
numbers and as several tensors, some forty bytes an element. Piece by piece there is the latent and
little else, and between pieces it shows whether the string can have held as many symbols: every
symbol takes the bits that its table gives it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from compressai.ans import RansDecoder
from compressai.entropy_models import EntropyBottleneck, EntropyModel
from numpy.typing import NDArray
from torch import Tensor

from lic_da.io.bitstream import StreamError

_PIECE = 1 << 19
_ROUNDING = 1e-4  # bits a symbol: rANS states of 31 bits and more, rounded to 16, lose 2⁻¹⁵ of it

Integers = NDArray[np.int32]


class PaddedString(bytes):
    """A string of an entropy coder with zeros behind it, for a decoder that reads beyond the end.

    Attributes:
        length: bytes of the string itself.
    """

    length: int

    def __new__(cls, string: bytes, zeros: int) -> PaddedString:
        padded = super().__new__(cls, string + bytes(zeros))
        padded.length = len(string)
        return padded


def decompressor(model: EntropyModel, seen: Callable[[Integers], None]) -> Callable[..., Tensor]:
    """What takes the place of ``model.decompress``: the same for a batch of one padded string.

    Args:
        model: a bottleneck or a conditional model.
        seen: is called with the symbols, in their order.
    """
    if isinstance(model, EntropyBottleneck):

        def decompress_bottleneck(strings: Sequence[PaddedString], size: Sequence[int]) -> Tensor:
            medians = model._get_medians().detach()
            shape = (1, len(medians), *size)
            area = int(np.prod(size))
            values = _decode(model, strings, shape, lambda i, j: np.arange(i, j) // area, seen)
            return values.type(medians.dtype).add_(medians.view(1, -1, *[1] * len(size)))

        return decompress_bottleneck

    def decompress(
        strings: Sequence[PaddedString],
        indexes: Tensor,
        dtype: torch.dtype = torch.float,
        means: Tensor | None = None,
    ) -> Tensor:
        flat = indexes.reshape(-1).cpu().numpy()
        values = _decode(model, strings, indexes.shape, lambda i, j: flat[i:j], seen)
        return values.type(dtype) if means is None else values.type_as(means).add_(means)

    return decompress


def _decode(
    model: EntropyModel,
    strings: Sequence[PaddedString],
    shape: Sequence[int],
    indexes: Callable[[int, int], NDArray],
    seen: Callable[[Integers], None],
) -> Tensor:
    """Symbols of the one string as a float tensor of this shape, on the model's device."""
    (string,) = strings
    values = torch.empty(tuple(shape), dtype=torch.float)
    flat, start = values.view(-1).numpy(), 0
    for piece in _symbols(model, string, len(flat), indexes):
        seen(piece)
        flat[start : start + len(piece)] = piece
        start += len(piece)
    return values.to(model.quantized_cdf.device)


def _symbols(
    model: EntropyModel, string: PaddedString, count: int, indexes: Callable[[int, int], NDArray]
) -> Iterator[Integers]:
    """The string's symbols; indexes(i, j) are the tables of those from i to j.

    Raises:
        StreamError: the string ends before.
    """
    cdf, lengths, offsets = (
        t.cpu().numpy() for t in (model.quantized_cdf, model.cdf_length, model.offset)
    )
    tables = (cdf.tolist(), lengths.tolist(), offsets.tolist())
    left = 8.0 * string.length
    decoder = RansDecoder()
    decoder.set_stream(string)
    for i in range(0, count, _PIECE):
        index = indexes(i, min(i + _PIECE, count))
        symbols = np.fromiter(decoder.decode_stream(index.tolist(), *tables), np.int32, len(index))
        escape = (lengths - 2)[index]  # what it announces is not counted
        entry = symbols - offsets[index]
        entry = np.where((entry < 0) | (entry >= escape), escape, entry)
        frequencies = (cdf[index, entry + 1] - cdf[index, entry]).astype(np.float32)
        bits = model.entropy_coder_precision - np.log2(frequencies)
        left -= float(bits.sum(dtype=np.float64)) - _ROUNDING * len(index)
        if left < 0:
            raise StreamError("The stream's strings end before the latent that they should hold.")
        yield symbols
