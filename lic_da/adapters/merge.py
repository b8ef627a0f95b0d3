"""Merged adapters: the fast form of :mod:`lic_da.adapters.formula`.

v is one number per adapter and image, and every adapter is linear, so the sum of the adapters'
outputs is the output of one convolution with the summed kernel, Σ_k v_k A_k(u) = (Σ_k v_k A_k)(u).
Images that share v share the kernel; otherwise each image is convolved with its own.
The frozen convolution of a parallel site joins the sum where its kernel is at hand anyway.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lic_da.adapters.convolve import bias_of, convolve, convolve_each, kernel_shape
from lic_da.adapters.formula import AdapterSum
from lic_da.codecs.models.convolutions import Convolution


class MergedWeights:
    """A kernel and a bias in buffers of their own, which are filled anew for every v.

    A site keeps them from image to image: decoding takes the memory of the base decoder and
    of one adapter, however many domains there are.
    """

    def __init__(self) -> None:
        self._kept: tuple[Tensor, Tensor] | None = None

    def fill(
        self, adapters: Sequence[Convolution], v: Tensor, frozen: Convolution | None = None
    ) -> tuple[Tensor, Tensor]:
        """Σ_k v_k A_k, or W + Σ_k v_k A_k; adapters without weight are not touched.

        Args:
            adapters: A_0 … A_K.
            v: ``(K+1,)``.
            frozen: W, a convolution of the adapters' shape.

        Returns:
            Weight and bias; they hold until the next call.
        """
        weight, bias = self._buffers(adapters[0])
        if frozen is None:
            weight.zero_()
            bias.zero_()
        else:
            weight.copy_(frozen.weight)
            bias.copy_(bias_of(frozen))
        shares = [(a, share) for a, share in zip(adapters, v.tolist(), strict=True) if share]
        with torch.autocast(weight.device.type, enabled=False):
            for adapter, share in shares:
                add_kernel(weight, adapter, share)
            if not shares:
                return weight, bias
            biases = torch.stack([bias_of(adapter) for adapter, _ in shares])
            bias.addmv_(biases.T, bias.new_tensor([share for _, share in shares]))
        return weight, bias

    def _buffers(self, like: Convolution) -> tuple[Tensor, Tensor]:
        bias, shape = bias_of(like), kernel_shape(like)
        kept = self._kept
        if kept is None or (kept[0].shape, kept[0].device, kept[0].dtype) != (
            shape,
            bias.device,
            bias.dtype,
        ):
            with torch.inference_mode(False):  # such tensors can be written to in any mode
                kept = bias.new_empty(shape), bias.new_empty(bias.shape)
            self._kept = kept
        return kept


class MergedSum(AdapterSum):
    """The adapters of one site, weighted by v, as one kernel for each different v.

    Args:
        adapters: A_0 … A_K, convolutions of one shape.
        v: ``(B, K+1)``, a row an image, or ``(1, K+1)`` for images of any number.
        merged: where kernels are added up when all images share v and there are no gradients; None: by
            operations on tensors, which gradients and graphs need.
    """

    def __init__(
        self, adapters: Sequence[Convolution], v: Tensor, merged: MergedWeights | None = None
    ) -> None:
        super().__init__(adapters, v)
        self._merged = merged
        self._kernel: tuple[Convolution | None, tuple[Tensor, Tensor]] | None = None
        self._shared = len(v) == 1 or (not v.requires_grad and bool((v == v[0]).all()))

    def __call__(self, u: Tensor) -> Tensor:
        """Σ_k v_k A_k(u), for ``u`` of shape ``(B, C, H, W)``."""
        like = self.adapters[0]
        if self._one_kernel:
            return convolve(like, u, *self._one())
        return self._apply(like, u, *self._kernels())

    def parallel(self, conv: Convolution, forward: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
        """W(u) + Σ_k v_k A_k(u), where W is a frozen convolution of the adapters' shape.

        Without gradients, and where v differs in the batch, W is a convolution of its own, so that
        untrained adapters leave every bit as it is; in training W joins each image's kernel.
        """
        if self._one_kernel:
            return convolve(conv, u, *self._one(conv))
        weights, biases = self._kernels()
        if len(weights) > 1 and not torch.is_grad_enabled():
            return forward(u) + self._apply(conv, u, weights, biases)
        return self._apply(conv, u, conv.weight + weights, bias_of(conv) + biases)

    @property
    def _one_kernel(self) -> bool:
        return self._merged is not None and not torch.is_grad_enabled() and self._shared

    def _one(self, frozen: Convolution | None = None) -> tuple[Tensor, Tensor]:
        """The one kernel and bias of a v that all images share; merged when first used."""
        assert self._merged is not None
        if self._kernel is None or self._kernel[0] is not frozen:
            self._kernel = frozen, self._merged.fill(self.adapters, self.v[0], frozen)
        return self._kernel[1]

    def _kernels(self) -> tuple[Tensor, Tensor]:
        """Summed kernels ``(n, *shape)`` and biases ``(n, C_out)``; n = 1 if all images share v."""
        v = self.v[:1] if self._shared else self.v
        with torch.autocast(v.device.type, enabled=False):  # small weights add up in float32
            weights = torch.stack([a.weight for a in self.adapters])
            biases = torch.stack([bias_of(a) for a in self.adapters])
            return torch.tensordot(v, weights, dims=1), v @ biases

    @staticmethod
    def _apply(like: Convolution, u: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
        if len(weights) == 1:
            return convolve(like, u, weights[0], biases[0])
        return convolve_each(like, u, weights, biases)


class AddsItself(ABC):
    """An adapter whose kernel need not be made to be added to another one."""

    @abstractmethod
    def add_to(self, kernel: Tensor, share: float) -> None:
        """Add ``share`` times the adapter's kernel to ``kernel``, in place."""


def add_kernel(kernel: Tensor, adapter: Convolution, share: float) -> None:
    """Add ``share`` times the adapter's kernel to ``kernel``, in place."""
    if isinstance(adapter, AddsItself):
        adapter.add_to(kernel, share)
    else:
        kernel.add_(adapter.weight, alpha=share)
