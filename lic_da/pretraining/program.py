"""``make pretrain``: train a base codec on photographs, one quality after the other.

Loss: R + λ·255²·MSE with additive uniform noise as the proxy of quantisation (Ballé et al. 2018,
arXiv 1802.01436), and CompressAI's auxiliary loss for the quantiles of the entropy bottleneck. The
first quality starts from scratch, each next one from its neighbour's weights. The optimizer is SOAP,
and what is validated and kept is the exponential moving average of the weights.

Validation images are coded for real, and finished weights take the place of others only where their
rate-distortion loss on these images is lower. A run that is interrupted and started again goes on
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
from typing import Any

import lightning as L
import matplotlib.pyplot as plt
import torch
from compressai.models import CompressionModel
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console

from lic_da.codecs import fingerprints, zoo
from lic_da.codecs.checkpoints import read_checkpoint, remap_state_dict
from lic_da.codecs.models.zou2022_variable import VariableRateWACNN, start_from
from lic_da.errors import Stopped, UserError
from lic_da.io.files import (
    atomic_path,
    read_json,
    write_json,
    write_text,
)
from lic_da.methods.steps import ExactSteps
from lic_da.pretraining.module import Pretraining, coders_of, validate
from lic_da.pretraining.settings import PretrainingSettings
from lic_da.pretraining.weights_files import (
    SCRATCH,
    Provenance,
    WeightsFiles,
    logged,
    write_rows,
)
from lic_da.tracking.progress import TrainingProgress
from lic_da.training import interruption
from lic_da.training.memory import keep_freed_memory


def start_of(settings: PretrainingSettings, start: Path | None, console: Console) -> Path | None:
    """The weights to start from, if the codec has their sizes at this quality; None: scratch."""
    exported = WeightsFiles.exported(settings).weights
    if settings.refine and exported.is_file():
        return exported
    if start is None:
        return None
    try:
        begin_with(zoo.build(settings.codec, weights=False), start)
    except UserError as error:
        if start == settings.start:
            raise
        console.print(f"quality {settings.codec.quality} starts from scratch: {error}")
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
        codec.load_state_dict(remap_state_dict(weights, codec, start))


def check_settings(settings: PretrainingSettings, folder: Path) -> None:
    """Note the settings of a training, or refuse to go on with one that has others.

    Raises:
        UserError: the folder holds a training of other settings.
    """
    path = folder / "settings.json"
    if not path.is_file():
        write_json(path, settings.noted())
        return
    differing = settings.differing(read_json(path))
    if differing:
        raise UserError(
            f"{folder} holds a training with other settings ({', '.join(differing)}): give those of "
            f"{path}, or another folder=…"
        )


def pretrain_quality(
    settings: PretrainingSettings, start: Path | None, data: Any, console: Console
) -> None:
    """Train the codec at its quality, unless its weights are there already.

    Args:
        settings: of the training.
        start: weights to start from; None: from scratch.
        data: the photographs.
        console: where progress is shown.

    Raises:
        Stopped: by a signal.
        UserError: the folder holds a training of other settings.
    """
    place = WeightsFiles.trained(settings)
    folder = place.weights.parent
    check_settings(settings, folder)
    if place.weights.is_file():
        console.print(f"{folder.name} is trained already: {place.weights}")
        return
    L.seed_everything(settings.seed, verbose=False)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    resumed = interruption.read_checkpoint(checkpoint) if checkpoint.is_file() else None
    codec, origin = _begun(settings, start, folder, resumed, console)
    phase = "first" if origin.started_from == SCRATCH else "next"
    module = _module(codec, settings, phase)
    epochs = math.ceil(settings.steps[phase] / settings.data["batches_per_epoch"])
    trainer, termination = _trainer(folder, settings.steps[phase], epochs)
    began = time.time()
    if resumed:
        progress = resumed["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        data.done = progress["total"]["completed"]
    with contextlib.suppress(SIGTERMException):
        trainer.fit(
            module, datamodule=data, ckpt_path=checkpoint if resumed else None, weights_only=True
        )
    if termination.sigterm_received or trainer.current_epoch < (trainer.max_epochs or 0):
        raise Stopped("Stopped. The same command goes on after the last checkpoint.")
    codec = module.cpu().finished()
    zoo.round_kernels(codec)
    recipe = _recipe(settings, origin, module, data, minutes=(time.time() - began) / 60)
    recipe["validation"] = validate(codec, data, settings.codec)
    console.print(f"{folder.name}: {_in_words(recipe['validation'])}")
    write_json(place.recipe, recipe)
    log = logged(folder / "log", len(origin.training), settings.data["batches_per_epoch"])
    write_rows([*origin.log, *log], place.log)
    metadata = {"codec": settings.codec.name, "quality": str(settings.codec.quality)}
    zoo.save_weights(codec, place.weights, metadata, half=True)


def _begun(
    settings: PretrainingSettings,
    start: Path | None,
    folder: Path,
    resumed: dict[str, Any] | None,
    console: Console,
) -> tuple[CompressionModel, Provenance]:
    """The codec as its training begins or goes on, and what its weights come from."""
    codec = zoo.build(settings.codec, weights=False)
    noted = folder / "origin.json"
    if resumed and noted.is_file():
        # Lightning loads it again, but not into tables of another size.
        own = {k: v for k, v in resumed["state_dict"].items() if k.startswith("codec.")}
        codec.load_state_dict({k.removeprefix("codec."): v for k, v in own.items()})
        return codec, Provenance(**read_json(noted))
    start = start_of(settings, start, console)
    origin = Provenance.of(start, WeightsFiles.exported(settings))
    write_text(noted, json.dumps(asdict(origin)) + "\n")
    if start is not None:
        begin_with(codec, start)
    return codec, origin


def _module(codec: CompressionModel, settings: PretrainingSettings, phase: str) -> Pretraining:
    return Pretraining(
        codec.train(),
        settings.codec,
        lr=settings.lr[phase],
        seed=settings.seed,
        **settings.module,
    )


def _trainer(folder: Path, steps: int, epochs: int) -> tuple[L.Trainer, interruption.Termination]:
    """The trainer of so many steps, and what notes that it was told to stop."""
    termination = interruption.Termination(folder / "checkpoints" / "last.ckpt")
    sessions = len(list(folder.glob("log/session_*")))
    trainer = L.Trainer(
        devices=1,
        max_epochs=epochs,
        # Lightning empties the log of a session that is resumed.
        logger=CSVLogger(folder, name="log", version=f"session_{sessions}"),
        callbacks=[
            ModelCheckpoint(folder / "checkpoints", filename="last", enable_version_counter=False),
            termination,
            ExactSteps(steps),
            TrainingProgress(),
        ],
        log_every_n_steps=50,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    return trainer, termination


def _recipe(
    settings: PretrainingSettings,
    origin: Provenance,
    module: Pretraining,
    data: Any,
    *,
    minutes: float,
) -> dict[str, Any]:
    """How the weights came to be, for the file beside them; without what they reach."""
    phase = "first" if origin.started_from == SCRATCH else "next"
    of_data = ("batch_size", "crop", "val_crop", "batches_per_epoch")
    lmbdas = [module.lmbdas[place] for place in module.drawn]
    return {
        "codec": settings.codec.name,
        "quality": settings.codec.quality,
        "lmbda": lmbdas if len(module.lmbdas) > 1 else lmbdas[0],
        "training": [
            *origin.training,
            {
                "started_from": origin.started_from,
                "steps": settings.steps[phase],
                "lr": settings.lr[phase],
                **({"rates": settings.module["rates"]} if settings.module["rates"] else {}),
                **{key: settings.data[key] for key in of_data},
                "minutes_of_last_session": round(minutes, 1),
            },
        ],
        "training_images": len(data.train_dataset()),
        "validation": {},
        "config": settings.recipe(),
        "torch": torch.__version__,
    }


def export(settings: PretrainingSettings, data: Any, console: Console) -> None:
    """Let trained weights take the place of those exported before, if they are better."""
    trained, exported = WeightsFiles.trained(settings), WeightsFiles.exported(settings)
    spec = settings.codec
    codec, before = trained.read(spec), exported.read(spec)
    assert codec is not None
    fingerprint = zoo.fingerprint(codec.state_dict())
    if before is None or zoo.fingerprint(before.state_dict()) != fingerprint:
        if before is not None:
            now, then = (validate(c, data, spec) for c in (codec, before))
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
    if settings.export is not None:
        file = exported.weights.parent / file.name
    for quality, coder in coders_of(codec, spec).items():
        fingerprints.record(coder.fingerprint, spec.name, quality, file)


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


def pretrain(settings: PretrainingSettings) -> None:
    """Train all qualities that settings name."""
    console = Console(stderr=True)
    keep_freed_memory()
    torch.set_float32_matmul_precision("high")
    trainings = [settings.at_quality(quality) for quality in settings.qualities]
    for own in trainings:
        WeightsFiles.exported(own).read(own.codec)
    start = settings.start
    for own in trainings:
        data = instantiate(own.data, console=console)
        pretrain_quality(own, start, data, console)
        data.setup()
        export(own, data, console)
        start = WeightsFiles.trained(own).weights
    write_curve(WeightsFiles.exported(settings).weights.parent, settings.codec.name)
