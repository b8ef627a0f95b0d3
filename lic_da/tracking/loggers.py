"""Where numbers go: Weights & Biases and CSV files, by Lightning's loggers."""

from __future__ import annotations

import functools
import logging
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from lic_da.io.files import read_text, write_text
from lic_da.surroundings import package_version, wandb_mode
from lic_da.tracking.settings import LoggerSettings

_PATIENCE = 30.0  # seconds that W&B has to answer when a run begins
_RUN_ID = "wandb_id"


@contextmanager
def tracked(
    logger: LoggerSettings, config: Mapping[str, Any], folder: Path, job_type: str = "train"
) -> Iterator[list[Logger]]:
    """Loggers of a run: CSV always, W&B as configured; W&B runs are finished, also when they fail.

    Args:
        logger: ``conf/logger``.
        config: all settings as plain values; they are stored with the run.
        folder: of the run.
        job_type: of the W&B run.
    """
    loggers: list[Logger] = [CSVLogger(folder, name="logs")]
    run = begin(logger, folder, job_type, config)
    if run is None:
        yield loggers
        return
    run.define_metric("trainer/global_step", hidden=True)
    for metrics in ("train/*", "val/*"):
        run.define_metric(metrics, step_metric="trainer/global_step")
    run.define_metric("val/gain", step_metric="trainer/global_step", summary="max")
    loggers.append(WandbLogger(experiment=run))
    try:
        yield loggers
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()


def begin(
    logger: LoggerSettings,
    folder: Path,
    job_type: str,
    config: Mapping[str, Any],
    name: str | None = None,
) -> Any:
    """A W&B run as configured, or None where W&B is turned off.

    A run has the same id again when it is resumed. Offline that makes another folder, which
    ``wandb sync`` appends to what it has uploaded of the run before. Where W&B cannot be reached the run
    goes on offline.

    Args:
        logger: ``conf/logger``.
        folder: of the run.
        job_type: of the W&B run.
        config: to be stored with it.
        name: shown in W&B; None: that of the folder.
    """
    mode = wandb_mode(logger.mode)
    if mode == "disabled":
        return None
    import wandb

    logging.getLogger("wandb").setLevel(logging.ERROR)
    init = functools.partial(
        wandb.init,
        project=logger.project,
        group=logger.group,
        name=name or folder.name,
        id=_run_id(folder),
        resume="allow",
        job_type=job_type,
        dir=folder,
        config={**config, "git_commit": git_commit()},
    )
    if mode == "online":
        try:
            return init(mode="online", settings=wandb.Settings(init_timeout=_PATIENCE))
        except (wandb.Error, OSError) as error:
            wandb.teardown(exit_code=1)  # else the id of the run counts as taken
            print(
                f"warning: W&B cannot be used now ({' '.join(str(error).split())}): {folder.name} is "
                "logged offline; docs/files.md says how to upload it.",
                file=sys.stderr,
            )
    return init(mode="offline", settings=wandb.Settings(silent=True))


def forget(folder: Path) -> None:
    """Let the next W&B run of a folder be a new one."""
    (folder / _RUN_ID).unlink(missing_ok=True)


def _run_id(folder: Path) -> str:
    """The W&B id of a run, the same again when it is resumed."""
    path = folder / _RUN_ID
    if not path.is_file():
        write_text(path, secrets.token_hex(4))
    return read_text(path).strip()


def git_commit() -> str:
    """Commit of the checkout this program runs from, ``-dirty`` if it was changed; else its version.

    A package that is installed into the environment of somebody's repository is no part of that.
    """
    here = Path(__file__).resolve().parents[2]
    top = _git(here, "rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() != here:
        return f"version {package_version()}"
    return _git(here, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or "unknown"


def _git(folder: Path, *arguments: str) -> str:
    """What git says in a folder; nothing if there is no git, or no repository."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
