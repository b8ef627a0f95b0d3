"""Gradients of transposed convolutions to few channels, with a kernel of its own for each image.

The last layer of a decoder makes three channels out of many. The gradients of such a convolution are
products of matrices with a column for every tap of the kernel::

    taps[tap][i] = dL/dout[s·i + tap − padding]         (C_out·k·k × n·n)
    dL/du = kernel · taps        dL/dkernel = u · tapsᵀ

which is about twice as fast as convolutions, whose blocks of channels are mostly empty here. Forwards
it is a convolution: its sums are longer and want more than 16 bits on the way.
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
        ctx.save_for_backward(u, weights)
        ctx.stride, ctx.padding = stride, padding
        each = zip(u.split(1), weights, strict=True)
        return torch.cat(
            [F.conv_transpose2d(one, w, None, stride, padding, more) for one, w in each]
        )

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
