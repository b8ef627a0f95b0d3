"""What does decoding cost after each method? ``python benchmarks/methods.py PACK …``.

Every pack decodes a stream of its own and the base codec's stream of the same picture, 512×768, from
bytes to pixels. All are timed in turn, round by round and in changing order, so that a busy machine is
busy for all; ratios are medians of the ratios to the base codec within a round. The table is written to
``results/methods.csv``.
"""

from __future__ import annotations

import csv
import random
import statistics
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path

import torch
import typer
from common import RESULTS, smooth_picture
from decoding import timed
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lic_da.errors import UserError
from lic_da.io.files import atomic_path
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
    picture = smooth_picture()
    ways: dict[tuple[int, str], Callable[[], object]] = {}
    for number, codec in enumerate(codecs):
        for blend in ("base", codec.blends[0]):
            with codec.blending(blend):
                stream = codec.encode(picture)
            ways[number, blend] = partial(codec.decompress, stream, blend)
            ways[number, blend]()  # the first call is slow
    shuffle, order = random.Random(0), list(ways)
    took = []
    for _ in track(range(rounds), "decoding", console=console, transient=True):
        shuffle.shuffle(order)  # what comes before must not always be the same
        took.append({key: timed(ways[key]) for key in order})
    rows = []
    for number, codec in enumerate(codecs):
        own, base = (number, codec.blends[0]), (number, "base")
        low, middle, high = statistics.quantiles([t[own] for t in took], n=4)
        ratios = statistics.quantiles([t[own] / t[base] for t in took], n=4)
        rows.append(
            Row(
                method=codec.method,
                codec=codec.config.name,
                quality=codec.config.quality,
                domains=len(codec.domains),
                median_ms=middle,
                lower_quartile_ms=low,
                upper_quartile_ms=high,
                ratio=ratios[1],
                ratio_lower_quartile=ratios[0],
                ratio_upper_quartile=ratios[2],
                rounds=rounds,
            )
        )
    return rows


def main(packs: list[Path], rounds: int = 61, output: Path = RESULTS) -> None:
    """Measure, print the table, write it.

    Args:
        packs: folders of packs, one a method.
        rounds: how often each is timed.
        output: folder of the results.
    """
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
    with atomic_path(output / "methods.csv") as temporary, open(temporary, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in fields(Row))
        for row in rows:
            writer.writerow(f"{v:.4f}" if isinstance(v, float) else v for v in astuple(row))


if __name__ == "__main__":
    typer.run(main)
