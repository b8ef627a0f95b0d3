"""Augmentation that belongs to a domain: what may be done to its images without making them strange.

Photographs and drawings look the same in a mirror, pages of text do not; a drawing may be turned, a
street may not. So a domain says it in its file, and ``data.augment=true`` lets training do it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augment:
    """What is done at random to the training crops of a domain.

    Attributes:
        mirror: mirror every second one, as is done without augmentation too.
        scale: least and largest factor of an image's size; the logarithm is uniform between them.
        rotate: turn by 0, 90, 180 or 270 degrees, which leaves every pixel as it is.
    """

    mirror: bool = True
    scale: tuple[float, float] = (1.0, 1.0)
    rotate: bool = False

    def __post_init__(self) -> None:
        for name in ("mirror", "rotate"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"augment.{name} is true or false, not {getattr(self, name)!r}")
        low, high = (float(factor) for factor in self.scale)
        if not 0.1 <= low <= high <= 4:
            raise ValueError(
                f"augment.scale is a least and a largest factor from 0.1 to 4, not {[low, high]}"
            )
        object.__setattr__(self, "scale", (low, high))


UNCHANGED = Augment()
"""What is done to crops of all domains without augmentation."""


def random_crop(
    pixels: Tensor, size: int, rng: np.random.Generator, augment: Augment = UNCHANGED
) -> Tensor:
    """A random square of an image; continued at edges if that is too small.

    Args:
        pixels: of the image, ``(3, H, W)`` uint8.
        size: side of the square in pixels.
        rng: decides everything that is random, so that a crop is a function of it.
        augment: what is done to the crop.

    Returns:
        ``(3, size, size)`` uint8.
    """
    side = _side(pixels, size, rng, augment)
    height, width = pixels.shape[1:]
    if height < side or width < side:
        padding = (0, max(0, side - width), 0, max(0, side - height))
        pixels = F.pad(pixels[None].float(), padding, mode="replicate")[0].to(pixels.dtype)
        height, width = pixels.shape[1:]
    y = int(rng.integers(height - side + 1))
    x = int(rng.integers(width - side + 1))
    crop = pixels[:, y : y + side, x : x + side]
    if augment.mirror and rng.random() < 0.5:
        crop = crop.flip(2)
    if augment.rotate:
        crop = crop.rot90(int(rng.integers(4)), (1, 2))
    return crop if side == size else _resized(crop, size)


def _side(pixels: Tensor, size: int, rng: np.random.Generator, augment: Augment) -> int:
    """Side of the square of the image that the crop shows: no more than the image has, if it can be."""
    low, high = augment.scale
    if low == high == 1:
        return size
    factor = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    return min(max(1, round(size / factor)), max(size, min(pixels.shape[1:])))


def _resized(crop: Tensor, size: int) -> Tensor:
    """A square ``(3, s, s)`` uint8 at another size, as an image viewer would show it."""
    resized = F.interpolate(
        crop[None].float(), (size, size), mode="bicubic", antialias=True, align_corners=False
    )
    return resized[0].round().clamp(0, 255).to(torch.uint8)
