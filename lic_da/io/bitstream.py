"""The ``.lic`` stream: a header around the strings of the base codec. No torch in here.

Little-endian. ``string`` is what the base codec's entropy coder wrote, byte for byte::

    "LICD"  version u8  flags u8  base fingerprint 8 bytes  width u32  height u32
    latent height u16  latent width u16  [v: K+1 times u8]
    number of strings u8  {length u32, string} …
    CRC-32 of the quantised latents u32    CRC-32 of everything before it u32

``flags`` is 0 without v. With v its lowest bit is set and the seven others hold K, so that the block
can be read without the pack that gives its entries their names. v itself is the bytes over their sum.

A v that the encoder has chosen is signed and adds up to anything, which needs version 2; its entries are
in 32nds. The block is the shorter of two forms (of equal length: dense) and stands where v stands above::

    dense   flags = K << 1        K+1 times i8
    sparse  flags = n << 1 | 1    K u8  n times u8, places of what is not zero, rising  n times i8

All else is as in version 1, and a stream without such a v is one of version 1.

Reading believes nothing: sizes have limits, every length is held against the bytes that are there,
and the checksum over the whole file is compared before anything is handed on. A right checksum only
says that nothing broke on the way; what a decoder must still check is in ``lic_da.codecs.entropy.decode``.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from lic_da.errors import UserError

MAGIC = b"LICD"
VERSION = 1
CHOSEN_VERSION = 2
"""Of a stream with a v that the encoder has chosen; all others have ``VERSION``."""
MAX_STRINGS = 16
MAX_SIDE = 1 << 20
MAX_PIXELS = 120_000_000
MAX_DOMAINS = 128
MAX_CHOSEN_DOMAINS = 256
MAX_ENTRIES = 8
"""Entries of a chosen v that may be other than zero, where all K+1 in a row would take more room."""
MAX_IN_A_ROW = 1 + 2 * MAX_ENTRIES
"""Domains up to which a chosen v may have all its entries."""
CHOSEN_UNITS = 32
"""A chosen v is in 32nds: from −4 to 3 31/32."""
MAX_FILE_BYTES = 1 << 29
"""Four bytes a pixel of the largest image: no codec needs as much."""

_HAS_V = 1
_MAX_LATENT = (1 << 16) - 1
_HEAD = struct.Struct("<4sBB8sIIHH")
_LENGTH = struct.Struct("<I")
_TAIL = struct.Struct("<II")
_NO_STREAM = "This is not a lic_da stream (it does not start with LICD, or is cut off)."
_DAMAGED = "The stream's lengths do not add up."
_BAD_CHOSEN = (
    "The stream's chosen weights of the adapters are not in the form that they are written in."
)


class StreamError(UserError):
    """A stream that is damaged, or was not made for this decoder."""


def check_fits(width: int, height: int, stride: int) -> None:
    """Refuse an image that no stream can hold, before it is coded.

    Args:
        width: in pixels.
        height: in pixels.
        stride: pixels of the image for one of the latent that the stream states.

    Raises:
        UserError: a side or the whole is too large.
    """
    side = min(MAX_SIDE, _MAX_LATENT * stride)
    if max(width, height) > side or width * height > MAX_PIXELS:
        raise UserError(
            f"An image of {width}×{height} pixels is too large: with this codec a stream holds sides of "
            f"up to {side} and {MAX_PIXELS // 1_000_000} megapixels."
        )


def no_weights(stream: Stream) -> str:
    """Why the gate of a pack that signals v cannot mix the adapters for a stream without it, in words."""
    if stream.chosen is not None:
        return (
            "The stream has a chosen v in the place of the gate's, and the gate of this pack cannot find "
            "its own at the decoder. Use another mode than top1."
        )
    return (
        "The stream carries no weights of the adapters, and the gate of this pack cannot find them at the "
        "decoder. Use the pack it was made with, or the mode oracle or base."
    )


@dataclass(frozen=True)
class Stream:
    """Contents of a ``.lic`` file.

    Attributes:
        fingerprint: first 8 bytes of the SHA-256 of the base weights.
        width: of the image, in pixels.
        height: of the image, in pixels.
        shape: height and width of the latent that the strings hold.
        strings: the base codec's own strings, one a latent.
        latent_crc: CRC-32 of the quantised latents.
        v: weights of the adapters in 255ths or other units, 1 to ``MAX_DOMAINS`` bytes that are not
            all zero; None: the decoder's gate computes them.
        chosen: weights of the adapters that the encoder has chosen for this image, in 32nds, −128 to
            127, 1 to ``MAX_CHOSEN_DOMAINS`` of them; all zero is the base decoder. They take the place
            of the gate's, and ``v`` is None beside them. None: there are none.

    Raises:
        StreamError: a value is outside the format's limits.
    """

    fingerprint: bytes
    width: int
    height: int
    shape: tuple[int, int]
    strings: tuple[bytes, ...]
    latent_crc: int
    v: bytes | None = None
    chosen: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _check_size(self.width, self.height, self.shape)
        _check_count(len(self.strings))
        if self.v is not None and not (0 < len(self.v) <= MAX_DOMAINS and any(self.v)):
            raise StreamError("The stream's weights of the adapters are all zero, or too many.")
        if self.chosen is not None:
            _check_chosen(self.chosen)
            if self.v is not None:
                raise StreamError("A stream has one v: the gate's, or a chosen one.")
        if len(self.fingerprint) != 8 or not 0 <= self.latent_crc < 1 << 32:
            raise StreamError("A fingerprint has 8 bytes and a CRC 32 bits.")
        if self.string_bytes > MAX_FILE_BYTES:
            raise StreamError(f"A stream holds at most {MAX_FILE_BYTES >> 20} MiB.")

    @property
    def string_bytes(self) -> int:
        """Size of the strings, which is what the field counts."""
        return sum(len(s) for s in self.strings)

    @property
    def v_bytes(self) -> int:
        """What the weights of the adapters take in the file, signalled or chosen; 0 without any."""
        return len(self.v or b"") if self.chosen is None else len(_chosen_block(self.chosen)[1])

    @property
    def bpp(self) -> float:
        """Bits a pixel of the strings, and of v where it is signalled or chosen."""
        return 8 * (self.string_bytes + self.v_bytes) / (self.width * self.height)

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        version, flags, v = VERSION, 0, self.v or b""
        if self.chosen is not None:
            version, (flags, v) = CHOSEN_VERSION, _chosen_block(self.chosen)
        elif v:
            flags = _HAS_V | (len(v) - 1) << 1
        size = (self.width, self.height, *self.shape)
        parts = [
            _HEAD.pack(MAGIC, version, flags, self.fingerprint, *size),
            v,
            bytes([len(self.strings)]),
        ]
        for string in self.strings:
            parts += [_LENGTH.pack(len(string)), string]
        parts.append(_LENGTH.pack(self.latent_crc))
        body = b"".join(parts)
        return body + _LENGTH.pack(zlib.crc32(body))

    @classmethod
    def read(cls, path: Path | str) -> Stream:
        """Read a file; one that is no stream, or too large to be one, is not read as a whole.

        Raises:
            StreamError: as :meth:`from_bytes`.
            UserError: the file cannot be opened.
        """
        try:
            with open(path, "rb") as file:
                if os.fstat(file.fileno()).st_size > MAX_FILE_BYTES:
                    raise StreamError(f"A stream has at most {MAX_FILE_BYTES >> 20} MiB.")
                start = file.read(len(MAGIC))
                if start != MAGIC:
                    raise StreamError(_NO_STREAM)
                return cls.from_bytes(start + file.read(MAX_FILE_BYTES))
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}).") from error

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Stream:
        """Read a file's bytes; the checksum is verified before anything else is believed.

        Raises:
            StreamError: not a stream, damaged, or of a version this program does not know.
        """
        if not isinstance(data, bytes | bytearray | memoryview):
            raise StreamError(
                f"A stream is the bytes of a .lic file, Path('a.lic').read_bytes() for instance, not "
                f"{type(data).__name__}."
            )
        data = bytes(data)
        if len(data) < _HEAD.size + 1 + _TAIL.size or data[:4] != MAGIC:
            raise StreamError(_NO_STREAM)
        if zlib.crc32(memoryview(data)[:-4]) != _LENGTH.unpack_from(data, len(data) - 4)[0]:
            raise StreamError("The stream is damaged: its checksum does not match its bytes.")
        _, version, flags, fingerprint, width, height, rows, columns = _HEAD.unpack_from(data)
        plain = version == VERSION
        if not (plain or version == CHOSEN_VERSION) or (plain and flags and not flags & _HAS_V):
            raise StreamError(
                f"The stream has version {version} and flags {flags}; this program reads version "
                f"{VERSION}, flags 0 or odd, and version {CHOSEN_VERSION}. Use a newer version of lic_da."
            )
        _check_size(width, height, (rows, columns))
        rest = _Reader(data, _HEAD.size, len(data) - _TAIL.size)
        v = rest.take((flags >> 1) + 1) if plain and flags else None
        chosen = None if plain else _read_chosen(rest, flags)
        count = rest.take(1)[0]
        _check_count(count)
        strings = tuple(rest.take(_LENGTH.unpack(rest.take(_LENGTH.size))[0]) for _ in range(count))
        rest.finish()
        (latent_crc, _) = _TAIL.unpack_from(data, rest.end)
        return cls(fingerprint, width, height, (rows, columns), strings, latent_crc, v, chosen)


class _Reader:
    """Takes pieces from ``data[position:end]`` and never more than is there."""

    def __init__(self, data: bytes, position: int, end: int) -> None:
        self._data = data
        self._position = position
        self.end = end

    def take(self, length: int) -> bytes:
        """The next ``length`` bytes."""
        if length > self.end - self._position:
            raise StreamError(_DAMAGED)
        start, self._position = self._position, self._position + length
        return self._data[start : self._position]

    def finish(self) -> None:
        """Nothing may be left over."""
        if self._position != self.end:
            raise StreamError(_DAMAGED)


def _check_size(width: int, height: int, shape: tuple[int, int]) -> None:
    """Limits of an image; a latent has at least one element and no more than the image."""
    possible = 0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS
    rows, columns = shape
    if not possible or not (0 < rows <= height and 0 < columns <= width):
        raise StreamError(
            f"The stream states an impossible size, {width}×{height} with a latent of "
            f"{columns}×{rows}."
        )


def _check_count(count: int) -> None:
    if not 0 < count <= MAX_STRINGS:
        raise StreamError(f"The stream states {count} strings.")


def chosen_bytes(chosen: Sequence[int]) -> int:
    """What a chosen v takes in a stream.

    Args:
        chosen: the v in 32nds, as :attr:`Stream.chosen`.
    """
    return len(_chosen_block(chosen)[1])


def _chosen_block(chosen: Sequence[int]) -> tuple[int, bytes]:
    """Flags and bytes of a chosen v, in the shorter of its two forms."""
    places = [k for k, value in enumerate(chosen) if value]
    if len(chosen) <= 1 + 2 * len(places):
        return (len(chosen) - 1) << 1, struct.pack(f"{len(chosen)}b", *chosen)
    values = struct.pack(f"{len(places)}b", *(chosen[k] for k in places))
    return len(places) << 1 | 1, bytes([len(chosen) - 1, *places]) + values


def _read_chosen(rest: _Reader, flags: int) -> tuple[int, ...]:
    """A chosen v as its block says; one that is not in the form that is written is refused."""
    count = flags >> 1
    if not flags & 1:
        chosen = list(struct.unpack(f"{count + 1}b", rest.take(count + 1)))
    else:
        chosen = [0] * (rest.take(1)[0] + 1)
        places, values = rest.take(count), struct.unpack(f"{count}b", rest.take(count))
        rising = all(a < b for a, b in pairwise(places))
        if not rising or not all(values) or (count and places[-1] >= len(chosen)):
            raise StreamError(_BAD_CHOSEN)
        for place, value in zip(places, values, strict=True):
            chosen[place] = value
    if _chosen_block(chosen)[0] != flags:
        raise StreamError(_BAD_CHOSEN)
    return tuple(chosen)


def _check_chosen(chosen: Sequence[int]) -> None:
    """Raise a StreamError unless the format can hold this v."""
    possible = 0 < len(chosen) <= MAX_CHOSEN_DOMAINS and all(-128 <= c <= 127 for c in chosen)
    if not possible or (len(chosen) > MAX_IN_A_ROW and sum(map(bool, chosen)) > MAX_ENTRIES):
        raise StreamError(
            f"A chosen v has 1 to {MAX_CHOSEN_DOMAINS} entries of −128 to 127; of more than "
            f"{MAX_IN_A_ROW}, {MAX_ENTRIES} may be other than zero."
        )
