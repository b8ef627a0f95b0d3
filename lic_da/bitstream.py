"""The ``.lic`` stream: a header around the strings of the base codec. No torch in here.

Little-endian. ``string`` is what the base codec's entropy coder wrote, byte for byte::

    "LICD"  version u8  flags u8  base fingerprint 8 bytes  width u32  height u32
    latent height u16  latent width u16  number of strings u8  {length u32, string} …
    CRC-32 of the quantised latents u32    CRC-32 of everything before it u32
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from lic_da.errors import UserError

MAGIC = b"LICD"
VERSION = 1
MAX_STRINGS = 16
MAX_SIDE = 1 << 20
_HEAD = struct.Struct("<4sBB8sIIHHB")
_LENGTH = struct.Struct("<I")
_TAIL = struct.Struct("<II")


class StreamError(UserError):
    """A stream that is damaged, or was not made for this decoder."""


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
    """

    fingerprint: bytes
    width: int
    height: int
    shape: tuple[int, int]
    strings: tuple[bytes, ...]
    latent_crc: int

    @property
    def string_bytes(self) -> int:
        """Size of the strings, which is what bpp counts."""
        return sum(len(s) for s in self.strings)

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        parts = [
            _HEAD.pack(
                MAGIC,
                VERSION,
                0,
                self.fingerprint,
                self.width,
                self.height,
                *self.shape,
                len(self.strings),
            )
        ]
        for string in self.strings:
            parts += [_LENGTH.pack(len(string)), string]
        parts.append(_LENGTH.pack(self.latent_crc))
        body = b"".join(parts)
        return body + _LENGTH.pack(zlib.crc32(body))

    @classmethod
    def from_bytes(cls, data: bytes) -> Stream:
        """Read a file's bytes; the checksum is verified before anything else is believed.

        Raises:
            StreamError: not a stream, damaged, or of a version this program does not know.
        """
        if len(data) < _HEAD.size + _TAIL.size or data[:4] != MAGIC:
            raise StreamError(
                "This is not a lic_da stream (it does not start with LICD, or is cut off)."
            )
        if zlib.crc32(data[:-4]) != _LENGTH.unpack(data[-4:])[0]:
            raise StreamError("The stream is damaged: its checksum does not match its bytes.")
        _, version, flags, fingerprint, width, height, rows, columns, count = _HEAD.unpack_from(
            data
        )
        if version != VERSION or flags:
            raise StreamError(
                f"The stream has version {version} and flags {flags}; this program reads version "
                f"{VERSION} without flags. Use a newer version of lic_da."
            )
        if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and rows and columns):
            raise StreamError(f"The stream states an impossible size, {width}×{height}.")
        if not 0 < count <= MAX_STRINGS:
            raise StreamError(f"The stream states {count} strings.")
        position, end, strings = _HEAD.size, len(data) - _TAIL.size, []
        for _ in range(count):
            if position + _LENGTH.size > end:
                raise StreamError("The stream's lengths do not add up.")
            (length,) = _LENGTH.unpack_from(data, position)
            position += _LENGTH.size
            if length > end - position:
                raise StreamError("The stream's lengths do not add up.")
            strings.append(data[position : position + length])
            position += length
        if position != end:
            raise StreamError("The stream's lengths do not add up.")
        (latent_crc, _) = _TAIL.unpack_from(data, end)
        return cls(fingerprint, width, height, (rows, columns), tuple(strings), latent_crc)
