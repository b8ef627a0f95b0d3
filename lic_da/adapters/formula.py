"""What adapters compute: read this first (Presta et al. 2024, section 3).

With u a feature map ``(B, C, H, W)``, W a frozen convolution, A_k the adapter of domain k, v_k its weight::

    serial     u + Σ_k v_k A_k(u)                       behind a module, whose output is u
    parallel   W(u) + Σ_k v_k A_k(u)                    beside a convolution of the same shape
    inside     block(x) + LeakyReLU(Σ_k v_k A_k(u))     u: what a convolution inside the block gets

This is the definition. :mod:`lic_da.adapters.merge` computes the same faster and is tested against it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from lic_da.codecs.models.convolutions import Convolution


class AdapterSum:
    """The adapters of one site, weighted by v.

    Args:
        adapters: A_0 … A_K, linear in their input.
        v: ``(B, K+1)``, a row an image, or ``(1, K+1)`` for images of any number.
    """

    def __init__(self, adapters: Sequence[Convolution], v: Tensor) -> None:
        self.adapters, self.v = adapters, v

    def __call__(self, u: Tensor) -> Tensor:
        """Σ_k v_k A_k(u), of the shape that each A_k(u) has."""
        v = self.v[:, :, None, None, None]
        first, *others = [v[:, k] * adapter(u) for k, adapter in enumerate(self.adapters)]
        return sum(others, start=first)

    def serial(self, u: Tensor) -> Tensor:
        """U + Σ_k v_k A_k(u)."""
        return u + self(u)

    def parallel(self, conv: Convolution, forward: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
        """W(u) + Σ_k v_k A_k(u), where W is the convolution and ``forward`` computes W(u)."""
        return forward(u) + self(u)

    def inside(self, out: Tensor, u: Tensor, slope: float) -> Tensor:
        """``out`` + LeakyReLU(Σ_k v_k A_k(u)), where ``out`` is what the block gives."""
        return out + F.leaky_relu(self(u), slope)
