"""PNG files, checked whole before a decoder sees them.

Decoders differ in what they do with a damaged file: some crash, some hand on an image whose lower half
is black. So the chunks, their checksums and the length of the inflated samples are checked here, and a
decoder gets a file that holds nothing but the image. Comments, however large or broken, play no part.

W3C, *Portable Network Graphics (PNG) Specification*, third edition.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = (
    ((0, 8), (0, 8)),
    ((0, 8), (4, 8)),
    ((4, 8), (0, 4)),
    ((0, 4), (2, 4)),
    ((2, 4), (0, 2)),
    ((0, 2), (1, 2)),
    ((1, 2), (0, 1)),
)
"""(first row, step), (first column, step) of each pass of an interlaced image."""
_PIECE = 1 << 20
_MOST_METADATA = 1 << 24  # bytes of a profile or of EXIF, inflated
_KEYWORD = 80  # bytes, with the zero that ends it
_RAW_PROFILES = (b"Raw profile type exif", b"Raw profile type APP1")
_PALETTE, _GREY, _COLOUR = 3, 0, 2


class DamagedPngError(ValueError):
    """The file is cut off, or its bytes contradict themselves."""


@dataclass
class Png:
    """What a PNG file holds.

    Attributes:
        width: in pixels.
        height: in pixels.
        depth: bits a sample.
        colour: the colour type of the specification.
        palette: RGB entries; empty: none.
        interlaced: whether the rows come in the order of Adam7.
        transparent: contents of tRNS: alpha of the palette's entries, or the one transparent colour.
        profile: ICC profile; None: none.
        exif: EXIF data, as a TIFF header with what follows; None: none.
        xmp: XMP packet; None: none.
    """

    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool
    palette: bytes = b""
    transparent: bytes | None = None
    profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    _data: list[memoryview] = field(default_factory=list)

    def plain(self, *, transparency: bool = True, bytewise: bool = False) -> bytes:
        """A file of the image alone.

        Args:
            transparency: with tRNS.
            bytewise: grey and alpha of 16 bits each as RGBA of 8, whose pixels have the same four bytes.
        """
        kind = (8, 6) if bytewise else (self.depth, self.colour)
        header = struct.pack(">IIBBBBB", self.width, self.height, *kind, 0, 0, self.interlaced)
        chunks = [(b"IHDR", header)]
        if self.palette:
            chunks.append((b"PLTE", self.palette))
        if transparency and self.transparent is not None:
            chunks.append((b"tRNS", self.transparent))
        chunks += [(b"IDAT", b"".join(self._data)), (b"IEND", b"")]
        return SIGNATURE + b"".join(map(_packed, *zip(*chunks, strict=True)))


def _packed(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(content)), kind, content, struct.pack(">I", checksum)))


def parse(data: bytes, check_size: Callable[[int, int], None]) -> Png:
    """Read and check a PNG file.

    Args:
        data: the file.
        check_size: is called with width and height before anything is inflated.

    Raises:
        DamagedPngError: the file is not whole.
    """
    chunks = _chunks(data)
    kind, header, good = next(chunks, (b"", memoryview(b""), False))
    if kind != b"IHDR" or not good or len(header) != 13:
        raise DamagedPngError("its header is missing or damaged")
    width, height, depth, colour, method, filters, interlace = struct.unpack(">IIBBBBB", header)
    if not (width and height and depth in _DEPTHS.get(colour, ())):
        raise DamagedPngError("its header names a kind of image that does not exist")
    if method or filters or interlace > 1:
        raise DamagedPngError("its header names methods that do not exist")
    check_size(width, height)
    png = Png(width, height, depth, colour, bool(interlace))
    ended = False
    for kind, content, good in chunks:
        _take(png, kind, content, good)
        ended = ended or kind == b"IEND"
    if not (ended and png._data):
        raise DamagedPngError("it is cut off")
    _check_palette(png)
    _check_samples(png)
    return png


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, bool]]:
    """Kind, content, and whether the checksum is right, of one chunk after another up to IEND."""
    view, at = memoryview(data), len(SIGNATURE)
    while at + 12 <= len(view):
        (length,) = struct.unpack_from(">I", view, at)
        kind, end = bytes(view[at + 4 : at + 8]), at + 8 + length
        if end + 4 > len(view):
            return
        (checksum,) = struct.unpack_from(">I", view, end)
        yield kind, view[at + 8 : end], zlib.crc32(view[at + 4 : end]) == checksum
        if kind == b"IEND":
            return
        at = end + 4


def _take(png: Png, kind: bytes, content: memoryview, good: bool) -> None:
    """Note what a chunk says. Chunks that play no part for the pixels may be damaged."""
    needed = kind == b"tRNS" or not kind[0] & 0x20
    if needed and not good:
        raise DamagedPngError(f"the checksum of its {kind.decode('latin-1')} chunk is wrong")
    if kind == b"IDAT":
        png._data.append(content)
    elif kind == b"PLTE":
        png.palette = bytes(content)
    elif kind == b"tRNS":
        png.transparent = bytes(content)
    elif needed and kind != b"IEND":
        raise DamagedPngError(f"its {kind.decode('latin-1')} chunk is not known")
    elif good and kind == b"iCCP":
        png.profile = _inflated(bytes(content).partition(b"\0")[2][1:])
    elif good and kind == b"eXIf":
        png.exif = bytes(content)
    elif good and kind in (b"tEXt", b"zTXt", b"iTXt"):
        keyword = bytes(content[:_KEYWORD]).partition(b"\0")[0]
        if keyword in _RAW_PROFILES and png.exif is None:
            png.exif = _raw_profile(_text(kind, bytes(content[len(keyword) + 1 :])))
        elif keyword == b"XML:com.adobe.xmp":
            png.xmp = _text(kind, bytes(content[len(keyword) + 1 :]))


def _text(kind: bytes, content: bytes) -> bytes | None:
    """The text of a comment, from what stands behind its keyword; None: it is damaged."""
    packed = kind == b"zTXt"
    if kind == b"zTXt":
        content = content[1:]  # method
    elif kind == b"iTXt":
        packed = content[:1] == b"\1"
        content = content[2:].partition(b"\0")[2].partition(b"\0")[2]  # language, translation
    return _inflated(content) if packed else content


def _raw_profile(text: bytes | None) -> bytes | None:
    """EXIF as ImageMagick and others keep it: as hexadecimal digits in a comment of a certain name."""
    found = re.match(rb"\s*\w+\s+\d+\s+([0-9a-fA-F\s]*)", text or b"")
    if found is None:
        return None
    digits = b"".join(found[1].split())
    return bytes.fromhex(digits[: len(digits) // 2 * 2].decode())


def _inflated(packed: bytes) -> bytes | None:
    """Inflated bytes; None: they are damaged or too many."""
    inflate = zlib.decompressobj()
    try:
        content = inflate.decompress(packed, _MOST_METADATA)
    except zlib.error:
        return None
    return content if inflate.eof else None


def _check_palette(png: Png) -> None:
    entries, rest = divmod(len(png.palette), 3)
    if rest or entries > 256 or (png.colour == _PALETTE and not entries):
        raise DamagedPngError("its palette is missing or of an impossible length")
    if png.transparent is None:
        return
    right = {_GREY: 2, _COLOUR: 6}.get(png.colour)
    if png.colour == _PALETTE:
        if len(png.transparent) > entries:
            raise DamagedPngError("it has more transparent colours than colours")
    elif right is None:
        png.transparent = None  # beside an alpha channel it means nothing
    elif len(png.transparent) != right:
        raise DamagedPngError("its transparent colour has an impossible length")


def _check_samples(png: Png) -> None:
    """Inflate the samples piece by piece: as many as there must be, in rows that begin with a filter."""
    rows = _rows(png)
    total = sum(count * length for count, length in rows)
    filters = _Filters(rows)
    inflate, done = zlib.decompressobj(), 0
    try:
        for data in png._data:
            packed: bytes = bytes(data)
            while packed and done <= total and not inflate.eof:
                piece = inflate.decompress(packed, _PIECE)
                packed = inflate.unconsumed_tail
                filters.check(piece[: total - done])
                done += len(piece)
        done += len(inflate.flush()) if done < total else 0
    except zlib.error as error:
        raise DamagedPngError("its samples cannot be inflated") from error
    if done < total or not (inflate.eof or done > total):
        raise DamagedPngError("rows of it are missing")


def _rows(png: Png) -> list[tuple[int, int]]:
    """How many rows there are, and their bytes with the filter's; of each pass."""
    bits = png.depth * _SAMPLES[png.colour]
    passes = _ADAM7 if png.interlaced else (((0, 1), (0, 1)),)
    found = []
    for (top, down), (left, right) in passes:
        height, width = -((top - png.height) // down), -((left - png.width) // right)
        if height > 0 and width > 0:
            found.append((height, 1 + (width * bits + 7) // 8))
    return found


class _Filters:
    """Looks at the first byte of every row, as pieces of the samples come."""

    def __init__(self, rows: list[tuple[int, int]]) -> None:
        self._left = [[count * length, length] for count, length in rows]  # bytes to come, of a row

    def check(self, piece: bytes) -> None:
        """Take the next bytes.

        Raises:
            DamagedPngError: a filter that does not exist.
        """
        at = 0
        while at < len(piece):
            left, length = self._left[0]
            own = piece[at : at + left]
            first = left % length  # bytes until the next row begins
            if any(kind > 4 for kind in own[first::length]):
                raise DamagedPngError("its rows have filters that do not exist")
            at += len(own)
            self._left[0][0] -= len(own)
            if not self._left[0][0]:
                self._left.pop(0)
