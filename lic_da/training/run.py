"""One training run from beginning to end."""

from __future__ import annotations

import contextlib
import datetime
import errno
import logging
import math
import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from lic_da import surroundings
from lic_da.codecs import zoo
from lic_da.codecs.image_codec import PictureCodec
from lic_da.config import available, plain
from lic_da.data.datamodule import (
    DomainsDataModule,
    LabelledPicture,
    domain_names,
    listed,
)
from lic_da.data.domains import load_domain
from lic_da.errors import Stopped, UserError, unknown
from lic_da.evaluation.compatibility import compatibility, parameters, trainable
from lic_da.evaluation.curves import without_effect
from lic_da.evaluation.images import Examples, comparison
from lic_da.evaluation.measure import check_blends
from lic_da.evaluation.metrics import METRICS
from lic_da.evaluation.summary import measure_into, metrics_table, table
from lic_da.io.files import (
    atomic_path,
    read_json,
    read_yaml,
    user_path,
    write_json,
    write_text,
)
from lic_da.io.run_folder import RUNNING
from lic_da.methods import pack
from lic_da.methods.module import CodecModule, TrainedAveraging
from lic_da.methods.optim import check_optimiser
from lic_da.methods.processes import check_processes, is_first
from lic_da.methods.steps import ExactSteps
from lic_da.migrations import metric_names, run_settings
from lic_da.registry import MODULES
from lic_da.tracking import loggers
from lic_da.tracking.results import log_result
from lic_da.training import extend
from lic_da.training.interruption import Termination, read_checkpoint
from lic_da.training.memory import keep_freed_memory

TRAIN_ON = ("all", "targets")
"""Domains whose pictures a method is trained on: all of the run, or the targets without the source."""


def train(config: DictConfig, folder: Path) -> dict[str, Any]:
    """Train a codec by the configured method, measure it, write everything to ``folder``.

    Args:
        config: composed from ``conf/train.yaml``.
        folder: of the run; see docs/files.md for what it holds afterwards.

    Returns:
        The contents of ``summary.json``.
    """
    names = _check(config)
    _quiet()
    keep_freed_memory()
    L.seed_everything(config.seed, verbose=False)
    adapted = (
        extend.extended_codec(config)
        if config.extend
        else pack.codec_class(config.method.codec).new(config, names)
    )
    module = _module(config, adapted)
    done = 0
    if config.ckpt_path:
        checkpoint = read_checkpoint(user_path(config.ckpt_path))
        module.check_checkpoint(checkpoint)
        done = checkpoint["global_step"]
    best, *callbacks = _callbacks(config, folder, module.monitored)
    trainer: L.Trainer = instantiate(
        config.trainer,
        logger=False,
        callbacks=[best, *callbacks],
        default_root_dir=folder,
        max_epochs=math.ceil(config.codec.training.steps / config.data.batches_per_epoch),
    )
    check_processes(trainer)
    console = Console(stderr=True, quiet=not trainer.is_global_zero)
    if trainer.is_global_zero:
        surroundings.wandb_mode(config.logger.mode)
        OmegaConf.save(config, folder / "config.yaml", resolve=True)
    data = _data(config, names, module, trainer, done=done, console=console)
    console.print(f"Training on {', '.join(names)} in {folder}", highlight=False)
    if not trainer.is_global_zero:
        _fit(trainer, module, data, config, folder)
        return {}  # the first process measures
    with loggers.tracked(config, folder) as attached:
        trainer.loggers = attached
        _fit(trainer, module, data, config, folder)
        if best.best_model_path:
            module.load_trained(read_checkpoint(Path(best.best_model_path)), best.best_model_path)
        adapted.to("cpu")
        adapted.check_base_unchanged()
        trained = trainable(adapted)
        adapted.finish()
        pack.save(adapted, folder / "pack", {})  # whatever may happen while it is measured
        cost = parameters(
            adapted,
            trained,
            learned=config.domains if config.extend else data.learned,
            held=adapted.domains if config.extend else data.learned,
        )
        return _result(config, folder, adapted, data, cost, attached, console)


def _module(config: DictConfig, adapted: PictureCodec) -> CodecModule:
    """The method's training of a codec."""
    settings = {**plain(config.method.training), "adapted": adapted}
    settings.pop("_partial_", None)  # as configurations of methods had it for Hydra's instantiate
    module: CodecModule = MODULES.make(settings)
    return module


def _data(
    config: DictConfig,
    names: Sequence[str],
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
    data: DomainsDataModule = instantiate(
        config.data, domains=names[1:], learned=_learned(config, names), done=done, console=console
    )
    data.prepare_data()
    data.setup()
    if data.validation_size < trainer.world_size:
        raise UserError(
            f"There are {data.validation_size} validation pictures for {trainer.world_size} processes: "
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
    config: DictConfig,
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
            ckpt_path = user_path(config.ckpt_path) if config.ckpt_path else None
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
    if trainer.interrupted or termination.told:
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


def _learned(config: DictConfig, names: Sequence[str]) -> Sequence[str]:
    """The domains whose pictures are trained on; those of the others are only tested."""
    if config.extend:
        return names if config.replay else config.domains
    return names if config.method.train_on == "all" else names[1:]


def train_what_is_missing(config: DictConfig, folder: Path) -> dict[str, Any]:
    """As :func:`train`, but only as far as ``folder`` does not hold it already.

    A finished run of the same settings over the same base weights is not touched; one that was killed
    goes on from its last checkpoint; one of other settings makes room.
    """
    _check(config)
    last = folder / "checkpoints" / "last.ckpt"
    if _is_run_of(config, folder):
        done = folder / "summary.json"
        if done.is_file():
            summary: dict[str, Any] = read_json(done)
            print(f"{folder.name}: already trained and measured")
            return summary
        if last.is_file():
            config.ckpt_path = str(last)
    elif is_first():
        _make_room(folder)
    return train(config, folder)


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
        f"{folder.name} was made with other settings or base weights: what it held is in {aside}."
    )


def _is_run_of(config: DictConfig, folder: Path) -> bool:
    """Whether the run in ``folder`` has these settings, and these base weights if it is finished."""
    if not (folder / "config.yaml").is_file():
        return False
    summary = folder / "summary.json"
    if summary.is_file():
        weights = zoo.fingerprint(zoo.build(config.codec).state_dict())
        if read_json(summary)["base_fingerprint"] != weights:
            return False
    return _settings(read_yaml(folder / "config.yaml")) == _settings(config)


_MISSING_ONCE = {"codec.training.optimiser": "adam", "method.training.optimiser": "adam"}
"""Settings that older runs do not name, and what they had."""


def _settings(config: Any) -> Any:
    """The settings that a result depends on."""
    config = OmegaConf.create(run_settings(plain(config)))
    assert isinstance(config, DictConfig)
    for key, value in _MISSING_ONCE.items():
        if OmegaConf.select(config, key) is None:
            OmegaConf.update(config, key, value, force_add=True)
    # Beside the folder of a pack that is extended its fingerprint stands.
    for key in (*without_effect(config), "extend"):
        OmegaConf.update(config, key, None, force_add=True)
    return OmegaConf.to_container(config)


def _check(config: DictConfig) -> tuple[str, ...]:
    """Refuse what cannot work before anything is downloaded; all domains, the source first."""
    zoo.check_quality(config.codec)
    earlier = extend.take_settings(config)
    source, *new = domain_names(config.domains, config.data.source)
    names = (*(earlier or [source]), *new)
    if len(names) < 2:
        raise UserError(
            f"Name at least one target domain, such as domains=[sketch]. Available: "
            f"{', '.join(available('domain'))}."
        )
    with open_dict(config):
        config.domains = new
        config.unseen = [name for name in listed(config.unseen) if name not in names]
    for name in (*names, *config.unseen):
        load_domain(name)
    if config.method.train_on not in TRAIN_ON:
        raise unknown("method.train_on", config.method.train_on, TRAIN_ON)
    check_optimiser(config)
    if config.extend and config.method.name != "adapters":
        raise UserError(
            f"A pack is extended by adapters only: leave out method={config.method.name}."
        )
    for key in ("crop", "val_crop"):
        if config.data[key] % config.codec.stride:
            raise UserError(
                f"data.{key} must be a multiple of {config.codec.stride} for this codec."
            )
    METRICS.chosen(metric_names(config.evaluation))
    kind = pack.codec_class(config.method.codec)
    check_blends(config.evaluation.blends, kind.blends, kind.blends_on_request)
    return names


def _callbacks(config: DictConfig, folder: Path, monitored: tuple[str, str]) -> list[Any]:
    checkpoints = folder / "checkpoints"
    monitor, mode = monitored
    at_end: dict[str, Any] = {"save_on_train_epoch_end": True, "enable_version_counter": False}
    callbacks: list[Any] = [
        ModelCheckpoint(checkpoints, filename="best", monitor=monitor, mode=mode, **at_end),
        ModelCheckpoint(checkpoints, filename="last", **at_end),
        Termination(checkpoints / "last.ckpt"),
        ExactSteps(config.codec.training.steps),
        RichProgressBar(leave=False),
    ]
    if config.ema is not None:
        callbacks.append(TrainedAveraging(config.ema))
    if config.early_stopping is not None:
        callbacks.append(
            EarlyStopping(
                monitor,
                mode=mode,
                patience=config.early_stopping,
                check_on_train_epoch_end=True,
            )
        )
    return callbacks


def _result(
    config: DictConfig,
    folder: Path,
    adapted: PictureCodec,
    data: DomainsDataModule,
    cost: dict[str, Any],
    attached: list[Any],
    console: Console,
) -> dict[str, Any]:
    """Code the test pictures, write pack, tables and pictures, print the table."""
    pictures = test_pictures(data)
    examples = Examples(config.evaluation.examples)
    summary = {
        **measure_into(
            folder,
            adapted,
            pictures,
            blends=config.evaluation.blends,
            metrics=metric_names(config.evaluation),
            decoded=examples,
            console=console,
        ),
        "compatibility": {
            **compatibility(
                adapted,
                data.pictures(adapted.domains[0], "test")[: config.evaluation.compatibility],
            ),
            "parameters": cost,
        },
        "git_commit": loggers.git_commit(),
        "skipped": {n: images.skipped for n, images in data.images.items() if images.skipped},
    }
    if config.extend:
        summary["before_after"] = extend.before_and_after(config, folder, pictures, console)
    pack.save(adapted, folder / "pack", summary)
    (folder / "pictures").mkdir(exist_ok=True)
    for number, example in enumerate(examples.kept):
        with atomic_path(folder / "pictures" / f"{example.domain}_{number}.png") as temporary:
            comparison(example).save(temporary, format="PNG")
    log_result(attached, summary, adapted.domains, examples.kept)
    out = Console(record=True)
    out.print(table(summary))
    if others := metrics_table(summary):
        out.print(others)
    if config.extend:
        out.print(extend.table(summary["before_after"]))
    for images in data.images.values():
        if images.skipped or images.notes:
            out.print(images.summary(), *images.notes, sep="\n", highlight=False, soft_wrap=True)
    write_text(folder / "table.txt", out.export_text())
    # Last of all: a run that has it is finished.
    write_json(folder / "summary.json", summary)
    out.print(
        f"\nTables rd_points.csv and summary.json, pictures/ and the pack are in {folder}\n"
        f"Next: lic-da compress PICTURE OUT.lic --pack {folder / 'pack'}",
        highlight=False,
        soft_wrap=True,
    )
    return summary


def test_pictures(data: DomainsDataModule) -> list[LabelledPicture]:
    """Test pictures of all domains of a data module, seen ones first."""
    return [p for n in (*data.domain_names, *data.unseen_names) for p in data.pictures(n, "test")]


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
        ".*isinstance.treespec.*",
        ".*dataloader is not resumable.*",
        ".*in eval mode at the start of training.*",
        ".*Checkpoint directory .* exists and is not empty.*",
    ):
        warnings.filterwarnings("ignore", message)
