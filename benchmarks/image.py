"""What does an image cost? Transforms, decoding and encoding beside the layers as CompressAI computes them.

Each codec is there twice with the same weights: as this package builds it, and with CompressAI's own
layers (*plain*). Both do one step after the other on an image of 512×768, round by round and in
changing order; ratios are medians of the ratios within a round, with quartiles. ``adapted`` decodes
with K+1 = 3 adapters and is compared with decoding by the same codec's base decoder. ``of_peak`` is the
share of the convolution peak: the operations of the plain transform a second, over those of the faster
of two large convolutions in the same round. ``--cpu`` counts the process's processor time and not the
clock's: for one thread, where others use the machine. Results go to ``results/image_time.csv``.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from compressai.models import CompressionModel
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.fixtures import RESULTS, Rounds, adapted, quartiles, smooth_image
from experiments import common
from lic_da.codecs.image_codec import to_8_bit
from lic_da.config import plain
from lic_da.evaluation.operations import operations
from lic_da.methods.adapters.codec import AdaptedCodec, adapt, base_state
from lic_da.registry import MODELS

CODECS = "bmshj2018_factorized_n64,mbt2018_mean_n64"
DOMAINS = 3
PEAKS = ((64, 5), (128, 3))
"""Channels and side of the kernels of large convolutions, on 128×192 elements."""


@dataclass(frozen=True)
class Step:
    """A row: ms of the fast form; its ratio to the plain one, that of ``adapted`` to the base decoder."""

    codec: str
    step: str
    threads: int
    clock: str
    median_ms: float
    ratio: float
    ratio_lower_quartile: float
    ratio_upper_quartile: float
    of_peak: float
    plain_of_peak: float
    max_difference: float
    rounds: int


def with_plain_layers(fast: AdaptedCodec) -> AdaptedCodec:
    """The same codec, of CompressAI's own layers."""
    model: CompressionModel = MODELS.make(plain(fast.config.model))
    model.load_state_dict(base_state(fast.codec))
    adapt(model.eval(), fast.config, fast.domains)
    model.load_state_dict(fast.codec.state_dict())
    return AdaptedCodec(model, fast.config, fast.fingerprint)


def steps(codec: AdaptedCodec, image: Tensor) -> dict[str, Callable[[], object]]:
    """What is timed of a codec: ``(1, 3, H, W)`` in [0, 1] to bytes, and back."""
    pixels = to_8_bit(image)[0].permute(1, 2, 0).contiguous().numpy()
    data = codec.compress(pixels)
    stream = codec.encode(image)
    return {
        "g_s": partial(codec.synthesis.base, codec.latent(stream)),
        "g_a": partial(codec.codec.g_a, image),
        "entropy decoding": partial(codec.latent, stream),
        "decode": partial(codec.decompress, data, "base"),
        "adapted": partial(codec.decompress, data, "weighted"),
        "encode": partial(codec.compress, pixels),
    }


def peaks() -> dict[int, Callable[[], object]]:
    """Large convolutions by their operations."""
    ways: dict[int, Callable[[], object]] = {}
    for channels, k in PEAKS:
        conv = nn.Conv2d(channels, channels, k, padding=k // 2).to(
            memory_format=torch.channels_last
        )
        x = torch.rand(1, channels, 128, 192).contiguous(memory_format=torch.channels_last)
        ways[operations(conv, x)] = partial(F.conv2d, x, conv.weight, conv.bias, 1, k // 2)
    return ways


@torch.no_grad()
def measure(name: str, rounds: int, cpu: bool) -> list[Step]:
    """Time one codec; each round does all steps in both forms, and the large convolutions."""
    fast = adapted(name, DOMAINS)
    plain_codec = with_plain_layers(fast)
    image = smooth_image()
    ways: dict[tuple[str, object], Callable[[], object]] = {
        (form, step): way
        for form, codec in (("fast", fast), ("plain", plain_codec))
        for step, way in steps(codec, image).items()
    }
    ways |= {("peak", count): way for count, way in peaks().items()}
    codec, y_hat = plain_codec, plain_codec.latent(plain_codec.encode(image))
    counts = {
        "g_s": operations(codec.synthesis.base, y_hat),
        "g_a": operations(codec.codec.g_a, image),
    }
    clock = time.process_time if cpu else time.perf_counter
    shuffle, order = random.Random(0), list(ways)
    rows: list[dict[tuple[str, object], float]] = []
    for _ in range(rounds + 1):
        shuffle.shuffle(order)
        row = {}
        for key in order:
            began = clock()
            ways[key]()
            row[key] = clock() - began
        rows.append(row)
    differences = {step: difference(ways["fast", step](), ways["plain", step]()) for step in counts}
    return [
        _step(name, step, rows[1:], counts.get(step), differences.get(step, float("nan")), cpu)
        for step in steps(fast, image)
    ]


def difference(one: object, other: object) -> float:
    """The largest difference of two tensors."""
    assert isinstance(one, Tensor) and isinstance(other, Tensor)
    return float((one - other).abs().max())


def _step(
    codec: str,
    step: str,
    rows: list[dict[tuple[str, object], float]],
    count: int | None,
    largest: float,
    cpu: bool,
) -> Step:
    over = ("fast", "decode") if step == "adapted" else ("plain", step)
    ratio = quartiles([row["fast", step] / row[over] for row in rows])
    shares = float("nan"), float("nan")
    if count is not None:
        fast, plainly = (
            quartiles([count / row[form, step] / _peak(row) for row in rows])[0]
            for form in ("fast", "plain")
        )
        shares = fast, plainly
    ms = quartiles([1000 * row["fast", step] for row in rows])[0]
    clock = "processor" if cpu else "wall"
    threads = torch.get_num_threads()
    middle, low, high = ratio
    return Step(*(codec, step, threads, clock, ms, middle, low, high), *shares, largest, len(rows))


def _peak(row: dict[tuple[str, object], float]) -> float:
    """Operations a second of the faster of the large convolutions."""
    return max(count / row["peak", count] for form, count in row if form == "peak")  # type: ignore[operator]


def main(
    codecs: Annotated[str, typer.Option(help="Names in conf/codec, with commas.")] = CODECS,
    rounds: Rounds = 41,
    threads: Annotated[int, typer.Option(min=1, help="Of torch.")] = 1,
    cpu: Annotated[bool, typer.Option(help="Count processor time, not the clock's.")] = False,
    output: Path = RESULTS / "image_time.csv",
) -> None:
    """Measure, print a table, write results."""
    torch.set_num_threads(threads)
    rows = [row for name in codecs.split(",") for row in measure(name, rounds, cpu)]
    table = Table("codec", "step", "ms", "ratio", "quartiles", "of peak", "plain", "difference")
    for r in rows:
        between = f"{r.ratio_lower_quartile:.2f}…{r.ratio_upper_quartile:.2f}"
        shares = (f"{r.of_peak:.2f}", f"{r.plain_of_peak:.2f}")
        ratio = f"{r.ratio:.3f}"
        table.add_row(
            r.codec,
            r.step,
            f"{r.median_ms:.1f}",
            ratio,
            between,
            *shares,
            f"{r.max_difference:.1e}",
        )
    Console().print(table)
    common.write_table(output, rows, ".5g")


if __name__ == "__main__":
    typer.run(main)
