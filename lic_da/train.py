"""``python -m lic_da.train domains=[sketch,comic]``: train adapters and gate, then measure them.

With ``-m`` (Hydra multirun) it is a sweep: see :mod:`lic_da.sweep`.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lic_da import sweep
from lic_da.command import command
from lic_da.config import CONF


def run_name(domains: Sequence[str], quality: int) -> str:
    """Readable name of a run, such as ``sketch-comic_q3``."""
    return f"{'-'.join(domains)}_q{quality}"


def run_folder(
    name: str | None, ckpt_path: str | None, domains: Sequence[str], quality: int
) -> str:
    """Folder of a run: that of the checkpoint it resumes, or the named one, or a new one."""
    if ckpt_path and Path(ckpt_path).parent.name == "checkpoints":
        return str(Path(ckpt_path).absolute().parents[1])
    if name:
        return f"outputs/{name}"
    now = datetime.datetime.now()
    return f"outputs/{run_name(domains, quality)}_{now:%Y-%m-%d_%H-%M-%S}"


OmegaConf.register_new_resolver("run_folder", run_folder, replace=True, use_cache=True)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
@command
def main(config: DictConfig) -> None:
    """Train, measure, write pack and tables, print what was gained; or do so as a job of a sweep."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        sweep.run_job(config, folder)
        return
    from lic_da.training.run import train

    try:
        train(config, folder)
    finally:
        if not any(folder.iterdir()):  # the run was refused before it began
            folder.rmdir()


if __name__ == "__main__":
    try:
        main()
    finally:
        sweep.finish()
