"""Reading any picture as 8-bit RGB, drawing SVG, and writing files so that nothing is half written."""

from __future__ import annotations

import functools
import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from lic_da.bitstream import MAX_PIXELS
from lic_da.errors import UserError
from lic_da.files import atomic_path

RGB = NDArray[np.uint8]

_PHOTOGRAPHS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")
_OTHERS = (".ppm", ".pgm", ".pnm", ".svg", ".svgz")
EXTENSIONS = frozenset((*_PHOTOGRAPHS, *_OTHERS))
MIN_SIDE = 16
SVG_SIZE = 512
_WEBP_SIDE = 16383
_SAME_COLOUR = 3  # of 255: profiles that differ less are taken as sRGB

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
    on white; of an animation the first frame is taken. An embedded colour profile (ICC) is converted
    to sRGB, unless it is sRGB to begin with or cannot be read; else samples are taken as sRGB, as are those
    of 16-bit PNG files.

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
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I;16") or image.mode == "I":
        grey = np.asarray(image).astype(np.float64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ImageProblem(path, "integer samples outside 0...65535")
        eight = np.rint(grey / 257).astype(np.uint8)
        return np.ascontiguousarray(np.repeat(eight[..., None], 3, axis=2))
    if image.mode == "F":
        raise ImageProblem(path, "floating-point samples, whose range is not known")
    if not image.has_transparency_data:
        return np.array(_to_srgb(image, profile))
    rgba = image.convert("RGBA")
    colours = _to_srgb(rgba.convert("RGB"), profile)
    colours.putalpha(rgba.getchannel("A"))
    return np.array(
        Image.alpha_composite(Image.new("RGBA", image.size, "white"), colours).convert("RGB")
    )


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The picture as RGB, its colours converted from an embedded profile."""
    transform = _profile_to_srgb(profile, image.mode) if profile else None
    if transform is None and image.mode not in ("RGB", "L", "CMYK"):
        image = image.convert("RGB")
        transform = _profile_to_srgb(profile, "RGB") if profile else None
    if transform is None:
        return image.convert("RGB")
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None
    return converted


@functools.lru_cache(maxsize=16)
def _profile_to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Conversion of pictures of that mode to sRGB; None: there is none, or it changes nothing."""
    if mode not in ("RGB", "L", "CMYK"):
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return None
    if mode == "RGB":
        levels = np.linspace(0, 255, 9).round().astype(np.uint8)
        colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(27, 27, 3)
        converted = ImageCms.applyTransform(Image.fromarray(colours), transform)
        if np.abs(np.asarray(converted).astype(int) - colours).max() <= _SAME_COLOUR:
            return None  # sRGB as other programs write it; leave every bit as it is
    return transform


def _is_16_bit_colour_png(path: Path, image: Image.Image) -> bool:
    if image.format != "PNG" or image.mode.startswith("I"):
        return False
    with open(path, "rb") as file:
        header = file.read(26)
    return len(header) == 26 and header[24] == 16  # IHDR: bit depth


def _read_16_bit_png(path: Path) -> NDArray[np.float64]:
    """Samples in [0, 1], shape (H, W, 3 or 4), turned as EXIF says; Pillow reads 8 bits only."""
    from torchvision.io import ImageReadMode, decode_image

    pixels = decode_image(str(path), mode=ImageReadMode.UNCHANGED, apply_exif_orientation=True)
    samples = pixels.permute(1, 2, 0).numpy().astype(np.float64) / 65535
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


def save_png(path: Path | str, pixels: RGB) -> None:
    """Write ``(H, W, 3)`` uint8 pixels as PNG; the file appears whole or not at all."""
    save_lossless(path, pixels, "png")


def save_lossless(path: Path | str, pixels: RGB, format: str = "png") -> None:
    """Write ``(H, W, 3)`` uint8 pixels as PNG or lossless WebP; the file appears whole or not at all.

    Raises:
        UserError: the picture is too large for WebP.
    """
    if format == "webp" and max(pixels.shape[:2]) > _WEBP_SIDE:
        raise UserError(f"{path}: WebP holds at most {_WEBP_SIDE} pixels a side; use PNG.")
    options = {"lossless": True, "exact": True} if format == "webp" else {}
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format=format.upper(), **options)
