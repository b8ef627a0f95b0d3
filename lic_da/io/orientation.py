"""How an image lies: the orientation in EXIF data or XMP, read whatever else is wrong with them.

CIPA DC-008, *Exchangeable image file format*, tag Orientation; the layout is that of TIFF 6.0.
"""

from __future__ import annotations

import re
import struct

from PIL import Image

UPRIGHT = 1
_ORIENTATION = 0x0112
_MOST_ENTRIES = 4096
_NUMBERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I"}
_TEXT, _FRACTIONS, _REALS = 2, {5: "II", 10: "ii"}, {11: "f"}

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The image as it is to be seen."""
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def stated(exif: bytes | None, xmp: bytes | str | None) -> int:
    """The orientation that EXIF data states, else XMP, else upright."""
    return of_exif(exif) or of_xmp(xmp) or UPRIGHT


def of_exif(exif: bytes | None) -> int | None:
    """The orientation, 1 to 8, that EXIF data states, as whatever type of value; None: none.

    Args:
        exif: a TIFF header and what follows, with or without ``Exif`` before it.
    """
    data = (exif or b"").removeprefix(b"Exif\0\0")
    found = entry(data, _ORIENTATION)
    return None if found is None else _value(data, *found)


def of_xmp(xmp: bytes | str | None) -> int | None:
    """The orientation, 1 to 8, that XMP states; None: none."""
    text = xmp.encode("utf-8", "replace") if isinstance(xmp, str) else xmp or b""
    found = re.search(rb"tiff:Orientation(?:=[\"']|>)\s*([1-8])\s*[\"'<]", text)
    return int(found[1]) if found else None


def erased(tiff: bytes) -> bytes:
    """A TIFF file that states no turn."""
    found = entry(tiff, _ORIENTATION)
    if found is None:
        return tiff
    at, order = found
    big = tiff[2:4] in (b"+\0", b"\0+")
    upright = struct.pack(f"{order}HHQH" if big else f"{order}HHIH", _ORIENTATION, 3, 1, UPRIGHT)
    return tiff[:at] + upright + tiff[at + len(upright) :]


def entry(data: bytes, tag: int) -> tuple[int, str] | None:
    """Where an entry of the first directory of a TIFF file lies, and its byte order; None: nowhere."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
    if order is None or len(data) < 16:
        return None
    magic, directory = struct.unpack_from(f"{order}HI", data, 2)
    counted, size = "H", 12
    if magic == 43:  # BigTIFF
        (directory,) = struct.unpack_from(f"{order}Q", data, 8)
        counted, size = "Q", 20
    elif magic != 42:
        return None
    first = directory + struct.calcsize(counted)
    if first > len(data):
        return None
    (count,) = struct.unpack_from(f"{order}{counted}", data, directory)
    for at in range(first, first + size * min(count, _MOST_ENTRIES), size):
        if at + size > len(data):
            return None
        if struct.unpack_from(f"{order}H", data, at)[0] == tag:
            return at, order
    return None


def _value(data: bytes, at: int, order: str) -> int | None:
    """The first value of an entry as a whole number from 1 to 8."""
    kind, count = struct.unpack_from(f"{order}HI", data, at + 2)
    value: float | None = None
    if kind in _NUMBERS and count:
        (value,) = struct.unpack_from(order + _NUMBERS[kind], data, at + 8)
    elif kind in _REALS and count == 1:
        (value,) = struct.unpack_from(order + _REALS[kind], data, at + 8)
    elif kind == _TEXT:
        where = at + 8 if count <= 4 else struct.unpack_from(f"{order}I", data, at + 8)[0]
        digits = bytes(data[where : where + min(count, 16)]).partition(b"\0")[0].strip()
        value = int(digits) if digits.isdigit() else None
    elif kind in _FRACTIONS and count:
        (where,) = struct.unpack_from(f"{order}I", data, at + 8)
        if where + 8 <= len(data):
            above, below = struct.unpack_from(order + _FRACTIONS[kind], data, where)
            value = above / below if below else None
    return int(value) if value is not None and value in range(1, 9) else None
