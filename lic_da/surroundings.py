"""What the machine and the shell around a command grant: processors, a home, a locale, W&B's settings.

Everything that depends on them asks here.
"""

from __future__ import annotations

import codecs
import configparser
import contextlib
import math
import os
import signal
import sys
import tempfile
from pathlib import Path

from lic_da.errors import unknown

WANDB_MODES = ("auto", "online", "offline", "disabled")

_CGROUP = Path("/sys/fs/cgroup")
_NO = {"", "0", "false", "f", "n", "no", "off"}
_MODES_OF_WANDB = {"dryrun": "offline", "run": "online"}
_KEY_LENGTH = 40
_PLAIN = {
    "×": "x",
    "…": "...",
    "→": "->",
    "−": "-",
    "·": "*",
    "λ": "lambda",
    "γ": "gamma",
    "ŷ": "y^",
}


def granted_cpus(cgroup: Path = _CGROUP) -> int:
    """Processors that this process may use: by its affinity, and by the quota of its control group."""
    try:
        count = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not on every system
        count = os.cpu_count() or 1
    quota = _quota(cgroup)
    return max(1, count if quota is None else min(count, math.ceil(quota)))


def _quota(cgroup: Path) -> float | None:
    """Processors' worth of time that the control group may use; None: no limit."""
    try:
        limit, period = (cgroup / "cpu.max").read_text(encoding="utf-8").split()  # version 2
    except (OSError, ValueError):
        try:
            limit, period = (
                (cgroup / "cpu" / name).read_text(encoding="utf-8").strip()
                for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            )
        except OSError:
            return None
    try:
        granted = float(limit) / float(period)
    except (ValueError, ZeroDivisionError):  # "max"
        return None
    return granted if granted > 0 else None


def started_together() -> bool:
    """Whether a launcher has started several processes of one training, which share its folder."""
    counts = (os.environ.get(name, "") for name in ("WORLD_SIZE", "SLURM_NTASKS"))
    return any(count.isdigit() and int(count) > 1 for count in counts)


def use_plain_output() -> None:
    """Let the standard streams take every text: what they cannot show becomes plain characters."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="lic_da.plain")  # type: ignore[union-attr]


def _plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    """Codec error handler: the nearest plain characters."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    plain = []
    for character in error.object[error.start : error.end]:
        if 0xDC80 <= ord(character) <= 0xDCFF:  # a byte of a name that is no UTF-8
            plain.append(f"\\x{ord(character) - 0xDC00:02x}")
        else:
            plain.append(_PLAIN.get(character, "?"))
    return "".join(plain), error.end


def printable(text: object) -> str:
    r"""A text for terminals and tables: bytes of a name that are no UTF-8 become ``\xNN``."""
    return "".join(
        f"\\x{ord(c) - 0xDC00:02x}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in str(text)
    )


def ensure_home() -> None:
    """Give libraries that insist on a home directory one, where the user has none."""
    try:
        Path.home()
    except (RuntimeError, KeyError):
        os.environ["HOME"] = tempfile.mkdtemp(prefix="home-")
    os.environ.setdefault("USER", f"uid{os.getuid()}" if hasattr(os, "getuid") else "user")


def wandb_mode(mode: str) -> str:
    """``online``, ``offline`` or ``disabled``; ``auto`` is what W&B itself would do here.

    That is, in this order: the environment (``WANDB_MODE``, also by its older names, ``WANDB_DISABLED``),
    W&B's settings files (``wandb offline``), and online only with a key.

    Args:
        mode: one of :data:`WANDB_MODES`.

    Raises:
        UserError: unknown mode.
    """
    if mode not in WANDB_MODES:
        raise unknown("W&B mode", mode, WANDB_MODES)
    if mode != "auto":
        return mode
    if os.environ.get("WANDB_DISABLED", "").strip().lower() not in _NO:
        return "disabled"
    for value in (os.environ.get("WANDB_MODE"), _wandb_setting("mode")):
        wanted = (value or "").strip().lower()
        wanted = _MODES_OF_WANDB.get(wanted, wanted)
        if wanted in ("offline", "disabled"):
            return wanted
        if wanted == "online":
            break
    else:
        if (_wandb_setting("disabled") or "").strip().lower() not in _NO:
            return "offline"
    return "online" if has_wandb_key() else "offline"


def _wandb_setting(name: str) -> str | None:
    """What W&B's settings files say: that of the folder before that of the user."""
    folder = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser()
    root = Path(os.environ.get("WANDB_DIR") or ".")
    for path in (root / "wandb" / "settings", root / ".wandb" / "settings", folder / "settings"):
        parser = configparser.ConfigParser()
        try:
            parser.read(path, encoding="utf-8")
            value = parser.get("default", name, fallback=None)
        except (configparser.Error, OSError, ValueError):
            continue
        if value is not None:
            return value
    return None


def has_wandb_key() -> bool:
    """Whether there is an API key that W&B accepts; one that it would refuse is told of.

    Beside the environment W&B looks into the user's netrc file.
    """
    key = os.environ.get("WANDB_API_KEY")
    if key is not None:
        secret = key.rsplit("-", 1)[-1]
        if len(secret) >= _KEY_LENGTH and not set(key) & set(" \t\r\n"):
            return True
        print(
            "warning: WANDB_API_KEY holds no API key (line breaks or blanks in it, or it is too short): "
            "W&B stays offline.",
            file=sys.stderr,
        )
        return False
    import netrc

    host = (
        (os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").split("//")[-1].split("/")[0]
    )
    for file in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        if not file:
            continue
        with contextlib.suppress(OSError, netrc.NetrcParseError, ValueError):
            if netrc.netrc(Path(file).expanduser()).authenticators(host):
                return True
    return False


def package_version() -> str:
    """Version of this package as installed, or ``unknown``."""
    from importlib import metadata  # takes a while, and few ask

    try:
        return metadata.version("lic_da")
    except metadata.PackageNotFoundError:
        return "unknown"


def leave_signals_to_the_training(*_: object) -> None:
    """For worker processes: whoever ends a whole process group ends the training, which ends them."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


codecs.register_error("lic_da.plain", _plainly)
