"""The losses: rate-distortion for whole codecs, distortion and domain label for adapters."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def bits_per_pixel(likelihoods: Mapping[str, Tensor], pixels: int) -> Tensor:
    """Estimated rate: Σ −log2 p over all latents, divided by the number of pixels of the batch."""
    bits = torch.stack([-torch.log2(p).sum() for p in likelihoods.values()]).sum()
    return bits / pixels


def rate_distortion(
    x_hat: Tensor, x: Tensor, likelihoods: Mapping[str, Tensor], lmbda: float
) -> dict[str, Tensor]:
    """R + λ·255²·MSE (Ballé et al. 2018).

    Args:
        x_hat: decoded images, ``(B, 3, H, W)``.
        x: originals in [0, 1], the same shape.
        likelihoods: of all latents, as CompressAI's ``forward`` returns them.
        lmbda: λ.

    Returns:
        Scalars ``loss``, ``bpp`` and ``mse``.
    """
    bpp = bits_per_pixel(likelihoods, x.shape[0] * x.shape[2] * x.shape[3])
    mse = F.mse_loss(x_hat, x)
    return {"loss": lmbda * 255**2 * mse + bpp, "bpp": bpp, "mse": mse}


def adaptation(
    x_hat: Tensor, x: Tensor, logits: Tensor, labels: Tensor, gamma: float
) -> dict[str, Tensor]:
    """γ·255²·MSE + cross-entropy of the domain label (Presta et al. 2024); the rate is constant.

    The MSE is that of the picture a decoder shows, which is clamped to [0, 1]: white paper that comes
    out whiter than white is no error. Its gradient passes the clamp, so that values beyond the range
    are drawn back wherever the original lies inside it.

    Args:
        x_hat: decoded images, ``(B, 3, H, W)``, not clamped.
        x: originals in [0, 1], the same shape.
        logits: of the gate, ``(B, K+1)``.
        labels: domain indices, ``(B,)``.
        gamma: γ.

    Returns:
        Scalars ``loss``, ``mse`` and ``cross_entropy``.
    """
    x_hat = x_hat.float()
    shown = x_hat + (x_hat.detach().clamp(0, 1) - x_hat.detach())
    mse = F.mse_loss(shown, x)
    cross_entropy = F.cross_entropy(logits.float(), labels)
    return {
        "loss": gamma * 255**2 * mse + cross_entropy,
        "mse": mse,
        "cross_entropy": cross_entropy,
    }
