"""Transposed convolutions to few channels as sub-pixel convolutions, with a kernel for each image.

The last layer of a decoder makes three channels out of many. A transposed convolution of stride s is an
ordinary one to s² times as many channels, which are then dealt out to s×s pixels (Shi et al. 2016,
arXiv 1609.07009). For so few channels that is faster, forwards and backwards, because less of the blocks
of channels that processors multiply at a time is empty.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_BLOCK = 16
"""Channels that processors multiply at a time."""


def suits(conv: nn.Module) -> bool:
    """Whether a convolution is a transposed one to few channels, of a square geometry."""
    if not isinstance(conv, nn.ConvTranspose2d):
        return False
    geometry = (conv.kernel_size, conv.stride, conv.padding, conv.output_padding, conv.dilation)
    if not all(isinstance(pair, tuple) and len({*pair}) == 1 for pair in geometry):
        return False
    few = conv.out_channels < _BLOCK and conv.dilation[0] == 1
    return few and int(conv.padding[0]) < conv.kernel_size[0]


def convolve_each(conv: nn.ConvTranspose2d, u: Tensor, weights: Tensor) -> Tensor:
    """Convolve each image of a batch with a kernel of its own, without bias.

    Args:
        conv: gives stride and padding; one that :func:`suits`.
        u: ``(B, C_in, H, W)``.
        weights: ``(B, C_in, C_out, k, k)``, of the same type.
    """
    stride, padding = conv.stride[0], int(conv.padding[0])
    batch, inputs, outputs, k, _ = weights.shape
    # out[s·q + r] is the sum of kernel[r + p − s·d] · u[q + d] over all d from first to last.
    first, last = -((k - 1 - padding) // stride), (stride - 1 + padding) // stride
    size = last - first + 1
    lead = stride * last - padding
    around = lead, stride * size - lead - k
    taps = F.pad(weights, (*around, *around)).view(
        batch, inputs, outputs, size, stride, size, stride
    )
    kernels = taps.flip(3, 5).permute(0, 2, 4, 6, 1, 3, 5).flatten(1, 3)
    channels = kernels.shape[1]
    kernels = F.pad(kernels, (0, 0, 0, 0, 0, 0, 0, -channels % _BLOCK))
    shape = [(n - 1) * stride - 2 * padding + k + int(conv.output_padding[0]) for n in u.shape[2:]]
    behind = [-(-n // stride) + last - have for n, have in zip(shape, u.shape[2:], strict=True)]
    if {*behind} == {-first}:
        own = -first
    else:
        u, own = F.pad(u, (-first, behind[1], -first, behind[0])), 0
    each = [
        F.conv2d(one, kernel, None, padding=own)
        for one, kernel in zip(u.split(1), kernels, strict=True)
    ]
    fine = F.pixel_shuffle(torch.cat(each)[:, :channels], stride)
    return fine[..., : shape[0], : shape[1]]
