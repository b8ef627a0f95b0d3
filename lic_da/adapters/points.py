"""Reconstruction points: where in its interval a decoded symbol is put.

The entropy coder carries s = round(y − μ) and the decoder makes ŷ = s + μ of it, the middle of all the
values that s stands for. Where among them the best one lies depends on the channel, on s and on the
domain, so a pack may hold an offset o_k for each of them. They are mixed by v as the adapters are, after
the gate has read ŷ, so that streams, entropy coder and gate stay what they are::

    ŷ ──┬──► gate ──► v ────────────────┐
        │                               ▼
        └────────────────► ŷ + Σ_k v_k o_k[channel, s] ──► g_s with adapters ──► x̂

Symbols from ``SHARED`` on share one offset, and those from −``SHARED`` down another.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Points = Literal["none", "means"]
"""``none``: ŷ as the entropy coder gives it; ``means``: conditional means of the training images' y."""

SHARED = 3
CLASSES = 2 * SHARED + 1
"""Symbols that have an offset of their own in each channel: −3 and less, −2, …, 2, 3 and more."""


def classes(symbols: Tensor) -> Tensor:
    """Which of the offsets are those of symbols, whole numbers of any shape: integers from 0."""
    return symbols.clamp(-SHARED, SHARED).long() + SHARED


class ReconstructionPoints(nn.Module):
    """Offsets of all domains; zero before they are fitted.

    Args:
        domains: K+1, number of domains, the source included.
        latent_channels: M, channels of the latent.
    """

    offsets: Tensor

    def __init__(self, domains: int, latent_channels: int) -> None:
        super().__init__()
        self.register_buffer("offsets", torch.zeros(domains, latent_channels, CLASSES))

    def forward(self, y_hat: Tensor, symbols: Tensor, v: Tensor) -> Tensor:
        """ŷ with each element where it is best.

        Between whole numbers, where a search of the encoder has its symbols, offsets are interpolated.

        Args:
            y_hat: latents, ``(B, M, H, W)``.
            symbols: that they were made of, of the same shape.
            v: weights of the domains, ``(B, K+1)`` or ``(1, K+1)``.
        """
        mixed = torch.einsum("bk,kmc->bmc", v, self.offsets).expand(len(y_hat), -1, -1)
        # Channel by channel: of a large image there is one latent more, and no table of places in it.
        moved = [
            y_hat[:, channel] + _taken(mixed[:, channel], symbols[:, channel])
            for channel in range(y_hat.shape[1])
        ]
        return torch.stack(moved, dim=1)


def _taken(offsets: Tensor, symbols: Tensor) -> Tensor:
    """Offsets ``(B, CLASSES)`` of one channel at its symbols ``(B, H, W)``."""
    below = symbols.detach().floor()

    def at(whole: Tensor) -> Tensor:
        return offsets.gather(1, classes(whole).flatten(1)).view_as(symbols)

    low, share = at(below), symbols - below
    if not bool(share.any()):
        return low
    return low + share * (at(below + 1) - low)
