"""Where the configuration files are."""

from __future__ import annotations

import os
from pathlib import Path

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
