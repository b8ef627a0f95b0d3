"""Where the configuration files are."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent

CONF = _HERE / "conf" if (_HERE / "conf").is_dir() else _HERE.parent / "conf"
"""The ``conf`` folder: inside the package when installed from a wheel, beside it in a checkout."""


def available(group: str) -> list[str]:
    """Names of the configuration files in ``conf/<group>``, sorted."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))
