"""What do many domains cost a decoder? ``python -m benchmarks.stored`` [--codecs NAMES].

Packs of few and of many domains with random adapters decode a stream of an image of 512×768, from bytes
to pixels: with all adapters in memory, and with those that stay in the pack's file. In the mode
``weighted`` the untrained gate gives every adapter some weight, so all of them are read for each image;
in ``top1`` one is. All are timed in turn, round by round and in changing order; ratios are medians of
the ratios to the pack of few domains, in memory, within a round. ``--cpu`` takes the processor's time
instead of the clock's, where others use the machine. Memory is the peak of a process that opens the pack
and decodes two images, the median over processes. Written to ``results/stored.csv``.
"""

from __future__ import annotations

import multiprocessing
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.fixtures import RESULTS, Rounds, adapted, quartiles, smooth_image
from experiments import common
from lic_da.methods import pack

FEW, MANY = 3, 64
MODES = ("weighted", "top1")
MIB = 1 << 20
Clock = Callable[[], float]


class Form(NamedTuple):
    """A number of domains, and whether their adapters are in memory."""

    domains: int
    in_memory: bool


FORMS = (Form(FEW, True), Form(MANY, True), Form(MANY, False))


@dataclass(frozen=True)
class Row:
    """Time to decode in ms, ratios to the first form in the same round, peak memory of a process in MiB.

    ``more_mib`` is over the first form, ``adapter_mib`` the size of one adapter.
    """

    codec: str
    domains: int
    in_memory: bool
    mode: str
    median_ms: float
    ratio: float
    ratio_lower_quartile: float
    ratio_upper_quartile: float
    rounds: int
    peak_mib: float
    more_mib: float
    adapter_mib: float


def saved(name: str, domains: int, folder: Path) -> int:
    """Save a pack with random adapters.

    Returns:
        Bytes of one adapter.
    """
    codec = adapted(name, domains)
    pack.save(codec, folder, {})
    return 4 * int(codec.added_parameters()["adapters"]["per_domain"])


def peak(folder: Path, in_memory: bool, data: bytes, threads: int) -> float:
    """Highest resident memory of this process in MiB, after it has opened a pack and decoded."""
    torch.set_num_threads(threads)
    codec = pack.load(folder, in_memory=in_memory)
    for _ in range(2):
        codec.decompress(data)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def peaks(folders: dict[int, Path], data: bytes, processes: int) -> dict[Form, float]:
    """Median of the peak memory of several processes, by form; each process does one."""
    found: dict[Form, list[float]] = {form: [] for form in FORMS}
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for _ in range(processes):
            for form in FORMS:
                asked = folders[form.domains], form.in_memory, data, torch.get_num_threads()
                found[form].append(pool.apply(peak, asked))
    return {form: statistics.median(values) for form, values in found.items()}


def times(
    folders: dict[int, Path], data: bytes, rounds: int, clock: Clock, console: Console
) -> list[dict[tuple[Form, str], float]]:
    """Milliseconds of each form and mode, round by round.

    Raises:
        SystemExit: where adapters are makes a difference in the image.
    """
    ways: dict[tuple[Form, str], Callable[[], object]] = {}
    images: dict[tuple[int, str], bytes] = {}
    for form in FORMS:
        codec = pack.load(folders[form.domains], in_memory=form.in_memory)
        for mode in MODES:
            ways[form, mode] = partial(codec.decompress, data, mode)
            image = codec.decompress(data, mode).tobytes()  # the first call is slow
            if images.setdefault((form.domains, mode), image) != image:
                raise SystemExit(f"{form} decodes to another image in the mode {mode}.")
    shuffle, order, took = random.Random(0), list(ways), []
    for _ in track(range(rounds), "decoding", console=console, transient=True):
        shuffle.shuffle(order)  # what comes before must not always be the same
        row = {}
        for key in order:
            began = clock()
            ways[key]()
            row[key] = 1000 * (clock() - began)
        took.append(row)
    return took


def measure(name: str, rounds: int, processes: int, clock: Clock, console: Console) -> list[Row]:
    """Measure one codec."""
    with tempfile.TemporaryDirectory() as temporary:
        folders = {count: Path(temporary) / str(count) for count in (FEW, MANY)}
        (adapter, *_) = (saved(name, count, folder) for count, folder in folders.items())
        pixels = smooth_image()[0].permute(1, 2, 0).mul(255).round().to(torch.uint8).numpy()
        data = pack.load(folders[FEW]).compress(pixels)
        took = times(folders, data, rounds, clock, console)
        memory = peaks(folders, data, processes)
    rows = []
    for form in FORMS:
        for mode in MODES:
            ms = [t[form, mode] for t in took]
            ratios = [t[form, mode] / t[FORMS[0], mode] for t in took]
            more = memory[form] - memory[FORMS[0]]
            rows.append(
                Row(
                    *(name, *form, mode, statistics.median(ms), *quartiles(ratios), rounds),
                    *(memory[form], more, adapter / MIB),
                )
            )
    return rows


def table(rows: Sequence[Row]) -> Table:
    """The measurements of one codec for people."""
    out = Table("domains", "adapters", "mode", "ms", "×few", "quartiles", "MiB", "more", "adapter")
    for r in rows:
        out.add_row(
            *(str(r.domains), "in memory" if r.in_memory else "in the file", r.mode),
            *(f"{r.median_ms:.1f}", f"{r.ratio:.3f}"),
            f"{r.ratio_lower_quartile:.2f}…{r.ratio_upper_quartile:.2f}",
            *(f"{r.peak_mib:.1f}", f"{r.more_mib:+.1f}", f"{r.adapter_mib:.2f}"),
        )
    out.title = f"{rows[0].codec}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    return out


def main(
    codecs: Annotated[
        str, typer.Option(help="Names in conf/codec, with commas.")
    ] = "bmshj2018_factorized_n64",
    rounds: Rounds = 61,
    processes: Annotated[int, typer.Option(min=1, help="Of each form, for memory.")] = 5,
    cpu: Annotated[bool, typer.Option("--cpu", help="Take the processor's time.")] = False,
    output: Path = RESULTS,
) -> None:
    """Measure, print tables and write them to a folder."""
    rows: list[Row] = []
    for name in codecs.split(","):
        clock = time.process_time if cpu else time.perf_counter
        own = measure(name, rounds, processes, clock, Console(stderr=True))
        Console().print(table(own))
        rows += own
    common.write_table(output / "stored.csv", rows, ".5g")


if __name__ == "__main__":
    typer.run(main)
