"""Frozen inverse GDN: outputs and gradients are those of GDN."""

from __future__ import annotations

import copy

import pytest
import torch
from compressai.layers import GDN

from lic_da.codecs.models.gdn import FrozenInverseGDN, freeze_gdn


@pytest.fixture
def layer() -> GDN:
    torch.manual_seed(0)
    layer = GDN(6, inverse=True)
    with torch.no_grad():
        layer.gamma.add_(0.3 * torch.rand(6, 6))  # not symmetric
        layer.beta.mul_(1 + torch.rand(6))
    return layer.requires_grad_(False)


def frozen(layer: GDN) -> GDN:
    other = copy.deepcopy(layer)
    freeze_gdn(other)
    assert type(other) is FrozenInverseGDN
    return other


def output_and_gradient(
    layer: GDN, x: torch.Tensor, bf16: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=True):
        y = layer(x.bfloat16() if bf16 else x)
    y.float().square().sum().backward()
    assert x.grad is not None
    return y.detach(), x.grad


def test_gradients_are_those_of_autograd(layer: GDN) -> None:
    x = torch.randn(3, 6, 5, 7)
    expected = x.clone().requires_grad_()
    out = layer(expected)
    out.square().sum().backward()
    y, gradient = output_and_gradient(frozen(layer), x, bf16=False)
    torch.testing.assert_close(y, out.detach())
    torch.testing.assert_close(gradient, expected.grad)


def test_bfloat16_is_as_near_as_that_of_gdn(layer: GDN) -> None:
    x = torch.randn(3, 6, 5, 7)
    exact = layer(x)
    error = [
        (output_and_gradient(module, x, bf16=True)[0] - exact).abs().mean()
        for module in (layer, frozen(layer))
    ]
    assert error[1] < 1.2 * error[0]


def test_without_autocast_it_is_gdn_to_the_last_bit(layer: GDN) -> None:
    x = torch.randn(3, 6, 5, 7)
    assert torch.equal(frozen(layer)(x), layer(x))


def test_layers_that_are_trained_or_not_inverse_stay_what_they_are() -> None:
    trained, forwards = GDN(4, inverse=True), GDN(4).requires_grad_(False)
    freeze_gdn(torch.nn.Sequential(trained, forwards))
    assert type(trained) is GDN and type(forwards) is GDN
