"""Settings of a run that are numbers: of what kind, and how small or large they may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lic_da.config import flat
from lic_da.errors import UserError


@dataclass(frozen=True)
class Number:
    """What a setting may be.

    Attributes:
        least: its least value; a whole number is wanted unless ``whole`` says otherwise.
        most: its largest value.
        whole: whether it must be a whole number.
        optional: whether it may be null, or not there.
    """

    least: int
    most: float = math.inf
    whole: bool = True
    optional: bool = False

    def check(self, name: str, value: Any) -> None:
        """Raise a UserError, which calls the setting by its name, unless this is such a value."""
        if value is None and self.optional:
            return
        is_number = isinstance(value, int if self.whole else (int, float))
        if not is_number or isinstance(value, bool) or not self.least <= value <= self.most:
            kind = "a whole number" if self.whole else "a number"
            most = "" if math.isinf(self.most) else f" and at most {self.most:g}"
            raise UserError(f"{name} must be {kind} of at least {self.least}{most}, not {value!r}.")


_MAY_BE_LEFT_OUT = Number(0, optional=True)
_OF_TRAINING = {
    **{"steps": _MAY_BE_LEFT_OUT, "warmup": _MAY_BE_LEFT_OUT},
    **dict.fromkeys(("batch_size", "crop"), Number(1, optional=True)),
    **dict.fromkeys(("gamma", "lr", "gate_lr"), Number(0, whole=False, optional=True)),
}
NUMBERS: Mapping[str, Number] = {
    **{f"codec.training.{key}": number for key, number in _OF_TRAINING.items()},
    **{f"method.training.{key}": number for key, number in _OF_TRAINING.items()},
    **dict.fromkeys(
        (
            *("data.batch_size", "data.crop", "data.val_crop"),
            *("data.batches_per_epoch", "data.val_images", "data.latent_pixels"),
        ),
        Number(1),
    ),
    "data.train_images": Number(1, optional=True),
    "data.unseen_images": _MAY_BE_LEFT_OUT,
    "data.num_workers": _MAY_BE_LEFT_OUT,
    "gate.mid": Number(1, optional=True),
    "evaluation.compatibility": Number(0),
    "evaluation.examples": Number(0),
    "own_features": Number(0),
    "seed": Number(0, most=(1 << 32) - 1),
    "ema": Number(0, most=1, whole=False, optional=True),
    "early_stopping": _MAY_BE_LEFT_OUT,
}
"""Dotted names of the settings of ``conf/train.yaml``."""


def check_numbers(config: Mapping[str, Any]) -> None:
    """Raise a UserError unless all settings of a run that are numbers are such as work.

    Args:
        config: all settings, as plain values.
    """
    values = flat(config)
    for name, number in NUMBERS.items():
        number.check(name, values.get(name))
