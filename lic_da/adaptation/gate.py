"""The gate: from the decoded latent to one weight a domain."""

from __future__ import annotations

from torch import Tensor, nn


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
            nn.MaxPool2d(2, ceil_mode=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.classify = nn.Linear(mid, domains)

    def forward(self, y_hat: Tensor) -> Tensor:
        """Logits ``(B, K+1)`` for decoded latents ``(B, M, H, W)`` of any size from 1×1."""
        logits: Tensor = self.classify(self.features(y_hat))
        return logits
