"""Σ_k v_k A_k: the weighted sum of linear adapters, as one convolution.

v is one number per adapter and image, and every adapter is linear, so the sum of the adapters'
outputs is the output of one convolution with the summed kernel, Σ_k v_k A_k(u) = (Σ_k v_k A_k)(u).
Images that share v share the kernel; otherwise each image is convolved with its own.
A frozen convolution beside the adapters joins the sum where its kernel is at hand anyway.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lic_da.adaptation import subpixel

Conv = nn.Conv2d | nn.ConvTranspose2d


class Fold:
    """A kernel and a bias in buffers of their own, which are filled anew for every v.

    A site keeps its fold from picture to picture: decoding takes the memory of the base decoder and
    of one adapter, however many domains there are.
    """

    def __init__(self) -> None:
        self._kept: tuple[Tensor, Tensor] | None = None

    def fill(
        self, adapters: Sequence[Conv], v: Tensor, beside: Conv | None = None
    ) -> tuple[Tensor, Tensor]:
        """Σ_k v_k A_k, or W + Σ_k v_k A_k; adapters without weight are not touched.

        Args:
            adapters: A_0 … A_K.
            v: ``(K+1,)``.
            beside: W, a convolution of the adapters' shape.

        Returns:
            Weight and bias; they hold until the next call.
        """
        weight, bias = self._buffers(adapters[0])
        if beside is None:
            weight.zero_()
            bias.zero_()
        else:
            weight.copy_(beside.weight)
            bias.copy_(_bias(beside))
        shares = [(a, share) for a, share in zip(adapters, v.tolist(), strict=True) if share]
        with torch.autocast(weight.device.type, enabled=False):
            for adapter, share in shares:
                add_kernel(weight, adapter, share)
            if not shares:
                return weight, bias
            biases = torch.stack([_bias(adapter) for adapter, _ in shares])
            bias.addmv_(biases.T, bias.new_tensor([share for _, share in shares]))
        return weight, bias

    def _buffers(self, like: Conv) -> tuple[Tensor, Tensor]:
        bias, shape = _bias(like), kernel_shape(like)
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


class Mixture:
    """The adapters of one site, mixed by v.

    Args:
        adapters: A_0 … A_K, convolutions of one shape.
        v: ``(B, K+1)`` weights of the adapters, a row an image.
        fold: where kernels are added up when all images share v and there are no gradients.
    """

    def __init__(self, adapters: Sequence[Conv], v: Tensor, fold: Fold | None = None) -> None:
        self.adapters = adapters
        self.v = v
        self._fold = fold or Fold()
        self._folded: tuple[Tensor, Tensor] | None = None
        self._shared = len(v) == 1 or (not v.requires_grad and bool((v == v[0]).all()))

    def behind(self, u: Tensor) -> Tensor:
        """U + Σ_k v_k A_k(u), for ``u`` of shape ``(B, C, H, W)``."""
        return u + self(u)

    def __call__(self, u: Tensor) -> Tensor:
        """Σ_k v_k A_k(u), for ``u`` of shape ``(B, C, H, W)``."""
        like = self.adapters[0]
        if self._folds(u):
            return convolve(like, u, *self._kernel())
        return self._apply(like, u, *self._kernels())

    def beside(self, conv: Conv, u: Tensor) -> Tensor:
        """W(u) + Σ_k v_k A_k(u), where W is a frozen convolution of the adapters' shape.

        Without gradients, and where v differs in the batch, W is a convolution of its own, so that
        untrained adapters leave every bit as it is; in training W joins each image's kernel.
        """
        if self._folds(u):
            return convolve(conv, u, *self._kernel(conv))
        weights, biases = self._kernels()
        if len(weights) > 1 and not torch.is_grad_enabled():
            alone = convolve(conv, u, conv.weight, conv.bias)
            return alone + self._apply(conv, u, weights, biases)
        return self._apply(conv, u, conv.weight + weights, _bias(conv) + biases)

    def _folds(self, u: Tensor) -> bool:
        return not torch.is_grad_enabled() and self._shared

    def _kernel(self, beside: Conv | None = None) -> tuple[Tensor, Tensor]:
        """The one kernel and bias of a v that all images share; folded when first used."""
        if self._folded is None:
            self._folded = self._fold.fill(self.adapters, self.v[0], beside)
        return self._folded

    def _kernels(self) -> tuple[Tensor, Tensor]:
        """Summed kernels ``(n, *shape)`` and biases ``(n, C_out)``; n = 1 if all images share v."""
        v = self.v[:1] if self._shared else self.v
        with torch.autocast(v.device.type, enabled=False):  # small weights add up in float32
            weights = torch.stack([a.weight for a in self.adapters])
            biases = torch.stack([_bias(a) for a in self.adapters])
            return torch.tensordot(v, weights, dims=1), v @ biases

    @staticmethod
    def _apply(like: Conv, u: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
        if len(weights) == 1:
            return convolve(like, u, weights[0], biases[0])
        return convolve_each(like, u, weights, biases)


class AddsItself(ABC):
    """An adapter whose kernel need not be made to be added to another one."""

    @abstractmethod
    def add_to(self, kernel: Tensor, share: float) -> None:
        """Add ``share`` times the adapter's kernel to ``kernel``, in place."""


def add_kernel(kernel: Tensor, adapter: Conv, share: float) -> None:
    """Add ``share`` times the adapter's kernel to ``kernel``, in place."""
    if isinstance(adapter, AddsItself):
        adapter.add_to(kernel, share)
    else:
        kernel.add_(adapter.weight, alpha=share)


def kernel_shape(conv: Conv) -> torch.Size:
    """Shape of a convolution's weight, also of one that has none until it is asked for it."""
    channels = (conv.out_channels, conv.in_channels)
    if isinstance(conv, nn.ConvTranspose2d):
        channels = channels[::-1]
    return torch.Size((*channels, *conv.kernel_size))


def _bias(conv: Conv) -> Tensor:
    return conv.bias if conv.bias is not None else conv.weight.new_zeros(conv.out_channels)


def convolve(like: Conv, u: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolution, or transposed convolution, with the geometry of ``like`` and another kernel."""
    if isinstance(like, nn.ConvTranspose2d):
        return F.conv_transpose2d(
            u,
            weight,
            bias,
            like.stride,  # type: ignore[arg-type]
            like.padding,  # type: ignore[arg-type]
            like.output_padding,  # type: ignore[arg-type]
            like.groups,
            like.dilation,  # type: ignore[arg-type]
        )
    return F.conv2d(u, weight, bias, like.stride, like.padding, like.dilation, like.groups)  # type: ignore[arg-type]


def convolve_each(like: Conv, u: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
    """Convolve each image of a batch with a kernel of its own.

    Args:
        like: gives stride, padding and the kind of convolution.
        u: ``(B, C, H, W)``.
        weights: ``(B, *like.weight.shape)``.
        biases: ``(B, C_out)``.

    Returns:
        ``(B, C_out, H', W')``; of few channels in float32, also under autocast.
    """
    if torch.is_autocast_enabled(u.device.type):  # all at once, and not kernel by kernel
        weights = weights.to(torch.get_autocast_dtype(u.device.type))
    if subpixel.suits(like):
        assert isinstance(like, nn.ConvTranspose2d)
        # Of a picture: near white the steps of bfloat16 are as large as those of 8 bits, or twice.
        return subpixel.convolve_each(like, u.to(weights.dtype), weights) + biases[:, :, None, None]
    # One by one is faster than in groups, with channels last above all.
    each = zip(u.split(1), weights, biases.to(weights.dtype), strict=True)
    return torch.cat([convolve(like, one, weight, bias) for one, weight, bias in each])
