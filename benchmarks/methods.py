"""What does decoding cost after each method? ``python benchmarks/methods.py PACK …``.

Every pack decodes a stream of its own and the base codec's stream of the same image, 512×768, from
bytes to pixels. All are timed in turn, round by round and in changing order, so that a busy machine is
busy for all; ratios are medians of the ratios to the base codec within a round. The table is written to
``results/methods.csv``.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.decoding import timed
from benchmarks.fixtures import RESULTS, Rounds, quartiles, smooth_image
from experiments import common
from lic_da.errors import UserError
from lic_da.methods import pack


@dataclass(frozen=True)
class Row:
    """Time to decode in ms, and over the base codec's in the same round; quartiles beside."""

    method: str
    codec: str
    quality: int
    domains: int
    median_ms: float
    lower_quartile_ms: float
    upper_quartile_ms: float
    ratio: float
    ratio_lower_quartile: float
    ratio_upper_quartile: float
    rounds: int


def measure(packs: list[Path], rounds: int, console: Console) -> list[Row]:
    """Time the packs, each against its own base codec."""
    codecs = [pack.load(path) for path in packs]
    image = smooth_image()
    ways: dict[tuple[int, str], Callable[[], object]] = {}
    for number, codec in enumerate(codecs):
        for mode in ("base", codec.modes[0]):
            with codec.in_mode(mode):
                stream = codec.encode(image)
            ways[number, mode] = partial(codec.decompress, stream, mode)
            ways[number, mode]()  # the first call is slow
    shuffle, order = random.Random(0), list(ways)
    took = []
    for _ in track(range(rounds), "decoding", console=console, transient=True):
        shuffle.shuffle(order)  # what comes before must not always be the same
        took.append({key: timed(ways[key]) for key in order})
    rows = []
    for number, codec in enumerate(codecs):
        own, base = (number, codec.modes[0]), (number, "base")
        ms, ratios = [t[own] for t in took], [t[own] / t[base] for t in took]
        of = (codec.method, codec.config.name, codec.config.quality, len(codec.domains))
        rows.append(Row(*of, *quartiles(ms), *quartiles(ratios), rounds))
    return rows


def main(packs: list[Path], rounds: Rounds = 61, output: Path = RESULTS) -> None:
    """Measure packs, one a method, print the table and write it to a folder."""
    try:
        rows = measure(packs, rounds, Console(stderr=True))
    except UserError as error:
        raise SystemExit(str(error)) from error
    table = Table("method", "domains", "ms", "quartiles", "×base", "quartiles")
    for r in rows:
        table.add_row(
            r.method,
            str(r.domains),
            f"{r.median_ms:.1f}",
            f"{r.lower_quartile_ms:.1f}…{r.upper_quartile_ms:.1f}",
            f"{r.ratio:.3f}",
            f"{r.ratio_lower_quartile:.2f}…{r.ratio_upper_quartile:.2f}",
        )
    table.title = f"Decoding 512×768, {torch.get_num_threads()} threads, torch {torch.__version__}"
    Console().print(table)
    common.write_table(output / "methods.csv", rows, ".4f")


if __name__ == "__main__":
    typer.run(main)
