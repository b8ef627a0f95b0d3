"""Where the configuration files are, and settings by dotted names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent


def _conf() -> Path:
    if "LIC_DA_CONF" in os.environ:
        return Path(os.environ["LIC_DA_CONF"]).resolve()
    return _HERE / "conf" if (_HERE / "conf").is_dir() else _HERE.parent / "conf"


CONF = _conf()
"""The ``conf`` folder: that of the variable LIC_DA_CONF, else the package's own when installed from a
wheel, else the one beside the package in a checkout."""


def available(group: str) -> list[str]:
    """Names of the configuration files in ``conf/<group>``, sorted."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted keys."""
    flattened: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flattened |= flat(value, f"{prefix}{key}.")
        else:
            flattened[f"{prefix}{key}"] = value
    return flattened


def plain(settings: Any) -> Any:
    """Settings as dictionaries, lists and plain values, with all interpolations looked up."""
    from omegaconf import OmegaConf  # what needs no configuration starts without it

    return (
        OmegaConf.to_container(settings, resolve=True)
        if OmegaConf.is_config(settings)
        else settings
    )
