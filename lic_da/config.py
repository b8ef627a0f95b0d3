"""Where the configuration files are, and settings as plain values.

Here and in the modules that read a command's settings OmegaConf is known; below them settings are plain
dictionaries, or frozen values such as :class:`lic_da.codecs.spec.CodecSpec`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
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

ALL = "all"
"""``codec.quality`` of what is for all qualities of a codec of variable rate."""


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


def is_of(name: str, parts: Iterable[str]) -> bool:
    """Whether a dotted name is one of ``parts``, or below one."""
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def plain(settings: Any) -> Any:
    """A copy of settings as dictionaries, lists and plain values.

    Args:
        settings: of any kind of mapping or sequence, OmegaConf's too, whose interpolations are looked up.
    """
    if isinstance(settings, Mapping):
        return {key: plain(value) for key, value in settings.items()}
    if isinstance(settings, Sequence) and not isinstance(settings, str | bytes):
        return [plain(value) for value in settings]
    return settings


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of settings with changes; dictionaries are merged, all else is replaced.

    Args:
        settings: plain values.
        changes: to them; new keys come last.
    """
    whole = plain(settings)
    for key, value in changes.items():
        before = whole.get(key)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        whole[key] = merged(before, value) if both else plain(value)
    return whole


def read_settings(path: Path) -> dict[str, Any]:
    """The settings of a file of ``conf``, with all interpolations looked up.

    Raises:
        TypeError: the file holds a list.
    """
    from omegaconf import DictConfig, OmegaConf  # what needs no configuration starts without it

    config = OmegaConf.load(path)
    if not isinstance(config, DictConfig):
        raise TypeError("it is a list")
    settings: dict[str, Any] = plain(config)
    return settings


def as_yaml(settings: Mapping[str, Any]) -> str:
    """Settings as the text of a YAML file.

    Args:
        settings: plain values, written as they are.
    """
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(dict(settings)))
