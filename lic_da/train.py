"""``python -m lic_da.train domains=[sketch,comic]``: train adapters and gate, then measure them.

With ``-m`` (Hydra multirun) it is a sweep: see :mod:`lic_da.sweeps.callback`.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lic_da.command import command
from lic_da.errors import UserError
from lic_da.io.files import new_folder, user_path
from lic_da.surroundings import started_together
from lic_da.sweeps import callback, jobs

_KEPT = ("checkpoints", "pack", "summary.json", "rd_points.csv")
"""What a run leaves that must not be replaced by another's."""


def run_name(domains: Sequence[str], quality: int | str) -> str:
    """Readable name of a run, such as ``sketch-comic_q3`` or ``sketch-comic_qall``."""
    return f"{'-'.join(map(str, domains))}_q{quality}"


def run_folder(
    name: str | None, ckpt_path: str | None, domains: Sequence[str], quality: int | str
) -> str:
    """Folder of a run: that of the checkpoint it resumes, or the named one, or a new one of its own."""
    if ckpt_path and Path(ckpt_path).parent.name == "checkpoints":
        return str(user_path(ckpt_path).absolute().parents[1])
    if name:
        return f"outputs/{name}"
    now = datetime.datetime.now()
    folder = f"outputs/{run_name(domains, quality)}_{now:%Y-%m-%d_%H-%M-%S}"
    return folder if started_together() else str(new_folder(Path(folder)))


@contextmanager
def claimed(folder: Path, ckpt_path: str | None) -> Iterator[None]:
    """Have the folder of a run for this run alone while the block lasts.

    What a run has left that was refused or broke off before its first checkpoint may be replaced.

    Args:
        folder: it is there.
        ckpt_path: the checkpoint that is gone on with; it may lie in the folder.

    Raises:
        UserError: it holds a run already, or another process is at it.
    """
    resumed = ckpt_path is not None and folder.resolve() in user_path(ckpt_path).resolve().parents
    with jobs.alone(folder):
        if not resumed and any((folder / name).exists() for name in _KEPT):
            raise UserError(
                f"{folder} holds a run already: choose another name=…, or go on with it by "
                f"ckpt_path={folder}/checkpoints/last.ckpt."
            )
        yield


OmegaConf.register_new_resolver("run_folder", run_folder, replace=True, use_cache=True)


@command("train")
def main(config: DictConfig) -> None:
    """Train, measure, write pack and tables, print what was gained; or do so as a job of a sweep."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        callback.run_job(config, folder)
        return
    from lic_da.methods.processes import is_first
    from lic_da.training.run import train
    from lic_da.training.settings import RunSettings

    if not is_first():
        train(RunSettings.from_config(config), folder)
        return
    try:
        if config.name and ".." in Path("outputs", str(config.name)).parts:
            raise UserError(
                f"name={config.name} lies outside of outputs/: give a name, such as name=mine."
            )
        with claimed(folder, config.ckpt_path):
            settings = RunSettings.from_config(config)
            settings.check_resumes(folder)
            train(settings, folder)
    finally:
        if not any(folder.iterdir()):  # the run was refused before it began
            folder.rmdir()


if __name__ == "__main__":
    try:
        main()
    finally:
        callback.finish()
