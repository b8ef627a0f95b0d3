"""Sweeps: Hydra multiruns whose jobs have lasting names, may fail alone, and end in one summary.

::

    outputs/sweeps/<domains>_<hash>/                the same for the same settings, whatever the qualities
      <domains>_<codec>_q3_<method>_s0[_<hash>]/    a job: the folder of a run (see docs/files.md)
        running.json                                who is at it; it stays when a job is killed
        failure.json                                why it failed, if it did
      rd_points.csv bd_rate.csv summary.json report.html

Whatever Hydra's launcher is, processes of jobs import this module, by the callback or by
``lic_da.train``, so that the resolvers are known there.
"""

from __future__ import annotations

import hashlib
import re
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lic_da.config import flat
from lic_da.errors import Stopped, UserError
from lic_da.io.yaml_files import read_yaml
from lic_da.sweeps import jobs
from lic_da.sweeps.settings import ReportSettings
from lic_da.tracking.settings import LoggerSettings

_NAMED = ("codec", "codec.quality", "domains", "method", "seed")  # are in a job's name as they are
_OF_HYDRA = "multirun.yaml"  # what Hydra writes of a sweep before it looks at its jobs
_WITHOUT_EFFECT = ("logger", "report", "name", "ckpt_path")  # on what is trained and measured


def job_name(
    domains: Sequence[str] | str,
    codec: str,
    quality: int | str,
    method: str,
    seed: int,
    overrides: Sequence[str],
) -> str:
    """Name of a job's folder, the same for the same settings: what matters most, and a hash of the rest.

    Args:
        domains: target domains.
        codec: name of the codec.
        quality: of the codec, or ``all``.
        method: name of the method's configuration.
        seed: of the run.
        overrides: all overrides of the job, as Hydra lists them.
    """
    domains = domains.split(",") if isinstance(domains, str) else domains
    name = f"{_short('-'.join(map(str, domains)))}_{codec}_q{quality}_{method}_s{seed}"
    rest = _without(overrides, (*_NAMED, *_WITHOUT_EFFECT))
    return f"{name}_{_hash(rest)}" if rest else name


def sweep_name(overrides: Sequence[str]) -> str:
    """Name of a sweep's folder: its domains, and a hash of everything but the qualities.

    So a sweep over more qualities, or the same again, finds the jobs that are there.
    """
    domains = [o.split("=", 1)[1] for o in overrides if o.startswith("domains=")]
    readable = re.sub(r"[^A-Za-z0-9_]+", "-", domains[-1]).strip("-") if domains else "default"
    readable = _short(readable)
    return f"{readable}_{_hash(_without(overrides, ('codec.quality', *_WITHOUT_EFFECT)))}"


def _without(overrides: Iterable[str], keys: Sequence[str]) -> list[str]:
    """Overrides whose key is neither one of ``keys`` nor, but for ``codec``, below one; sorted."""
    kept = []
    for override in overrides:
        key = override.lstrip("+~").split("=", 1)[0]
        below = any(key.startswith(f"{k}.") for k in keys if k in _WITHOUT_EFFECT)
        if key not in keys and not below:
            kept.append(re.sub(r"\s", "", override))
    return sorted(kept)


def _short(text: str) -> str:
    """Text that is not too long for the name of a file; a hash stands for what is cut off."""
    return text if len(text) <= 80 else f"{text[:72]}-{_hash([text])}"


def _hash(overrides: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(overrides).encode()).hexdigest()[:6]


def of_pack(extend: str | None, key: str, otherwise: Any) -> Any:
    """A setting of the codec of the pack that is extended; ``otherwise`` where there is none."""
    config = Path(str(extend)).expanduser() / "config.yaml"
    if extend is None or not config.is_file():
        return otherwise
    return flat(read_yaml(config)).get(f"codec.{key}", otherwise)


def or_pile(
    domains: Sequence[str] | str, pile: str | None, groups: int | str
) -> Sequence[str] | str:
    """What a run is named by: its domains, or the pile whose groups take their place."""
    if pile is None and isinstance(groups, int):
        return domains
    folder = Path(str(groups) if pile is None else str(pile)).expanduser()
    return [f"pile-{re.sub(r'[^A-Za-z0-9]+', '-', folder.name).strip('-')}"]


OmegaConf.register_new_resolver("or_pile", or_pile, replace=True)
OmegaConf.register_new_resolver("job_name", job_name, replace=True)
OmegaConf.register_new_resolver("of_pack", of_pack, replace=True, use_cache=True)


def run_job(config: DictConfig, folder: Path) -> None:
    """Do one job of a sweep, or what is missing of it; a failure is written down and not raised.

    Args:
        config: composed from ``conf/train.yaml``.
        folder: of the job; the sweep is its parent.

    Raises:
        Stopped: the user stopped the sweep.
    """
    from lic_da.methods.processes import is_first
    from lic_da.training.run import train_what_is_missing
    from lic_da.training.settings import RunSettings

    if not is_first():  # of several processes of a job the first one keeps its files
        train_what_is_missing(RunSettings.from_config(config), folder)
        return
    try:
        with jobs.running(folder):
            try:
                settings = RunSettings.from_config(config).in_group(folder.parent.name)
                train_what_is_missing(settings, folder)
            except Stopped:
                raise
            except Exception as error:  # of any kind: the other jobs go on
                jobs.write_failure(folder, error)
                if not isinstance(error, UserError):
                    traceback.print_exc()
                print(f"error: {folder.name} failed: {jobs.reason_of(error)}", file=sys.stderr)
    except jobs.InUse as error:  # by another sweep, whose job it is
        print(f"error: {error}", file=sys.stderr)


class Sweep(Callback):
    """Hydra callback: names the folder of a sweep, summarises it, and sets the exit code.

    The exit code is 1 if a job failed or the summary did. A launcher that breaks (a killed worker,
    say) ends Hydra before ``on_multirun_end``; then :func:`finish` names what was not done.
    """

    begun: Path | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        overrides = config.hydra.overrides
        if config.get("ckpt_path") is not None or any(
            o.startswith("ckpt_path=") and o != "ckpt_path=null" for o in overrides.task
        ):
            print(
                "error: ckpt_path resumes one run, and a sweep finds its own checkpoints: leave it out.",
                file=sys.stderr,
            )
            sys.exit(2)
        if not any(o.startswith("hydra.sweep.dir=") for o in overrides.hydra):
            folder = f"outputs/sweeps/{sweep_name(overrides.task)}"
            with read_write(config), open_dict(config):
                config.hydra.sweep.dir = folder
                overrides.hydra.append(f"hydra.sweep.dir={folder}")  # jobs are composed from these
        Sweep.begun = Path(config.hydra.sweep.dir)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder, Sweep.begun = Path(config.hydra.sweep.dir), None
        try:
            complete = jobs.report(jobs.states(folder))
            from lic_da.sweeps.summary import summarize

            report = ReportSettings.from_settings(config.report)
            summarize(folder, report, LoggerSettings.from_settings(config.logger))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except Exception:  # Hydra would make a warning of it and leave with 0
            traceback.print_exc()
            sys.exit(1)
        if not complete:
            sys.exit(1)


def finish() -> None:
    """Name the jobs of a sweep that ended before its summary; nothing if there is none such."""
    if Sweep.begun is None or not Sweep.begun.is_dir():
        return
    try:
        jobs.report(jobs.states(Sweep.begun))
    except UserError:  # it ended before its first job
        if [path.name for path in Sweep.begun.iterdir()] == [_OF_HYDRA]:
            (Sweep.begun / _OF_HYDRA).unlink()
            Sweep.begun.rmdir()
        return
    print(
        f"The sweep broke off. The same command goes on with what is missing; python -m lic_da.summarize "
        f"sweep={Sweep.begun} summarises what is there.",
        file=sys.stderr,
    )
