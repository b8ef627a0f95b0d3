"""Reading any picture as 8-bit RGB, drawing SVG, and writing files so that nothing is half written."""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from lic_da.errors import UserError

RGB = NDArray[np.uint8]

_PHOTOGRAPHS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")
_OTHERS = (".ppm", ".pgm", ".pnm", ".svg", ".svgz")
EXTENSIONS = frozenset((*_PHOTOGRAPHS, *_OTHERS))
MIN_SIDE = 16
MAX_PIXELS = 120_000_000
SVG_SIZE = 512

# The limit on pixels is ours (MAX_PIXELS) and is checked from the header, before any decoding.
Image.MAX_IMAGE_PIXELS = None


class ImageProblem(UserError):
    """A picture that cannot be used.

    Attributes:
        reason: a few words that group such pictures in a summary, e.g. ``"truncated or damaged"``.
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


def read_rgb(path: Path | str, *, min_side: int = MIN_SIDE, max_pixels: int = MAX_PIXELS) -> RGB:
    """Read a picture of any common kind as 8-bit RGB.

    EXIF orientation is applied; alpha is composed on white; grey, palette and CMYK pictures become
    RGB; 16-bit samples are scaled to 8 bits (never cut off); SVG is drawn ``SVG_SIZE`` pixels wide
    on white; of an animation the first frame is taken. Colour profiles are not applied: samples
    are taken as sRGB.

    Args:
        path: the file.
        min_side: pictures with a side shorter than this many pixels are refused.
        max_pixels: pictures with more pixels than this are refused before they are decoded.

    Returns:
        Array of shape ``(H, W, 3)``, uint8.

    Raises:
        ImageProblem: the file is no picture, is damaged, or is outside the limits.
    """
    path = Path(path)
    if path.suffix.lower() in {".svg", ".svgz"}:
        return rasterise_svg(path.read_bytes(), name=path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                _check_size(path, image.width, image.height, min_side, max_pixels)
                image.load()
                return _to_rgb(path, image)
    except FileNotFoundError:
        raise ImageProblem(path, "file not found") from None
    except UnidentifiedImageError:
        raise ImageProblem(path, "not a picture") from None
    except (OSError, SyntaxError, ValueError, EOFError, RuntimeError) as error:
        raise ImageProblem(path, "truncated or damaged") from error


def _check_size(path: Path, width: int, height: int, min_side: int, max_pixels: int) -> None:
    if min(width, height) < min_side:
        raise ImageProblem(path, f"smaller than {min_side} pixels")
    if width * height > max_pixels:
        raise ImageProblem(path, f"more than {max_pixels // 1_000_000} megapixels")


def _to_rgb(path: Path, image: Image.Image) -> RGB:
    if _is_16_bit_colour_png(path, image):
        samples = _read_16_bit_png(path)
        alpha = samples[..., 3:] if samples.shape[-1] == 4 else np.ones_like(samples[..., :1])
        return np.rint(255 * (samples[..., :3] * alpha + 1 - alpha)).astype(np.uint8)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode == "I":
        grey = np.asarray(image).astype(np.float64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ImageProblem(path, "integer samples outside 0...65535")
        eight = np.rint(grey / 257).astype(np.uint8)
        return np.ascontiguousarray(np.repeat(eight[..., None], 3, axis=2))
    if image.mode == "F":
        raise ImageProblem(path, "floating-point samples, whose range is not known")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _is_16_bit_colour_png(path: Path, image: Image.Image) -> bool:
    if image.format != "PNG" or image.mode.startswith("I"):
        return False
    with open(path, "rb") as file:
        header = file.read(26)
    return len(header) == 26 and header[24] == 16  # IHDR: bit depth


def _read_16_bit_png(path: Path) -> NDArray[np.float64]:
    """Samples in [0, 1], shape (H, W, 3 or 4). Pillow reads such files with 8 bits only."""
    from torchvision.io import ImageReadMode, decode_image

    pixels = decode_image(str(path), mode=ImageReadMode.UNCHANGED).permute(1, 2, 0).numpy()
    samples = pixels.astype(np.float64) / 65535
    if samples.shape[-1] <= 2:
        samples = np.concatenate([samples[..., :1]] * 3 + [samples[..., 1:]], axis=-1)
    return samples


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


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its name when the block ends without an error.

    Example:
        >>> with atomic_path("table.csv") as temporary:
        ...     temporary.write_text("a,b")
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_png(path: Path | str, pixels: RGB) -> None:
    """Write ``(H, W, 3)`` uint8 pixels as PNG; the file appears whole or not at all."""
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
