"""Where does the time of decoding go? ``python -m benchmarks.parts``: seconds of an image's parts.

An image of 512×768 is decoded from its bytes by each codec with K+1 = 3 adapters, in turn and round by
round; what its networks take is noted as they are called, and the rest is entropy decoding, checks and
rounding to 8 bits. The networks that state the entropy parameters are timed in single precision too:
not what is shipped, since other machines could not read such streams, but what double precision costs.
Ratios to the first codec are medians of the ratios within a round, with quartiles. ``--cpu`` as in
:mod:`benchmarks.image`. Results go to ``results/decode_parts.csv``.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.fixtures import RESULTS, Rounds, adapted, quartiles, smooth_image
from experiments import common
from lic_da.codecs.image_codec import to_8_bit
from lic_da.codecs.models.hyperprior import DoubleInEval
from lic_da.codecs.models.zou2022 import WindowAttentionBlock
from lic_da.io.bitstream import Stream
from lic_da.io.images import RGB
from lic_da.methods.adapters.codec import AdaptedCodec

CODECS = "mbt2018_mean_n64,zou2022_n64"
DOMAINS = 3
HYPER, SLICES, ATTENTION = "hyper-synthesis", "nets of the slices", "g_s: window attention"
DOUBLE, SINGLE = "entropy networks, double precision", "entropy networks, single precision"

Clock = Callable[[], float]
Row = dict[tuple[str, str], float]


@dataclass(frozen=True)
class Part:
    """A row: median ms of a part; ``ratio`` of the whole to that of the first codec in the same round."""

    codec: str
    part: str
    threads: int
    clock: str
    median_ms: float
    share: float
    ratio: float
    ratio_lower_quartile: float
    ratio_upper_quartile: float
    rounds: int


def parts(codec: AdaptedCodec) -> dict[nn.Module, str]:
    """The networks that decoding calls, by what they are; none of them is inside another."""
    base = codec.codec
    found: dict[nn.Module, str] = {}
    for module in base.g_s.modules():
        if isinstance(module, WindowAttentionBlock):
            found[module] = ATTENTION
    for name, module in base.named_modules():
        if isinstance(module, DoubleInEval):
            found[module] = HYPER if name == "h_s" else SLICES
    return found


@contextmanager
def noted(codec: AdaptedCodec, clock: Clock, seconds: dict[str, float]) -> Iterator[None]:
    """Add up in ``seconds`` what the parts take inside the block."""
    handles = []
    began: dict[nn.Module, float] = {}

    def enter(module: nn.Module, _: Any) -> None:
        began[module] = clock()

    def leave(name: str) -> Callable[..., None]:
        def note(module: nn.Module, *_: Any) -> None:
            seconds[name] += clock() - began[module]

        return note

    for module, name in parts(codec).items():
        handles += [
            module.register_forward_pre_hook(enter),
            module.register_forward_hook(leave(name)),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def single_precision() -> Iterator[None]:
    """Let the networks of entropy parameters compute in single precision inside the block."""

    def forward(layers: nn.Sequential, x: Tensor) -> Tensor:
        out: Tensor = nn.Sequential.forward(layers, x.float())
        return out.to(x.dtype)

    before = DoubleInEval.forward
    DoubleInEval.forward = forward  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        DoubleInEval.forward = before  # type: ignore[method-assign]


@torch.inference_mode()
def decoded(codec: AdaptedCodec, data: bytes, clock: Clock) -> dict[str, float]:
    """Seconds of the parts of one decoding from bytes to pixels, and of the whole."""
    seconds: dict[str, float] = defaultdict(float)
    stream = Stream.from_bytes(data)
    with noted(codec, clock, seconds):
        began = clock()
        codec.latent(stream)
        between = clock()
        codec.decompress(data)
        ended = clock()
    latent, seconds["whole"] = between - began, ended - between
    for name in (HYPER, SLICES):
        seconds[name] /= 2  # computed in both
    seconds["g_s and gate: all else"] = seconds["whole"] - latent - seconds[ATTENTION]
    seconds["entropy decoding"] = latent - seconds[HYPER] - seconds[SLICES]
    return dict(seconds)


@torch.inference_mode()
def in_single_precision(codec: AdaptedCodec, clock: Clock, pixels: RGB) -> float:
    """Seconds to the latent of the image, as coded and decoded in single precision."""
    with single_precision():
        stream = Stream.from_bytes(codec.compress(pixels))
        began = clock()
        codec.latent(stream)
        return clock() - began


def measure(names: Sequence[str], rounds: int, cpu: bool) -> list[Part]:
    """Decode with all codecs in turn; the first round, in which everything is slow, does not count."""
    clock = time.process_time if cpu else time.perf_counter
    pixels = to_8_bit(smooth_image())[0].permute(1, 2, 0).contiguous().numpy()
    codecs = {name: adapted(name, DOMAINS) for name in names}
    streams = {name: codec.compress(pixels) for name, codec in codecs.items()}
    shuffle, order, noted_rows = random.Random(0), list(codecs), []
    for _ in range(rounds + 1):
        shuffle.shuffle(order)
        row: Row = {}
        for name in order:
            own = decoded(codecs[name], streams[name], clock)
            row |= {(name, part): value for part, value in own.items()}
            single = in_single_precision(codecs[name], clock, pixels)
            networks = own[HYPER] + own[SLICES]
            row[name, SINGLE] = single - own["entropy decoding"]
            row[name, DOUBLE] = networks
        noted_rows.append(row)
    return [_part(key, names[0], noted_rows[1:], cpu) for key in noted_rows[0]]


def _part(key: tuple[str, str], first: str, rows: Sequence[Row], cpu: bool) -> Part:
    name, part = key
    wholes = [row[first, "whole"] for row in rows]
    middle, low, high = quartiles([row[key] / w for row, w in zip(rows, wholes, strict=True)])
    return Part(
        *(name, part, torch.get_num_threads(), "processor" if cpu else "wall"),
        1000 * statistics.median(row[key] for row in rows),
        statistics.median(row[key] / row[name, "whole"] for row in rows),
        *(middle, low, high, len(rows)),
    )


def main(
    codecs: Annotated[str, typer.Option(help="Names in conf/codec, with commas.")] = CODECS,
    rounds: Rounds = 21,
    threads: Annotated[int, typer.Option(min=1, help="Of torch.")] = 2,
    cpu: Annotated[bool, typer.Option(help="Count processor time, not the clock's.")] = False,
    output: Path = RESULTS / "decode_parts.csv",
) -> None:
    """Measure, print a table, write results."""
    torch.set_num_threads(threads)
    rows = measure(codecs.split(","), rounds, cpu)
    table = Table("codec", "part", "ms", "share", "of the first's whole", "quartiles")
    for r in rows:
        between = f"{r.ratio_lower_quartile:.2f}…{r.ratio_upper_quartile:.2f}"
        table.add_row(
            *(r.codec, r.part, f"{r.median_ms:.1f}", f"{r.share:.0%}", f"{r.ratio:.2f}", between)
        )
    Console().print(table)
    common.write_table(output, rows, ".5g")


if __name__ == "__main__":
    typer.run(main)
