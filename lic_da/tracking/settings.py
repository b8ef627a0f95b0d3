"""What ``conf/logger`` says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LoggerSettings:
    """Where Weights & Biases runs go.

    Attributes:
        project: of W&B.
        mode: ``auto``, ``online``, ``offline`` or ``disabled``.
        group: of the runs; None: none.
    """

    project: str
    mode: str
    group: str | None = None

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> LoggerSettings:
        """The settings of ``conf/logger``."""
        return cls(settings["project"], settings["mode"], settings.get("group"))
