"""Convolutions between images and many channels in sub-pixel form: s×s pixels are one element.

The last layer of a decoder makes three channels out of many. A transposed convolution of stride s is an
ordinary one to s² times as many channels, which are then dealt out to s×s pixels (Shi et al. 2016,
arXiv 1609.07009). For so few channels that is faster, forwards and backwards, because less of the blocks
of channels that processors multiply at a time is empty. The first layer of an encoder is the same the
other way round: blocks of s×s pixels are gathered into channels, and what was of stride s is of stride 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_BLOCK = 16
"""Channels that processors multiply at a time."""


def suits(conv: nn.Module) -> bool:
    """Whether a convolution is a transposed one to few channels, of a square geometry."""
    if not isinstance(conv, nn.ConvTranspose2d) or not _is_square(conv):
        return False
    few = conv.out_channels < _BLOCK and conv.dilation[0] == 1
    return few and conv.groups == 1 and int(conv.padding[0]) < conv.kernel_size[0]


def suits_blocks(conv: nn.Module) -> bool:
    """Whether a convolution makes one output of each block of s×s pixels, from few channels."""
    if not isinstance(conv, nn.Conv2d) or not _is_square(conv) or conv.padding_mode != "zeros":
        return False
    few = conv.in_channels < _BLOCK and conv.dilation[0] == conv.groups == 1 < conv.stride[0]
    k, stride, padding = conv.kernel_size[0], conv.stride[0], int(conv.padding[0])
    one_each = -stride <= 2 * padding - k < 0
    return few and one_each and -(-padding // stride) == (k - 1 - padding) // stride


def _is_square(conv: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    geometry = (conv.kernel_size, conv.stride, conv.padding, conv.output_padding, conv.dilation)
    return all(isinstance(pair, tuple) and len({*pair}) == 1 for pair in geometry)


def convolve_each(conv: nn.ConvTranspose2d, u: Tensor, weights: Tensor) -> Tensor:
    """Convolve each image of a batch with a kernel of its own, without bias.

    Args:
        conv: gives stride and padding; one that :func:`suits`.
        u: ``(B, C_in, H, W)``.
        weights: ``(B, C_in, C_out, k, k)``, of the same type.
    """
    kernels = _kernels(conv, weights).permute(0, 2, 4, 6, 1, 3, 5).flatten(1, 3)
    channels = kernels.shape[1]
    kernels = F.pad(kernels, (0, 0, 0, 0, 0, 0, 0, -channels % _BLOCK))
    shape = _output_shape(conv, u)
    u, own = _surrounded(conv, u, shape)
    each = [
        F.conv2d(one, kernel, None, padding=own)
        for one, kernel in zip(u.split(1), kernels, strict=True)
    ]
    fine = F.pixel_shuffle(torch.cat(each)[:, :channels], conv.stride[0])
    return fine[..., : shape[0], : shape[1]]


def convolve(conv: nn.ConvTranspose2d, u: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The transposed convolution of all images with one kernel.

    Channels lie last within and behind it: then pixels are dealt out in runs, several times as fast.

    Args:
        conv: gives stride and padding; one that :func:`suits`.
        u: ``(B, C_in, H, W)``.
        weight: ``(C_in, C_out, k, k)``.
        bias: ``(C_out,)``.

    Returns:
        ``(B, C_out, H', W')``, channels last.
    """
    stride = conv.stride[0]
    kernel = _kernels(conv, weight[None]).permute(0, 4, 6, 2, 1, 3, 5)[0].flatten(0, 2)
    repeated = None if bias is None else bias.repeat(stride**2)
    shape = _output_shape(conv, u)
    u, own = _surrounded(conv, u.contiguous(memory_format=torch.channels_last), shape)
    coarse = F.conv2d(u, kernel, repeated, padding=own).permute(0, 2, 3, 1)
    batch, height, width, _ = coarse.shape
    rows = coarse.reshape(batch, height, width, stride, -1).transpose(2, 3)
    fine = rows.reshape(batch, height * stride, width * stride, -1).permute(0, 3, 1, 2)
    return fine[..., : shape[0], : shape[1]]


def convolve_blocks(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """What a convolution makes of images whose sides are multiples of its stride.

    Args:
        conv: one that :func:`suits_blocks`.
        x: ``(B, C_in, H, W)``.

    Returns:
        ``(B, C_out, H/s, W/s)``, channels last.
    """
    stride, padding, k = conv.stride[0], int(conv.padding[0]), conv.kernel_size[0]
    reach = -(-padding // stride)  # blocks on each side
    size = 2 * reach + 1
    lead = stride * reach - padding
    around = (lead, stride * size - lead - k)
    taps = F.pad(conv.weight, (*around, *around)).view(
        conv.out_channels, conv.in_channels, size, stride, size, stride
    )
    kernel = taps.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)
    batch, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(
        batch, height // stride, stride, width // stride, stride * channels
    )
    blocks = rows.transpose(2, 3).reshape(batch, height // stride, width // stride, -1)
    return F.conv2d(blocks.permute(0, 3, 1, 2), kernel, conv.bias, padding=reach)


def _reach(conv: nn.ConvTranspose2d) -> tuple[int, int]:
    """The first and the last d for which out[s·q + r] depends on u[q + d]."""
    stride, padding, k = conv.stride[0], int(conv.padding[0]), conv.kernel_size[0]
    return -((k - 1 - padding) // stride), (stride - 1 + padding) // stride


def _kernels(conv: nn.ConvTranspose2d, weights: Tensor) -> Tensor:
    """Kernels ``(B, C_in, C_out, size, s, size, s)`` of the sub-pixel form of ``(B, C_in, C_out, k, k)``.

    out[s·q + r] is the sum of kernel[r + p − s·d] · u[q + d] over all d from first to last.
    """
    stride, padding = conv.stride[0], int(conv.padding[0])
    batch, inputs, outputs, k, _ = weights.shape
    first, last = _reach(conv)
    size = last - first + 1
    lead = stride * last - padding
    around = lead, stride * size - lead - k
    taps = F.pad(weights, (*around, *around)).view(
        batch, inputs, outputs, size, stride, size, stride
    )
    return taps.flip(3, 5)


def _output_shape(conv: nn.ConvTranspose2d, u: Tensor) -> list[int]:
    stride, padding, k = conv.stride[0], int(conv.padding[0]), conv.kernel_size[0]
    more = int(conv.output_padding[0])
    return [(n - 1) * stride - 2 * padding + k + more for n in u.shape[2:]]


def _surrounded(conv: nn.ConvTranspose2d, u: Tensor, shape: list[int]) -> tuple[Tensor, int]:
    """The input with zeros around it, and the padding that the convolution is left to do itself."""
    first, last = _reach(conv)
    stride = conv.stride[0]
    behind = [-(-n // stride) + last - have for n, have in zip(shape, u.shape[2:], strict=True)]
    if {*behind} == {-first}:
        return u, -first
    return F.pad(u, (-first, behind[1], -first, behind[0])), 0
