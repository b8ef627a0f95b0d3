"""Entropy decoding of strings that nobody vouches for.

CompressAI's rANS decoder is told how many symbols to decode, but not where its string ends: a string
that is cut off, or garbage under a right checksum, makes it read whatever lies behind in memory, and
at last crashes the process. What it reads there can be bounded, so strings are followed by as many
zeros as it can reach::

    a symbol                at most 16 bits
    an escaped symbol       16 bits, n nibbles; n is the sum of nibbles up to the first that is not 15

Behind the string all is zero, so there a sum ends after the 63 bits of the decoder's state: no symbol
takes more than ``_ESCAPE`` bytes. Only one sum can begin in the string. Between words the decoder
takes nibbles of 15 only from words of all ones, so the sum announces at most 15 times the longest run
of such bytes, and what the state holds. What remains is how many symbols behind the string are
escapes. Their tables give them some 2⁻¹⁶ of the range; we leave room for ``_ESCAPES`` and every 64th
of all. The padding changes nothing for a whole string, which is never read beyond its end.

Lengths are held against the size of the image first: a table's likeliest symbols set the least
number of bits, so a few bytes cannot claim a hundred megapixels. While decoding, the symbols' bits are
held against the string's (:mod:`lic_da.codecs.entropy.chunks`), so that garbage ends where the string
does, and not where the image would.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from compressai.entropy_models import EntropyBottleneck, EntropyModel, GaussianConditional
from compressai.models import CompressionModel
from torch import Tensor

from lic_da.codecs.entropy.checksum import symbol_checksum
from lic_da.codecs.entropy.chunks import Integers, PaddedString
from lic_da.codecs.latents import until_synthesis
from lic_da.io.bitstream import StreamError

_WORD = 4  # rANS writes words of 4 bytes, after a state of 8
_STATE = 8
_STATE_RANGE = range(1 << 31, 1 << 63)
_SYMBOL = 2  # bytes
_ESCAPE = 74  # bytes: 16 bits, at most 9 nibbles of a sum, at most 135 nibbles that it announces
_ESCAPES = 1 << 16
_LONGEST = 7  # bytes: what an encoder writes for a symbol, 16 + 4 + 32 bits


@dataclass
class SharedLatent:
    """The latest latent that was decoded, for other ways to show an image from the same strings.

    It takes the memory of that latent and of its symbols.

    Attributes:
        saved_s: seconds that decoding took of latents that were handed out again, in all.
    """

    saved_s: float = field(default=0.0, init=False)
    _key: object = field(default=None, init=False, repr=False)
    _latent: tuple[Tensor, int, list[Integers]] | None = field(default=None, init=False, repr=False)
    _seconds: float = field(default=0.0, init=False, repr=False)

    def of(
        self,
        key: object,
        decoded: Callable[[list[Integers]], tuple[Tensor, int]],
        kept: list[Integers] | None = None,
    ) -> tuple[Tensor, int]:
        """What ``decoded`` returns, or has returned if the latest key was the same.

        Args:
            key: of codec and strings.
            decoded: :func:`decode_latent` of these, called with a list for the symbols.
            kept: where the symbols are appended.
        """
        if self._latent is None or self._key != key:
            began, own = time.perf_counter(), list[Integers]()
            self._latent = (*decoded(own), own)
            self._key, self._seconds = key, time.perf_counter() - began
        else:
            self.saved_s += self._seconds
        y_hat, checksum, symbols = self._latent
        if kept is not None:
            kept += symbols
        return y_hat, checksum


@torch.inference_mode()
def decode_latent(
    codec: CompressionModel,
    strings: Sequence[bytes],
    shape: tuple[int, int],
    symbols: int,
    kept: list[Integers] | None = None,
) -> tuple[Tensor, int]:
    """Decode the strings of one image.

    Args:
        codec: any CompressAI codec whose strings are rANS strings, in eval mode.
        strings: as from a stream, in the order of the codec's own ``compress``.
        shape: of the latent that ``codec.decompress`` wants.
        symbols: how many symbols the longest of the strings holds.
        kept: where decoded symbols are appended, in their order: those of y are the last.

    Returns:
        ŷ ``(1, M, H/s, W/s)`` and the checksum of its symbols, which is to be compared: a damaged
        string mostly decodes to something.

    Raises:
        StreamError: these cannot be strings of this codec and an image of this size.
    """
    check_strings(codec, strings, shape, symbols)
    padded = [[pad_string(string, symbols)] for string in strings]
    with symbol_checksum(codec, "decode", kept) as checksum:
        y_hat = until_synthesis(codec, partial(codec.decompress, padded, shape))
    return y_hat, checksum.value


def check_strings(
    codec: CompressionModel, strings: Sequence[bytes], shape: tuple[int, int], symbols: int
) -> None:
    """Raise a StreamError unless these may be strings of the codec for a latent of this shape."""
    expected = sum(isinstance(m, EntropyModel) for m in codec.modules())
    if len(strings) != expected:
        raise StreamError(f"The stream holds {len(strings)} strings; this codec writes {expected}.")
    for string in strings:
        whole = len(string) >= _STATE and len(string) % _WORD == 0
        if not whole or int.from_bytes(string[:_STATE], "little") not in _STATE_RANGE:
            raise StreamError("The stream's strings are not those of an entropy coder.")
        if len(string) > _STATE + _LONGEST * symbols:
            raise StreamError("The stream's strings are too long for the size it states.")
    if sum(len(string) for string in strings) < least_bits(codec, shape, symbols) / 8 - _STATE:
        raise StreamError("The stream's strings are too short for the size it states.")


def least_bits(codec: CompressionModel, shape: tuple[int, int], symbols: int) -> float:
    """Bits that strings take if every symbol is its table's likeliest.

    Which of its tables a Gaussian conditional model will use is not known before decoding; the one of
    the narrowest Gaussian counts.

    Args:
        codec: whose tables.
        shape: of the latent of an entropy bottleneck.
        symbols: of the Gaussian conditional model.
    """
    bits = 0.0
    for model in codec.modules():
        if isinstance(model, EntropyBottleneck):
            bits += shape[0] * shape[1] * float(_likeliest(model).sum())
    gaussian = [m for m in codec.modules() if isinstance(m, GaussianConditional)]
    return bits + symbols * min((float(_likeliest(m).min()) for m in gaussian), default=0.0)


def _likeliest(model: EntropyModel) -> Tensor:
    """Bits of the likeliest symbol of every table."""
    frequencies = model.quantized_cdf.diff(dim=1).amax(dim=1).double()
    return model.entropy_coder_precision - frequencies.log2()


def pad_string(string: bytes, symbols: int) -> PaddedString:
    """The string, and zeros as far as a decoder of so many symbols can read."""
    escapes = min(symbols, _ESCAPES + symbols // 64)
    ones = max(map(len, re.findall(rb"\xff+", string)), default=0)
    reach = 15 * (ones + 2 * _STATE) + _SYMBOL * symbols + _ESCAPE * (escapes + 1) + _STATE
    return PaddedString(string, reach)
