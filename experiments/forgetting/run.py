"""What does each method gain on a target, and what does it forget? ``make experiments/forgetting``.

Qualities 1 to 4. Adapters are those of ``experiments/sweep``; the other methods are trained on a target
alone, and those that may be trained on everything jointly too. ``…_equal`` trains on as many pixels as
the adapters, ``…_long`` and ``…_longer`` until nothing moves any more. Runs that are finished are not done
again.

Writes points.csv (means a quality), comparison.csv and two plots beside this file; with
``ARGS="--grids finetune,cawf"`` only those trainings are done, and the tables' other rows stay; without
``--grids`` the short ones are, which takes hours and not days. ``--qualities 3`` trains at some qualities
alone. Decode costs are those that ``benchmarks/methods.py`` has measured.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import common
from experiments.sweep import run as sweep_of_adapters
from lic_da.evaluation.curves import Run, Saving, Series, curve, savings, series_of
from lic_da.evaluation.measure import mean

HERE = Path(__file__).parent
SWEEPS = common.OUTPUTS / "experiment_forgetting"
DECODE = HERE.parents[1] / "benchmarks" / "results" / "methods.csv"
TARGETS = ("sketch", "comic")
ALONE = "domains=" + ",".join(f"[{target}]" for target in TARGETS)
JOINTLY = [f"domains=[{','.join(TARGETS)}]", "method.train_on=all"]
BY_ADAM = ["method.training.optimizer=adam", "method.training.warmup=100"]
ONE = f"domains=[{TARGETS[0]}]"
DECODER = "method=finetune_decoder"
CODEC = ("method=finetune", "method.training.lr=3e-3")
EQUAL, LONG, LONGER = (
    ("early_stopping=null", f"codec.training.steps={steps}") for steps in (500, 8000, 16000)
)
# Optimizers and learning rates were tried on validation sketches (README).
GRIDS = {
    "finetune_decoder": ["method=finetune_decoder", ALONE, "codec.training.steps=250"],
    "finetune": ["method=finetune", ALONE, "codec.training.steps=250", "method.training.lr=3e-3"],
    "cawf": ["method=cawf", ALONE, "codec.training.steps=500", *BY_ADAM],
    "finetune_decoder_jointly": ["method=finetune_decoder", *JOINTLY],
    "finetune_jointly": ["method=finetune", *JOINTLY],
    "scratch": ["method=scratch", ONE],
    "finetune_decoder_equal": [DECODER, ALONE, *EQUAL],
    "finetune_equal": [*CODEC, ALONE, *EQUAL],
    "adapters_long": [JOINTLY[0], *LONG],
    "finetune_decoder_long": [DECODER, ONE, *LONG],
    "finetune_long": [*CODEC, ONE, *LONG],
    "cawf_long": ["method=cawf", ONE, *BY_ADAM, *LONG],
    "adapters_longer": [JOINTLY[0], *LONGER],
    "finetune_decoder_longer": [DECODER, ONE, *LONGER],
    "finetune_longer": [*CODEC, ONE, *LONGER],
    "cawf_longer": ["method=cawf", ONE, *BY_ADAM, *LONGER],
    "finetune_decoder_jointly_long": [DECODER, *JOINTLY, *LONG],
    "finetune_jointly_long": [*CODEC, *JOINTLY, *LONG],
    "scratch_long": ["method=scratch", ONE, *LONG],
    "scratch_longer": ["method=scratch", ONE, *LONGER],
}
"""Name -> settings. Each step is of as many crops; short trainings of one target have 250 or 500 steps."""
ADAPTERS = "adapters"
SHORT = {"finetune_decoder": 250, "finetune": 250}
"""Steps of the trainings that go by the method's name alone; the others' are 500."""
FOLDERS = {
    ADAPTERS: sweep_of_adapters.RUNS,
    **{name: SWEEPS / name for name in GRIDS},
}
QUALITIES = "1,2,3,4"
SHORT_ONES = [name for name in FOLDERS if not name.endswith(("_equal", "_long", "_longer"))]
"""What is trained if nothing is asked for."""


@dataclass(frozen=True)
class Row:
    """What a method, trained on ``trained_on``, does to a target and to the source.

    BD-rates in percent and BD-PSNRs in dB against the base codec, over ``qualities`` points, nan where
    curves have no common PSNR or rate; of old streams, how many of ``images`` open and their
    PSNR less that of the base codec in dB; how many new streams of source images are the old ones
    byte for byte; parameters a domain that it was trained on; median time to decode, over the base codec's.
    Steps, and millions of pixels that were seen in them. What the last quarter of the training brought, as
    a mean over qualities: by how many percent R + λD of the validation images fell, or, where the rate is
    constant, by how many dB their PSNR rose; None: not known.
    """

    target: str
    method: str
    blend: str
    trained_on: str
    target_bd_rate: float
    source_bd_rate: float
    target_bd_psnr: float
    source_bd_psnr: float
    qualities: int
    images: int
    old_streams_decoded: int
    psnr_of_old_streams_change: float | None
    same_streams: int
    trained_per_domain: int
    stored_per_domain: int
    decode_ratio: float | None
    steps: int
    megapixels: float
    late_loss_percent: float | None
    late_gain_db: float | None


@dataclass(frozen=True)
class Mean:
    """Mean rate and PSNR of a domain's test images: a point of a curve."""

    method: str
    trained_on: str
    domain: str
    blend: str
    quality: int
    bpp: float
    psnr: float
    steps: int


def train(name: str, jobs: int, qualities: str = QUALITIES) -> None:
    """Train what is missing of a sweep; the adapters' own is always for all qualities."""
    if name == ADAPTERS:
        sweep_of_adapters.main(jobs=jobs)
        return
    settings = (
        common.QUICK_CODEC,
        *GRIDS[name],
        f"codec.quality={qualities}",
        *common.BRIEF,
        *common.NO_REPORT,
    )
    common.sweep(FOLDERS[name], *settings, jobs=jobs)


def finished(sweep: Path) -> list[Series]:
    """Series of a sweep."""
    return series_of(common.finished(sweep))


def rows(sweep: Path) -> Iterator[Row]:
    """The comparison's rows of a sweep."""
    costs = decode_ratios()
    for series in finished(sweep):
        of_series = [r for r in savings([series]) if r.interpolation == "akima"]
        summaries = [run.summary["compatibility"] for run in series.runs]
        for target in series.trained[1:]:
            for mode in series.modes(target):
                if mode in ("base", "top1"):
                    continue
                opened = [c for c in summaries if c["old_streams_decoded"]]
                changes = [c["psnr_of_old_streams"] - c["psnr_base"] for c in opened]
                yield Row(
                    target=target,
                    method=series.method,
                    blend=mode,
                    trained_on="+".join(series.trained[1:]),
                    target_bd_rate=saved(of_series, target, mode).bd_rate_percent,
                    source_bd_rate=saved(of_series, series.source, mode).bd_rate_percent,
                    target_bd_psnr=saved(of_series, target, mode).bd_psnr_db,
                    source_bd_psnr=saved(of_series, series.source, mode).bd_psnr_db,
                    qualities=len(series.runs),
                    images=sum(c["images"] for c in summaries),
                    old_streams_decoded=sum(c["old_streams_decoded"] for c in summaries),
                    psnr_of_old_streams_change=sum(changes) / len(changes) if changes else None,
                    same_streams=sum(c["same_streams"] for c in summaries),
                    trained_per_domain=summaries[0]["parameters"]["trained_per_domain"],
                    stored_per_domain=summaries[0]["parameters"]["stored_per_domain"],
                    decode_ratio=costs.get(series.method),
                    steps=steps(series),
                    megapixels=megapixels(series),
                    **late(series.runs),
                )


def steps(series: Series) -> int:
    """Steps that a series was trained for."""
    return int(series.runs[0].config["codec"]["training"]["steps"])


def megapixels(series: Series) -> float:
    """Millions of pixels of all crops of a training."""
    training = series.runs[0].config["codec"]["training"]
    return float(steps(series) * training["batch_size"] * training["crop"] ** 2 / 1e6)


def late(runs: Sequence[Run]) -> dict[str, float | None]:
    """What the last quarter of trainings brought; see :class:`Row`."""
    losses: list[tuple[float, float]] = []
    gains: list[tuple[float, float]] = []
    for run in runs:
        for name, found in (("val/loss", losses), ("val/gain", gains)):
            logged = run.logged(name)
            until = 0.75 * (logged[-1][0] + 1) if logged else 0
            before = [value for step, value in logged if step < until]
            if before:
                found.append((before[-1], logged[-1][1]))
    if losses:  # the gain of a codec that has rates of its own says nothing by itself
        return {
            "late_loss_percent": mean(100 * (1 - b / a) for a, b in losses),
            "late_gain_db": None,
        }
    gain = mean(b - a for a, b in gains) if gains else None
    return {"late_loss_percent": None, "late_gain_db": gain}


def saved(rows: list[Saving], domain: str, mode: str) -> Saving:
    """The deltas of a domain and mode."""
    (row,) = (r for r in rows if (r.domain, r.blend) == (domain, mode))
    return row


def decode_ratios() -> dict[str, float]:
    """Decode time over the base codec's, by method."""
    if not DECODE.is_file():
        return {}
    return {row["method"]: float(row["ratio"]) for row in common.read_table(DECODE)}


def means(sweep: Path) -> Iterator[Mean]:
    """Points of all curves of a sweep."""
    for series in finished(sweep):
        own = series.method, "+".join(series.trained[1:])
        for domain in series.domains:
            for mode in series.modes(domain):
                c = curve(series.points(domain, mode))
                for run, bpp, psnr in zip(series.runs, c.bpp, c.psnr, strict=True):
                    yield Mean(*own, domain, mode, run.quality, bpp, psnr, steps(series))


def updated(
    path: Path, kind: Callable[..., common.Line], new: Iterable[common.Line], *by: str
) -> list[common.Line]:
    """Write a table anew; rows of trainings that are not among the new ones stay.

    Args:
        path: of the CSV file, which may be missing.
        kind: of its rows.
        new: rows.
        by: what tells a row of a training from its others that may stay.
    """
    own = attrgetter("method", "trained_on", "steps", *by)
    lines = [*new]
    done = {own(line) for line in lines}
    if path.is_file():
        lines += [line for line in common.read_rows(path, kind) if own(line) not in done]
    common.write_table(path, lines, ".5f")
    return lines


def name(row: Row) -> str:
    """The row in words."""
    mode = "" if row.blend == "adapted" else f" {row.blend}"
    joint = ", jointly" if "+" in row.trained_on and row.method != "adapters" else ""
    long = "" if row.steps == SHORT.get(row.method, 500) else f", {row.steps} steps"
    return f"{row.method}{mode}{joint}{long}"


def plot(comparison: list[Row], path: Path) -> None:
    """What is gained over what is forgotten, of the methods whose curves meet those of the base codec.

    At equal rates, since the best curves have no PSNR in common with the base.
    """
    figure, axes = plt.subplots(1, len(TARGETS), figsize=(9.6, 5), layout="constrained")
    shown = [r for r in comparison if not math.isnan(r.target_bd_psnr + r.source_bd_psnr)]
    names = sorted({name(row) for row in shown})
    for axis, target in zip(axes, TARGETS, strict=True):
        for row in (row for row in shown if row.target == target):
            number = names.index(name(row))
            axis.plot(
                row.source_bd_psnr,
                row.target_bd_psnr,
                "os^vDPX*"[number % 8],
                color=f"C{number % 10}",
                markersize=9,
                label=name(row),
            )
        axis.axhline(0, color="grey", linewidth=0.8)
        axis.axvline(0, color="grey", linewidth=0.8)
        axis.set(
            title=target,
            xlabel="BD-PSNR on natural, dB (left: forgotten)",
            ylabel=f"BD-PSNR on {target}, dB (up: gained)",
        )
    legend(figure, axes, ncols=4)
    common.save_plot(figure, path)


def legend(figure: Figure, axes: Iterable[Axes], ncols: int) -> None:
    """One legend below all axes, with what any of them shows."""
    told: dict[str, Any] = {}
    for axis in axes:
        told |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    told = dict(sorted(told.items()))
    figure.legend(
        told.values(), told.keys(), loc="outside lower center", ncols=ncols, fontsize="small"
    )


def plot_curves(points: list[Mean], path: Path) -> None:
    """Rate and distortion of all methods on targets and source, but of those at twice the base's rates."""
    domains = ("natural", *TARGETS)
    figure, axes = plt.subplots(1, len(domains), figsize=(13, 6.2), layout="constrained")
    methods = list(dict.fromkeys(p.method for p in points))
    lines = {TARGETS[0]: "-", TARGETS[1]: ":"}
    ordered = sorted(points, key=lambda p: (p.method, p.trained_on, p.steps, p.quality))
    for axis, domain in zip(axes, domains, strict=True):
        here = [p for p in ordered if p.domain == domain]
        of_base = (p for p in sorted(here, key=attrgetter("quality")) if p.blend == "base")
        base = [*{p.quality: p for p in of_base}.values()]
        axis.plot([p.bpp for p in base], [p.psnr for p in base], "k.-", label="base")
        most = 2 * max((p.bpp for p in base), default=math.inf)
        shown = [p for p in here if p.blend in ("weighted", "adapted") and p.bpp < most]
        for key, group in itertools.groupby(shown, attrgetter("method", "trained_on", "steps")):
            method, trained_on, steps = key
            curve_ = list(group)
            axis.plot(
                [p.bpp for p in curve_],
                [p.psnr for p in curve_],
                lines.get(trained_on, "--"),
                marker={250: ".", 500: "o", 8000: "*"}.get(steps, "X"),
                markersize=11 if steps > 500 else 5,
                linewidth=2.2 if steps > 500 else 1,
                color=f"C{methods.index(method)}",
                label=f"{method} on {trained_on}, {steps} steps",
            )
        axis.set(title=domain, xlabel="bits per pixel", ylabel="PSNR, dB")
    legend(figure, axes, ncols=4)
    common.save_plot(figure, path)


def write(folder: Path, rows: Iterable[Row], means: Iterable[Mean]) -> list[Row]:
    """Bring both tables in a folder up to date and draw the plots; the whole comparison."""
    comparison = updated(folder / "comparison.csv", Row, rows)
    plot(comparison, folder / "forgetting.png")
    points = updated(folder / "points.csv", Mean, means, "quality")
    plot_curves(points, folder / "rd_curves.png")
    return comparison


def main(
    grids: str = ",".join(SHORT_ONES), jobs: common.Jobs = 1, qualities: str = QUALITIES
) -> None:
    """Train what is missing, write tables and plots, say what the adapters recover.

    ``grids`` are trainings to do, ``qualities`` those of the codec, both with commas.
    """
    chosen = grids.split(",")
    for grid in chosen:
        if grid not in FOLDERS:
            raise SystemExit(f"Unknown trainings '{grid}'. Available: {', '.join(FOLDERS)}.")
    failed: int | str | None = None
    for grid in chosen:
        try:
            train(grid, jobs, qualities)
        except SystemExit as end:  # what is finished comes into the tables all the same
            failed = end.code
    folders = [FOLDERS[grid] for grid in chosen]
    found = (point for folder in folders for point in means(folder))
    comparison = write(HERE, (row for folder in folders for row in rows(folder)), found)
    for target in TARGETS:
        gained = {name(r): r.target_bd_rate for r in comparison if r.target == target}
        share = 100 * gained["adapters oracle"] / gained["finetune_decoder"]
        print(
            f"{target}: adapters (oracle) save {-gained['adapters oracle']:.1f} % of the rate, "
            f"{share:.0f} % of what fine-tuning the decoder saves ({-gained['finetune_decoder']:.1f} %)"
        )
    raise SystemExit(failed)


if __name__ == "__main__":
    typer.run(main)
