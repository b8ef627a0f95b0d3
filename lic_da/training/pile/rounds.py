"""Rounds of the search for groups: train adapters briefly, give each image to those that decode it best.

This is k-means with decoders in the place of means: adapters of a group are trained on its images, and an
image changes its group where another's adapters decode it better.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from lic_da.adapters.synthesis import one_hot
from lic_da.codecs.image_codec import pad
from lic_da.codecs.latents import decoder_latent
from lic_da.data.clusters import Features, Labels
from lic_da.data.datamodule import DomainsDataModule, LabelledImage, WholeImages
from lic_da.methods.adapters.codec import AdaptedCodec
from lic_da.methods.adapters.module import DecoderAdaptation
from lic_da.methods.module import psnr_8_bit
from lic_da.methods.steps import ExactSteps

Gains = NDArray[np.float64]

HYSTERESIS = 1.0
"""dB by which another group's adapters must decode an image better before it moves."""

SAME = 0.1
"""Share of a group's gain over the base decoder: groups that lose less by each other's adapters are one."""


class GroupAdaptation(DecoderAdaptation):
    """Training of the adapters of each group alone, on the images of that group, without a gate.

    Mixed by a gate, adapters are good together; after a few steps none is good alone yet.
    """

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        x, labels = batch["image"], batch["label"]
        y_hat, _ = self.encoder.of_crops(batch)
        v = one_hot(labels, len(self.adapted.domains))
        with self.synthesis.mixed_by(v) as transform:
            x_hat = self.encoder.decode(transform, y_hat, batch)
        return self.gamma * 255**2 * F.mse_loss(x_hat, x)


def train_briefly(
    module: GroupAdaptation, data: DomainsDataModule, trainer: Mapping[str, Any], steps: int
) -> None:
    """Train adapters without validation, checkpoints or logs.

    Args:
        module: of untrained adapters.
        data: the groups, set up.
        trainer: ``_target_`` and arguments, as of a run.
        steps: batches.
    """
    brief: L.Trainer = instantiate(
        trainer,
        logger=False,
        callbacks=[ExactSteps(steps)],
        max_epochs=math.ceil(steps / data.batches_per_epoch),
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    brief.fit(module, train_dataloaders=data.train_dataloader())


@torch.inference_mode()
def decoded_by_each(
    adapted: AdaptedCodec, images: Sequence[LabelledImage], side: int, console: Console
) -> Gains:
    """How well the adapters of each target domain alone decode images.

    Args:
        adapted: trained.
        images: whose central squares are decoded.
        side: of the squares, in pixels.
        console: where progress is shown.

    Returns:
        Gains over the base decoder in dB, ``(N, K)``, without the source's.
    """
    adapted.eval()
    domains, device = len(adapted.domains), next(adapted.codec.parameters()).device
    squares = WholeImages(images, centre=side)
    found = np.empty((len(images), domains - 1))
    each = one_hot(torch.arange(1, domains), domains).to(device)
    shown = track(range(len(images)), "Decoding by each group", console=console, transient=True)
    for number in shown:
        x = squares[number]["image"][None].to(device)
        y_hat = decoder_latent(adapted.codec, pad(x, adapted.stride))
        with adapted.in_mode("base"):
            base = psnr_8_bit(adapted.synthesis(y_hat), x)
        found[number] = [psnr_8_bit(adapted.synthesis(y_hat, v[None]), x) - base for v in each]
    return found


def reassigned(labels: Labels, gains: Gains, fixed: NDArray[np.bool_]) -> Labels:
    """The group of each image after a round.

    Args:
        labels: before, ``(N,)``.
        gains: in dB by the adapters of each group, ``(N, K)``.
        fixed: images that stay, ``(N,)``.
    """
    best = gains.argmax(axis=1)
    rows = np.arange(len(labels))
    better = gains[rows, best] - gains[rows, labels] > HYSTERESIS
    return np.where(better & ~fixed, best, labels)


def reseeded(
    labels: Labels, features: Features, groups: int, fewest: int, fixed: NDArray[np.bool_]
) -> Labels:
    """Labels with each group that has too few images begun anew.

    It gets the half of the most scattered group that is farthest from that one's mean, where this has
    images enough for two.

    Args:
        labels: ``(N,)``.
        features: ``(N, D)``.
        groups: K.
        fewest: images that a group needs.
        fixed: images that stay, ``(N,)``.
    """
    labels = labels.copy()
    for group in range(groups):
        if (labels == group).sum() >= fewest:
            continue
        others = [k for k in np.unique(labels).tolist() if k != group]
        scatter = {k: _apart(features, labels == k).sum() for k in others}
        widest = max(scatter, key=lambda k: scatter[k], default=None)
        if widest is None or (labels == widest).sum() < 2 * fewest:
            continue
        inside = np.flatnonzero(labels == widest)
        order = inside[_apart(features, labels == widest).argsort(kind="stable")]
        far = order[len(order) // 2 :]
        labels[far[~fixed[far]]] = group
    return labels


def _apart(features: Features, own: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Squared distances of a group's images from their mean."""
    inside = features[own]
    squared: NDArray[np.float64] = ((inside - inside.mean(axis=0)) ** 2).sum(axis=1)
    return squared


def merged(labels: Labels, gains: Gains) -> Labels:
    """Labels without groups that are one: each one's adapters decode the other's images as well.

    Args:
        labels: ``(N,)``.
        gains: in dB by the adapters of each group, ``(N, K)``.
    """
    labels = labels.copy()
    while pairs := list(_same(labels, gains)):
        _, kept, gone = min(pairs)
        labels[labels == gone] = kept
    return labels


def _same(labels: Labels, gains: Gains) -> list[tuple[float, int, int]]:
    """Pairs of groups that are one: the larger loss, the group that stays, and the smaller one."""
    sizes = dict(
        zip(*(found.tolist() for found in np.unique(labels, return_counts=True)), strict=True)
    )
    pairs = []
    for a, b in itertools.combinations(sizes, 2):
        loss = max(_lost(labels, gains, a, b), _lost(labels, gains, b, a))
        if loss < SAME:
            pairs.append((loss, *sorted((a, b), key=lambda k: (-sizes[k], k))))
    return pairs


def _lost(labels: Labels, gains: Gains, own: int, other: int) -> float:
    """Share of its gain that a group loses by another's adapters; infinite where it gains nothing."""
    of_group = gains[labels == own].mean(axis=0)
    return (
        float((of_group[own] - of_group[other]) / of_group[own]) if of_group[own] > 0 else math.inf
    )
