"""Transposed convolutions as sub-pixel convolutions: outputs and gradients are those of torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lic_da.adapters import merge
from lic_da.codecs.models.subpixel import convolve_each, suits


@pytest.mark.parametrize(
    ("k", "stride", "padding", "more"),
    [
        (5, 2, 2, 1),
        (4, 2, 1, 0),
        (3, 1, 1, 0),
        (5, 3, 2, 2),
        (2, 2, 0, 0),
        (5, 2, 2, 0),
        (3, 3, 1, 1),
        (3, 2, 0, 1),
        (3, 1, 2, 0),
        (2, 3, 0, 0),
    ],
)
def test_as_torch_computes_it(k: int, stride: int, padding: int, more: int) -> None:
    conv = nn.ConvTranspose2d(40, 3, k, stride, padding, more)
    assert suits(conv)
    u = torch.randn(3, 40, 6, 9, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(3, 40, 3, k, k, dtype=torch.float64, requires_grad=True)
    expected = torch.cat(
        [
            F.conv_transpose2d(u[i : i + 1], weights[i], None, stride, padding, more)
            for i in range(3)
        ]
    )
    out = convolve_each(conv, u, weights)
    torch.testing.assert_close(out, expected)
    g = torch.randn_like(out)
    for mine, theirs in zip(
        torch.autograd.grad(out, (u, weights), g),
        torch.autograd.grad(expected, (u, weights), g),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(64, 3, 5),
        nn.ConvTranspose2d(64, 64, 5, 2, 2, 1),  # many channels
        nn.ConvTranspose2d(64, 3, 3, dilation=2),
        nn.ConvTranspose2d(64, 3, (3, 5)),
    ],
)
def test_others_are_left_to_torch(conv: nn.Module) -> None:
    assert not suits(conv)


def test_the_bias_of_a_image_is_added_in_float32() -> None:
    conv = nn.ConvTranspose2d(40, 3, 5, 2, 2, 1)
    bias = torch.tensor([[0.9, 1.001, 1.01]])  # none of them is a number of bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        out = merge.convolve_each(conv, torch.zeros(1, 40, 4, 4), torch.zeros(1, 40, 3, 5, 5), bias)
    assert out.dtype == torch.float32
    assert torch.equal(out, bias[:, :, None, None].expand(1, 3, 8, 8))
