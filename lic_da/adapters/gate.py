"""The gate: from a latent to one weight a domain."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

GateInput = Literal["latent", "signalled"]
"""What the gate reads: ``latent``, ŷ at the decoder; ``signalled``, y at the encoder, which sends v."""

POOLED = 2
"""Side of what max-pooling makes one element of, in positions of the latent."""

_AVERAGE = 3  # place of the average among the layers of the features


class Gate(nn.Module):
    """conv 3×3, GELU, max-pool 2, global average, linear (Presta et al. 2024, section 3).

    Args:
        latent_channels: M, channels of the latent.
        mid: channels after the convolution.
        domains: K+1, number of domains, the source included.
    """

    def __init__(self, latent_channels: int, mid: int, domains: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(latent_channels, mid, kernel_size=3, padding=1),
            nn.GELU(),
            # ceil_mode: a latent with a side of 1 still has something to pool.
            nn.MaxPool2d(POOLED, ceil_mode=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.classify = nn.Linear(mid, domains)

    def forward(self, y_hat: Tensor) -> Tensor:
        """Logits ``(B, K+1)`` for latents ``(B, M, H, W)`` of any size from 1×1."""
        logits: Tensor = self.classify(self.features(y_hat))
        return logits

    def evidence(self, y_hat: Tensor) -> Tensor:
        """Features before they are averaged, ``(B, mid, ⌈H/2⌉, ⌈W/2⌉)``."""
        found: Tensor = self.features[:_AVERAGE](y_hat)
        return found

    def averaged(self, evidence: Tensor) -> Tensor:
        """Features ``(B, mid)`` of evidence."""
        found: Tensor = self.features[_AVERAGE:](evidence)
        return found


def to_bytes(v: Tensor) -> bytes:
    """V of one image, ``(1, K+1)`` in [0, 1], in 255ths: 8 bits a domain."""
    return v[0].mul(255).round().to(torch.uint8).cpu().numpy().tobytes()


def from_bytes(data: bytes, device: torch.device) -> Tensor:
    """V ``(1, K+1)`` of a stream; it adds up to 1 again."""
    v = torch.tensor([list(data)], dtype=torch.float32, device=device)
    return v / v.sum()
