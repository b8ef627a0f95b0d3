"""Training crops whose latents come from the cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lic_da.data.latents.cache import Box, Latent, LatentCache

_MOST = 8
"""Boxes of an image at most."""


class LatentCrops:
    """Crops of images and of their latents.

    Where a decoder can be cut, large parts of images are coded, and crops lie anywhere on the grid of
    their latents. A decoder that cannot be cut decodes parts as they were coded: then crops are coded one
    by one, as images of their own.

    How a drawing falls on the grid of the latent matters as much as what it shows, so small images are
    coded several times, shifted and mirrored, and of large ones a part: about as many pixels of each.

    Args:
        cache: of latents.
        restored: what the cache holds -> float32 ``(M, h, w)``.
        crop: side of the crops in pixels.
        stride: sides of coded images are multiples of this.
        scale: pixels that an element of the latent is wide.
        margin: elements of the latent that a crop needs around it; None: the decoder cannot be cut.
        pixels: of an image that are coded, about.
    """

    def __init__(
        self,
        cache: LatentCache,
        restored: Callable[[Latent], Tensor],
        *,
        crop: int,
        stride: int,
        scale: int,
        margin: int | None,
        pixels: int,
    ) -> None:
        self.cache, self.restored = cache, restored
        self.crop, self.stride, self.scale, self.margin = crop, stride, scale, margin
        self.pixels = pixels

    def boxes(self, sha256: str, height: int, width: int) -> list[Box]:
        """What is coded of an image; images smaller than the crop are continued at their edges.

        Args:
            sha256: of its file.
            height: in pixels.
            width: in pixels.
        """
        rng = np.random.default_rng(int(sha256[:16], 16))
        if self.margin is None:
            sides = [min(side, self.crop) for side in (height, width)]
        else:
            coded = [max(side, self.crop) for side in (height, width)]
            part = min(1.0, math.sqrt(self.pixels / math.prod(coded)))
            coded = [max(self.crop, round(side * part)) for side in coded]
            longest = max(self.crop, self.pixels // min(coded))  # also where a side cannot be cut
            sides = [
                min(side, length, longest)
                for side, length in zip((height, width), coded, strict=True)
            ]
        area = math.prod(max(side, self.crop) for side in sides)
        count = min(max(1, round(self.pixels / area)), _MOST)
        boxes = (self._box(sha256, (height, width), sides, rng) for _ in range(count))
        return list(
            dict.fromkeys(boxes)
        )  # of an image that is as small as a crop there are but two

    def _box(
        self, sha256: str, whole: Sequence[int], sides: Sequence[int], rng: np.random.Generator
    ) -> Box:
        """A part of an image that is as large, anywhere; or all of it but a few rows and columns."""
        begin, coded = [], []
        for length, side in zip(whole, sides, strict=True):
            # Where all is taken, the first pixels are left out, so that it falls otherwise on the grid.
            free = length - side or min(self.stride - 1, max(0, length - self.crop))
            begin.append(int(rng.integers(free + 1)))
            left = min(side, length - begin[-1])
            coded.append(math.ceil(max(left, self.crop) / self.stride) * self.stride)
        mirrored = bool(rng.random() < 0.5)
        return Box(sha256, begin[0], begin[1], coded[0], coded[1], mirrored)

    def sample(
        self, pixels: Tensor, boxes: Sequence[Box], rng: np.random.Generator
    ) -> dict[str, Any]:
        """A random crop.

        Args:
            pixels: of the image, ``(3, H, W)`` uint8.
            boxes: of the image.
            rng: says which crop.

        Returns:
            ``image``: ``(3, crop, crop)`` float32 in [0, 1]; ``latent``: ``(M, n, n)`` with the margin,
            zero outside of the box; ``inside``: ``(4,)`` integers, where the box begins and ends,
            in elements of the latent counted from the beginning of the crop: top, bottom, left, right.
        """
        box = boxes[int(rng.integers(len(boxes)))]
        kept = self.cache[box]
        margin, side = self.margin or 0, self.crop // self.scale
        rows, columns = kept.shape[1:]
        # A crop lies where the image is, and not where it is continued, as far as there is room.
        below, beside = (
            max(0, begin + coded - max(length, begin + self.crop))
            for begin, coded, length in zip(
                (box.top, box.left), (box.height, box.width), pixels.shape[1:], strict=True
            )
        )
        row = self._offset((box.height - self.crop - below) // self.scale, rng)
        column = self._offset((box.width - self.crop - beside) // self.scale, rng)
        if box.mirrored:
            column = columns - side - column
        first = max(0, row - margin), max(0, column - margin)
        part = kept[:, first[0] : row + side + margin, first[1] : column + side + margin]
        latent = torch.zeros(len(kept), *[side + 2 * margin] * 2)
        y, x = first[0] - (row - margin), first[1] - (column - margin)
        latent[:, y : y + part.shape[1], x : x + part.shape[2]] = self.restored(part)
        return {
            "image": self._image(pixels, box, row, column).float().div(255),
            "latent": latent,
            "inside": torch.tensor([-row, rows - row, -column, columns - column]),
        }

    def _offset(self, last: int, rng: np.random.Generator) -> int:
        """Where a crop begins on an axis, 0 to last.

        Places half a crop beyond the ends count as the ends, so that what is at the edges of an image is
        seen as often as what is in its middle.
        """
        half = self.crop // self.scale // 2
        return min(max(int(rng.integers(-half, last + half + 1)), 0), last)

    def _image(self, pixels: Tensor, box: Box, row: int, column: int) -> Tensor:
        """The pixels of a crop that begins at an element of a box's latent."""
        right = column * self.scale
        if box.mirrored:
            right = box.width - self.crop - right
        place = box.top + row * self.scale, box.left + right
        return crop_region(pixels, Box(box.sha256, *place, self.crop, self.crop, box.mirrored))


def crop_region(pixels: Tensor, box: Box) -> Tensor:
    """What a box shows of an image ``(3, H, W)``, continued at right and bottom where it ends."""
    height, width = pixels.shape[1:]
    part = pixels[:, box.top : box.top + box.height, box.left : box.left + box.width]
    if part.shape[1:] != (box.height, box.width):
        rows = torch.arange(box.top, box.top + box.height).clamp(max=height - 1)
        columns = torch.arange(box.left, box.left + box.width).clamp(max=width - 1)
        part = pixels[:, rows][:, :, columns]
    return part.flip(2) if box.mirrored else part
