"""v per region, for images that hold several domains: a page with a photograph, a drawing and text.

The gate's features are averaged over windows of the latent instead of the whole of it, and say which
domain wins where. What belongs together gets one v, from its own features::

         ┌──────────┐ f       ┌─────────────────┐ windows in which one domain wins throughout
    ŷ ──►│ evidence ├──┬─────►│ mean per window ├──────────────► regions ─► shares (1, R, H, W)
         └──────────┘  │      └─────────────────┘                   │
                       │      ┌─────────────────┐ ◄─────────────────┘
                       └─────►│ mean per region ├──► classify, softmax ──► v (R, K+1)
                              └─────────────────┘

A domain has a region where windows lie in which it wins at every place; what is in none of them goes with
what is next to it. A region is less evidence than an image, so its features lean on the image's. An image
of one region is decoded with the v of the whole image, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lic_da.adapters.gate import POOLED, Gate
from lic_da.errors import UserError, unknown

Spatial = Literal["image", "window"]
"""``image``: one v per image; ``window``: features are pooled per window, and each region has its v."""

SPATIAL: tuple[Spatial, ...] = ("image", "window")

# Chosen on validation pages and validation images, see experiments/regions.
WINDOW = 6
"""Side of the windows, in positions of the latent."""
_OWN = 0.75  # of a region's features; the rest is the whole image's


@dataclass(frozen=True)
class RegionWeights:
    """Weights of the adapters for each region of one image.

    Attributes:
        v: ``(R, K+1)``, a row a region.
        shares: ``(1, R, H, W)``, which positions of the latent are whose; they add up to 1 at each.
    """

    v: Tensor
    shares: Tensor

    @property
    def mean(self) -> Tensor:
        """V ``(1, K+1)`` of the regions, weighted by their areas."""
        return self.shares.mean(dim=(2, 3)) @ self.v


Weights = Tensor | RegionWeights
"""v of images, ``(B, K+1)``, or of the regions of one."""


def of_image(v: Weights) -> Tensor:
    """One v per image, ``(B, K+1)``; of regions their mean."""
    return v.mean if isinstance(v, RegionWeights) else v


def with_shares(y_hat: Tensor, v: Weights | None) -> Tensor:
    """What the transform mixed by v takes: ŷ, and as further channels the regions' shares.

    So whoever cuts a latent into tiles cuts the shares with it.
    """
    return torch.cat([y_hat, v.shares.to(y_hat)], dim=1) if isinstance(v, RegionWeights) else y_hat


def check_spatial(spatial: str, window: int, *, signalled: bool) -> None:
    """Raise a UserError unless such regions can be found.

    Args:
        spatial: one of ``SPATIAL``.
        window: side of the windows.
        signalled: whether the gate reads y at the encoder.
    """
    if spatial not in SPATIAL:
        raise unknown("gate.spatial", spatial, SPATIAL)
    if type(window) is not int or window < POOLED or window % (2 * POOLED) != POOLED:
        raise UserError(
            f"gate.window must be an odd multiple of {POOLED} positions of the latent, such as 6, 10 or "
            f"14, not {window}."
        )
    if spatial == "window" and signalled:
        raise UserError(
            "gate.spatial=window is for a gate that reads the latent at the decoder: leave out "
            "gate.input=signalled."
        )


def find(gate: Gate, y_hat: Tensor, window: int) -> tuple[Tensor, Tensor | None]:
    """The regions of an image.

    Args:
        gate: tells domains apart.
        y_hat: the latent, ``(1, M, H, W)``.
        window: side of the windows, in positions of the latent.

    Returns:
        Features ``(R, F)`` of the gate, and shares ``(1, R, H, W)``; None for shares: all is one region,
        and the features are the image's.
    """
    evidence, side = gate.evidence(y_hat), window // POOLED
    image = gate.averaged(evidence)
    if min(evidence.shape[2:]) < side:
        return image, None
    masks = _masks(gate, evidence, side)
    if len(masks) < 2:
        return image, None
    flat = masks.flatten(1)
    own = flat @ evidence[0].flatten(1).T / flat.sum(dim=1, keepdim=True)
    features = _OWN * own + (1 - _OWN) * image
    shares = masks[None].repeat_interleave(POOLED, dim=2).repeat_interleave(POOLED, dim=3)
    return features, shares[..., : y_hat.shape[2], : y_hat.shape[3]]


def _masks(gate: Gate, evidence: Tensor, side: int) -> Tensor:
    """Which elements of the evidence ``(1, F, h, w)`` are whose: ``(R, h, w)``, one of R is 1 at each."""
    means = F.avg_pool2d(evidence, side, 1, side // 2, count_include_pad=False)
    winner = gate.classify(means.movedim(1, -1)).argmax(dim=-1)
    sure = torch.cat([_opened((winner == k).float(), side) for k in winner.unique().tolist()])
    masks = sure[sure.flatten(1).any(dim=1)]
    while len(masks) > 1 and not masks.any(dim=0).all():
        free = ~masks.bool().any(dim=0)
        beside = F.avg_pool2d(masks, 3, 1, 1, divisor_override=1)
        most, nearest = beside.max(dim=0)
        grown = F.one_hot(nearest, len(masks)).movedim(-1, 0) * (free & (most > 0))
        masks = masks + grown
    return masks


def _opened(mask: Tensor, side: int) -> Tensor:
    """The union of all squares of this side that lie inside a mask ``(1, h, w)`` of zeros and ones."""
    corners = 1 - F.max_pool2d(1 - mask, side, 1)
    return F.max_pool2d(F.pad(corners, (side - 1,) * 4), side, 1)
