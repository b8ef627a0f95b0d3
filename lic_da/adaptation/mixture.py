"""Σ_k v_k A_k: the weighted sum of linear adapters, as one convolution.

v is one number per adapter and image, and every adapter is linear, so the sum of the adapters'
outputs is the output of one convolution with the summed kernel, Σ_k v_k A_k(u) = (Σ_k v_k A_k)(u).
Images that share v share the kernel; otherwise each image gets its own, in one grouped convolution.
A frozen convolution beside the adapters joins the sum where its kernel is at hand anyway.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Conv = nn.Conv2d | nn.ConvTranspose2d


class Mixture:
    """The adapters of one site, mixed by v.

    Args:
        adapters: A_0 … A_K, convolutions of one shape.
        v: ``(B, K+1)`` weights of the adapters, a row an image.
    """

    def __init__(self, adapters: Sequence[Conv], v: Tensor) -> None:
        self.adapters = adapters
        self.v = v

    def __call__(self, u: Tensor) -> Tensor:
        """Σ_k v_k A_k(u), for ``u`` of shape ``(B, C, H, W)``."""
        return self._apply(self.adapters[0], u, *self._kernels(u))

    def beside(self, conv: Conv, u: Tensor) -> Tensor:
        """W(u) + Σ_k v_k A_k(u), where W is a frozen convolution of the adapters' shape.

        Without gradients, and where v differs in the batch, W is a convolution of its own, so that
        untrained adapters leave every bit as it is; in training W joins each image's kernel.
        """
        weights, biases = self._kernels(u)
        if len(weights) > 1 and not torch.is_grad_enabled():
            alone = convolve(conv, u, conv.weight, conv.bias)
            return alone + self._apply(conv, u, weights, biases)
        return self._apply(conv, u, conv.weight + weights, _bias(conv) + biases)

    def _kernels(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Summed kernels ``(n, *shape)`` and biases ``(n, C_out)``; n = 1 if all images share v."""
        shared = len(u) == 1 or (not self.v.requires_grad and bool((self.v == self.v[0]).all()))
        if shared and not torch.is_grad_enabled():
            return self._folded()
        v = self.v[:1] if shared else self.v
        with torch.autocast(u.device.type, enabled=False):  # small weights add up in float32
            weights = torch.stack([a.weight for a in self.adapters])
            biases = torch.stack([_bias(a) for a in self.adapters])
            return torch.tensordot(v, weights, dims=1), v @ biases

    def _folded(self) -> tuple[Tensor, Tensor]:
        """The kernel and bias of one v, added up in place; adapters without weight are not touched."""
        first = self.adapters[0]
        weight, bias = torch.zeros_like(first.weight), torch.zeros_like(_bias(first))
        for adapter, share in zip(self.adapters, self.v[0].tolist(), strict=True):
            if share:
                weight.add_(adapter.weight, alpha=share)
                bias.add_(_bias(adapter), alpha=share)
        return weight[None], bias[None]

    @staticmethod
    def _apply(like: Conv, u: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
        if len(weights) == 1:
            return convolve(like, u, weights[0], biases[0])
        return convolve_each(like, u, weights, biases)


def _bias(conv: Conv) -> Tensor:
    return conv.bias if conv.bias is not None else conv.weight.new_zeros(conv.out_channels)


def convolve(like: Conv, u: Tensor, weight: Tensor, bias: Tensor | None, groups: int = 1) -> Tensor:
    """Convolution, or transposed convolution, with the geometry of ``like`` and another kernel."""
    if isinstance(like, nn.ConvTranspose2d):
        return F.conv_transpose2d(
            u,
            weight,
            bias,
            like.stride,  # type: ignore[arg-type]
            like.padding,  # type: ignore[arg-type]
            like.output_padding,  # type: ignore[arg-type]
            groups,
            like.dilation,  # type: ignore[arg-type]
        )
    return F.conv2d(u, weight, bias, like.stride, like.padding, like.dilation, groups)  # type: ignore[arg-type]


def convolve_each(like: Conv, u: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
    """Convolve each image of a batch with a kernel of its own.

    Args:
        like: gives stride, padding and the kind of convolution.
        u: ``(B, C, H, W)``.
        weights: ``(B, *like.weight.shape)``.
        biases: ``(B, C_out)``.
    """
    batch = len(u)
    out = convolve(like, u.reshape(1, -1, *u.shape[2:]), weights.flatten(0, 1), None, groups=batch)
    out = out.reshape(batch, -1, *out.shape[2:])
    return out + biases[:, :, None, None].to(out.dtype)
