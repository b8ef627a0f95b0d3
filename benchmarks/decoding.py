"""What does adapted decoding cost? ``make bench`` [CODECS=…] times g_s: base, folded, in branches.

For an image of 512×768, K+1 domains and adapters with random values. All variants are timed in turn,
round by round and in changing order, so that a busy machine is busy for all; the table has medians
and quartiles, ratios are medians of the ratios within a round: to the base decoder, and of folds to
that of ``FEW`` domains. What takes over ``SLOW`` times the base decoder is timed in ``SLOW_ROUNDS``
rounds only. Peak memory is what a decode adds to the process at most, adapters and base weights aside.
Results are written beside this file, in ``results/``.
"""

from __future__ import annotations

import gc
import os
import platform
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import matplotlib.pyplot as plt
import torch
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from benchmarks.fixtures import (
    HEIGHT,
    RESULTS,
    WIDTH,
    Rounds,
    adapted,
    by_formula,
    quartiles,
    smooth_image,
)
from experiments import common
from lic_da.adapters.synthesis import AdaptedSynthesis
from lic_da.io.files import write_text

DOMAINS = (1, 3, 9, 33, 65)
FEW = 3
SLOW = 1.5
SLOW_ROUNDS = 7


@dataclass(frozen=True)
class Measurement:
    """A row of the table: times in ms, ratios to the base decoder of the same round, MiB.

    ``growth`` is the ratio to the fold of ``FEW`` domains. ``max_difference`` of a fold to the branches
    is that of decoded images in [0, 1], or of larger values over the largest.
    """

    codec: str
    form: str
    domains: int
    median_ms: float
    lower_quartile_ms: float
    upper_quartile_ms: float
    ratio: float
    ratio_lower_quartile: float
    ratio_upper_quartile: float
    growth: float
    growth_lower_quartile: float
    growth_upper_quartile: float
    peak_mib: float
    max_difference: float
    rounds: int


def in_branches(transform: AdaptedSynthesis, y_hat: Tensor, v: Tensor) -> Tensor:
    """What the adapted synthesis transform gives, computed branch by branch."""
    with by_formula():
        out: Tensor = transform(y_hat, v)
    return out


@torch.inference_mode()
def measure(
    name: str, domains: Sequence[int], rounds: int, slow_rounds: int, progress: Progress
) -> list[Measurement]:
    """Time one codec with several numbers of domains; every round has all variants."""
    ways: dict[tuple[str, int], Callable[[], Tensor]] = {}
    for count in domains:
        codec = adapted(name, count)
        synthesis = codec.synthesis
        y_hat = codec.codec.g_a(smooth_image()).round()
        v = torch.rand(1, count).softmax(dim=1)
        ways.setdefault(("base", 0), partial(synthesis.base, y_hat))
        ways["fold", count] = partial(synthesis, y_hat, v)
        ways["branches", count] = partial(in_branches, synthesis, y_hat, v)
    base, few = ("base", 0), ("fold", FEW if FEW in domains else domains[0])
    ways[base]()  # the first call is slow
    first = {key: once(way) for key, way in ways.items()}
    quick = [
        key for key, f in first.items() if key[0] != "branches" or f.ms <= SLOW * first[base].ms
    ]
    rows: list[dict[tuple[str, int], float]] = []
    shuffle = random.Random(0)
    task = progress.add_task(name, total=rounds)
    for number in range(rounds):
        order = list(ways) if number < slow_rounds else list(quick)
        shuffle.shuffle(order)  # what comes before must not always be the same
        rows.append({key: timed(ways[key]) for key in order})
        progress.advance(task)
    return [
        _measurement(
            name,
            key,
            [row[key] for row in rows if key in row],
            [row[key] / row[base] for row in rows if key in row],
            [row[key] / row[few] for row in rows if key in row],
            first,
        )
        for key in ways
    ]


def _measurement(
    codec: str,
    key: tuple[str, int],
    ms: list[float],
    ratios: list[float],
    growths: list[float],
    first: dict[tuple[str, int], Call],
) -> Measurement:
    form, count = key
    difference = 0.0
    if form == "fold":
        reference = first["branches", count].image
        difference = (first[key].image - reference).abs().max().item()
        difference /= max(1.0, reference.abs().max().item())
    return Measurement(
        *(codec, form, count, *quartiles(ms), *quartiles(ratios), *quartiles(growths)),
        *(first[key].peak_mib, difference, len(ms)),
    )


class Call(NamedTuple):
    """What one call gave, how long it took and what memory it took beside its result, in MiB."""

    image: Tensor
    ms: float
    peak_mib: float


def timed(way: Callable[[], object]) -> float:
    """Milliseconds of a call."""
    began = time.perf_counter()
    way()
    return 1000 * (time.perf_counter() - began)


def once(way: Callable[[], Tensor]) -> Call:
    """Call, and see what resident memory it adds at its height; nan where /proc does not tell."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    gc.collect()
    known = os.access(reset, os.W_OK)
    if known:
        reset.write_text("5")  # forget the highest mark
    before = _kib(status, "VmRSS") if known else 0
    began = time.perf_counter()
    image = way()
    ms = 1000 * (time.perf_counter() - began)
    peak = (_kib(status, "VmHWM") - before) / 1024 if known else float("nan")
    return Call(image, ms, peak)


def _kib(status: Path, key: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if key in line)


def table(rows: Sequence[Measurement]) -> Table:
    """The measurements of one codec for people."""
    out = Table(
        "K+1", "form", "ms", "quartiles", "×base", "quartiles", f"×fold {FEW}", "MiB", "difference"
    )
    for r in rows:
        out.add_row(
            str(r.domains) if r.domains else "",
            r.form,
            f"{r.median_ms:.1f}",
            f"{r.lower_quartile_ms:.1f}…{r.upper_quartile_ms:.1f}",
            f"{r.ratio:.3f}",
            f"{r.ratio_lower_quartile:.2f}…{r.ratio_upper_quartile:.2f}",
            f"{r.growth:.3f}" if r.form == "fold" else "",
            f"{r.peak_mib:.0f}",
            f"{r.max_difference:.1e}" if r.form == "fold" else "",
        )
    return out


def plot(rows: Sequence[Measurement], path: Path) -> None:
    """Time over the number of domains, for fold and branches, in units of the base decoder."""
    figure, axes = plt.subplots(figsize=(5, 3.4), layout="constrained")
    axes.axhline(1, color="grey", linewidth=1, label="base")
    for form in ("fold", "branches"):
        own = [r for r in rows if r.form == form]
        x = [r.domains for r in own]
        (line,) = axes.plot(x, [r.ratio for r in own], marker="o", label=form)
        low, high = ([getattr(r, f"ratio_{q}_quartile") for r in own] for q in ("lower", "upper"))
        axes.fill_between(x, low, high, alpha=0.2, color=line.get_color())
    axes.set(xscale="log", yscale="log", xlabel="domains, K+1", ylabel="time / base decoder")
    axes.set_xticks([r.domains for r in rows if r.form == "fold"])
    axes.get_xaxis().set_major_formatter("{x:.0f}")
    axes.minorticks_off()
    axes.legend()
    axes.set_title(f"{rows[0].codec}, {HEIGHT}×{WIDTH}", fontsize="medium")
    common.save_plot(figure, path, dpi=150)


def main(
    codecs: Annotated[str, typer.Option(help="Names in conf/codec, with commas.")],
    rounds: Rounds = 61,
    slow_rounds: Rounds = SLOW_ROUNDS,
    domains: str = ",".join(map(str, DOMAINS)),
    output: Path = RESULTS,
) -> None:
    """Measure, print tables, write results."""
    console = Console()
    counts = [int(count) for count in domains.split(",")]
    machine = f"{torch.get_num_threads()} threads, {platform.machine()}, torch {torch.__version__}"
    for name in codecs.split(","):
        with Progress(console=Console(stderr=True), transient=True) as progress:
            rows = measure(name, counts, rounds, slow_rounds, progress)
        out = table(rows)
        out.title = f"{name}, {HEIGHT}×{WIDTH}, {machine}"
        console.print(out)
        common.write_table(output / f"{name}.csv", rows, ".5g")
        record = Console(record=True, width=100, file=open(os.devnull, "w"))  # noqa: SIM115
        record.print(out)
        write_text(output / f"{name}.txt", record.export_text())
        plot(rows, output / f"{name}.png")


if __name__ == "__main__":
    typer.run(main)
