"""Optimizers by their names."""

from __future__ import annotations

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from lic_da.config import CONF
from lic_da.errors import UserError
from lic_da.methods.module import moved
from lic_da.methods.optim import OPTIMIZERS, optimizer_of
from lic_da.training.settings import RunSettings


def steps(optimizer: torch.optim.Optimizer, parameter: Tensor, gradients: list[Tensor]) -> Tensor:
    """The parameter after a step for each gradient."""
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_groups_that_are_constant_are_trained_by_adam(name: str) -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(4, 1, 3), [torch.randn(4, 1, 3) for _ in range(12)]
    constant = start.clone().requires_grad_()
    main = torch.randn(5, 4, 3, 3).requires_grad_()
    ours = optimizer_of(
        name, [{"params": [main], "lr": 1e-3}], [{"params": [constant], "lr": 1e-2}]
    )
    found = steps(ours, constant, gradients)
    plain = start.clone().requires_grad_()
    # SOAP takes no step at its first gradient, from which it has its eigenbases.
    first, betas = (1, (0.95, 0.95)) if name == "soap" else (0, (0.9, 0.999))
    adam = torch.optim.Adam([plain], lr=1e-2, betas=betas)
    torch.testing.assert_close(found, steps(adam, plain, gradients[first:]))


def test_an_unknown_optimizer_is_refused_before_anything_is_read() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["domains=[sketch]", "codec.training.optimizer=sopa"])
    with pytest.raises(UserError, match=r"optimizer.*'sopa'.*Did you mean 'soap'.*adam, soap"):
        RunSettings.from_config(config)


def test_the_moving_average_leaves_frozen_weights_alone_to_the_bit() -> None:
    """Kernels in half precision hold -0.0, which a sum with 0.0 would change, and so the fingerprint."""
    frozen = torch.tensor([-0.0, 0.0, 1e-40, -3.25, 0.1])
    average = moved(frozen, frozen.clone(), 0.1)
    assert torch.equal(average.view(torch.int32), frozen.view(torch.int32))
    assert torch.equal(moved(torch.tensor([1.0]), torch.tensor([2.0]), 0.25), torch.tensor([1.25]))
