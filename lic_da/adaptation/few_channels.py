"""Transposed convolutions to few channels, with a kernel of its own for each image.

The last layer of a decoder makes three channels out of many. Convolutions compute a block of
channels at a time, most of which then are not there; a product of matrices with a column for every tap
of the kernel, whose columns are added where they belong, wastes nothing and is about twice as fast::

    u (C_in × n·n)  ──►  kernelᵀ·u (C_out·k·k × n·n)  ──►  out[s·i + tap − padding] += column[tap][i]
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def suits(conv: nn.Module) -> bool:
    """Whether a convolution is one that is faster this way."""
    if not isinstance(conv, nn.ConvTranspose2d):
        return False
    geometry = (conv.kernel_size, conv.stride, conv.padding, conv.output_padding, conv.dilation)
    if not all(isinstance(pair, tuple) and len({*pair}) == 1 for pair in geometry):
        return False
    few = conv.out_channels * conv.kernel_size[0] ** 2 <= 2 * conv.in_channels
    return few and conv.dilation[0] == 1 and conv.output_padding[0] <= int(conv.padding[0])


def convolve_each_to_few(conv: nn.ConvTranspose2d, u: Tensor, weights: Tensor) -> Tensor:
    """Convolve each image of a batch with a kernel of its own, without bias.

    Args:
        conv: gives stride and padding; one that :func:`suits`.
        u: ``(B, C_in, H, W)``.
        weights: ``(B, C_in, C_out, k, k)``, of the same type.
    """
    geometry = conv.stride[0], int(conv.padding[0]), conv.output_padding[0]
    convolved: Tensor = _ToFew.apply(u, weights, *geometry)
    return convolved


class _ToFew(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Tensor, weights: Tensor, stride: int, padding: int, more: int
    ) -> Tensor:
        batch, inputs, outputs, k, _ = weights.shape
        rows, columns = u.shape[2:]
        ctx.save_for_backward(u, weights)
        ctx.stride, ctx.padding = stride, padding
        taps = torch.bmm(weights.reshape(batch, inputs, -1).transpose(1, 2), u.flatten(2))
        taps = taps.view(batch, outputs, k, k, rows, columns)
        further = (k - 1) // stride  # a tap k belongs to the element that is k // stride further
        size = rows + further, columns + further
        phases = taps.new_zeros(stride, stride, batch, outputs, *size)
        for y in range(k):
            for x in range(k):
                (down, a), (right, b) = divmod(y, stride), divmod(x, stride)
                phases[a, b, :, :, down : down + rows, right : right + columns] += taps[:, :, y, x]
        whole = phases.permute(2, 3, 4, 0, 5, 1).reshape(
            batch, outputs, size[0] * stride, size[1] * stride
        )
        height, width = ((n - 1) * stride - 2 * padding + k + more for n in (rows, columns))
        return whole[:, :, padding : padding + height, padding : padding + width].contiguous()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        u, weights = ctx.saved_tensors
        stride, padding = ctx.stride, ctx.padding
        batch, inputs, outputs, k, _ = weights.shape
        rows, columns = u.shape[2:]
        size = [n + (k - 1) // stride for n in (rows, columns)]
        below, beside = (
            n * stride - padding - have for n, have in zip(size, g.shape[2:], strict=True)
        )
        whole = F.pad(g, (padding, beside, padding, below))
        split = whole.view(batch, outputs, size[0], stride, size[1], stride)
        phases = split.permute(3, 5, 0, 1, 2, 4).contiguous()
        taps = g.new_empty(batch, outputs, k, k, rows, columns)
        for y in range(k):
            for x in range(k):
                (down, a), (right, b) = divmod(y, stride), divmod(x, stride)
                taps[:, :, y, x] = phases[a, b, :, :, down : down + rows, right : right + columns]
        flat = taps.view(batch, -1, rows * columns)
        of_u = of_weights = None
        if ctx.needs_input_grad[0]:
            of_u = torch.bmm(weights.reshape(batch, inputs, -1), flat).view_as(u)
        if ctx.needs_input_grad[1]:
            of_weights = torch.bmm(u.flatten(2), flat.transpose(1, 2)).view_as(weights)
        return of_u, of_weights, None, None, None
