"""Everything that needs a GPU, in one program of six minutes: ``python -m benchmarks.gpu``.

Sections, in this order; each is a process of its own with a time limit, so that one that fails or hangs
costs itself alone, and its rows are written as soon as they are known:

* ``agreement``: images encoded on the GPU and decoded on the CPU, and the reverse, by the bundled codecs:
  are streams and symbols the same, and how far are pixels apart;
* ``decode``: time of the adapted decoder by the base decoder's of the same round, merged and in branches,
  over the number of domains;
* ``steps``: a training step of adapters and gate as :mod:`benchmarks.training` has them, ``(a)``
  straightforward and ``(c)`` from cached latents;
* ``pretraining``: pixels a second of a training step of a base codec, by batch size;
* ``ddp``: Lightning's DDP strategy with one process trains to the weights that training without it has.

Images are made here and weights are the package's own: neither data nor a network is needed. Before a
machine with a GPU is used, ``--device cpu --brief`` goes the same ways on this one. All rows are in one
table, ``results/gpu.csv``; a section that did not end well has a row that says so, and the exit code is 1.
"""

from __future__ import annotations

import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

# Products of matrices are deterministic with this alone; torch reads it when it starts the GPU.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import lightning as L
import torch
import typer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.decoding import in_branches
from benchmarks.fixtures import RESULTS, adapted, smooth_image
from benchmarks.training import batch_of, step_of
from experiments import common
from lic_da.codecs import zoo
from lic_da.codecs.image_codec import ModelCodec, to_8_bit
from lic_da.codecs.spec import CodecSpec
from lic_da.config import CONF, read_settings
from lic_da.errors import unknown
from lic_da.io.bitstream import Stream, StreamError
from lic_da.io.yaml_files import read_yaml
from lic_da.methods.adapters.module import DecoderAdaptation
from lic_da.pretraining.module import Pretraining, coder_of

CODEC, MEAN_SCALE = "bmshj2018_factorized_n64", "mbt2018_mean_n64"
BUDGET_S = 360.0
"""Seconds of all sections together; one that would begin later is left out."""
SECTION_S = 100.0
"""Seconds of one section at most."""
SLOWER = 8.0
"""Both are so many times as much where ``--device cpu`` tries the program."""
FAILED = "did not end well"


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        height: of the images, in pixels.
        width: likewise.
        images: that are coded by each codec.
        domains: numbers of domains, K+1, that are decoded with.
        rounds: how often each is timed.
        batches: sizes of the batches of pre-training.
        crop: side of its crops, in pixels.
        steps: of each training; of pre-training's, SOAP renews its preconditioner in every tenth, and the
            first two are not timed.
    """

    height: int = 512
    width: int = 768
    images: int = 3
    domains: tuple[int, ...] = (1, 3, 9, 33, 65)
    rounds: int = 15
    batches: tuple[int, ...] = (8, 16, 32, 64)
    crop: int = 256
    steps: int = 22


FULL = Size()
BRIEF = Size(96, 128, 1, (1, 3), 3, (2,), 64, 3)
"""To try the program itself."""


@dataclass(frozen=True)
class Row:
    """One number that was measured.

    Attributes:
        section: where it belongs.
        what: what was measured, in words.
        device: the GPU's name, or ``CPU``.
        value: the number; of several the median.
        lower_quartile: of several.
        upper_quartile: likewise.
        unit: of these.
        count: how many there were.
        note: what else is to be said.
    """

    section: str
    what: str
    device: str
    value: float
    lower_quartile: float
    upper_quartile: float
    unit: str
    count: int
    note: str = ""


Section = Callable[[str, Size], Iterator[Row]]


def row(
    section: str, what: str, device: str, values: Sequence[float], unit: str, note: str = ""
) -> Row:
    """A row of one value or more."""
    low, middle, high = values[0], values[0], values[0]
    if len(values) > 1:
        low, middle, high = statistics.quantiles(values, n=4)
    return Row(section, what, title(device), middle, low, high, unit, len(values), note)


def title(device: str) -> str:
    """The device in words."""
    return torch.cuda.get_device_name() if device == "cuda" else "CPU"


def wait(device: str) -> None:
    """Until the device has done all that it was told."""
    if device == "cuda":
        torch.cuda.synchronize()


def timed(call: Callable[[], object], device: str) -> float:
    """Milliseconds of a call, to its end on the device."""
    wait(device)
    began = time.perf_counter()
    call()
    wait(device)
    return 1000 * (time.perf_counter() - began)


def in_turn(
    calls: dict[str, Callable[[], object]], rounds: int, device: str
) -> dict[str, list[float]]:
    """Milliseconds of calls that are timed in turn and in changing order, after each was made once."""
    for call in calls.values():
        timed(call, device)
    took: dict[str, list[float]] = {name: [] for name in calls}
    shuffle, order = random.Random(0), list(calls)
    for _ in range(rounds):
        shuffle.shuffle(order)
        for name in order:
            took[name].append(timed(calls[name], device))
    return took


def ratios(times: Sequence[float], to: Sequence[float]) -> list[float]:
    """Of the same round."""
    return [a / b for a, b in zip(times, to, strict=True)]


def spec_of(codec: str) -> CodecSpec:
    """A codec of ``conf/codec`` at its quality."""
    return CodecSpec.from_settings(read_settings(CONF / "codec" / f"{codec}.yaml"))


def images_of(size: Size) -> list[Tensor]:
    """Images ``(1, 3, H, W)``, uint8, each another."""
    image = smooth_image().mul(255).round().to(torch.uint8)[..., : size.height, : size.width]
    return [image.roll(37 * number, dims=3).contiguous() for number in range(size.images)]


def agreement(device: str, size: Size) -> Iterator[Row]:
    """Encoded here and decoded there; the stream's checksum of the latents is compared by decoding."""
    for name in (CODEC, MEAN_SCALE):
        spec = spec_of(name)
        coders = {where: coder_of(zoo.build(spec).to(where), spec) for where in ("cpu", device)}
        same, apart, refused, differing = 0, [0.0], 0, [0.0]
        for image in images_of(size):
            streams = {d: coder.encode(image.to(d)).to_bytes() for d, coder in coders.items()}
            same += len(set(streams.values())) == 1
            for data in streams.values():
                try:
                    pixels = [decoded(coder, data) for coder in coders.values()]
                except StreamError:
                    refused += 1
                    continue
                difference = (pixels[0] - pixels[-1]).abs()
                apart.append(float(difference.max()))
                differing.append(100 * difference.bool().float().mean().item())
        for what, value, unit in (
            ("streams that are the same bytes as the CPU's", same, "images"),
            ("streams that the other device refuses", refused, "streams"),
            ("largest difference of pixels", max(apart), "levels"),
            ("pixels that differ at most", max(differing), "%"),
        ):
            yield row(
                "agreement", f"{name}: {what}", device, [value], unit, f"of {size.images} images"
            )


@torch.inference_mode()
def decoded(coder: ModelCodec, data: bytes) -> Tensor:
    """Pixels as integers, on the CPU."""
    x_hat = coder.codec.g_s(coder.latent(Stream.from_bytes(data))).clamp(0, 1)
    return to_8_bit(x_hat).cpu().int()


@torch.inference_mode()
def decode(device: str, size: Size) -> Iterator[Row]:
    """The decoder with adapters by the one without, over the number of domains."""
    calls: dict[str, Callable[[], object]] = {}
    for count in size.domains:
        codec = adapted(CODEC, count)
        codec.to(device)
        y_hat = codec.codec.g_a(smooth_image()[..., : size.height, : size.width].to(device)).round()
        v = torch.rand(1, count).softmax(dim=1).to(device)
        synthesis = codec.synthesis
        calls.setdefault("base", partial(synthesis.base, y_hat))
        calls[f"merged, {count} domains"] = partial(synthesis, y_hat, v)
        calls[f"branches, {count} domains"] = partial(in_branches, synthesis, y_hat, v)
    took = in_turn(calls, size.rounds, device)
    for name, times in took.items():
        yield row("decode", f"{CODEC}: {name}", device, times, "ms")
        if name != "base":
            yield row("decode", f"{CODEC}: {name}", device, ratios(times, took["base"]), "× base")


def steps(device: str, size: Size) -> Iterator[Row]:
    """A step of adapters and gate for three domains: (a) as published, (c) from cached latents."""
    batch, crop = (2, 64) if size is BRIEF else (16, 256)
    ways = {"(a) straightforward": "straightforward", "(c) cached": "cached"}
    calls = {title: step_of(way, CODEC, batch, crop, device) for title, way in ways.items()}
    took = in_turn({**calls}, size.rounds, device)
    for name, times in took.items():
        yield row("steps", f"{CODEC}: {name}", device, times, "ms", f"{batch} crops of {crop}²")
    first, last = took.values()
    yield row("steps", f"{CODEC}: (c) faster than (a)", device, ratios(first, last), "times")


class Clock(L.Callback):
    """Seconds between the ends of steps, the device's work done.

    Args:
        device: that is waited for.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.at: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        wait(self.device)
        self.at.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Of each step but the first two, in which memory is found and kernels are chosen."""
        return [b - a for a, b in zip(self.at[1:], self.at[2:], strict=False)]


class Repeated(Dataset[dict[str, Any]]):
    """One batch, again and again.

    Args:
        batch: the batch.
        length: how often.
    """

    def __init__(self, batch: dict[str, Any], length: int) -> None:
        self.batch, self.length = batch, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.batch


def train(
    module: L.LightningModule, batch: dict[str, Any], device: str, count: int, **more: Any
) -> Clock:
    """Train for some steps by Lightning, as the commands do but for files, and time them."""
    clock = Clock(device)
    trainer = L.Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        max_steps=-1,
        max_epochs=1,
        limit_val_batches=0,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **more,
    )
    trainer.fit(module, DataLoader(Repeated(batch, count), batch_size=None))
    return clock


def pretraining(device: str, size: Size) -> Iterator[Row]:
    """Pixels a second of pre-training, by batch size; the batch is on the CPU before each step."""
    settings = read_yaml(CONF / "pretrain.yaml")
    names = ("aux_lr", "warmup", "clip", "precondition_every", "average", "bf16", "compile", "seed")
    spec = spec_of(MEAN_SCALE)
    for batch in size.batches:
        module = Pretraining(
            zoo.build(spec, weights=False).train(),
            spec,
            lr=settings["lr"]["first"],
            **{name: settings[name] for name in names},
        )
        images = torch.rand(batch, 3, size.crop, size.crop)
        clock = train(module, {"image": images, "file": ["made"] * batch}, device, size.steps)
        mean = statistics.mean(clock.seconds())
        what = f"{MEAN_SCALE}: pre-training, {batch} crops of {size.crop}²"
        yield row("pretraining", what, device, [images[:, 0].numel() / mean / 1e6], "Mpx/s")


def ddp(device: str, size: Size) -> Iterator[Row]:
    """Train with and without the strategy of several processes, here of one, to the same weights."""
    batch, crop = (2, 64) if size is BRIEF else (8, 128)
    found: dict[str, tuple[list[float], Tensor]] = {}
    for strategy in ("auto", "ddp"):
        torch.manual_seed(0)
        module = DecoderAdaptation(adapted(CODEC, 3), gamma=0.01, lr=1e-4, gate_lr=1e-4, warmup=2)
        samples = batch_of(module, batch, crop, cached=False)
        more = {"strategy": strategy, "deterministic": True, "gradient_clip_val": 1.0}
        clock = train(module, samples, device, size.steps, **more)
        weights = torch.cat([p.detach().cpu().flatten() for p in module.trainable()])
        found[strategy] = [1000 * s for s in clock.seconds()], weights
    for strategy, (times, _) in found.items():
        yield row("ddp", f"{CODEC}: step, strategy {strategy}", device, times, "ms")
    apart = (found["auto"][1] - found["ddp"][1]).abs().max().item()
    yield row(
        "ddp", f"{CODEC}: largest difference of weights", device, [apart], "", f"{size.steps} steps"
    )


SECTIONS: dict[str, Section] = {
    "agreement": agreement,
    "decode": decode,
    "steps": steps,
    "pretraining": pretraining,
    "ddp": ddp,
}

app = typer.Typer(add_completion=False, help=__doc__)


def run_section(name: str, arguments: Sequence[str], limit: float, part: Path) -> list[Row]:
    """Rows of a section, measured by a process of its own, and one that says so if it failed."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu",
        *arguments,
        "--only",
        name,
        "--out",
        str(part),
    ]
    part.unlink(missing_ok=True)
    try:
        code = subprocess.run(command, check=False, timeout=limit).returncode
        reason = "" if code == 0 else f"exit code {code}"
    except subprocess.TimeoutExpired:
        reason = f"took more than {limit:.0f} s"
    rows = common.read_rows(part, Row) if part.is_file() else []
    part.unlink(missing_ok=True)
    return [*rows, Row(name, FAILED, "", 0, 0, 0, "", 0, reason)] if reason else rows


@app.command()
def main(
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    brief: Annotated[
        bool, typer.Option("--brief", help="Small sizes, to try the program.")
    ] = False,
    sections: Annotated[str, typer.Option(help="Which, in which order.")] = ",".join(SECTIONS),
    out: Annotated[
        Path | None, typer.Option(help="Default: results/gpu.csv, or gpu_cpu.csv.")
    ] = None,
    only: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure all sections, or some; writes one table."""
    if device == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("torch sees no GPU here; --device cpu --brief tries the program.")
    size = BRIEF if brief else FULL
    out = out or RESULTS / ("gpu.csv" if device == "cuda" else "gpu_cpu.csv")
    if only is not None:
        rows: list[Row] = []
        for found in SECTIONS[only](device, size):
            rows.append(found)
            common.write_table(out, rows, ".6g")
        return
    names = sections.split(",")
    if wrong := [name for name in names if name not in SECTIONS]:
        raise typer.BadParameter(str(unknown("section", wrong[0], SECTIONS)))
    arguments = ["--device", device, *(["--brief"] if brief else [])]
    slack = 1.0 if device == "cuda" else SLOWER
    began, table = time.monotonic(), list[Row]()
    for name in names:
        left = slack * BUDGET_S - (time.monotonic() - began)
        table += run_section(
            name, arguments, max(1.0, min(slack * SECTION_S, left)), out.with_suffix(".part.csv")
        )
        common.write_table(out, table, ".6g")
    for found in table:
        print(f"{found.section:12} {found.what:70} {found.value:10.4g} {found.unit} {found.note}")
    where = f"{title(device)}, torch {torch.__version__}, Python {platform.python_version()}"
    print(f"{where}, {time.monotonic() - began:.0f} s: {out}")
    if any(found.what == FAILED for found in table):
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
