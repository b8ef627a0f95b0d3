"""What does each choice of the adapters bring? ``make experiments/ablation``.

Trains over one codec at quality 3 on sketches and comics with one setting changed at a time and three
seeds, and tests on these, on photographs and on clip art. Runs that are finished are not done again, so
that it may be done in parts: ``ARGS="--settings sites,rank --seeds 0"``; with ``--no-train`` tables are
only written anew. Writes what there is, beside this file: parts.csv (which runs the tables hold),
gains.csv, gains.png and results.md, the table for people.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import typer
from numpy.typing import NDArray

from experiments import common
from lic_da.errors import unknown
from lic_da.evaluation.by_image import bootstrap
from lic_da.evaluation.curves import Run
from lic_da.evaluation.measure import mean
from lic_da.io.files import write_text

HERE = Path(__file__).parent
RUNS = common.OUTPUTS / "experiment_ablation"
CODEC, QUALITY, SEEDS = "bmshj2018_factorized_n64", 3, (0, 1, 2)
SOURCE, TARGETS, UNSEEN = "natural", ("sketch", "comic"), "clipart"
DOMAINS = (SOURCE, *TARGETS, UNSEEN)
RESAMPLES = 1000
SETTINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "default": {"published sites, full kernels, gate on ŷ, γ 0.01, 500 steps": ()},
    "sites": {
        "all convolutions": ("sites=all",),
        "the serial one alone": ("sites=[{kind: serial, at: 3}]",),
        "the first parallel one alone": ("sites=[{kind: parallel, at: 4}]",),
        "the last parallel one alone": ("sites=[{kind: parallel, at: 6}]",),
    },
    "rank": {f"rank {r}": ("adapter=lowrank", f"adapter.rank={r}") for r in (2, 4, 8, 16)},
    "gate": {"reads y, v signalled": ("gate.input=signalled",)},
    "source": {"no adapter of the source": ("method.training.source_adapter=false",)},
    "gamma": {f"γ {g}": (f"method.gamma={g}",) for g in (0.001, 0.1, 0.5)},
    "clamp": {
        f"γ {g}, not clamped": (f"method.gamma={g}", "method.training.clamp=false")
        for g in (0.001, 0.01, 0.1, 0.5)
    },
    "steps": {
        f"{n} steps": (f"codec.training.steps={n}", "early_stopping=null")
        for n in (125, 250, 1000, 2000)
    },
}
"""Group -> name of a variant -> what it changes. Without ``default`` there is nothing to compare with."""


@dataclass(frozen=True)
class Part:
    """Which runs of a variant the tables hold."""

    group: str
    variant: str
    seeds: str
    missing: str


@dataclass(frozen=True)
class Gain:
    """What a variant gains on a domain: PSNR over the base decoder in dB, by the gate's weights.

    ``low`` and ``high`` bound 95 % over images drawn again, of the mean over seeds; ``least`` and ``most``
    are the seeds' own. ``over_default`` is the difference to the default settings with the same seeds,
    with its interval over images. ``bpp_change`` is what v costs where it is signalled, in percent.
    ``gate_accuracy`` is over all trained domains.
    """

    group: str
    variant: str
    domain: str
    seeds: int
    images: int
    gain: float
    low: float
    high: float
    least: float
    most: float
    over_default: float
    over_default_low: float
    over_default_high: float
    oracle_gain: float | None
    bpp_change: float
    gate_accuracy: float
    trained: int


def folder_of(group: str, variant: str) -> Path:
    """The sweep of a variant."""
    return RUNS / group / str(list(SETTINGS[group]).index(variant))


def train(group: str, variant: str, seeds: Sequence[int], jobs: int = 1) -> None:
    """Train what is missing of a variant."""
    common.sweep(
        folder_of(group, variant),
        *(f"codec={CODEC}", f"codec.quality={QUALITY}", f"domains=[{','.join(TARGETS)}]"),
        *(f"unseen=[{UNSEEN}]", f"seed={','.join(map(str, seeds))}"),
        *SETTINGS[group][variant],
        *("logger=none", "evaluation.ms_ssim=false", "evaluation.examples=0"),
        *("evaluation.modes=[base,weighted,oracle]", "evaluation.compatibility=1"),
        *common.NO_REPORT,
        jobs=jobs,
    )


def finished(group: str, variant: str) -> dict[int, Run]:
    """Finished runs of a variant by their seeds."""
    runs = common.finished(folder_of(group, variant))
    return {int(run.config["seed"]): run for run in runs}


def gains(run: Run, domain: str, mode: str = "weighted") -> dict[str, float]:
    """PSNR over the base decoder of a domain's test images, in dB, by image."""
    psnr: dict[str, dict[str, float]] = {"base": {}, mode: {}}
    for p in run.points:
        if p.domain == domain and p.blend in psnr:
            psnr[p.blend][p.image] = p.psnr
    return {image: value - psnr["base"][image] for image, value in psnr[mode].items()}


def rate(run: Run, domain: str, mode: str) -> float:
    """Mean bits per pixel of a domain."""
    return mean(p.bpp for p in run.points if (p.domain, p.blend) == (domain, mode))


def matrix(runs: Sequence[Run], domain: str) -> NDArray[np.float64]:
    """Gains of all seeds, ``(seeds, images)``."""
    return np.array([[*gains(run, domain).values()] for run in runs])


def row(
    group: str, variant: str, runs: Mapping[int, Run], default: Mapping[int, Run], domain: str
) -> Gain:
    """A row of ``gains.csv``, of the seeds that are done."""
    own = matrix([*runs.values()], domain)
    same = [seed for seed in runs if seed in default]
    change = np.full((1, own.shape[1]), np.nan)
    if same:
        change = matrix([runs[s] for s in same], domain) - matrix(
            [default[s] for s in same], domain
        )
    far, further = bootstrap(
        lambda chosen: (float(own[:, chosen].mean()), float(change[:, chosen].mean())),
        own.shape[1],
        resamples=RESAMPLES,
    )
    first = next(iter(runs.values()))
    oracle = [g for run in runs.values() for g in gains(run, domain, "oracle").values()]
    return Gain(
        *(group, variant, domain, len(runs), own.shape[1]),
        gain=float(own.mean()),
        low=far.low,
        high=far.high,
        least=float(own.mean(axis=1).min()),
        most=float(own.mean(axis=1).max()),
        over_default=float(change.mean()),
        over_default_low=further.low,
        over_default_high=further.high,
        oracle_gain=mean(oracle) if oracle else None,
        bpp_change=100 * (rate(first, domain, "weighted") / rate(first, domain, "base") - 1),
        gate_accuracy=mean(run.summary["gate_accuracy"] for run in runs.values()),
        trained=first.summary["compatibility"]["parameters"]["trained"],
    )


def rows(found: Mapping[tuple[str, str], Mapping[int, Run]]) -> Iterator[Gain]:
    """All rows, of the variants that have a run."""
    ((default, _),) = SETTINGS["default"].items()
    for (group, variant), runs in found.items():
        (first, *_) = runs.values()
        for domain in dict.fromkeys(p.domain for p in first.points):
            yield row(group, variant, runs, found.get(("default", default), {}), domain)


def plot(found: Sequence[Gain], path: Path) -> None:
    """Gains of all variants, a panel a domain, with their intervals over images."""
    names = list(dict.fromkeys(r.variant for r in found))
    size = (3.2 * len(DOMAINS) + 2, 0.32 * len(names) + 1.2)
    figure, axes = plt.subplots(1, len(DOMAINS), figsize=size, layout="constrained", sharey=True)
    for axis, domain in zip(axes, DOMAINS, strict=True):
        for r in (r for r in found if r.domain == domain):
            at = len(names) - names.index(r.variant)
            axis.plot([r.low, r.high], [at, at], color="C0", linewidth=1)
            axis.plot(r.gain, at, "o", color="C0", markersize=4)
        axis.set(title=domain, xlabel="dB over the base decoder")
        axis.grid(alpha=0.3)
    axes[0].set_yticks(range(len(names), 0, -1), names, fontsize="small")
    common.save_plot(figure, path)


def page(found: Sequence[Gain], there: Sequence[Part]) -> str:
    """The table for people: a row a variant."""
    lines = []
    for variant in dict.fromkeys(r.variant for r in found):
        own = {r.domain: r for r in found if r.variant == variant}
        first = next(iter(own.values()))
        cells = {
            domain: f"{common.signed(r.gain)} ({common.signed(r.low)} … {common.signed(r.high)})"
            for domain, r in own.items()
        }
        lines.append(
            {
                "variant": variant,
                "seeds": str(first.seeds),
                "trained": f"{first.trained:,}",
                **cells,
                "gate": f"{100 * first.gate_accuracy:.1f} %",
            }
        )
    missing = "; ".join(f"{p.variant} (seeds {p.missing})" for p in there if p.missing)
    return (
        "Written by `make experiments/ablation`. Gains in dB over the base decoder by the gate's\n"
        f"weights, means over seeds (95 % over images).\n\n{common.markdown(lines)}\n"
        f"Not done yet: {missing or 'nothing'}.\n"
    )


def write(found: Mapping[tuple[str, str], Mapping[int, Run]], folder: Path) -> list[Gain]:
    """All tables and the plot of what there is, in a folder."""
    there = [
        Part(
            *(group, variant, " ".join(map(str, sorted(done := found.get((group, variant), {}))))),
            missing=" ".join(str(s) for s in SEEDS if s not in done),
        )
        for group, variants in SETTINGS.items()
        for variant in variants
    ]
    common.write_table(folder / "parts.csv", there)
    lines = list(rows(found))
    common.write_table(folder / "gains.csv", lines, ".4f")
    plot(lines, folder / "gains.png")
    write_text(folder / "results.md", page(lines, there))
    return lines


def main(
    settings: str = ",".join(SETTINGS),
    seeds: str = ",".join(map(str, SEEDS)),
    jobs: common.Jobs = 1,
    train_missing: bool = typer.Option(True, "--train/--no-train", help="Train what is missing."),
) -> None:
    """Train what is missing of groups of settings and seeds (with commas), write the tables."""
    for group in settings.split(","):
        if group not in SETTINGS:
            raise SystemExit(str(unknown("group of settings", group, SETTINGS)))
        for variant in SETTINGS[group] if train_missing else ():
            train(group, variant, common.numbers(seeds), jobs)
    found = {
        (group, variant): runs
        for group, variants in SETTINGS.items()
        for variant in variants
        if (runs := finished(group, variant))
    }
    if not found:
        raise SystemExit("No run is finished, so there is nothing to write: leave out --no-train.")
    for line in write(found, HERE):
        print(f"{line.variant}, {line.domain}: {common.signed(line.gain)} dB")


if __name__ == "__main__":
    typer.run(main)
