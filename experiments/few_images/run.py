"""How many images of a domain does a method need? ``make experiments/few_images``.

Trains every method on 5, 10, 25, 50, 100 and all training images of a target at one quality. Runs
that are finished are not done again. Writes results.csv and gains.png beside this file. Methods differ
in rate, so their gain is that over the base codec's curve at the same rate; the curve is that of
``experiments/forgetting``. With ``ARGS=--augment`` only adapters are trained, on 5, 25 and all images,
each with ``data.augment`` and without, and augment.csv is written.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import typer
from scipy.interpolate import PchipInterpolator

from experiments import common
from lic_da.data.domains import prepare
from lic_da.evaluation.curves import Run

HERE = Path(__file__).parent
RUNS = common.OUTPUTS / "experiment_few_images"
CURVES = HERE.parent / "forgetting" / "points.csv"
SOURCE, TARGET, QUALITY = "natural", "sketch", 3
COUNTS = (5, 10, 25, 50, 100, None)
AUGMENTED = (5, 25, None)
# Every method sees as many crops of the target; half of those of the adapters are of the source.
STEPS = {"adapters": 1000, "finetune_decoder": 500, "finetune": 500, "cawf": 500}
# Adam and what goes with it, which was the default when these were trained.
SETTINGS = ("codec.training.optimizer=adam", "codec.training.lr=5e-4", "method.training.warmup=100")


@dataclass(frozen=True)
class Result:
    """What a method reaches with some training images: PSNR in dB over the base's at equal rate."""

    method: str
    blend: str
    train_images: int
    bpp: float
    psnr: float
    gain: float
    source_gain: float


@dataclass(frozen=True)
class Augmented:
    """What adapters reach with and without augmentation: PSNR in dB, and over the base's on the source."""

    augment: bool
    train_images: int
    psnr: float
    gain: float
    source_gain: float
    gate_accuracy: float


def train(method: str, jobs: int) -> None:
    """Train what is missing of a method."""
    _sweep(RUNS / method, method, COUNTS, jobs)


def train_augmented(jobs: int) -> None:
    """Train what is missing of adapters with and without augmentation."""
    modes = "evaluation.modes=[base,weighted]"
    _sweep(RUNS / "augment", "adapters", AUGMENTED, jobs, "data.augment=false,true", modes)


def _sweep(folder: Path, method: str, counts: Sequence[int | None], jobs: int, *more: str) -> None:
    values = ",".join("null" if count is None else str(count) for count in counts)
    common.sweep(
        folder,
        common.QUICK_CODEC,
        *(f"method={method}", f"domains=[{TARGET}]", f"codec.quality={QUALITY}"),
        *(f"data.train_images={values}", f"codec.training.steps={STEPS[method]}"),
        *(*SETTINGS, *common.BRIEF, *common.NO_REPORT, *more),
        jobs=jobs,
    )


def base_curve(domain: str) -> PchipInterpolator:
    """PSNR of the base codec over the logarithm of its rate."""
    points = {
        float(row["bpp"]): float(row["psnr"])
        for row in common.read_table(CURVES)
        if (row["domain"], row["blend"]) == (domain, "base")
    }
    bpp, psnr = zip(*sorted(points.items()), strict=True)
    return PchipInterpolator([math.log(b) for b in bpp], psnr, extrapolate=False)


def results(method: str, all_images: int) -> list[Result]:
    """Results of a method, by number of images."""
    base = {domain: base_curve(domain) for domain in (SOURCE, TARGET)}
    found = []
    for run in common.finished(RUNS / method):
        for mode in ("weighted", "oracle") if method == "adapters" else ("adapted",):
            gains, figures = {}, {}
            for domain, curve in base.items():
                row = run.summary["domains"][domain]
                figures[domain] = row["bpp"], row["psnr"][mode]
                gains[domain] = row["psnr"][mode] - float(curve(math.log(row["bpp"])))
            count = run.config["data"]["train_images"] or all_images
            found.append(
                Result(
                    *(method, mode, count, *figures[TARGET]),
                    gain=gains[TARGET],
                    source_gain=gains[SOURCE],
                )
            )
    return sorted(found, key=lambda r: (r.blend, r.train_images))


def augmented(runs: Iterable[Run], all_images: int) -> list[Augmented]:
    """Results with and without augmentation, by number of images; gains are at the base codec's rate."""
    found = []
    for run in runs:
        own, source = (run.summary["domains"][domain] for domain in (TARGET, SOURCE))
        found.append(
            Augmented(
                run.config["data"]["augment"],
                run.config["data"]["train_images"] or all_images,
                psnr=own["psnr"]["weighted"],
                gain=own["gain"]["weighted"],
                source_gain=source["gain"]["weighted"],
                gate_accuracy=run.summary["gate_accuracy"],
            )
        )
    return sorted(found, key=lambda r: (r.train_images, r.augment))


def write(found: list[Result], folder: Path) -> None:
    """results.csv, a row a method, mode and number of images, and gains.png."""
    common.write_table(folder / "results.csv", found, ".4f")
    plot(found, folder / "gains.png")


def plot(found: list[Result], path: Path) -> None:
    """Gain on the target and on the source, over the number of images."""
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 4), layout="constrained")
    for axis, value, domain in zip(axes, ("gain", "source_gain"), (TARGET, SOURCE), strict=True):
        for method, mode in dict.fromkeys((r.method, r.blend) for r in found):
            own = [r for r in found if (r.method, r.blend) == (method, mode)]
            axis.semilogx(
                [r.train_images for r in own],
                [getattr(r, value) for r in own],
                "o--" if mode == "oracle" else "o-",
                label=method if mode == "adapted" else f"{method}, {mode}",
            )
        axis.axhline(0, color="grey", linewidth=0.8)
        axis.set_xticks(ticks := sorted({r.train_images for r in found}), map(str, ticks))
        axis.minorticks_off()
        axis.set(title=domain, xlabel=f"training images of {TARGET}")
        axis.set_ylabel("dB over the base codec at the same rate")
    axes[0].legend(fontsize="small")
    common.save_plot(figure, path)


def main(
    jobs: common.Jobs = 1,
    augment: Annotated[
        bool, typer.Option("--augment", help="Measure augmentation instead: augment.csv.")
    ] = False,
) -> None:
    """Train what is missing, write table and plot."""
    everything = len(prepare(TARGET, Path("data")).split("train"))
    if augment:
        train_augmented(jobs)
        rows = augmented(common.finished(RUNS / "augment"), everything)
        common.write_table(HERE / "augment.csv", rows, ".4f")
        for line in rows:
            how = "with" if line.augment else "without"
            print(f"{line.train_images} images, {how} augmentation: {line.gain:+.2f} dB")
        return
    if not CURVES.is_file():
        raise SystemExit(f"{CURVES} is missing: make experiments/forgetting writes it.")
    for method in STEPS:
        train(method, jobs)
    found = [result for method in STEPS for result in results(method, everything)]
    write(found, HERE)
    for row in found:
        print(f"{row.method} {row.blend}, {row.train_images} images: {row.gain:+.2f} dB")


if __name__ == "__main__":
    typer.run(main)
