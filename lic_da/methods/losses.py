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


def rate_distortion_of_rates(
    x_hat: Tensor, x: Tensor, likelihoods: Mapping[str, Tensor], lmbdas: Tensor, weights: Tensor
) -> dict[str, Tensor]:
    """The mean of R + λ·255²·MSE over images of different λ, each with a weight.

    Args:
        x_hat: decoded images, ``(B, 3, H, W)``.
        x: originals in [0, 1], the same shape.
        likelihoods: of all latents.
        lmbdas: λ of each image, ``(B,)``.
        weights: of each image's loss, ``(B,)``.

    Returns:
        Scalars ``loss``, and the plain means ``bpp`` and ``mse``.
    """
    pixels = x.shape[2] * x.shape[3]
    bits = torch.stack([-torch.log2(p).flatten(1).sum(1) for p in likelihoods.values()]).sum(0)
    mse = ((x_hat - x) ** 2).flatten(1).mean(1)
    losses = bits / pixels + lmbdas * 255**2 * mse
    return {"loss": (weights * losses).mean(), "bpp": (bits / pixels).mean(), "mse": mse.mean()}


def clamp_ste(x_hat: Tensor) -> Tensor:
    """The image that a decoder shows, in float32: clamped to [0, 1].

    White paper that comes out whiter than white is no error. The gradient passes the clamp, so that
    values beyond the range are drawn back wherever the original lies inside it.
    """
    x_hat = x_hat.float()
    return x_hat + (x_hat.detach().clamp(0, 1) - x_hat.detach())


def distortion(x_hat: Tensor, x: Tensor, gamma: float, clamp: bool = True) -> dict[str, Tensor]:
    """γ·255²·MSE of the image that is shown.

    Args:
        x_hat: decoded images, ``(B, 3, H, W)``, not clamped.
        x: originals in [0, 1], the same shape.
        gamma: γ.
        clamp: False: of the image as it is computed, beyond [0, 1] too.

    Returns:
        Scalars ``loss`` and ``mse``.
    """
    mse = F.mse_loss(clamp_ste(x_hat) if clamp else x_hat.float(), x)
    return {"loss": gamma * 255**2 * mse, "mse": mse}


def adaptation(
    x_hat: Tensor, x: Tensor, logits: Tensor, labels: Tensor, gamma: float, clamp: bool = True
) -> dict[str, Tensor]:
    """γ·255²·MSE + cross-entropy of the domain label (Presta et al. 2024); the rate is constant.

    Args:
        x_hat: decoded images, ``(B, 3, H, W)``, not clamped; the MSE is that of what is :func:`clamp_ste`.
        x: originals in [0, 1], the same shape.
        logits: of the gate, ``(B, K+1)``.
        labels: domain indices, ``(B,)``.
        gamma: γ.
        clamp: see :func:`distortion`.

    Returns:
        Scalars ``loss``, ``mse`` and ``cross_entropy``.
    """
    losses = distortion(x_hat, x, gamma, clamp)
    cross_entropy = F.cross_entropy(logits.float(), labels)
    return {
        "loss": losses["loss"] + cross_entropy,
        "mse": losses["mse"],
        "cross_entropy": cross_entropy,
    }
