"""The ``.lic`` stream: a header around the strings of the base codec. No torch in here.

Little-endian. ``string`` is what the base codec's entropy coder wrote, byte for byte::

    "LICD"  version u8  flags u8  base fingerprint 8 bytes  width u32  height u32
    latent height u16  latent width u16  [v: K+1 times u8]
    number of strings u8  {length u32, string} …
    CRC-32 of the quantised latents u32    CRC-32 of everything before it u32

``flags`` is 0 without v. With v its lowest bit is set and the seven others hold K, so that the block
can be read without the pack that gives its entries their names. v itself is the bytes over their sum.

Reading believes nothing: sizes have limits, every length is held against the bytes that are there,
and the checksum over the whole file is compared before anything is handed on. A right checksum only
says that nothing broke on the way; what a decoder must still check is in ``lic_da.codecs.entropy.decode``.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from lic_da.errors import UserError

MAGIC = b"LICD"
VERSION = 1
MAX_STRINGS = 16
MAX_SIDE = 1 << 20
MAX_PIXELS = 120_000_000
MAX_DOMAINS = 128
MAX_FILE_BYTES = 1 << 29
"""Four bytes a pixel of the largest picture: no codec needs as much."""

_HAS_V = 1
_MAX_LATENT = (1 << 16) - 1
_HEAD = struct.Struct("<4sBB8sIIHH")
_LENGTH = struct.Struct("<I")
_TAIL = struct.Struct("<II")
_NO_STREAM = "This is not a lic_da stream (it does not start with LICD, or is cut off)."
_DAMAGED = "The stream's lengths do not add up."


class StreamError(UserError):
    """A stream that is damaged, or was not made for this decoder."""


def check_fits(width: int, height: int, stride: int) -> None:
    """Refuse a picture that no stream can hold, before it is coded.

    Args:
        width: in pixels.
        height: in pixels.
        stride: pixels of the picture for one of the latent that the stream states.

    Raises:
        UserError: a side or the whole is too large.
    """
    side = min(MAX_SIDE, _MAX_LATENT * stride)
    if max(width, height) > side or width * height > MAX_PIXELS:
        raise UserError(
            f"A picture of {width}×{height} pixels is too large: with this codec a stream holds sides of "
            f"up to {side} and {MAX_PIXELS // 1_000_000} megapixels."
        )


@dataclass(frozen=True)
class Stream:
    """Contents of a ``.lic`` file.

    Attributes:
        fingerprint: first 8 bytes of the SHA-256 of the base weights.
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        shape: height and width of the latent that the strings hold.
        strings: the base codec's own strings, one a latent.
        latent_crc: CRC-32 of the quantised latents.
        v: weights of the adapters in 255ths or other units, 1 to ``MAX_DOMAINS`` bytes that are not
            all zero; None: the decoder's gate computes them.

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

    def __post_init__(self) -> None:
        _check_size(self.width, self.height, self.shape)
        _check_count(len(self.strings))
        if self.v is not None and not (0 < len(self.v) <= MAX_DOMAINS and any(self.v)):
            raise StreamError("The stream's weights of the adapters are all zero, or too many.")
        if len(self.fingerprint) != 8 or not 0 <= self.latent_crc < 1 << 32:
            raise StreamError("A fingerprint has 8 bytes and a CRC 32 bits.")
        if self.string_bytes > MAX_FILE_BYTES:
            raise StreamError(f"A stream holds at most {MAX_FILE_BYTES >> 20} MiB.")

    @property
    def string_bytes(self) -> int:
        """Size of the strings, which is what the field counts."""
        return sum(len(s) for s in self.strings)

    @property
    def bpp(self) -> float:
        """Bits a pixel of the strings, and of v where it is signalled."""
        return 8 * (self.string_bytes + len(self.v or b"")) / (self.width * self.height)

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        flags = 0 if self.v is None else _HAS_V | (len(self.v) - 1) << 1
        size = (self.width, self.height, *self.shape)
        parts = [
            _HEAD.pack(MAGIC, VERSION, flags, self.fingerprint, *size),
            self.v or b"",
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
    def from_bytes(cls, data: bytes) -> Stream:
        """Read a file's bytes; the checksum is verified before anything else is believed.

        Raises:
            StreamError: not a stream, damaged, or of a version this program does not know.
        """
        if len(data) < _HEAD.size + 1 + _TAIL.size or data[:4] != MAGIC:
            raise StreamError(_NO_STREAM)
        if zlib.crc32(memoryview(data)[:-4]) != _LENGTH.unpack_from(data, len(data) - 4)[0]:
            raise StreamError("The stream is damaged: its checksum does not match its bytes.")
        _, version, flags, fingerprint, width, height, rows, columns = _HEAD.unpack_from(data)
        if version != VERSION or (flags and not flags & _HAS_V):
            raise StreamError(
                f"The stream has version {version} and flags {flags}; this program reads version "
                f"{VERSION}, flags 0 or odd. Use a newer version of lic_da."
            )
        _check_size(width, height, (rows, columns))
        rest = _Reader(data, _HEAD.size, len(data) - _TAIL.size)
        v = rest.take((flags >> 1) + 1) if flags else None
        count = rest.take(1)[0]
        _check_count(count)
        strings = tuple(rest.take(_LENGTH.unpack(rest.take(_LENGTH.size))[0]) for _ in range(count))
        rest.finish()
        (latent_crc, _) = _TAIL.unpack_from(data, rest.end)
        return cls(fingerprint, width, height, (rows, columns), strings, latent_crc, v)


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
    """Limits of a picture; a latent has at least one element and no more than the picture."""
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
