"""Training in several processes (DDP): what each of them has of the whole."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.utilities import rank_zero_only

from lic_da.errors import UserError


def check_processes(trainer: L.Trainer) -> None:
    """Raise a UserError where processes would have to be started out of a sweep.

    Lightning starts them by the command line of the whole, which is that of the sweep and not of the job.
    """
    sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    launcher = trainer.strategy.launcher
    if sweep and trainer.world_size > 1 and launcher is not None:
        raise UserError(
            f"A job of a sweep cannot start {trainer.world_size} processes by itself. Let the cluster do "
            "so (hydra/launcher=submitit_slurm hydra.launcher.tasks_per_node=N), or run the qualities one "
            "by one without -m."
        )


def is_first() -> bool:
    """Whether this is the process that writes, of those that train together; known before they meet."""
    return not getattr(rank_zero_only, "rank", 0)


def gathered(values: dict[str, list[float]]) -> dict[str, list[float]]:
    """What all processes have noted, by name."""
    if not torch.distributed.is_initialized():
        return values
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, values)
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: [v for part in parts for v in part.get(name, ())] for name in names}
