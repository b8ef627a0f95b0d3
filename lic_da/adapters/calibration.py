"""How far the gate is to be trusted: a factor for v, from 1 (as the gate says) to 0 (the base decoder).

The gate is trained to tell its domains apart, so on an image like none of them it may be sure and wrong,
and adapters at full weight then do harm. A second linear layer on the gate's own features, fitted after
training on what adapters really do to training images, says how much of v is safe::

         ┌──────────┐ f   ┌──────────┐ logits   ┌─────────┐
    ŷ ──►│ features ├──┬─►│ classify ├─────────►│ softmax ├──► v ──┐
         └──────────┘  │  └──────────┘          └─────────┘        ▼
                       │  ┌─────────────────────────────────┐ s    ·  ──► s·v
                       └─►│ σ(w · clamp((f − μ)/σ_f) + b)   ├──────┘
                          └─────────────────────────────────┘

Features are standardised by the training images' mean and deviation and cut at ``_CUT`` deviations, so that
what lies far from all of them moves s no further than the rim of what was seen.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Calibration = Literal["none", "learned"]
"""``none``: v as the gate says; ``learned``: v times a factor that is fitted after training."""

SHARES = (0.0, 0.5, 1.0)
"""Factors of v at which images are decoded for the fit; the squared error is a parabola through them."""

_CUT = 2.0
_LEAST = 0.05  # squared 8-bit error below which an image counts as exact, some 61 dB
# Chosen on validation images of seen domains and of four others, see experiments/unseen.
_MARGIN = 0.03  # dB that an image should gain at least
_CAUTION = 10.0  # weight of what is short of that against the mean gain
_PRICE = 0.1  # dB that v at full weight costs: adapters that hardly help are not worth their risk
_DECAY = 0.01


class Trust(nn.Module):
    """Features of the gate to the factor of v. Before it is fitted the factor is exactly 1.

    Args:
        features: number of the gate's features.
    """

    mean: Tensor
    deviation: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        self.register_buffer("weight", torch.zeros(features))
        self.register_buffer("bias", torch.full((1,), torch.inf))  # σ(∞) = 1

    def forward(self, features: Tensor) -> Tensor:
        """Factors ``(B, 1)`` in [0, 1] for features ``(B, F)``."""
        seen = (features.float() - self.mean) / self.deviation
        return torch.sigmoid(seen.clamp(-_CUT, _CUT) @ self.weight[:, None] + self.bias)


def fitted(features: Tensor, errors: Tensor) -> Trust:
    """Trust that gains as much as it can over training images and spares those that would lose.

    Over images of which it knows the squared error at three factors, it maximises

        mean gain − ``_CAUTION`` · mean shortfall below ``_MARGIN``
                  − ``_PRICE`` · mean s² − ``_DECAY`` · |w|²

    with gains in dB over the base decoder.

    Args:
        features: of the gate, ``(n, F)``.
        errors: mean squared error of the decoded 8-bit images at the factors ``SHARES``, ``(n, 3)``.
    """
    trust = Trust(features.shape[1]).to(features.device)
    deviation, mean = torch.std_mean(features.double(), dim=0, correction=0)
    trust.mean.copy_(mean)
    trust.deviation.copy_(deviation.clamp(min=1e-6))
    seen = ((features - trust.mean) / trust.deviation).clamp(-_CUT, _CUT).double()
    base, half, whole = errors.double().clamp(min=_LEAST).unbind(dim=1)
    square = 2 * (whole - 2 * half + base)
    linear = whole - base - square
    with torch.inference_mode(False), torch.enable_grad():
        weight = torch.zeros(seen.shape[1], 1, dtype=torch.float64, device=seen.device)
        bias = torch.ones(1, dtype=torch.float64, device=seen.device)
        weight.requires_grad_()
        bias.requires_grad_()
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            s = torch.sigmoid(seen @ weight + bias)[:, 0]
            left = base + linear * s + square * s * s
            gain = 10 * torch.log10(base / left.clamp(min=1e-4 * base))
            short = torch.relu(_MARGIN - gain).mean()
            price = _PRICE * s.square().mean() + _DECAY * weight.square().sum()
            value = _CAUTION * short - gain.mean() + price
            value.backward()
            return value

        optimizer.step(loss)  # type: ignore[no-untyped-call]
    trust.weight.copy_(weight.detach()[:, 0])
    trust.bias.copy_(bias.detach())
    return trust
