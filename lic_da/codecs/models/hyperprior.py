"""A mean-scale hyperprior whose streams can be read elsewhere.

The decoder of a hyperprior computes the scale of every symbol's distribution by a network. It has to
come to the table that the encoder came to: one other table, and all that follows is garbage. In single
precision another number of threads, instruction set or device rounds sums otherwise, and now and then a
scale falls on the other side of a table's limit. In double precision it differs by some 1e-16 of itself
instead of 1e-7, and images where that matters are not met in practice. Where it happens, the checksum
of the latents in the stream tells.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from compressai import models
from torch import Tensor, nn

from lic_da.codecs.spatial import tiling

_TILE = 1 << 26
"""Bytes of activations; the layers of larger latents are computed in tiles."""


class ProductConv2d(nn.Conv2d):
    """A convolution as a sum of matrix products, one per place of the kernel.

    In double precision torch unfolds what it convolves, on one thread; products take all threads.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C_in, H, W)`` -> ``(B, C_out, H, W)``."""
        return torch.stack([self._of_one(image) for image in x])

    def _of_one(self, x: Tensor) -> Tensor:
        """Of rows that lie behind one another with their margins, a place of the kernel sees one piece.

        So nothing is copied for it; what comes out between two rows is of no use.
        """
        assert self.bias is not None
        height, width = x.shape[1:]
        side = self.kernel_size[0]
        beyond, row = side // 2, width + side - 1
        rows = F.pad(x, (beyond, beyond, beyond, beyond + 1)).flatten(1)
        out = self.bias[:, None].expand(-1, height * row).contiguous()
        for i in range(side):
            for j in range(side):
                seen = rows[:, i * row + j :][:, : height * row]
                out.addmm_(self.weight[..., i, j], seen)
        return out.view(self.out_channels, height, row)[..., :width]


def _suits(layer: nn.Module) -> bool:
    """Whether it is a plain convolution with a bias, whose result is as large as its input."""
    if type(layer) is not nn.Conv2d or layer.bias is None:
        return False
    side = layer.kernel_size[0]
    return (
        layer.kernel_size == (side, side)
        and layer.padding == (side // 2, side // 2)
        and side % 2 == layer.groups == 1
        and layer.stride == layer.dilation == (1, 1)
    )


class DoubleInEval(nn.Sequential):
    """Layers that compute in double precision outside of training; their weights stay as they are.

    Attributes:
        single: whether they do not, as where only gradients are of interest.
    """

    single = False
    _geometry: tiling.Geometry | None = None  # of the layers in double precision, when first used

    def forward(self, x: Tensor) -> Tensor:
        """As ``nn.Sequential``; the result has the type of ``x``, rounded once."""
        if self.training or self.single:
            result: Tensor = super().forward(x)
            return result
        layers = copy.deepcopy(nn.Sequential(*self)).to(torch.float64)
        for layer in layers:
            if _suits(layer):
                layer.__class__ = ProductConv2d
        if self._geometry is None:
            self._geometry = tiling.synthesis_geometry(layers, x.shape[1])
        height, width = (side * self._geometry.scale for side in x.shape[2:])
        whole: Tensor | None = None
        for rows, columns, piece in tiling.synthesise(layers, x.double(), self._geometry, _TILE):
            if whole is None:
                whole = x.new_empty(*piece.shape[:2], height, width)
            whole[..., rows, columns] = piece
        assert whole is not None
        return whole


@contextmanager
def in_single_precision(codec: nn.Module) -> Iterator[None]:
    """Inside the block all :class:`DoubleInEval` of a codec compute as in training."""
    layers = [m for m in codec.modules() if isinstance(m, DoubleInEval)]
    for layer in layers:
        layer.single = True
    try:
        yield
    finally:
        for layer in layers:
            layer.single = False


class MeanScaleHyperprior(models.MeanScaleHyperprior):
    """CompressAI's mean-scale hyperprior (Minnen et al. 2018, arXiv 1809.02736) with :class:`DoubleInEval`
    as ``h_s``. Weights are interchangeable with those of CompressAI's class.

    Args:
        N: channels of the transforms.
        M: channels of the latent.
    """

    def __init__(self, N: int, M: int, **kwargs: Any) -> None:  # noqa: N803
        super().__init__(N, M, **kwargs)
        self.h_s: nn.Module = DoubleInEval(*self.h_s.children())
