"""Frozen inverse GDN (Ballé et al. 2016), several times as fast in the training of what lies around it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from compressai.layers import GDN
from torch import Tensor, nn

from lic_da.codecs.models.fast import FastGDN


class FrozenInverseGDN(FastGDN):
    """Inverse GDN whose parameters get no gradients.

    In training under autocast it mixes channels by one product of matrices, which is several times
    faster than a convolution of 1×1, and its gradient needs two tensors. Otherwise it is ``FastGDN``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> the same shape."""
        if not (torch.is_autocast_enabled(x.device.type) and torch.is_grad_enabled()):
            out: Tensor = super().forward(x)
            return out
        gamma, beta = self.gamma_reparam(self.gamma), self.beta_reparam(self.beta)
        with torch.autocast(x.device.type, enabled=False):
            mixed: Tensor = _InverseGDN.apply(x, gamma.to(x.dtype), beta.to(x.dtype))
        return mixed


def freeze_gdn(module: nn.Module) -> None:
    """Let the frozen inverse GDN layers in a module be :class:`FrozenInverseGDN`."""
    for layer in module.modules():
        frozen = not any(p.requires_grad for p in layer.parameters(recurse=False))
        if type(layer) in (GDN, FastGDN) and layer.inverse and frozen:
            layer.__class__ = FrozenInverseGDN


class _InverseGDN(torch.autograd.Function):
    """y = x·s with s = √(β + γ·x²); dL/dx = g·s + x·γᵀ(g·x/s)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        s = _mixed(x * x, gamma, beta).sqrt_()
        ctx.save_for_backward(x, s, gamma)
        return x * s

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        x, s, gamma = ctx.saved_tensors
        passed = _mixed((g * x).div_(s), gamma.T)
        return passed.mul_(x).addcmul_(g, s), None, None


def _mixed(x: Tensor, matrix: Tensor, offset: Tensor | None = None) -> Tensor:
    """A product of a matrix and every pixel of ``(B, C, H, W)``; fastest where channels lie last."""
    return F.linear(x.movedim(1, -1), matrix, offset).movedim(-1, 1)
