"""Reading any image as 8-bit RGB, and drawing SVG.

``docs/images.md`` has a table of what is read, and how.
"""

from __future__ import annotations

import io
import re
import stat
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import GifImagePlugin, Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from lic_da.errors import UserError
from lic_da.io import orientation, png
from lic_da.io.bitstream import MAX_PIXELS
from lic_da.io.shown import MIN_SIDE as MIN_SIDE
from lic_da.io.shown import RGB as RGB
from lic_da.io.shown import WHITE, check_mode, composed, finished, shown
from lic_da.io.shown import ImageProblem as ImageProblem

SVG_SIZE = 512
_MOST_BYTES = 1 << 31
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_CUT_SHORT = ("premature end", "huffman code", "unsupported marker", "invalid progressive")
"""What libjpeg says of scans that end too early or cannot be followed; it then goes on with grey."""
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0x(\w\w)")
_MOST_EXTRANEOUS = 200  # one in so many bytes; some cameras fill up what they write

# The limit on pixels is ours (MAX_PIXELS) and is checked from the header, before any decoding.
Image.MAX_IMAGE_PIXELS = None


def read_rgb(path: Path | str, *, min_side: int = MIN_SIDE, max_pixels: int = MAX_PIXELS) -> RGB:
    """Read an image of any common kind as 8-bit RGB.

    EXIF orientation is applied; alpha is composed on white; grey, palette and CMYK images become
    RGB; 16-bit samples are scaled to 8 bits (never cut off); SVG is drawn ``SVG_SIZE`` pixels wide
    on white; of an animation the first frame is taken. An embedded colour profile (ICC) is converted
    to sRGB, unless it is sRGB to begin with or cannot be read; else samples are taken as sRGB.

    Args:
        path: the file.
        min_side: images with a side shorter than this many pixels are refused.
        max_pixels: images with more pixels than this are refused before they are decoded.

    Returns:
        Array of shape ``(H, W, 3)``, uint8.

    Raises:
        ImageProblem: the file is no image, is damaged, is of a kind that would be read wrongly, or is
            outside the limits.
    """
    path = Path(path)
    return decode_rgb(_content(path), path, min_side=min_side, max_pixels=max_pixels)


def decode_rgb(
    content: bytes, path: Path | str, *, min_side: int = MIN_SIDE, max_pixels: int = MAX_PIXELS
) -> RGB:
    """As :func:`read_rgb`, of a file's bytes.

    Args:
        content: the bytes.
        path: name of the file, for messages; what it ends in says whether it is SVG.
        min_side: as there.
        max_pixels: as there.

    Returns:
        Array of shape ``(H, W, 3)``, uint8.

    Raises:
        ImageProblem: as there.
    """
    path = Path(path)
    if path.suffix.lower() in {".svg", ".svgz"}:
        return rasterise_svg(content, name=path)

    def check_size(width: int, height: int) -> None:
        if min(width, height) < min_side:
            raise ImageProblem(path, f"smaller than {min_side} pixels")
        if width * height > max_pixels:
            raise ImageProblem(path, f"more than {max_pixels // 1_000_000} megapixels")

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if content.startswith(png.SIGNATURE):
                return _read_png(png.parse(content, check_size))
            return _read_other(path, content, check_size)
    except ImageProblem:
        raise
    except UnidentifiedImageError:
        kind = "a kind of TIFF that is not read" if content.startswith(_TIFF) else "not an image"
        raise ImageProblem(path, kind) from None
    # Decoders of damaged files fail in many ways.
    except Exception as error:
        raise ImageProblem(path, "truncated or damaged") from error


def _content(path: Path) -> bytes:
    """The bytes of a file, if it is one: a pipe or a device would keep us waiting."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageProblem(path, "not a regular file")
        if status.st_size > _MOST_BYTES:
            raise ImageProblem(path, f"larger than {_MOST_BYTES >> 30} GiB")
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageProblem(path, "file not found") from None
    except OSError as error:
        raise ImageProblem(path, f"cannot be opened ({error.strerror})") from error


def _read_png(found: png.Png) -> RGB:
    turn = orientation.stated(found.exif, found.xmp)
    if found.depth == 16:
        return finished(_deep_png(found), WHITE, found.profile, turn)
    with Image.open(io.BytesIO(found.plain())) as image:
        image.load()
        if found.colour == 3 and image.mode == "P":
            entries = len(found.palette) // 3
            if image.getextrema()[1] >= entries:  # type: ignore[operator, index]
                raise png.DamagedPngError("it has colours that are not in its palette")
        return composed(image, found.profile, turn)


_GREY_AND_ALPHA = 4


def _deep_png(found: png.Png) -> NDArray[np.uint16]:
    """Samples ``(H, W, 1 to 4)`` of a PNG file of 16 bits."""
    content = found.plain(transparency=False, bytewise=found.colour == _GREY_AND_ALPHA)
    samples = _deep(content)
    if found.colour == _GREY_AND_ALPHA:
        halves = samples.reshape(*samples.shape[:2], 2, 2)
        return np.asarray(halves[..., 0] << 8 | halves[..., 1], np.uint16)
    if found.transparent is not None:
        colour = np.frombuffer(found.transparent, ">u2").astype(np.uint16)
        alpha = np.where((samples == colour).all(axis=2, keepdims=True), 0, WHITE)
        samples = np.concatenate([samples, alpha.astype(np.uint16)], axis=2)
    return samples


def _deep(content: bytes) -> NDArray[np.uint16]:
    """Samples ``(H, W, C)`` of a file of up to 16 bits a sample.

    Of colours Pillow gives the upper bytes only. Asked for samples of the other byte order, it gives the
    lower ones.
    """
    with Image.open(io.BytesIO(content)) as image:
        kinds = [
            str(tile.args[0] if isinstance(tile.args, tuple) else tile.args) for tile in image.tile
        ]
        image.load()
        upper = np.asarray(image)
    if upper.ndim == 2:
        return upper.astype(np.uint16)[..., None]
    if not all(";16" in kind for kind in kinds):
        return upper.astype(np.uint16)
    with Image.open(io.BytesIO(content)) as image:
        image.tile = [tile._replace(args=_lower(tile.args)) for tile in image.tile]
        image.load()
        lower = np.asarray(image)
    return upper.astype(np.uint16) << 8 | lower


_OTHER_ORDER = {"L": "B", "B": "L", "N": "B" if np.little_endian else "L"}


def _lower(arguments: Any) -> Any:
    """Arguments of a decoder of 16-bit samples for the lower bytes of them."""
    if isinstance(arguments, str):
        return arguments[:-1] + _OTHER_ORDER[arguments[-1]]
    return (_lower(arguments[0]), *arguments[1:])


def _read_other(path: Path, content: bytes, check_size: Callable[[int, int], None]) -> RGB:
    with Image.open(io.BytesIO(content)) as image:
        check_size(image.width, image.height)
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            return _read_tiff(path, content, image)
        if image.format in ("JPEG", "MPO"):
            _check_jpeg(content)
        if isinstance(image, GifImagePlugin.GifImageFile):
            _check_frame(image)
        image.load()
        info = image.info
        turn = orientation.stated(info.get("exif"), info.get("xmp"))
        return shown(image, path, info.get("icc_profile"), turn)


def _check_frame(image: ImageFile.ImageFile) -> None:
    """Refuse an image most of which its first frame leaves empty.

    Raises:
        ValueError: as its size is damaged, or it is a sprite on a large canvas.
    """
    left, top, right, bottom = (image.tile and image.tile[0].extents) or (0, 0, 0, 0)
    if 2 * (right - left) * (bottom - top) < image.width * image.height:
        raise ValueError("The first frame covers less than half of the image.")


def _check_jpeg(content: bytes) -> None:
    """Refuse a JPEG file whose scans end too early or cannot be followed to their end.

    Pillow says nothing of what its decoder could only fill with grey. An eighth of the size is enough to
    come through all scans.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        simplejpeg.decode_jpeg(content, "GRAY", min_height=1, min_width=1, min_factor=8)
    except ValueError as error:
        if any(words in str(error).lower() for words in _CUT_SHORT):
            raise
        left = _EXTRANEOUS.search(str(error))
        # Behind a scan (restart or end of image) a few may be left over, between segments none.
        if left is None:
            return
        behind_scan = left[2][0] == "d" and left[2][1].isdigit()
        if not behind_scan or int(left[1]) * _MOST_EXTRANEOUS > len(content):
            raise


_TAG_ORIENTATION, _TAG_BITS, _TAG_COMPRESSION, _TAG_PHOTOMETRIC = 274, 258, 259, 262
_TAG_PLANES, _TAG_FORMAT, _TAG_JPEG_TABLES = 284, 339, 347
_TAGS_OF_PARTS = ((273, 279), (324, 325))  # offsets and byte counts, of strips and of tiles
_UNSIGNED, _RGB, _YCBCR, _JPEG = 1, 2, 6, 7


def _read_tiff(path: Path, content: bytes, image: TiffImagePlugin.TiffImageFile) -> RGB:
    """TIFF holds samples of every kind; those that would come out wrong are refused.

    Raises:
        ImageProblem: a layout that is not read.
    """
    tags = image.tag_v2
    if tags.get(_TAG_COMPRESSION) == _JPEG:
        _check_strips(content, tags)
    bits, formats = (_numbers(tags.get(tag, 1)) for tag in (_TAG_BITS, _TAG_FORMAT))
    photometric, compression = tags.get(_TAG_PHOTOMETRIC, 0), tags.get(_TAG_COMPRESSION, 1)
    check_mode(path, image)
    unusual = (
        {*formats} != {_UNSIGNED}
        or len({*bits}) != 1
        or bits[0] not in (1, 2, 4, 8, 12, 16)
        or (photometric == _YCBCR and compression != _JPEG)
        or (tags.get(_TAG_PLANES, 1) != 1 and len(bits) > 1 and (bits[0], photometric) != (8, _RGB))
    )
    if unusual:
        raise ImageProblem(path, "a kind of TIFF that is not read")
    turn = _numbers(tags.get(_TAG_ORIENTATION, 1))[0]
    turn = turn if turn in range(1, 9) else orientation.UPRIGHT
    profile = image.info.get("icc_profile")
    # Pillow turns some images and not others: all come lying from a file that states no turn.
    upright = orientation.erased(content)
    if bits[0] <= 8:
        with Image.open(io.BytesIO(upright)) as lying:
            lying.load()
            return composed(lying, profile, turn)
    return _deep_tiff(upright, bits[0], photometric == 0, profile, turn)


def _check_strips(content: bytes, tags: Any) -> None:
    """Check the JPEG data of each strip or tile, as :func:`_check_jpeg` does that of a file."""
    tables = bytes(tags.get(_TAG_JPEG_TABLES) or b"\xff\xd8\xff\xd9")
    for at, counts in _TAGS_OF_PARTS:
        for start, count in zip(
            _numbers(tags.get(at, ())), _numbers(tags.get(counts, ())), strict=True
        ):
            if start + count > len(content):
                raise ValueError("A part of the image lies behind the end of the file.")
            if count:
                _check_jpeg(tables[:-2] + content[start + 2 : start + count])


def _numbers(value: object) -> tuple[int, ...]:
    values = value if isinstance(value, tuple) else (value,)
    return tuple(v if isinstance(v, int) else 0 for v in values) or (0,)


def _deep_tiff(content: bytes, bits: int, inverted: bool, profile: bytes | None, turn: int) -> RGB:
    """A TIFF file of more than 8 bits a sample, as the image that is shown."""
    samples, most = _deep(content), (1 << bits) - 1
    if inverted:
        samples = np.uint16(most) - samples
    with Image.open(io.BytesIO(content)) as image:
        mode = image.mode
    if mode == "CMYK":
        eight = np.rint(samples * (255 / most)).astype(np.uint8)
        return composed(Image.fromarray(eight, "CMYK"), profile, turn)
    return finished(samples, most, profile, turn)


def rasterise_svg(svg: bytes, *, size: int = SVG_SIZE, name: Path | str = "SVG") -> RGB:
    """Draw an SVG on white, its longer side ``size`` pixels.

    Args:
        svg: the document, plain or gzipped.
        size: pixels of the longer side.
        name: what to call it in an error.

    Returns:
        Array of shape ``(H, W, 3)``, uint8.

    Raises:
        ImageProblem: the document cannot be drawn.
    """
    try:
        import cairosvg
    except (ImportError, OSError) as error:
        raise UserError(
            "Drawing SVG needs the package cairosvg and the system library cairo: run "
            "'make setup', and install libcairo2 (Debian, Ubuntu) or cairo (macOS) if it is missing."
        ) from error
    try:
        # A first small drawing tells the aspect ratio, whatever units and boxes the document has.
        drawn = cairosvg.svg2png(bytestring=svg, output_width=64, background_color="white")
        with Image.open(io.BytesIO(drawn)) as probe:
            aspect = probe.width / probe.height
        width = size if aspect >= 1 else max(MIN_SIDE, round(size * aspect))
        drawn = cairosvg.svg2png(
            bytestring=svg,
            output_width=width,
            output_height=max(MIN_SIDE, round(width / aspect)),
            background_color="white",
        )
    # cairosvg lets errors of its parser, of cairo and of plain Python code through.
    except Exception as error:
        raise ImageProblem(name, "SVG that cannot be drawn") from error
    with Image.open(io.BytesIO(drawn)) as image:
        return np.array(image.convert("RGB"))
