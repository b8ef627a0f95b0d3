"""Adapters mixed by another v in each region: exact, without seams, at little more than the cost of one v.

With s_r the shares of the regions, which add up to 1 at each place, and v^r the v of region r, v varies
over the image as Σ_r s_r v^r, and since adapters are linear in v,

    W(u) + Σ_k (Σ_r s_r v^r_k) A_k(u)  =  Σ_r s_r (W + Σ_k v^r_k A_k)(u).

So each region has merged weights of its own, which are needed only where its share is not zero. Shares are
1 or 0 but between regions, where they fade linearly over one position of the latent: v is continuous, and
so is all that the decoder makes of it::

        ┌───────────┬──┬──────┐
        │           │  │      │    A's convolution is computed on A and AB, B's on AB and B,
        │     A     │AB│  B   │    in few rectangles; on AB the shares add them up
        │           │  │      │
        └───────────┴──┴──────┘

Only the convolutions of the sites are computed in parts; the rest of the decoder is not cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from lic_da.adapters.formula import AdapterSum
from lic_da.codecs.models.convolutions import Convolution
from lic_da.codecs.spatial.tiling import radius
from lic_da.spans import Span

_HALF = 2
"""Rectangles are in halves of positions: a fade takes the halves of two."""
_CALL = 64
"""Halves of positions, squared, that take as long at all sites as one more convolution."""


class Rectangle(NamedTuple):
    """A rectangle of the latent, in halves of positions."""

    top: int
    bottom: int
    left: int
    right: int

    def within(self, others: Iterable[Rectangle]) -> list[Rectangle]:
        """What others have in common with it, each that does."""
        cuts = [
            Rectangle(
                *(max(self.top, other.top), min(self.bottom, other.bottom)),
                *(max(self.left, other.left), min(self.right, other.right)),
            )
            for other in others
        ]
        return [cut for cut in cuts if cut.top < cut.bottom and cut.left < cut.right]

    def spans(self, reach: int, scale: int, height: int, width: int) -> tuple[Span, Span]:
        """Its rows and columns where a half is ``scale`` elements, with ``reach`` elements around."""
        rows, columns = (
            Span(a * scale, b * scale, max(0, a * scale - reach), min(length, b * scale + reach))
            for a, b, length in ((self.top, self.bottom, height), (self.left, self.right, width))
        )
        return rows, columns

    def of(self, x: Tensor, scale: int, within: Rectangle | None = None) -> Tensor:
        """What is there of a feature map of the latent, or of a rectangle of it."""
        top, left = (0, 0) if within is None else (within.top, within.left)
        rows = slice(scale * (self.top - top), scale * (self.bottom - top))
        return x[..., rows, scale * (self.left - left) : scale * (self.right - left)]


class Part(NamedTuple):
    """A rectangle that is convolved with the weights of a region, and where what comes out goes.

    Attributes:
        region: its number.
        where: the rectangle.
        alone: parts of it in which the region is alone.
        mixed: parts of it in which others have shares too.
    """

    region: int
    where: Rectangle
    alone: Sequence[Rectangle]
    mixed: Sequence[Rectangle]


class ShareMap:
    """The shares of the latent, or the tile of it, that is being decoded.

    Attributes:
        shares: ``(1, R, H, W)``.
        parts: what is to be computed.
        mixed: rectangles in which several regions have shares.
    """

    shares: Tensor
    parts: list[Part]
    mixed: Sequence[Rectangle]

    def set(self, shares: Tensor) -> None:
        """Decode with other shares from now on."""
        self.shares = shares
        fine = F.interpolate(shares, scale_factor=_HALF, mode="bilinear", align_corners=False)
        present = (fine[0] > 0).cpu().numpy()
        several = present.sum(axis=0) > 1
        self.parts = []
        for region, own in enumerate(present):
            alone, mixed = list(rectangles(own & ~several)), list(rectangles(own & several))
            self.parts += [
                Part(region, where, where.within(alone), where.within(mixed))
                for where in covering(own)
            ]
        self.mixed = list(rectangles(several))

    def at(self, where: Rectangle, region: int, scale: int) -> Tensor:
        """Shares of a region where half a position is ``scale`` elements: ``(1, 1, h, w)``."""
        top, left = max(0, where.top // _HALF - 1), max(0, where.left // _HALF - 1)
        rows = slice(top, -(-where.bottom // _HALF) + 1)
        coarse = self.shares[:, region : region + 1, rows, left : -(-where.right // _HALF) + 1]
        fine = F.interpolate(
            coarse, scale_factor=_HALF * scale, mode="bilinear", align_corners=False
        )
        return where.of(fine, scale, Rectangle(_HALF * top, 0, _HALF * left, 0))


class RegionSum(AdapterSum):
    """The adapters of one site, weighted by a v of each region.

    Args:
        sums: of each region, with its v.
        place: says which positions are whose.
    """

    def __init__(self, sums: Sequence[AdapterSum], place: ShareMap) -> None:
        super().__init__(sums[0].adapters, torch.cat([each.v for each in sums]))
        self.sums, self.place = sums, place

    def __call__(self, u: Tensor) -> Tensor:
        """Σ_r s_r Σ_k v^r_k A_k(u)."""
        return self._mixed(self.adapters[0], list(self.sums), u)

    def parallel(self, conv: Convolution, forward: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
        """W(u) + Σ_r s_r Σ_k v^r_k A_k(u), where W is the convolution and ``forward`` computes W(u)."""
        return self._mixed(conv, [partial(each.parallel, conv, forward) for each in self.sums], u)

    def _mixed(
        self, like: Convolution, ways: Sequence[Callable[[Tensor], Tensor]], u: Tensor
    ) -> Tensor:
        """Σ_r s_r way_r(u), each way a convolution with the geometry of ``like``."""
        height, width = (_HALF * side for side in self.place.shares.shape[2:])
        finer, times = u.shape[2] // height, _times(like)
        if times is None or (finer * height, finer * width) != u.shape[2:]:
            return self._whole(ways, u)
        shape = (len(u), like.out_channels, times * u.shape[2], times * u.shape[3])
        out = torch.empty(shape, dtype=u.dtype, device=u.device, memory_format=torch.channels_last)
        scale = finer * times
        for where in self.place.mixed:
            where.of(out, scale).zero_()
        for part in self.place.parts:
            rows, columns = part.where.spans(math.ceil(radius(like)), finer, *u.shape[2:])
            own = ways[part.region](u[..., rows.computed(), columns.computed()])
            own = own[..., rows.inside(times), columns.inside(times)]
            for cut in part.alone:
                cut.of(out, scale).copy_(cut.of(own, scale, part.where))
            for cut in part.mixed:
                shares = self.place.at(cut, part.region, scale)
                cut.of(out, scale).addcmul_(cut.of(own, scale, part.where), shares)
        return out

    def _whole(self, ways: Sequence[Callable[[Tensor], Tensor]], u: Tensor) -> Tensor:
        """The same of whole feature maps, whatever the convolution is like."""
        outs = [way(u) for way in ways]
        own = F.interpolate(
            self.place.shares, outs[0].shape[2:], mode="bilinear", align_corners=False
        )
        first, *others = [own[:, r : r + 1] * out for r, out in enumerate(outs)]
        return sum(others, start=first)


def rectangles(mask: NDArray[np.bool_]) -> Iterator[Rectangle]:
    """Rectangles that make up a mask ``(H, W)``, none of them on another."""
    left = mask.copy()
    while left.any():
        top, start = np.unravel_index(int(left.argmax()), left.shape)
        stop = start + _run(left[top, start:])
        bottom = top + _run(left[top:, start:stop].all(axis=1))
        left[top:bottom, start:stop] = False
        yield Rectangle(int(top), int(bottom), int(start), int(stop))


def covering(mask: NDArray[np.bool_]) -> list[Rectangle]:
    """Rectangles that cover a mask ``(H, W)``, none of them on another, and little else.

    Rows are taken together, from one side of the mask to the other, as long as that costs less than a
    convolution more.
    """
    strips: list[list[Rectangle]] = []
    changes = 1 + np.flatnonzero((mask[1:] != mask[:-1]).any(axis=1))
    for top, bottom in pairwise([0, *changes.tolist(), len(mask)]):
        edges = np.flatnonzero(np.diff(mask[top], prepend=False, append=False)).tolist()
        own = [Rectangle(top, bottom, *e) for e in zip(edges[::2], edges[1::2], strict=True)]
        joined = _joined(strips[-1], own) if strips else own
        if strips and _cost(joined) <= _cost(strips[-1]) + _cost(own):
            strips[-1] = joined
        else:
            strips.append(own)
    return [each for strip in strips for each in strip]


def _joined(above: Sequence[Rectangle], below: Sequence[Rectangle]) -> list[Rectangle]:
    """Rectangles of all the rows of two strips that cover those of both."""
    both = sorted([*above, *below], key=lambda each: each.left)
    if not both:
        return []
    top, bottom = min(each.top for each in both), max(each.bottom for each in both)
    joined: list[Rectangle] = []
    for each in both:
        left, right = each.left, each.right
        if joined and left <= joined[-1].right:
            left, right = joined[-1].left, max(right, joined[-1].right)
            joined.pop()
        joined.append(Rectangle(top, bottom, left, right))
    return joined


def _cost(strip: Sequence[Rectangle]) -> int:
    return sum(_CALL + (e.bottom - e.top) * (e.right - e.left) for e in strip)


def _run(values: NDArray[np.bool_]) -> int:
    """How many of the first values are true."""
    return len(values) if values.all() else int(values.argmin())


def _times(conv: Convolution) -> int | None:
    """How many times as fine the output of a convolution is; None: no whole number of times."""
    pairs = (conv.stride, conv.kernel_size, conv.padding, conv.dilation)
    if math.isinf(radius(conv)) or any(len({*pair}) != 1 for pair in pairs):
        return None
    stride, k, padding, dilation = (int(pair[0]) for pair in pairs)
    over = dilation * (k - 1) - 2 * padding
    if isinstance(conv, nn.ConvTranspose2d):
        return stride if over + int(conv.output_padding[0]) + 1 == stride else None
    return 1 if stride == 1 and over == 0 else None
