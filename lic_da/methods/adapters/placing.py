"""Reconstruction points out of training images: where in their intervals the values of latents lie.

The best estimate of y for a symbol is its conditional mean, E[y | s] = ŷ + E[y − ŷ | s], a channel and
domain. An offset is the mean of y − ŷ over training crops, drawn to zero where a symbol is rare. That makes
ŷ nearer to y, but not always the image nearer to the original: ``g_s`` was trained to make the best of what
is in the middle of its interval. So other crops are decoded with shares of these offsets, and of each
domain that share is kept which decodes its crops best; it may be none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lic_da.adapters.points import CLASSES, classes
from lic_da.adapters.regions import with_shares
from lic_da.codecs.image_codec import to_8_bit
from lic_da.data.datamodule import CropDataset
from lic_da.methods.adapters.calibrating import crop_keys
from lic_da.methods.adapters.codec import AdaptedCodec

SHARES = (0.0, -0.25, 0.25, 0.5, 1.0)
"""Of the conditional means that are tried; the first of those that decode as well is kept."""

_CROPS = 600  # of all domains together, the same number of each
_RARE = 50  # symbols beside whose number those of a mean count as zeros
_HELD_OUT = 3  # of so many crops one is decoded to choose the share, and is in no mean
_LEAST = 0.05  # squared 8-bit error below which an image counts as exact, some 61 dB


@dataclass(frozen=True)
class Crop:
    """A training crop as it is coded.

    Attributes:
        image: uint8, ``(1, 3, H, W)``.
        label: number of its domain.
        number: of the crop among those of its domain.
        y_hat: its latent, ``(1, M, h, w)``.
        symbols: that it was made of.
        residual: y − ŷ.
    """

    image: Tensor
    label: int
    number: int
    y_hat: Tensor
    symbols: Tensor
    residual: Tensor


@dataclass(frozen=True)
class Found:
    """Conditional means of y − ŷ, and how much of them decodes best.

    Attributes:
        means: ``(K+1, M, CLASSES)``.
        shares: of each domain, ``(K+1,)``.
    """

    means: Tensor
    shares: Tensor

    def offsets(self) -> Tensor:
        """Those of the reconstruction points, ``(K+1, M, CLASSES)``."""
        return self.shares[:, None, None] * self.means


def found_means(
    adapted: AdaptedCodec, crops: CropDataset, device: torch.device, earlier: int = 0
) -> Found:
    """Conditional means of training crops, and shares of them, for a trained codec.

    Args:
        adapted: trained, with reconstruction points.
        crops: training crops, a group a domain.
        device: that the codec is on.
        earlier: number of domains, the first, that are left out.
    """
    found = [c for c in coded_crops(adapted, crops, device) if c.label >= earlier]
    held_out = [c for c in found if c.number % _HELD_OUT == 0]
    means = conditional_means([c for c in found if c.number % _HELD_OUT], len(adapted.domains))
    means = means.to(device)
    return Found(means, best_shares(adapted, held_out, means).to(means))


def fit_points(
    adapted: AdaptedCodec, crops: CropDataset, device: torch.device, earlier: int = 0
) -> None:
    """Give a trained codec its reconstruction points; those of the first ``earlier`` domains stay."""
    points = adapted.synthesis.points
    assert points is not None
    offsets = found_means(adapted, crops, device, earlier).offsets()
    points.offsets[earlier:] = offsets[earlier:]


@torch.inference_mode()
def coded_crops(adapted: AdaptedCodec, crops: CropDataset, device: torch.device) -> list[Crop]:
    """Training crops of all domains in turn; a function of codec and images alone."""
    if crops.latents is not None:  # then crops are parts of what is coded for the cache
        crops.preload()
    found = []
    for key in crop_keys(crops, _CROPS):
        crop = crops[key]
        x = crop["image"][None].to(device)
        latent = adapted.coded_at_once(x)
        symbols = latent.symbols()
        y_hat = symbols + latent.means
        residual = latent.y - y_hat
        found.append(Crop(to_8_bit(x), crop["label"], key[2], y_hat, symbols, residual))
    return found


def conditional_means(crops: Sequence[Crop], domains: int) -> Tensor:
    """Means of y − ŷ, ``(K+1, M, CLASSES)``: a domain, channel and symbol; 0 of what is not there."""
    channels = crops[0].y_hat.shape[1]
    sums = torch.zeros(domains, channels, CLASSES, dtype=torch.float64)
    counts = torch.zeros_like(sums)
    first = torch.arange(channels)[:, None] * CLASSES
    for crop in crops:
        places = (first + classes(crop.symbols)[0].flatten(1).cpu()).flatten()
        residual = crop.residual.flatten().double().cpu()
        sums[crop.label].view(-1).index_add_(0, places, residual)
        counts[crop.label].view(-1).index_add_(0, places, torch.ones_like(residual))
    return (sums / (counts + _RARE)).float()


@torch.inference_mode()
def best_shares(adapted: AdaptedCodec, crops: Sequence[Crop], offsets: Tensor) -> Tensor:
    """Of each domain, the one of ``SHARES`` of its offsets that decodes its crops best.

    Args:
        adapted: trained, with reconstruction points, which are those that it had afterwards.
        crops: to decode.
        offsets: ``(K+1, M, CLASSES)``.

    Returns:
        ``(K+1,)``; zero of domains without crops.
    """
    synthesis = adapted.synthesis
    assert synthesis.points is not None
    before = synthesis.points.offsets.clone()
    errors = torch.zeros(len(SHARES), len(offsets), dtype=torch.float64)
    for crop in crops:
        with synthesis.in_mode("weighted"):
            latent = synthesis.gate_input == "latent"
            read = crop.y_hat if latent else crop.y_hat + crop.residual
            v = synthesis.mode_weights(crop.y_hat, synthesis.gate(read).softmax(dim=1))
        with synthesis.mixed_by(v) as transform:
            for number, share in enumerate(SHARES):
                synthesis.points.offsets.copy_(share * offsets)
                placed = synthesis.moved(crop.y_hat, crop.symbols, v)
                decoded = to_8_bit(transform(with_shares(placed, v)))
                error = (decoded.float() - crop.image.float()).square().mean().item()
                errors[number, crop.label] += math.log(max(error, _LEAST))
    synthesis.points.offsets.copy_(before)
    return torch.tensor(SHARES)[errors.argmin(dim=0)]
