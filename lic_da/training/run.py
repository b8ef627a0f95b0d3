"""One training run from beginning to end."""

from __future__ import annotations

import contextlib
import datetime
import errno
import logging
import math
import shlex
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console

from lic_da import surroundings
from lic_da.codecs import zoo
from lic_da.codecs.image_codec import ImageCodec
from lic_da.codecs.refine import Effort
from lic_da.config import as_yaml
from lic_da.data import index
from lic_da.data.datamodule import DomainsDataModule
from lic_da.data.domains import prepare
from lic_da.errors import Stopped, UserError
from lic_da.evaluation.compatibility import compatibility, parameters, trainable
from lic_da.evaluation.images import Examples, comparison
from lic_da.evaluation.summary import at_each_quality, measure_into, metrics_table, table
from lic_da.io.files import (
    atomic_path,
    read_json,
    user_path,
    write_json,
    write_text,
)
from lic_da.io.run_folder import CONFIG, RUNNING
from lic_da.io.yaml_files import read_yaml
from lic_da.methods import pack
from lic_da.methods.module import CodecModule, TrainedAveraging
from lic_da.methods.processes import check_processes, is_first
from lic_da.methods.steps import ExactSteps
from lic_da.registry import MODULES
from lic_da.tracking import loggers
from lic_da.tracking.progress import TrainingProgress
from lic_da.tracking.results import log_result
from lic_da.training import extend
from lic_da.training.interruption import Termination, read_checkpoint
from lic_da.training.memory import keep_freed_memory
from lic_da.training.pile.grouping import STATE, began_from_others, find_groups
from lic_da.training.settings import RunSettings


def train(settings: RunSettings, folder: Path) -> dict[str, Any]:
    """Train a codec by a method, measure it, write everything to ``folder``.

    Args:
        settings: of the run.
        folder: of the run; see docs/files.md for what it holds afterwards.

    Returns:
        The contents of ``summary.json``.
    """
    _quiet()
    keep_freed_memory()
    L.seed_everything(settings.seed, verbose=False)
    settings = _on_groups(settings, folder)
    adapted = _untrained(settings)
    with adapted.refining(Effort(settings.evaluation.effort)):
        pass  # refused before anything is trained
    module = _module(settings.training, adapted)
    done = 0
    if settings.ckpt_path:
        checkpoint = read_checkpoint(settings.ckpt_path)
        module.check_checkpoint(checkpoint)
        done = checkpoint["global_step"]
    best, *callbacks = _callbacks(settings, folder, module.monitored)
    trainer: L.Trainer = instantiate(
        settings.trainer,
        logger=False,
        callbacks=[best, *callbacks],
        default_root_dir=folder,
        max_epochs=math.ceil(settings.steps / settings.data["batches_per_epoch"]),
    )
    check_processes(trainer)
    console = Console(stderr=True, quiet=not trainer.is_global_zero)
    if trainer.is_global_zero:
        surroundings.wandb_mode(settings.logger.mode)
    data = _data(settings, module, trainer, done=done, console=console)
    if trainer.is_global_zero:
        write_text(folder / CONFIG, as_yaml(settings.config))
    console.print(f"Training on {', '.join(settings.names)} in {folder}", highlight=False)
    if not trainer.is_global_zero:
        _fit(trainer, module, data, settings.ckpt_path, folder)
        return {}  # the first process measures
    with loggers.tracked(settings.logger, settings.config, folder) as attached:
        trainer.loggers = attached
        _fit(trainer, module, data, settings.ckpt_path, folder)
        if best.best_model_path:
            module.load_trained(*_kept(Path(best.best_model_path), folder))
        adapted.to("cpu")
        adapted.check_base_unchanged()
        trained = trainable(adapted)
        adapted.finish()
        module.calibrate(data.train_dataset(), trainer.strategy.root_device)
        pack.save(adapted, folder / "pack", {})  # whatever may happen while it is measured
        cost = parameters(
            adapted,
            trained,
            train_domains=settings.domains if settings.extension else data.train_domains,
            pack_domains=adapted.domains if settings.extension else data.train_domains,
        )
        return _result(settings, folder, adapted, data, cost, attached, console)


def _kept(checkpoint: Path, folder: Path) -> tuple[dict[str, Any], str]:
    """A run's own checkpoint and its place, which its state has wrong where the folder was moved."""
    own = folder / "checkpoints" / checkpoint.name
    path = own if own.is_file() else checkpoint
    return read_checkpoint(path), str(path)


def _on_groups(settings: RunSettings, folder: Path) -> RunSettings:
    """The settings with the groups of the pile as domains; the same if there is no pile."""
    if settings.pile is None:
        return settings
    found = find_groups(settings, folder, Console(stderr=True))
    L.seed_everything(settings.seed, verbose=False)
    return found


def _untrained(settings: RunSettings) -> ImageCodec:
    """The codec to train."""
    if settings.extension:
        return extend.extended_codec(settings)
    kind = pack.codec_class(settings.method.codec)
    return kind.new(settings.codec, settings.method, settings.names)


def _module(training: Mapping[str, Any], adapted: ImageCodec) -> CodecModule:
    """The method's training of a codec."""
    settings = {**training, "adapted": adapted}
    settings.pop("_partial_", None)  # as configurations of methods had it for Hydra's instantiate
    module: CodecModule = MODULES.make(settings)
    return module


def _data(
    settings: RunSettings,
    module: CodecModule,
    trainer: L.Trainer,
    *,
    done: int,
    console: Console,
) -> DomainsDataModule:
    """The images of a run, prepared; with the latents of training images where they are kept.

    Raises:
        UserError: images are missing, or fewer than processes.
    """
    several = {"qualities": settings.codec.served} if settings.codec.all_rates else {}
    data: DomainsDataModule = instantiate(
        settings.data,
        domains=settings.names[1:],
        train_domains=settings.train_domains,
        done=done,
        console=console,
        **several,
    )
    data.prepare_data()
    data.setup()
    if data.validation_size < trainer.world_size:
        raise UserError(
            f"There are {data.validation_size} validation images for {trainer.world_size} processes: "
            "each needs one at least (data.val_images, or fewer processes)."
        )
    if (
        data.latent_cache
        and data.half_from is None
        and module.encoder is not None
        and not module.encoder.reads_y
    ):
        module.adapted.to(trainer.strategy.root_device)
        data.latents = module.encoder.cached(
            data.data_dir / "latents", data.crop, pixels=data.latent_pixels, console=console
        )
    return data


def _fit(
    trainer: L.Trainer,
    module: CodecModule,
    data: DomainsDataModule,
    ckpt_path: Path | None,
    folder: Path,
) -> None:
    """Train, in as many processes as there are.

    Raises:
        Stopped: by a signal, after a checkpoint; or the disk is full.
    """
    last = folder / "checkpoints" / "last.ckpt"
    again = going_on(last)
    (termination,) = (c for c in trainer.callbacks if isinstance(c, Termination))  # type: ignore[attr-defined]
    try:
        with contextlib.suppress(SIGTERMException):
            trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise Stopped(
            f"Something could not be written ({error.strerror}): free some space. "
            + (f"To go on: {again}" if last.is_file() else "No checkpoint was written yet.")
        ) from error
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    if trainer.interrupted or termination.sigterm_received:
        if not last.is_file():
            raise Stopped("Stopped before the first checkpoint.")
        raise Stopped(f"Stopped. To go on: {again}")


def going_on(checkpoint: Path) -> str:
    """The command that goes on with this run, as it can be pasted into a shell."""
    settings: Sequence[str] = ()
    if HydraConfig.initialized():
        settings = HydraConfig.get().overrides.task
    kept = [s for s in settings if s.partition("=")[0] not in ("ckpt_path", "name")]
    path = str(checkpoint).replace("\\", "\\\\").replace('"', '\\"')
    words = ["python", "-m", "lic_da.train", f'ckpt_path="{path}"', *kept]
    return " ".join(map(shlex.quote, words))


def train_what_is_missing(settings: RunSettings, folder: Path) -> dict[str, Any]:
    """As :func:`train`, but only as far as ``folder`` does not hold it already.

    A finished run of the same settings over the same base weights is not touched; one that was killed
    goes on from its last checkpoint; one of other settings makes room.
    """
    last = folder / "checkpoints" / "last.ckpt"
    if _is_run_of(settings, folder):
        done = folder / "summary.json"
        if done.is_file():
            summary: dict[str, Any] = read_json(done)
            print(f"{folder.name}: already trained and measured")
            return summary
        if last.is_file():
            settings = settings.resumed(last)
    elif is_first():
        _make_room(folder)
    return train(settings, folder)


def _make_room(folder: Path) -> None:
    """Move what a run of other settings has left to a folder in it; nothing is lost."""
    if not any((folder / name).exists() for name in ("checkpoints", "summary.json")):
        return
    aside = folder / f"old-{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}"
    left = [p for p in folder.iterdir() if not p.name.startswith("old-") and p.name != RUNNING]
    aside.mkdir()
    for path in left:
        path.rename(aside / path.name)
    print(
        f"{folder.name} was made with other settings, images or base weights: what it held is in {aside}."
    )


def _is_run_of(settings: RunSettings, folder: Path) -> bool:
    """Whether the run in ``folder`` has these settings and groups, and weights and images if finished."""
    if not (folder / CONFIG).is_file():
        return False
    if not settings.are_those_of(read_yaml(folder / CONFIG)) or began_from_others(settings, folder):
        return False
    if not (folder / "summary.json").is_file():
        return True
    summary = read_json(folder / "summary.json")
    codec = settings.codec.coding_at(summary.get("quality", settings.codec.quality))
    known: str = summary["base_fingerprint"]
    if known != zoo.fingerprint(zoo.build(codec).state_dict()):
        return False
    return _has_its_images(summary.get("image_sets", {}), user_path(settings.data["data_dir"]))


def _has_its_images(known: Mapping[str, str], data_dir: Path) -> bool:
    """Whether domains have the images that a run was made of, as far as they are there."""
    for name, digest in known.items():
        if index.signature_of(data_dir / "domains" / name) is None:
            continue
        with contextlib.suppress(UserError):  # a folder of the user's is gone
            if prepare(name, data_dir).digest != digest:
                return False
    return True


def _callbacks(settings: RunSettings, folder: Path, monitored: tuple[str, str]) -> list[Any]:
    checkpoints = folder / "checkpoints"
    monitor, mode = monitored
    at_end: dict[str, Any] = {"save_on_train_epoch_end": True, "enable_version_counter": False}
    callbacks: list[Any] = [
        ModelCheckpoint(checkpoints, filename="best", monitor=monitor, mode=mode, **at_end),
        ModelCheckpoint(checkpoints, filename="last", **at_end),
        Termination(checkpoints / "last.ckpt"),
        ExactSteps(settings.steps),
        TrainingProgress(),
    ]
    if settings.ema is not None:
        callbacks.append(TrainedAveraging(settings.ema))
    if settings.early_stopping is not None:
        callbacks.append(
            EarlyStopping(
                monitor,
                mode=mode,
                patience=settings.early_stopping,
                check_on_train_epoch_end=True,
            )
        )
    return callbacks


def _result(
    settings: RunSettings,
    folder: Path,
    adapted: ImageCodec,
    data: DomainsDataModule,
    cost: dict[str, Any],
    attached: list[Any],
    console: Console,
) -> dict[str, Any]:
    """Code the test images, write pack, tables and images, print the table."""
    images = data.tested()
    asked = settings.evaluation
    examples = Examples(asked.examples)
    summary = {
        **measure_into(
            folder,
            adapted,
            images,
            modes=asked.modes,
            metrics=asked.metrics,
            qualities=settings.measured,
            effort=asked.effort,
            decoded=examples,
            console=console,
        ),
        "compatibility": {
            **compatibility(
                adapted,
                data.labelled(adapted.domains[0], "test")[: asked.compatibility],
            ),
            "parameters": cost,
        },
        "git_commit": loggers.git_commit(),
        "skipped": {n: images.skipped for n, images in data.images.items() if images.skipped},
    }
    if settings.pile:
        summary["pile"] = read_json(folder / STATE)
    else:
        summary["image_sets"] = {name: data.domain(name).digest for name in data.images}
    if settings.extension:
        summary["before_after"] = extend.before_and_after(
            settings.extension, asked, settings.measured, folder, images, console
        )
    pack.save(adapted, folder / "pack", summary)
    (folder / "pictures").mkdir(exist_ok=True)
    for number, example in enumerate(examples.kept):
        with atomic_path(folder / "pictures" / f"{example.domain}_{number}.png") as temporary:
            comparison(example).save(temporary, format="PNG")
    log_result(attached, summary, adapted.domains, examples.kept)
    write_text(folder / "table.txt", _printed(summary, data))
    # Last of all: a run that has it is finished.
    write_json(folder / "summary.json", summary)
    curves = f"\nBD-rates: python -m lic_da.summarize sweep={folder}" if "rates" in summary else ""
    Console().print(
        f"\nTables rd_points.csv and summary.json, pictures/ and the pack are in {folder}{curves}\n"
        f"Next: lic-da compress IMAGE OUT.lic --pack {folder / 'pack'}",
        highlight=False,
        soft_wrap=True,
    )
    return summary


def _printed(summary: dict[str, Any], data: DomainsDataModule) -> str:
    """The tables of a run, printed; what was printed."""
    out = Console(record=True)
    for own in at_each_quality(summary):
        out.print(table(own))
        if others := metrics_table(own):
            out.print(others)
    if "before_after" in summary:
        out.print(extend.table(summary["before_after"]))
    for images in data.images.values():
        if images.skipped or images.notes or images.few_tests:
            out.print(images.summary(), *images.notes, sep="\n", highlight=False, soft_wrap=True)
    return out.export_text()


def _quiet() -> None:
    """Lightning's notices about things that are as they should be here."""
    for name in (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.pytorch.accelerators.cuda",
        "lightning.fabric.utilities.distributed",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*number of training batches.*",
        ".*but have no `val_dataloader`.*",
        ".*isinstance.treespec.*",
        ".*dataloader is not resumable.*",
        ".*in eval mode at the start of training.*",
        ".*Checkpoint directory .* exists and is not empty.*",
    ):
        warnings.filterwarnings("ignore", message)
