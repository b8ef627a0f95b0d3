"""``make pretrain``: train a base codec on photographs, one quality after the other.

Loss: R + λ·255²·MSE with additive uniform noise as the proxy of quantisation (Ballé et al. 2018,
arXiv 1802.01436), and CompressAI's auxiliary loss for the quantiles of the entropy bottleneck. The
first quality starts from scratch, each next one from its neighbour's weights. The optimiser is SOAP,
and what is validated and kept is the exponential moving average of the weights.

Validation pictures are coded for real, and finished weights take the place of others only where their
rate-distortion loss on these pictures is lower. A run that is interrupted and started again goes on
after the last checkpoint, which SIGTERM writes at once; finished qualities are not trained again.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import lightning as L
import matplotlib.pyplot as plt
import torch
from compressai.models import CompressionModel
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig, ListConfig, OmegaConf
from rich.console import Console

from lic_da.codecs import fingerprints, zoo
from lic_da.codecs.checkpoints import fit, read_checkpoint
from lic_da.codecs.models.zou2022_variable import VariableRateWACNN, start_from
from lic_da.config import flat
from lic_da.errors import Stopped, UserError
from lic_da.io.files import (
    atomic_path,
    read_json,
    user_path,
    write_json,
    write_text,
)
from lic_da.methods.steps import ExactSteps
from lic_da.migrations import named
from lic_da.pretraining.module import Pretraining, coders_of, validate
from lic_da.pretraining.weights_files import (
    SCRATCH,
    Origin,
    Place,
    logged,
    write_rows,
)
from lic_da.training import interruption
from lic_da.training.memory import keep_freed_memory


def start_of(config: DictConfig, start: Path | None, console: Console) -> Path | None:
    """The weights to start from, if the codec has their sizes at this quality; None: scratch."""
    exported = Place.exported(config).weights
    if config.refine and exported.is_file():
        return exported
    if start is None:
        return None
    try:
        begin_with(zoo.build(config.codec, weights=False), start)
    except UserError as error:
        if start == given_start(config):
            raise
        console.print(f"quality {config.codec.quality} starts from scratch: {error}")
        return None
    return start


def begin_with(codec: CompressionModel, start: Path) -> None:
    """Load the weights that a training starts from.

    A codec of variable rate may start from a mean-scale hyperprior's of one rate.

    Raises:
        UserError: they do not fit.
    """
    weights = read_checkpoint(start)
    if isinstance(codec, VariableRateWACNN) and "gains.log_gain" not in weights:
        try:
            start_from(codec, weights)
        except (KeyError, ValueError) as error:
            raise UserError(
                f"The weights in {start} are not those of a mean-scale hyperprior that "
                f"{type(codec).__name__} can start from ({error})."
            ) from error
    else:
        codec.load_state_dict(fit(weights, codec, start))


def given_start(config: DictConfig) -> Path | None:
    """The weights that the user wants the first quality to start from."""
    return user_path(config.start) if config.start else None


_OF_CODEC = ("name", "quality", "model", "stride")
"""What pre-training depends on in a codec's configuration; the rest of it is about adapters."""


def settings_of(config: DictConfig) -> dict[str, Any]:
    """The configuration of a training, without folders and without what has no effect on it."""
    settings = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    for name in ("folder", "export", "qualities", "start"):
        settings.pop(name)
    codec = cast(dict[str, Any], OmegaConf.to_container(zoo.at_quality(config.codec), resolve=True))
    return {**settings, "codec": {name: codec[name] for name in _OF_CODEC}}


def check_settings(config: DictConfig, folder: Path) -> None:
    """Note the settings of a training, or refuse to go on with one that has others.

    Raises:
        UserError: the folder holds a training of other settings.
    """
    path = folder / "settings.json"
    start = given_start(config)
    settings = {**settings_of(config), "start": str(start.resolve()) if start else None}
    if not path.is_file():
        write_json(path, settings)
        return
    theirs = named(read_json(path))
    theirs.pop("started_from", None)
    theirs["codec"] = {name: theirs["codec"].get(name) for name in _OF_CODEC}
    theirs["data"].setdefault("photos", [])  # trainings from before it was there
    theirs["data"]["_target_"] = settings["data"]["_target_"]
    ours, theirs = flat(settings), flat(theirs)
    differing = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
    if differing:
        raise UserError(
            f"{folder} holds a training with other settings ({', '.join(differing)}): give those of "
            f"{path}, or another folder=…"
        )


def pretrain_quality(config: DictConfig, start: Path | None, data: Any, console: Console) -> None:
    """Train the configured quality, unless its weights are there already.

    Args:
        config: composed from ``conf/pretrain.yaml``.
        start: weights to start from; None: from scratch.
        data: the photographs.
        console: where progress is shown.

    Raises:
        Stopped: by a signal.
        UserError: the folder holds a training of other settings.
    """
    place = Place.trained(config)
    folder = place.weights.parent
    check_settings(config, folder)
    if place.weights.is_file():
        console.print(f"{folder.name} is trained already: {place.weights}")
        return
    L.seed_everything(config.seed, verbose=False)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    resumed = interruption.read_checkpoint(checkpoint) if checkpoint.is_file() else None
    codec, origin = _begun(config, start, folder, resumed, console)
    phase = "first" if origin.started_from == SCRATCH else "next"
    module = _module(codec, config, phase)
    trainer, termination = _trainer(config, folder, config.steps[phase])
    began = time.time()
    if resumed:
        progress = resumed["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        data.done = progress["total"]["completed"]
    with contextlib.suppress(SIGTERMException):
        trainer.fit(
            module, datamodule=data, ckpt_path=checkpoint if resumed else None, weights_only=True
        )
    if termination.told or trainer.current_epoch < (trainer.max_epochs or 0):
        raise Stopped("Stopped. The same command goes on after the last checkpoint.")
    codec = module.cpu().finished()
    zoo.round_kernels(codec)
    recipe = _recipe(config, origin, module, data, minutes=(time.time() - began) / 60)
    recipe["validation"] = validate(codec, data, config.codec)
    console.print(f"{folder.name}: {_in_words(recipe['validation'])}")
    write_json(place.recipe, recipe)
    log = logged(folder / "log", len(origin.training), config.data.batches_per_epoch)
    write_rows([*origin.log, *log], place.log)
    metadata = {"codec": config.codec.name, "quality": str(config.codec.quality)}
    zoo.save_weights(codec, place.weights, metadata, half=True)


def _begun(
    config: DictConfig,
    start: Path | None,
    folder: Path,
    resumed: dict[str, Any] | None,
    console: Console,
) -> tuple[CompressionModel, Origin]:
    """The codec as its training begins or goes on, and what its weights come from."""
    codec = zoo.build(config.codec, weights=False)
    noted = folder / "origin.json"
    if resumed and noted.is_file():
        # Lightning loads it again, but not into tables of another size.
        own = {k: v for k, v in resumed["state_dict"].items() if k.startswith("codec.")}
        codec.load_state_dict({k.removeprefix("codec."): v for k, v in own.items()})
        return codec, Origin(**read_json(noted))
    start = start_of(config, start, console)
    origin = Origin.of(start, Place.exported(config))
    write_text(noted, json.dumps(asdict(origin)) + "\n")
    if start is not None:
        begin_with(codec, start)
    return codec, origin


def _module(codec: CompressionModel, config: DictConfig, phase: str) -> Pretraining:
    return Pretraining(
        codec.train(),
        config.codec,
        lr=config.lr[phase],
        aux_lr=config.aux_lr,
        warmup=config.warmup,
        clip=config.clip,
        precondition_every=config.precondition_every,
        average=config.average,
        seed=config.seed,
        bf16=config.bf16,
        compile=config.compile,
    )


def _trainer(
    config: DictConfig, folder: Path, steps: int
) -> tuple[L.Trainer, interruption.Termination]:
    """The trainer of so many steps, and what notes that it was told to stop."""
    termination = interruption.Termination(folder / "checkpoints" / "last.ckpt")
    sessions = len(list(folder.glob("log/session_*")))
    trainer = L.Trainer(
        devices=1,
        max_epochs=math.ceil(steps / config.data.batches_per_epoch),
        # Lightning empties the log of a session that is resumed.
        logger=CSVLogger(folder, name="log", version=f"session_{sessions}"),
        callbacks=[
            ModelCheckpoint(folder / "checkpoints", filename="last", enable_version_counter=False),
            termination,
            ExactSteps(steps),
            RichProgressBar(leave=False),
        ],
        log_every_n_steps=50,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    return trainer, termination


def _recipe(
    config: DictConfig, origin: Origin, module: Pretraining, data: Any, *, minutes: float
) -> dict[str, Any]:
    """How the weights came to be, for the file beside them; without what they reach."""
    phase = "first" if origin.started_from == SCRATCH else "next"
    return {
        "codec": config.codec.name,
        "quality": config.codec.quality,
        "lmbda": module.lmbdas if len(module.lmbdas) > 1 else module.lmbdas[0],
        "training": [
            *origin.training,
            {
                "started_from": origin.started_from,
                "steps": config.steps[phase],
                "lr": config.lr[phase],
                "batch_size": config.data.batch_size,
                "crop": config.data.crop,
                "val_crop": config.data.val_crop,
                "batches_per_epoch": config.data.batches_per_epoch,
                "minutes_of_last_session": round(minutes, 1),
            },
        ],
        "training_images": len(data.train_dataset()),
        "validation": {},
        "config": settings_of(config),
        "torch": torch.__version__,
    }


def export(config: DictConfig, data: Any, console: Console) -> None:
    """Let trained weights take the place of those exported before, if they are better."""
    trained, exported = Place.trained(config), Place.exported(config)
    codec, before = trained.read(config), exported.read(config)
    assert codec is not None
    fingerprint = zoo.fingerprint(codec.state_dict())
    if before is None or zoo.fingerprint(before.state_dict()) != fingerprint:
        if before is not None:
            now, then = (validate(c, data, config.codec) for c in (codec, before))
            if not now["loss"] < then["loss"]:
                console.print(
                    f"The weights at {exported.weights} stay, for they are better: {_in_words(then)}"
                )
                return
            console.print(f"Those at {exported.weights} had {_in_words(then)}")
        for part in ("recipe", "log", "weights"):  # the weights last: with them it is done
            with atomic_path(getattr(exported, part)) as temporary:
                temporary.write_bytes(getattr(trained, part).read_bytes())
    file = fingerprints.FINGERPRINTS
    if config.export is not None:
        file = exported.weights.parent / file.name
    for quality, coder in coders_of(codec, config.codec).items():
        fingerprints.record(coder.fingerprint, config.codec.name, quality, file)


def _in_words(point: dict[str, Any]) -> str:
    return f"{point['bpp']:.4f} bpp, {point['psnr']:.3f} dB, R + λD {point['loss']:.4f}"


def write_curve(folder: Path, codec: str) -> None:
    """The validation points of all exported qualities, as ``validation.csv`` and ``validation.png``."""
    recipes = [
        read_json(path) for path in sorted({*folder.glob("q[0-9].json"), *folder.glob("all.json")})
    ]
    points = sorted(
        (int(quality), point["bpp"], point["psnr"])
        for recipe in recipes
        for quality, point in (
            recipe["validation"].get("rates") or {recipe["quality"]: recipe["validation"]}
        ).items()
    )
    with (
        atomic_path(folder / "validation.csv") as temporary,
        open(temporary, "w", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("quality", "bpp", "psnr"))
        writer.writerows((q, f"{bpp:.4f}", f"{psnr:.3f}") for q, bpp, psnr in points)
    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    axes.plot([p[1] for p in points], [p[2] for p in points], marker="o")
    axes.set(
        xlabel="rate, bits per pixel",
        ylabel="PSNR, dB",
        title=f"{codec}: validation photographs, real coding",
    )
    axes.grid(alpha=0.3)
    with atomic_path(folder / "validation.png") as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    plt.close(figure)


def check(config: DictConfig) -> None:
    """Refuse what cannot work before hours of training.

    Raises:
        UserError: a setting is out of its range.
    """
    if not isinstance(config.qualities, ListConfig) or not config.qualities:
        raise UserError("qualities must be a list such as [4,3].")
    for key in ("steps.first", "steps.next", "data.batches_per_epoch", "data.val_images"):
        if OmegaConf.select(config, key) < 1:
            raise UserError(f"{key} must be 1 at least.")
    if config.data.crop < 1 or config.data.crop % config.codec.stride:
        raise UserError(f"data.crop must be a multiple of {config.codec.stride} for this codec.")
    if config.refine and config.start:
        raise UserError("refine=true starts from the exported weights: leave out start.")


def pretrain(config: DictConfig) -> None:
    """Train all configured qualities."""
    console = Console(stderr=True)
    keep_freed_memory()
    torch.set_float32_matmul_precision("high")
    check(config)
    trainings = (
        [config.codec.quality] if config.codec.get("variable_rate") else list(config.qualities)
    )
    for quality in trainings:
        config.codec.quality = quality
        zoo.check_quality(config.codec)
        Place.exported(config).read(config)
    start = given_start(config)
    for quality in trainings:
        config.codec.quality = quality
        data = instantiate(config.data, console=console)
        pretrain_quality(config, start, data, console)
        data.setup()
        export(config, data, console)
        start = Place.trained(config).weights
    write_curve(Place.exported(config).weights.parent, config.codec.name)
