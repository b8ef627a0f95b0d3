"""Crops of an image out of its latent, with the values that they have in the whole image.

A crop takes the elements of the latent under it and a margin around them. From layer to layer less of
the margin is needed, so that it is cut off as it is used up::

    ŷ      ┌───────────────┐         What lies outside of the image is zero before every convolution,
           │ ┌───────────┐ │         as the convolution's own padding is in the whole image.
    u      │ │ ┌───────┐ │ │
    x̂      │ │ │ crop  │ │ │
           │ │ └───────┘ │ │
           │ └───────────┘ │
           └───────────────┘

Crops begin at elements of the latent, so that all crops of a batch are cut alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from compressai.layers import GDN
from torch import Tensor, nn

from lic_da.codecs.spatial.tiling import InWindows, SideBranch, acting_like, radius


@dataclass(frozen=True)
class _Layer:
    """What is kept of a layer's output, in its own elements counted from the beginning of the crop.

    Attributes:
        scale: elements of the output for one of the input; less than one where it is coarser.
        start: of what is kept.
        stop: of what is kept.
        fine: elements of the output that an element of the latent is wide and high.
        spills: whether it may be other than zero outside of the image, where zeros are needed.
    """

    scale: float
    start: int
    stop: int
    fine: int
    spills: bool


class CropSynthesis:
    """Decodes square crops out of latents by a synthesis transform that can be cut.

    Args:
        g_s: the transform, from latent to image.
        channels: M, of the latent.
        crop: side of the crops in pixels.
        beside: more modules that act in it.

    Attributes:
        margin: elements of the latent that a crop needs on each side.
        side: elements of the latent under a crop, without the margin.

    Raises:
        CannotBeCut: the transform is no sequence of layers, or a layer looks at the whole image or at
            windows that lie on a grid.
    """

    def __init__(
        self,
        g_s: nn.Module,
        channels: int,
        crop: int,
        beside: Sequence[SideBranch] = (),
    ) -> None:
        if not isinstance(g_s, nn.Sequential):
            raise CannotBeCut(f"{type(g_s).__name__} is no sequence of layers")
        scales, behind = _measure(g_s, channels, beside)
        pixels = math.prod(scales)
        self.side = round(crop / pixels)
        if self.side * pixels != crop:
            raise CannotBeCut(f"a crop must be a multiple of {pixels:g} pixels")
        start, stop, fine = 0, crop, round(pixels)
        layers: list[_Layer] = []
        for layer, scale, radius_behind in reversed(list(zip(g_s, scales, behind, strict=True))):
            keeps_zeros = isinstance(layer, GDN | nn.LeakyReLU | nn.ReLU) and not radius_behind
            spills = bool(layers) and not keeps_zeros  # nothing follows the last layer
            layers.insert(0, _Layer(scale, start, stop, fine, spills))
            # What acts on the output needs its surroundings, and then the layer itself.
            start, stop = start - math.ceil(radius_behind), stop + math.ceil(radius_behind)
            start, stop = _needed(layer, start, stop, scale)
            fine = round(fine / scale)
        self.margin = max(-start, stop - self.side)
        self.crop = crop
        self._layers = layers

    def __call__(self, transform: nn.Sequential, y_hat: Tensor, inside: Tensor) -> Tensor:
        """Decode.

        Args:
            transform: the one that this was made for; its layers may have adapters.
            y_hat: latents of the crops with their margins, zero outside of the image,
                ``(B, M, side + 2·margin, side + 2·margin)``.
            inside: where the image begins and ends, in elements of the latent counted from the
                beginning of the crop: top, bottom, left, right; ``(B, 4)`` integers in main memory.

        Returns:
            ``(B, 3, crop, crop)``, not clamped.
        """
        h, start, fine = y_hat, -self.margin, 1
        image = _InnerImage(inside)
        for layer, kept in zip(transform, self._layers, strict=True):
            with image.zero_padding_in(layer, h, start, fine):
                h = layer(h)
            first = round(start * kept.scale)
            h = _cut(h, kept.start - first, kept.stop - first)
            start, fine = kept.start, kept.fine
            if kept.spills:
                h = image.without_outside(h, start, fine)
        return _cut(h, -start, -start + self.crop)


def _cut(h: Tensor, start: int, stop: int) -> Tensor:
    """Rows and columns from start to stop of ``(B, C, n, n)``, in one step also for the gradient."""
    around = -start, stop - h.shape[-1]
    return F.pad(h, (*around, *around)) if any(around) else h


class CannotBeCut(ValueError):
    """Crops of a transform's output need the whole latent."""


class _InnerImage:
    """Where the images of a batch are, around its crops."""

    def __init__(self, inside: Tensor) -> None:
        self.inside = inside.cpu()

    def without_outside(self, h: Tensor, start: int, fine: int) -> Tensor:
        """Features with zeros outside of the image.

        Args:
            h: ``(B, C, n, n)``.
            start: where they start, in their elements counted from the beginning of the crop.
            fine: elements of them that one of the latent is wide.
        """
        top, bottom, left, right = (self.inside * fine).T
        stop = start + h.shape[-1]
        if max(top.max(), left.max()) <= start and min(bottom.min(), right.min()) >= stop:
            return h
        at = torch.arange(start, stop)
        rows = (at >= top[:, None]) & (at < bottom[:, None])
        columns = (at >= left[:, None]) & (at < right[:, None])
        mask = rows[:, None, :, None] & columns[:, None, None, :]
        return h * mask.to(h.device, h.dtype)

    @contextmanager
    def zero_padding_in(self, layer: nn.Module, h: Tensor, start: int, fine: int) -> Iterator[None]:
        """Inside the block, convolutions in a layer of several parts give zeros outside of the image."""
        if not list(layer.children()) or acting_like(layer) is not layer:
            yield
            return
        side = h.shape[-1]

        def mask(module: nn.Module, inputs: Any, out: Tensor) -> Tensor:
            finer = out.shape[-1] / side
            return self.without_outside(out, round(start * finer), round(fine * finer))

        convolutions = [m for m in layer.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
        hooks = [m.register_forward_hook(mask) for m in convolutions]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


@torch.no_grad()
def _measure(
    g_s: nn.Sequential, channels: int, beside: Sequence[SideBranch]
) -> tuple[list[float], list[float]]:
    """For each layer, how much finer its output is, and what acts on the output sees around an element."""
    h = next(g_s.parameters()).new_zeros(1, channels, 4, 4)
    scales, behind = [], []
    for name, layer in g_s.named_children():
        out = layer(h)
        scale = out.shape[-1] / h.shape[-1]
        here = [which for which in beside if which.path.split(".")[0] == name]
        more = sum(
            _radius_behind(g_s.get_submodule(which.path), which.module, which.on_input)
            for which in here
        )
        if any(isinstance(part, InWindows) for part in layer.modules()):
            raise CannotBeCut(f"{type(layer).__name__} looks at windows on a grid")
        if not math.isfinite(radius(acting_like(layer)) + more):
            raise CannotBeCut(f"{type(layer).__name__} looks at more than its surroundings")
        scales.append(scale)
        behind.append(more)
        h = out
    return scales, behind


def _needed(layer: nn.Module, start: int, stop: int, scale: float) -> tuple[int, int]:
    """Elements of a layer's input that its output from start to stop depends on."""
    plain = acting_like(layer)
    if not isinstance(plain, nn.Conv2d | nn.ConvTranspose2d):
        around = math.ceil(radius(plain))
        return math.floor(start / scale) - around, math.ceil(stop / scale) + around
    reach, stride = plain.dilation[0] * (plain.kernel_size[0] - 1), plain.stride[0]
    padding = int(plain.padding[0])
    if isinstance(plain, nn.ConvTranspose2d):  # out[i·stride − padding + tap] += in[i]
        return -((reach - start - padding) // stride), (stop - 1 + padding) // stride + 1
    return start * stride - padding, (stop - 1) * stride - padding + reach + 1


def _radius_behind(module: nn.Module, adapter: nn.Module, on_input: bool) -> float:
    """What an adapter sees around an element of its module's output, beyond what the module sees."""
    if on_input:
        return 0
    plain = acting_like(module)
    if isinstance(plain, nn.Conv2d | nn.ConvTranspose2d):
        raise CannotBeCut(
            f"an adapter behind {type(plain).__name__} sees its bias around the image"
        )
    return radius(adapter)
