"""Large images through a transform piece by piece, with the result of the whole.

A convolution sees a few elements around each of its outputs. So a tile of the latent, computed with
enough of its surroundings (``halo``), has the values that it has in the whole image::

        ┌─────────────┐
        │ halo        │    At the border of the image there is no halo: there the transform's own
        │  ┌───────┐  │    padding does what it does in the whole image.
        │  │ tile  │  │
        │  └───────┘  │
        └─────────────┘

The halo is counted from the layers. Kernels for other sizes may add in another order, so values can
differ in their last bits: decoded images by some 1e-6 of 1, encoded latents not at all as measured.

What attends in windows that lie on a grid sees the others of its window: tiles and halos are multiples
of the windows then, so that a tile has the windows of the whole image. Transforms with layers that look
at the whole image are not cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast, runtime_checkable

import torch
from compressai.layers import GDN, ResidualBlock
from compressai.models import CompressionModel
from torch import Tensor, nn

from lic_da.spans import Span, spans, tile_side

MEMORY = 1 << 30
"""Bytes of activations that a transform may take before an image is cut into tiles."""

_POINTWISE = (nn.ReLU, nn.LeakyReLU, nn.GELU, nn.Sigmoid, nn.Identity, nn.PixelShuffle, GDN)
_LOCAL_BLOCKS = ResidualBlock.__module__  # blocks that are local if their parts are
_COPIES = 2  # of a layer's input and output that exist at a time, inside GDN for instance


@dataclass(frozen=True)
class Geometry:
    """How a transform between images and latents can be cut.

    Attributes:
        scale: pixels that an element of the latent is wide and high.
        halo: elements of the latent that a tile needs on each side; None: it cannot be cut.
        bytes_each: of activations for an element of the latent.
        grid: tiles begin at multiples of so many elements of the latent, and the halo is one.
    """

    scale: int
    halo: int | None
    bytes_each: int
    grid: int = 1

    def spans(self, length: int, side: int | None) -> list[Span]:
        """An axis of the latent cut into tiles of at most ``side`` elements; None: into one."""
        return spans(length, side, self.halo or 0, self.grid)

    def side(self, rows: int, columns: int, memory: int) -> int | None:
        """Side of the tiles of a latent, in elements; None if it is better not cut.

        Args:
            rows: of the latent.
            columns: of the latent.
            memory: bytes that activations may take.
        """
        return tile_side(rows, columns, self.halo, self.grid, self.bytes_each, memory)


class SideBranch(NamedTuple):
    """A module that acts in a transform beside its layers.

    Attributes:
        path: of the layer.
        module: what acts.
        on_input: whether it acts on the input of a convolution of the same geometry; else on an output.
    """

    path: str
    module: nn.Module
    on_input: bool = False


def synthesis_geometry(
    g_s: nn.Module, channels: int, beside: Sequence[SideBranch] = ()
) -> Geometry:
    """Geometry of a synthesis transform.

    Args:
        g_s: from latent to image.
        channels: M, of the latent.
        beside: more modules that act in it.
    """
    return _geometry(g_s, next(g_s.parameters()).new_zeros(1, channels, 4, 4), beside)


def analysis_geometry(g_a: nn.Module) -> Geometry:
    """Geometry of an analysis transform, from image to latent."""
    return _geometry(g_a, next(g_a.parameters()).new_zeros(1, 3, 128, 128), ())


@torch.no_grad()
def _geometry(transform: nn.Module, x: Tensor, beside: Sequence[SideBranch]) -> Geometry:
    """Pass x through the layers and count; every layer's side says how coarse its elements are."""
    sides, floats, reach, grids = [x.shape[-1]], 0, 0.0, []
    layers = transform if isinstance(transform, nn.Sequential) else nn.Sequential(transform)
    for name, layer in layers.named_children():
        out = layer(x)
        layer = acting_like(layer)
        # Inside a block of several layers, or on its output, the coarser side is the safe one.
        coarser = min(x.shape[-1], out.shape[-1])
        side = x.shape[-1] if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) else coarser
        more = sum(radius(b.module) for b in beside if b.path.split(".")[0] == name)
        reach += radius(layer) / side + more / coarser
        grids += [(part.window, side) for part in layer.modules() if isinstance(part, InWindows)]
        floats = max(floats, x.numel() + out.numel())
        sides.append(out.shape[-1])
        x = out
    latent, pixels = sorted((sides[0], sides[-1]))
    elements = reach * latent
    grid = math.lcm(*(math.ceil(window * latent / side) for window, side in grids))
    return Geometry(
        scale=pixels // latent,
        halo=grid * math.ceil(elements / grid - 1e-6) if math.isfinite(elements) else None,
        bytes_each=math.ceil(_COPIES * floats * x.element_size() / latent**2),
        grid=grid,
    )


def acting_like(layer: nn.Module) -> nn.Module:
    """The plain layer that sees what this one sees, for a layer of several parts that has ``acts_like``."""
    plain = getattr(layer, "acts_like", layer)
    assert isinstance(plain, nn.Module)
    return plain


@runtime_checkable
class InWindows(Protocol):
    """A module that looks at windows on a grid which begins where the image does.

    Attributes:
        window: side of the windows, in elements of the module's input.
        reach: elements of its input that it sees on each side, at most.
    """

    window: int
    reach: int


def radius(module: nn.Module) -> float:
    """Elements of its input that a module sees on each side, at most; infinite: it sees all."""
    if isinstance(module, InWindows):
        return module.reach
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        return _radius_of_convolution(module)
    if isinstance(module, _POINTWISE):
        return 0
    known = isinstance(module, nn.Sequential) or type(module).__module__ == _LOCAL_BLOCKS
    return sum(map(radius, module.children())) if known else math.inf


def _radius_of_convolution(conv: nn.Conv2d | nn.ConvTranspose2d) -> float:
    if isinstance(conv.padding, str) or conv.padding_mode != "zeros":
        return math.inf
    reach = max(
        max(p, d * (k - 1) - p)
        for k, p, d in zip(conv.kernel_size, conv.padding, conv.dilation, strict=True)
    )
    return reach / conv.stride[0] if isinstance(conv, nn.ConvTranspose2d) else float(reach)


Piece = tuple[slice, slice, Tensor]
"""Rows and columns of the image, in pixels, and what is there."""


def synthesise(
    transform: Callable[[Tensor], Tensor], y_hat: Tensor, geometry: Geometry, memory: int = MEMORY
) -> Iterator[Piece]:
    """Decode a latent, in tiles if need be.

    Args:
        transform: ``(B, M, H, W)`` to images.
        y_hat: the latent.
        geometry: of the transform.
        memory: bytes that activations may take.

    Yields:
        The parts of the image, ``(B, 3, h, w)`` each.
    """
    rows, columns = y_hat.shape[2:]
    side, scale = geometry.side(rows, columns, memory), geometry.scale
    for row in geometry.spans(rows, side):
        for column in geometry.spans(columns, side):
            out = transform(y_hat[..., row.computed(), column.computed()])
            inside = out[..., row.inside(scale), column.inside(scale)]
            yield row.wanted(scale), column.wanted(scale), inside


class TiledAnalysis(nn.Module):
    """An analysis transform that cuts large images; it also takes 8-bit ones.

    Args:
        g_a: the transform.
        geometry: of it.
        memory: bytes that activations may take.
    """

    def __init__(self, g_a: nn.Module, geometry: Geometry, memory: int = MEMORY) -> None:
        super().__init__()
        self.transform = g_a
        self.geometry = geometry
        self.memory = memory

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, 3, H, W)``, in [0, 1] or uint8, to latents ``(B, M, H/s, W/s)``.

        H and W are multiples of s.
        """
        scale = self.geometry.scale
        rows, columns = (length // scale for length in x.shape[2:])
        side = self.geometry.side(rows, columns, self.memory)
        if side is None:
            return cast(Tensor, self.transform(unit(x)))
        y: Tensor | None = None
        for row in self.geometry.spans(rows, side):
            for column in self.geometry.spans(columns, side):
                part = x[..., row.computed(scale), column.computed(scale)]
                out = self.transform(unit(part))[..., row.inside(), column.inside()]
                if y is None:
                    y = out.new_empty(*out.shape[:2], rows, columns)
                y[..., row.wanted(), column.wanted()] = out
        assert y is not None
        return y


@contextmanager
def tiled_analysis(
    codec: CompressionModel, geometry: Geometry, memory: int = MEMORY
) -> Iterator[None]:
    """Let ``codec.g_a`` cut large images inside the block."""
    g_a = codec.g_a
    codec.g_a = TiledAnalysis(g_a, geometry, memory)
    try:
        yield
    finally:
        codec.g_a = g_a


def unit(x: Tensor) -> Tensor:
    """Images in [0, 1]; uint8 ones are divided by 255."""
    return x if x.is_floating_point() else x.float().div(255)
