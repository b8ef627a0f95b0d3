"""Σ_k v_k A_k: the weighted sum of linear adapters, as one convolution.

v is one number per adapter and image, and every adapter is linear, so the sum of the adapters'
outputs is the output of one convolution with the summed kernel, Σ_k v_k A_k(u) = (Σ_k v_k A_k)(u).
Images that share v share the kernel; otherwise each image gets its own, in one grouped convolution.
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
        if self._shared(u):
            return convolve(self.adapters[0], u, *self._kernel(self.v[0]))
        weights, biases = zip(*(self._kernel(row) for row in self.v), strict=True)
        return convolve_each(self.adapters[0], u, torch.stack(weights), torch.stack(biases))

    def beside(self, conv: Conv, u: Tensor) -> Tensor:
        """W(u) + Σ_k v_k A_k(u), where W is a frozen convolution of the adapters' shape."""
        if self._shared(u) and not torch.is_grad_enabled():
            weight, bias = self._kernel(self.v[0])
            return convolve(conv, u, conv.weight + weight, _bias(conv) + bias)
        return conv(u) + self(u)

    def _shared(self, u: Tensor) -> bool:
        """Whether all images of the batch have the same v."""
        return len(u) == 1 or (not self.v.requires_grad and bool((self.v == self.v[0]).all()))

    def _kernel(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """The summed kernel and bias for one row of v."""
        weights = torch.stack([a.weight for a in self.adapters])
        biases = torch.stack([_bias(a) for a in self.adapters])
        return torch.tensordot(v, weights, dims=1), torch.tensordot(v, biases, dims=1)


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
