"""The optimizers that codecs and adapters are trained by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pytorch_optimizer import SOAP

from lic_da.errors import unknown

OPTIMIZERS = ("adam", "soap")
"""Adam (Kingma and Ba 2015, arXiv 1412.6980); SOAP, which is Adam in the eigenbasis of Shampoo's
preconditioner (Vyas et al. 2024, arXiv 2409.11321)."""

Groups = Sequence[dict[str, Any]]
"""Groups of parameters, each with its ``lr``."""


def soap(groups: Groups, *, precondition_every: int = 10) -> torch.optim.Optimizer:
    """SOAP for kernels: every dimension of a kernel has a preconditioner, biases have none.

    Args:
        groups: of parameters.
        precondition_every: steps between updates of the eigenbases.
    """
    optimizer: torch.optim.Optimizer = SOAP(
        [*groups],
        betas=(0.95, 0.95),
        weight_decay=0.0,
        precondition_frequency=precondition_every,
        max_precondition_dim=512,
    )
    return optimizer


def check_optimizer(*training: Mapping[str, Any]) -> None:
    """Raise a UserError unless the optimizers that settings of trainings name are there."""
    for settings in training:
        name = settings.get("optimizer", OPTIMIZERS[0])
        if name not in OPTIMIZERS:
            raise unknown("optimizer", name, OPTIMIZERS)


def optimizer_of(
    name: str, groups: Groups, constant: Groups = (), *, fused: bool = False
) -> torch.optim.Optimizer:
    """An optimizer by its name.

    Args:
        name: one of ``OPTIMIZERS``.
        groups: of parameters.
        constant: groups that Adam trains in any case; beside SOAP with its betas, and without a step
            at the first gradient.
        fused: one kernel for a step of Adam.

    Raises:
        UserError: unknown name.
    """
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    if name == "soap":
        # SOAP leaves dimensions that are too large alone; where all are, it is Adam.
        return soap([*groups, *({**group, "max_precondition_dim": 0} for group in constant)])
    return torch.optim.Adam([*groups, *constant], fused=fused)
