"""One pack for all rates, or one for each? ``make experiments/all_rates``.

Trains what is missing of ``experiments/sweep --codec zou2022_n64``, a pack for each of four qualities, and
one pack for all qualities by as many steps as one of those and by twice as many. Writes table.csv, BD-rates
and seconds of training; gains.csv, gains over the base decoder at each quality; and gains.png.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import typer

from experiments import common
from experiments.sweep import run as sweep
from lic_da.config import ALL
from lic_da.evaluation.curves import Saving, Series, savings, series_of

HERE = Path(__file__).parent
CODEC = "zou2022_n64"
RUNS = common.OUTPUTS / "experiment_all_rates"
FOR_EACH = sweep.RUNS.with_name(f"{sweep.RUNS.name}_{CODEC}")
STEPS = (500, 1000)
MEASURED = (
    *("evaluation.modes=[base,weighted]", "evaluation.ms_ssim=false"),
    *("evaluation.examples=0", "evaluation.compatibility=1"),
)
"""Of the packs for all rates: what the tables need, at four qualities each."""


@dataclass(frozen=True)
class Row:
    """What the packs of a training save on a domain against the base decoder, at the gate's weights.

    Attributes:
        trained: ``all`` or ``each``: for all qualities at once, or for each.
        steps: of all trainings together.
        packs: how many there are.
        train_s: seconds of training and validating, of all of them; None: a training was interrupted.
        domain: of the test images.
        seen: whether it was trained on.
        bd_rate_percent: Akima, as in ``bd_rate.csv`` of a sweep.
        bd_psnr_db: the same.
    """

    trained: str
    steps: int
    packs: int
    train_s: float | None
    domain: str
    seen: bool
    bd_rate_percent: float
    bd_psnr_db: float


@dataclass(frozen=True)
class Gain:
    """Mean gain in dB over the base decoder at a quality, at the gate's weights."""

    trained: str
    steps: int
    domain: str
    quality: int
    gain: float


def train(jobs: int) -> None:
    """Train what is missing of the packs for all qualities."""
    steps = ",".join(map(str, STEPS))
    common.sweep(
        RUNS,
        *(f"codec={CODEC}", "codec.quality=all", "domains=[sketch,comic]"),
        *(f"codec.training.steps={steps}", *MEASURED, *common.NO_REPORT),
        jobs=jobs,
    )


def train_seconds(folder: Path) -> float | None:
    """Seconds from when a run wrote its settings to its last checkpoint; None if it was interrupted."""
    if len([*folder.glob("logs/version_*")]) != 1:
        return None
    begun, done = (folder / name for name in ("config.yaml", "checkpoints/last.ckpt"))
    return done.stat().st_mtime - begun.stat().st_mtime


def described(series: Series) -> tuple[str, int]:
    """How the packs of a series were trained, and by how many steps altogether."""
    settings = {run.folder: run.config["codec"] for run in series.runs}
    qualities = {codec["quality"] for codec in settings.values()}
    steps = sum(int(codec["training"]["steps"]) for codec in settings.values())
    return (ALL if qualities == {ALL} else "each"), steps


def rows(series: Series) -> list[Row]:
    """The rows of a series, a domain each."""
    folders = dict.fromkeys(run.folder for run in series.runs)
    seconds = [train_seconds(folder) for folder in folders]
    known = [s for s in seconds if s is not None]
    together = sum(known) if len(known) == len(seconds) else None
    return [
        Row(
            *(*described(series), len(folders), together),
            *(saving.domain, saving.seen, saving.bd_rate_percent, saving.bd_psnr_db),
        )
        for saving in savings([series])
        if _reported(saving)
    ]


def _reported(saving: Saving) -> bool:
    return (saving.blend, saving.anchor, saving.interpolation) == ("weighted", "base", "akima")


def gains(series: Series) -> list[Gain]:
    """Gains of a series at each of its qualities."""
    return [
        Gain(*described(series), domain, run.quality, row["gain"]["weighted"])
        for run in series.runs
        for domain, row in run.summary["domains"].items()
    ]


def write(table: Sequence[Row], over_quality: Sequence[Gain], folder: Path) -> None:
    """table.csv, gains.csv and gains.png."""
    common.write_table(folder / "table.csv", table, ".4f")
    common.write_table(folder / "gains.csv", over_quality, ".4f")
    plot(over_quality, folder / "gains.png")


def plot(over_quality: Sequence[Gain], path: Path) -> None:
    """Gain over the quality, a chart a domain and a line a training."""
    domains = list(dict.fromkeys(g.domain for g in over_quality))
    figure, axes = plt.subplots(
        1, len(domains), figsize=(3.2 * len(domains), 3.4), layout="constrained", squeeze=False
    )
    for axis, domain in zip(axes[0], domains, strict=True):
        for trained, steps in dict.fromkeys((g.trained, g.steps) for g in over_quality):
            own = [
                g
                for g in over_quality
                if (g.domain, g.trained, g.steps) == (domain, trained, steps)
            ]
            axis.plot(
                [g.quality for g in own],
                [g.gain for g in own],
                "o-" if trained == ALL else "s--",
                label=f"{'one pack' if trained == ALL else 'a pack for each'}, {steps} steps",
            )
        axis.set_xticks(sorted({g.quality for g in over_quality}))
        axis.set(title=domain, xlabel="quality")
        axis.axhline(0, color="grey", linewidth=0.8)
    axes[0][0].set_ylabel("dB over the base decoder")
    axes[0][0].legend(fontsize="small")
    common.save_plot(figure, path)


def main(jobs: common.Jobs = 1) -> None:
    """Train what is missing, write tables and plot."""
    sweep.main(CODEC, jobs)
    train(jobs)
    found = series_of([*common.finished(FOR_EACH), *common.finished(RUNS)])
    found.sort(key=described)
    table = [row for series in found for row in rows(series)]
    write(table, [gain for series in found for gain in gains(series)], HERE)
    for row in table:
        print(f"{row.trained}, {row.steps} steps, {row.domain}: {row.bd_rate_percent:+.2f} %")


if __name__ == "__main__":
    typer.run(main)
