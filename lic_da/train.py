"""``python -m lic_da.train domains=[sketch,comic]``: train adapters and gate, then measure them.

With ``-m`` (Hydra multirun) it is a sweep: see :mod:`lic_da.sweep`.
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lic_da import sweep
from lic_da.command import command
from lic_da.errors import UserError
from lic_da.files import new_folder, user_path
from lic_da.surroundings import started_together

_BEGUN = ".begun"


def run_name(domains: Sequence[str], quality: int) -> str:
    """Readable name of a run, such as ``sketch-comic_q3``."""
    return f"{'-'.join(map(str, domains))}_q{quality}"


def run_folder(
    name: str | None, ckpt_path: str | None, domains: Sequence[str], quality: int
) -> str:
    """Folder of a run: that of the checkpoint it resumes, or the named one, or a new one of its own."""
    if ckpt_path and Path(ckpt_path).parent.name == "checkpoints":
        return str(user_path(ckpt_path).absolute().parents[1])
    if name:
        return f"outputs/{name}"
    now = datetime.datetime.now()
    folder = f"outputs/{run_name(domains, quality)}_{now:%Y-%m-%d_%H-%M-%S}"
    return folder if started_together() else str(new_folder(Path(folder)))


def claim(folder: Path, resumed: bool) -> None:
    """Take the folder of a run for this run alone.

    Args:
        folder: it is there.
        resumed: whether the run goes on in it.

    Raises:
        UserError: it holds a run already, or another one has just begun in it.
    """
    try:
        (folder / _BEGUN).open("x", encoding="utf-8").close()
    except FileExistsError:
        taken = True
    else:
        taken = any(path.name != _BEGUN for path in folder.iterdir())
    if taken and not resumed:
        raise UserError(
            f"{folder} holds a run already: choose another name=…, or go on with it by "
            f"ckpt_path={folder}/checkpoints/last.ckpt."
        )


OmegaConf.register_new_resolver("run_folder", run_folder, replace=True, use_cache=True)


@command("train")
def main(config: DictConfig) -> None:
    """Train, measure, write pack and tables, print what was gained; or do so as a job of a sweep."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        sweep.run_job(config, folder)
        return
    from lic_da.training.processes import is_first
    from lic_da.training.run import train

    if is_first():
        claim(folder, resumed=config.ckpt_path is not None)
    try:
        train(config, folder)
    finally:
        if [path.name for path in folder.iterdir()] in ([], [_BEGUN]):  # it was refused at once
            shutil.rmtree(folder)


if __name__ == "__main__":
    try:
        main()
    finally:
        sweep.finish()
