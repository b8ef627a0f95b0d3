"""What a decoded image shows, as 8-bit RGB: its colours, what shines through it, and how it lies."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from lic_da.errors import UserError
from lic_da.io import orientation

RGB = NDArray[np.uint8]
"""``(H, W, 3)``."""

MIN_SIDE = 16
WHITE = 65535
"""Of 16 bits."""
_SAME_COLOUR = 3  # of 255: profiles that differ less are taken as sRGB
_BAND = 1 << 20  # samples that are scaled to 8 bits at a time


class ImageProblem(UserError):
    """An image that cannot be used.

    Attributes:
        reason: a few words that group such images in a summary, e.g. ``"truncated or damaged"``.
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


def as_rgb(image: Any) -> RGB:
    """An array as it is, or a PIL image as it is shown, as :func:`lic_da.io.images.read_rgb` reads files.

    Args:
        image: ``(H, W, 3)`` uint8 array, or a PIL image: of any mode but ``F``, ``LAB`` and ``HSV``.

    Raises:
        UserError: it is none, or a side has fewer than ``MIN_SIDE`` pixels.
    """
    if isinstance(image, Image.Image):
        profile = image.info.get("icc_profile")
        image = shown(ImageOps.exif_transpose(image), "The image", profile, orientation.UPRIGHT)
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise UserError("An image must be an array of shape (H, W, 3) and type uint8.")
    if min(pixels.shape[:2]) < MIN_SIDE:
        raise UserError(f"An image needs at least {MIN_SIDE} pixels a side.")
    return pixels


def shown(image: Image.Image, path: Path | str, profile: bytes | None, turn: int) -> RGB:
    """What a PIL image shows.

    Args:
        image: loaded.
        path: what messages call it.
        profile: ICC profile.
        turn: orientation as of EXIF.

    Raises:
        ImageProblem: its samples mean nothing that is known.
    """
    if image.mode.startswith("I"):
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > WHITE:
            raise ImageProblem(path, "integer samples outside 0...65535")
        return finished(grey.astype(np.uint16)[..., None], WHITE, profile, turn)
    check_mode(path, image)
    return composed(image, profile, turn)


def finished(samples: NDArray[np.uint16], most: int, profile: bytes | None, turn: int) -> RGB:
    """Grey or RGB samples of more than 8 bits, with or without alpha, as the image that is shown.

    Args:
        samples: ``(H, W, 1 to 4)``; two are grey and alpha, four RGB and alpha.
        most: the value of white.
        profile: ICC profile.
        turn: orientation as of EXIF.
    """
    height, width, channels = samples.shape
    colours = channels - 1 if channels in (2, 4) else channels
    eight = np.empty((height, width, colours), np.uint8)
    alpha = np.empty((height, width), np.uint8) if colours < channels else None
    converted = profile is not None and _profile_to_srgb(profile, "RGB" if colours > 1 else "L")
    step = max(1, _BAND // (width * channels))
    for top in range(0, height, step):
        rows = slice(top, top + step)
        band = samples[rows].astype(np.int64)
        if alpha is None:
            eight[rows] = _in_bytes(band, most)
        elif converted:  # before they are composed
            eight[rows] = _in_bytes(band[..., :colours], most)
            alpha[rows] = _in_bytes(band[..., -1], most)
        else:
            own = band[..., -1:]
            eight[rows] = _in_bytes(band[..., :colours] * own + most * (most - own), most**2)
    image = Image.fromarray(eight[..., 0] if colours == 1 else eight)
    if alpha is not None and converted:
        image.putalpha(Image.fromarray(alpha))
    return composed(image, profile, turn)


def _in_bytes(samples: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Samples up to ``most`` as the nearest of 0 to 255."""
    return (255 * samples + most // 2) // most


def check_mode(path: Path | str, image: Image.Image) -> None:
    """Refuse what means no known colours.

    Raises:
        ImageProblem: it does not.
    """
    if image.mode == "F":
        raise ImageProblem(path, "floating-point samples, whose range is not known")
    if image.mode in ("LAB", "HSV"):
        raise ImageProblem(path, f"{image.mode} colours, which are not read")


def composed(image: Image.Image, profile: bytes | None, turn: int) -> RGB:
    """An image of 8 bits as sRGB on white, turned."""
    image = orientation.upright(image, turn)
    if image.mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if not image.has_transparency_data:
        return np.array(_to_srgb(image, profile))
    if image.mode == "LA":
        alpha, colours = image.getchannel("A"), _to_srgb(image.getchannel("L"), profile)
    else:
        rgba = image.convert("RGBA")
        grey = image.mode == "L"  # with a transparent level
        alpha = rgba.getchannel("A")
        colours = _to_srgb(rgba.getchannel("R") if grey else rgba.convert("RGB"), profile)
    colours.putalpha(alpha)
    white = Image.new("RGBA", image.size, "white")
    return np.array(Image.alpha_composite(white, colours).convert("RGB"))


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The image as RGB, its colours converted from an embedded profile."""
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
    """Conversion of images of that mode to sRGB; None: there is none, or it changes nothing."""
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
