"""ImageInfo files of every kind, written sample by sample, and the pixels that are to be read from them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.unsignedinteger]

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    samples: Samples,
    depth: int,
    *,
    palette: bytes = b"",
    before: Iterable[tuple[bytes, bytes]] = (),
    after: Iterable[tuple[bytes, bytes]] = (),
    rows: int | None = None,
) -> bytes:
    """A PNG file without filters.

    Args:
        samples: ``(H, W, C)``.
        depth: bits a sample.
        palette: RGB entries that ``samples`` are numbers of.
        before: kind and content of chunks that stand before the pixels.
        after: of chunks that stand behind them.
        rows: how many rows it really has; None: all.
    """
    height, width, channels = samples.shape
    colour = 3 if palette else _COLOUR_TYPES[channels]
    lines = b"".join(b"\0" + packed_row(row, depth) for row in samples[:rows])
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))]
    if palette:
        parts.append(chunk(b"PLTE", palette))
    parts += [chunk(*c) for c in before]
    parts += [chunk(b"IDAT", zlib.compress(lines))]
    parts += [chunk(*c) for c in after]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def packed_row(row: Samples, depth: int) -> bytes:
    """A row's samples, of 1 to 16 bits, upper bits first."""
    flat = row.ravel()
    if depth == 16:
        return flat.astype(">u2").tobytes()
    bits = (flat[:, None] >> np.arange(depth - 1, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8)).tobytes()


def shown(samples: Samples, most: int) -> NDArray[np.uint8]:
    """Grey or RGB samples ``(H, W, 1 to 4)``, two and four with alpha, on white: what is to be read."""
    values = samples.astype(object)  # whole numbers of any size
    channels = values.shape[2]
    colours, white = values[..., : channels - (channels in (2, 4))], most
    if channels in (2, 4):
        alpha = values[..., -1:]
        colours, white = colours * alpha + most * (most - alpha), most * most
    if colours.shape[2] == 1:
        colours = np.repeat(colours, 3, axis=2)
    return ((510 * colours + white) // (2 * white)).astype(np.uint8)


def turned(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Pixels as EXIF's orientation wants them seen, by its definition: where row 0 and column 0 are."""
    transposed = pixels.transpose(1, 0, 2)
    return {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: transposed,
        6: transposed[:, ::-1],
        7: transposed[::-1, ::-1],
        8: transposed[::-1],
    }[orientation]


def exif(orientation: bytes, kind: int, order: str = "<") -> bytes:
    """EXIF data of one entry, the orientation.

    Args:
        orientation: four bytes that stand for the value.
        kind: type of the value.
        order: ``<`` or ``>``.
    """
    mark = b"II" if order == "<" else b"MM"
    entry = struct.pack(f"{order}HHI", 0x0112, kind, 1) + orientation.ljust(4, b"\0")
    return (
        mark
        + struct.pack(f"{order}HIH", 42, 8, 1)
        + entry
        + struct.pack(f"{order}I", 0)
        + b"\0" * 8
    )
