"""Training crops whose latents come from the cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lic_da.data.latent_cache import Box, Latent, LatentCache


class LatentCrops:
    """Crops of pictures and of their latents.

    Where a decoder can be cut, a picture is coded whole, and crops lie anywhere on the grid of its
    latent. A decoder that cannot be cut decodes parts as they were coded: then crops are coded one by
    one, side by side, as pictures of their own.

    Args:
        cache: of latents.
        restored: what the cache holds -> float32 ``(M, h, w)``.
        crop: side of the crops in pixels.
        stride: sides of coded pictures are multiples of this.
        scale: pixels that an element of the latent is wide.
        margin: elements of the latent that a crop needs around it; None: the decoder cannot be cut.
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
    ) -> None:
        self.cache, self.restored = cache, restored
        self.crop, self.stride, self.scale, self.margin = crop, stride, scale, margin

    def boxes(self, sha256: str, height: int, width: int) -> list[Box]:
        """What is coded of a picture; pictures smaller than the crop are continued at their edges.

        Args:
            sha256: of its file.
            height: in pixels.
            width: in pixels.
        """
        if self.margin is None:
            return [
                Box(sha256, top, left, self.crop, self.crop)
                for top in self._beginnings(height)
                for left in self._beginnings(width)
            ]
        sides = [
            math.ceil(max(side, self.crop) / self.stride) * self.stride for side in (height, width)
        ]
        return [Box(sha256, 0, 0, *sides)]

    def _beginnings(self, side: int) -> list[int]:
        """Where crops begin that cover an axis, the last one flush with its end."""
        count = max(1, math.ceil(side / self.crop))
        last = max(0, side - self.crop)
        return [round(i * last / max(1, count - 1)) for i in range(count)]

    def sample(
        self, pixels: Tensor, boxes: Sequence[Box], rng: np.random.Generator
    ) -> dict[str, Any]:
        """A random crop.

        Args:
            pixels: of the picture, ``(3, H, W)`` uint8.
            boxes: of the picture.
            rng: says which crop.

        Returns:
            ``image``: ``(3, crop, crop)`` float32 in [0, 1]; ``latent``: ``(M, n, n)`` with the margin,
            zero outside of the picture; ``inside``: ``(4,)`` integers, where the picture begins and ends,
            in elements of the latent counted from the beginning of the crop: top, bottom, left, right.
        """
        box = boxes[int(rng.integers(len(boxes)))]
        kept = self.cache[box]
        margin, side = self.margin or 0, self.crop // self.scale
        row, column = (
            int(rng.integers(max(0, min(length, coded) - self.crop) // self.scale + 1))
            for length, coded in zip(pixels.shape[1:], (box.height, box.width), strict=True)
        )
        top, left = box.top + row * self.scale, box.left + column * self.scale
        image = continued(pixels, Box(box.sha256, top, left, self.crop, self.crop))
        rows, columns = kept.shape[1:]
        first = max(0, row - margin), max(0, column - margin)
        part = kept[:, first[0] : row + side + margin, first[1] : column + side + margin]
        latent = torch.zeros(len(kept), *[side + 2 * margin] * 2)
        y, x = first[0] - (row - margin), first[1] - (column - margin)
        latent[:, y : y + part.shape[1], x : x + part.shape[2]] = self.restored(part)
        return {
            "image": image.float().div(255),
            "latent": latent,
            "inside": torch.tensor([-row, rows - row, -column, columns - column]),
        }


def continued(pixels: Tensor, box: Box) -> Tensor:
    """What a box shows of a picture ``(3, H, W)``, continued at right and bottom where it ends."""
    height, width = pixels.shape[1:]
    shown = pixels[:, box.top : box.top + box.height, box.left : box.left + box.width]
    below, beside = box.height - shown.shape[1], box.width - shown.shape[2]
    if not (below or beside):
        return shown
    rows = torch.arange(box.top, box.top + box.height).clamp(max=height - 1)
    columns = torch.arange(box.left, box.left + box.width).clamp(max=width - 1)
    return pixels[:, rows][:, :, columns]
