"""Convolutions with other kernels than their own, one for all images or one for each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lic_da.codecs.models import fast, subpixel
from lic_da.codecs.models.convolutions import Convolution


def kernel_shape(conv: Convolution) -> torch.Size:
    """Shape of a convolution's weight, also of one that has none until it is asked for it."""
    channels = (conv.out_channels, conv.in_channels)
    if isinstance(conv, nn.ConvTranspose2d):
        channels = channels[::-1]
    return torch.Size((*channels, *conv.kernel_size))


def bias_of(conv: Convolution) -> Tensor:
    """Bias ``(C_out,)`` of a convolution; zeros if it has none."""
    bias = conv.bias  # once: it may be read from a file
    return bias if bias is not None else conv.weight.new_zeros(conv.out_channels)


def convolve(like: Convolution, u: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolution, or transposed convolution, with the geometry of ``like`` and another kernel."""
    if isinstance(like, fast.SubpixelConvTranspose2d) and fast.applies(u):
        return subpixel.convolve(like, u, weight, bias)
    if isinstance(like, fast.PointwiseConv2d) and fast.applies(u) and bias is not None:
        return fast.pointwise(u, weight, bias)
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


def convolve_each(like: Convolution, u: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
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
        # Of an image: near white the steps of bfloat16 are as large as those of 8 bits, or twice.
        return subpixel.convolve_each(like, u.to(weights.dtype), weights) + biases[:, :, None, None]
    # One by one is faster than in groups, with channels last above all.
    each = zip(u.split(1), weights, biases.to(weights.dtype), strict=True)
    return torch.cat([convolve(like, one, weight, bias) for one, weight, bias in each])
