"""Where numbers go: Weights & Biases and CSV files, by Lightning's loggers."""

from __future__ import annotations

import logging
import os
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from omegaconf import DictConfig, OmegaConf

from lic_da.data.images import atomic_path
from lic_da.errors import unknown
from lic_da.evaluation.pictures import Example, comparison

MODES = ("auto", "online", "offline", "disabled")


def wandb_mode(mode: str) -> str:
    """``online``, ``offline`` or ``disabled``; ``auto`` is online where there is an API key.

    Raises:
        UserError: unknown mode.
    """
    if mode not in MODES:
        raise unknown("W&B mode", mode, MODES)
    if mode != "auto":
        return mode
    if os.environ.get("WANDB_MODE") in ("online", "offline", "disabled"):
        return os.environ["WANDB_MODE"]
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    os.environ.setdefault("WANDB_SILENT", "true")  # it is read once, when wandb starts
    import wandb

    return "online" if wandb.login(prompt=False) else "offline"


@contextmanager
def tracked(config: DictConfig, folder: Path, job_type: str = "train") -> Iterator[list[Logger]]:
    """Loggers of a run: CSV always, W&B as configured; W&B runs are finished, also when they fail.

    Args:
        config: the whole configuration; it is stored with the run.
        folder: of the run.
        job_type: of the W&B run.
    """
    loggers: list[Logger] = [CSVLogger(folder, name="logs")]
    mode = wandb_mode(config.logger.mode)
    if mode == "disabled":
        yield loggers
        return
    import wandb

    logging.getLogger("wandb").setLevel(logging.ERROR)
    run = wandb.init(
        project=config.logger.project,
        group=config.logger.group,
        name=folder.name,
        id=_run_id(folder),
        resume="allow" if mode == "online" else None,
        mode="online" if mode == "online" else "offline",
        job_type=job_type,
        dir=folder,
        config={**_plain(config), "git_commit": git_commit()},
    )
    run.define_metric("trainer/global_step")
    for metrics in ("train/*", "val/*"):
        run.define_metric(metrics, step_metric="trainer/global_step")
    loggers.append(WandbLogger(experiment=run))
    try:
        yield loggers
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()


def _plain(config: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _run_id(folder: Path) -> str:
    """The W&B id of a run, the same again when it is resumed."""
    path = folder / "wandb_id"
    if not path.is_file():
        with atomic_path(path) as temporary:
            temporary.write_text(secrets.token_hex(4))
    return path.read_text()


def git_commit() -> str:
    """Commit of the checkout this program runs from, ``-dirty`` if it was changed; or ``unknown``."""
    here = Path(__file__).parent
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return "unknown"
    return done.stdout.strip() or "unknown"


def log_result(
    loggers: Sequence[Logger],
    summary: dict[str, Any],
    domains: Sequence[str],
    examples: Sequence[Example],
) -> None:
    """Log the test result to W&B, if it is there: scalars, confusion matrix, table of pictures."""
    runs = [logger.experiment for logger in loggers if isinstance(logger, WandbLogger)]
    if not runs:
        return
    import wandb

    scalars: dict[str, Any] = {"test/gate_accuracy": summary["gate_accuracy"]}
    for name, row in summary["domains"].items():
        for kind in ("psnr", "ms_ssim", "gain"):
            scalars |= {f"test/{kind}_{blend}/{name}": v for blend, v in row.get(kind, {}).items()}
        scalars |= {f"test/gate_{name}/{d}": v for d, v in row.get("gate", {}).items()}
        scalars[f"test/bpp/{name}"] = row["bpp"]
    confusion = wandb.Table(["domain", *domains])
    for name, row in summary["domains"].items():
        if "predicted" in row:
            confusion.add_data(name, *(row["predicted"][d] for d in domains))
    pictures = wandb.Table(
        ["domain", "image", "original", "base", "adapted", "error map", "psnr base", "psnr adapted"]
    )
    for e in examples:
        panels = [
            wandb.Image(pixels.permute(1, 2, 0).numpy())
            for pixels in (e.original, e.base, e.adapted, e.error_map())
        ]
        pictures.add_data(e.domain, e.name, *panels, *e.psnr)
    for run in runs:
        run.summary.update(scalars)
        run.log(
            {
                "test/confusion": confusion,
                "test/pictures": pictures,
                "test/comparisons": [
                    wandb.Image(comparison(e), caption=f"{e.domain}: {e.name}") for e in examples
                ],
            }
        )
