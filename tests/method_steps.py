"""A few steps of real training without a trainer, and composed configurations, for tests of methods."""

from __future__ import annotations

from typing import Any

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

import lic_da.config
from lic_da.codecs.spec import CodecSpec, MethodSpec
from lic_da.methods.module import CodecModule
from tests.conftest import CODEC, scribbles

DOMAINS = ("natural", "sketch")


def composed(method: str, *overrides: str) -> Any:
    """``conf/describe.yaml`` with a method: codec, a quick one unless it is named, method, domains."""
    with initialize_config_dir(str(lic_da.config.CONF), version_base="1.3"):
        return compose("describe", [f"codec={CODEC}", f"method={method}", *overrides])


def specs(method: str, *overrides: str) -> tuple[CodecSpec, MethodSpec]:
    """Codec and method of :func:`composed` settings."""
    config = composed(method, *overrides)
    return CodecSpec.from_settings(config.codec), MethodSpec.from_settings(config)


def crops(count: int, side: int = 64) -> dict[str, Any]:
    """A batch of line drawings."""
    pixels = torch.stack([torch.from_numpy(p).permute(2, 0, 1) for p in scribbles(count, side)])
    return {"image": pixels.float().div(255), "label": torch.ones(count).long(), "file": "lines"}


def train_steps(
    module: CodecModule, steps: int, lr: float, weight_decay: float = 0.0
) -> list[float]:
    """Losses, the auxiliary one left out, of steps on the same crops by Adam over all that is trainable."""
    batch = crops(4)
    optimizer = torch.optim.AdamW(module.trainable(), lr, weight_decay=weight_decay)
    losses: list[float] = []

    def note(values: dict[str, Tensor], **kwargs: Any) -> None:
        losses.append(values["train/loss"].item())

    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    module.log_dict = note  # type: ignore[method-assign,assignment]
    module.train()
    for step in range(steps):
        optimizer.zero_grad()
        module.training_step(batch, step).backward()
        optimizer.step()
    module.eval()
    return losses
