"""What does a training step cost? ``python benchmarks/training.py steps``, ``inputs``, ``same``.

Ways to do the step of adapters and gate for three domains, loss, gradients and optimizer included:

* ``straightforward``: as the published code, the whole codec forward with gradients on for all
  parameters, in float32, adapters in parallel branches, the rate computed; glibc manages the memory as
  it does by default, while ours keep what a step has freed;
* ``uncached``: ours, which encodes every crop without gradients and decodes in bfloat16 by one kernel
  an image;
* ``cached``: ours, with latents of whole images from the cache;
* ``uncached, SOAP``: as ``uncached``, but the optimizer is SOAP and not Adam, as by default for the
  bundled codec. Such a step is dearer, and fewer are needed.

Each way has a process of its own, because memory is that of a process; the processes take five steps in
turn, one at a time and in changing order, so that a busy machine is busy for all. Ratios are medians of
the ratios within a round. Memory is the most that a process has held while it took a step (VmHWM), and
how much of it came on top of what it held before its first step. Results are in ``results/``.
"""

from __future__ import annotations

import multiprocessing
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.utils.data import default_collate

from benchmarks.fixtures import RESULTS, Rounds, adapted, by_formula, quartiles, smooth_image
from experiments import common
from lic_da.data.latents.crops import crop_region
from lic_da.evaluation.curves import Run
from lic_da.methods.adapters.module import DecoderAdaptation
from lic_da.methods.losses import adaptation, bits_per_pixel
from lic_da.methods.optim import optimizer_of
from lic_da.training.memory import keep_freed_memory

WAYS = ("straightforward", "uncached", "cached", "uncached, SOAP")
SIZES = {"bmshj2018_factorized_n64": (8, 128), "zou2022": (2, 256)}
"""Crops in a batch, and their side in pixels."""
IN_A_ROW = 5
"""Steps that a way takes when it is its turn."""

app = typer.Typer(add_completion=False, help=__doc__)


@dataclass(frozen=True)
class Row:
    """A way on a codec: seconds a step, how many times faster than straightforward, MiB, crops a second."""

    codec: str
    device: str
    way: str
    batch: int
    crop: int
    median_s: float
    lower_quartile_s: float
    upper_quartile_s: float
    speedup: float
    speedup_lower_quartile: float
    speedup_upper_quartile: float
    images_per_s: float
    peak_mib: float
    step_mib: float
    rounds: int


def batch_of(module: DecoderAdaptation, size: int, crop: int, *, cached: bool) -> dict[str, Any]:
    """Crops of a smooth image, with labels; with their latents if these are cached."""
    pixels = smooth_image()[0].mul(255).round().to(torch.uint8)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        crops = module.encoder.cached(Path(folder), crop, pixels=1 << 20)
        boxes = crops.boxes("0" * 64, *pixels.shape[1:])
        crops.cache.prepare(boxes, lambda box: crop_region(pixels, box))
        batch = default_collate([crops.sample(pixels, boxes, rng) for _ in range(size)])
    if not cached:
        batch = {"image": batch["image"]}
    return {**batch, "label": torch.arange(size) % 3, "file": ["smooth"] * size}


def step_of(way: str, codec: str, size: int, crop: int, device: str) -> Callable[[], None]:
    """A training step, ready to be taken."""
    module = DecoderAdaptation(adapted(codec, 3), gamma=0.01, lr=1e-4, gate_lr=1e-4)
    module.check_and_log = lambda losses, batch: losses["loss"]  # type: ignore[method-assign]
    batch = batch_of(module, size, crop, cached=way == "cached")
    module.to(device).train()
    batch = {k: v.to(device) if torch.is_tensor(v) else v for k, v in batch.items()}
    optimizer = optimizer_of(
        "soap" if way.endswith("SOAP") else "adam",
        [{"params": module.trainable(), "lr": 1e-4}],
        fused=way != "straightforward",
    )
    parameters = module.trainable()
    if way == "straightforward":
        module.codec.requires_grad_(True)

    def straightforward() -> torch.Tensor:
        x, labels = batch["image"], batch["label"]
        logits: list[torch.Tensor] = []
        hook = module.synthesis.gate.register_forward_hook(lambda *seen: logits.append(seen[2]))
        with by_formula():
            out = module.codec(x)
        hook.remove()
        losses = adaptation(out["x_hat"], x, logits[0], labels, module.gamma)
        bits_per_pixel(out["likelihoods"], x[:, 0].numel())
        return losses["loss"]

    def step() -> None:
        optimizer.zero_grad()
        loss = straightforward() if way == "straightforward" else module.training_step(batch, 0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def _serve(pipe: Connection, threads: int, *arguments: Any) -> None:
    """Process of one way: takes a step whenever it is told to, and says how long it took."""
    torch.set_num_threads(threads)
    if arguments[0] != WAYS[0]:  # as our commands do
        keep_freed_memory()
    step, device = step_of(*arguments), arguments[-1]
    before = _held("VmRSS", device)
    step()
    pipe.send(None)
    while pipe.recv():
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        begun = time.perf_counter()
        for _ in range(IN_A_ROW):
            step()
        took = (time.perf_counter() - begun) / IN_A_ROW
        peak = _held("VmHWM", device)
        pipe.send((took, peak, peak - before))


def _held(what: str, device: str) -> float:
    """MiB that the process holds, or has held at most."""
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
        torch.cuda.reset_peak_memory_stats()
        return peak
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024


def measure(codec: str, device: str, rounds: int, threads: int, console: Console) -> list[Row]:
    """Time all ways on a codec."""
    size, crop = SIZES[codec]
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    for way in WAYS:
        pipes[way], theirs = context.Pipe()
        arguments = (theirs, threads, way, codec, size, crop, device)
        processes.append(context.Process(target=_serve, args=arguments, daemon=True))
        processes[-1].start()
        pipes[way].recv()
    took: dict[str, list[tuple[float, float, float]]] = {way: [] for way in WAYS}
    shuffle, order = random.Random(0), list(WAYS)
    for _ in track(range(rounds), description=codec, console=console, transient=True):
        shuffle.shuffle(order)
        for way in order:
            pipes[way].send(True)
            took[way].append(pipes[way].recv())
    for way in WAYS:
        pipes[way].send(False)
    for process in processes:
        process.join()
    rows = []
    for way, measured in took.items():
        seconds = [m[0] for m in measured]
        ratios = [a[0] / b for a, b in zip(took[WAYS[0]], seconds, strict=True)]
        peak, step = (max(m[i] for m in measured) for i in (1, 2))
        where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {threads} threads"
        rows.append(
            Row(
                *(codec, where, way, size, crop, *quartiles(seconds), *quartiles(ratios)),
                *(size / statistics.median(seconds), peak, step, rounds),
            )
        )
    return rows


@app.command()
def steps(
    codecs: str = ",".join(SIZES),
    rounds: Rounds = 15,
    threads: Annotated[int, typer.Option(help="Of each process.")] = 2,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Time a step of each way; writes results/training_<device>.csv."""
    console = Console(stderr=True)
    rows = [r for c in codecs.split(",") for r in measure(c, device, rounds, threads, console)]
    table = Table("codec", "way", "s a step", "faster", "crops/s", "peak MiB", "of a step")
    for row in rows:
        table.add_row(
            *(row.codec, row.way, f"{row.median_s:.3f}"),
            f"{row.speedup:.1f} ({row.speedup_lower_quartile:.1f}…{row.speedup_upper_quartile:.1f})",
            *(f"{row.images_per_s:.1f}", f"{row.peak_mib:.0f}", f"{row.step_mib:.0f}"),
        )
    Console().print(table, f"{platform.processor()} torch {torch.__version__}")
    common.write_table(RESULTS / f"training_{device}.csv", rows, ".6g")


@dataclass(frozen=True)
class Same:
    """PSNR of test and validation images, weighted: from cached latents in bfloat16, and without both."""

    seed: int
    domain: str
    cached_bf16_db: float
    uncached_float32_db: float
    difference_db: float
    cached_validation_db: float
    uncached_validation_db: float
    validation_difference_db: float


@app.command()
def same(steps: int = 500, seeds: int = 3) -> None:
    """Train with and without what makes it fast, and compare; writes results/training_same.csv."""
    ways = {
        "cached": ("data.latent_cache=true",),
        "uncached": ("data.latent_cache=false", "method.training.bf16=false"),
    }
    rows = []
    for seed in range(seeds):
        runs = {}
        for way, settings in ways.items():
            folder = common.OUTPUTS / "benchmark_training" / f"{way}_{steps}_s{seed}"
            if not (folder / "summary.json").is_file():
                common.start(
                    *(
                        "train",
                        common.QUICK_CODEC,
                        f"hydra.run.dir={folder}",
                        f"seed={seed}",
                        *settings,
                    ),
                    *(f"codec.training.steps={steps}", *common.BRIEF),
                    *("evaluation.modes=[base,weighted]", "evaluation.compatibility=1"),
                )
            runs[way] = Run.read(folder)
        for domain in runs["cached"].summary["domains"]:
            cached, uncached = (
                run.summary["domains"][domain]["psnr"]["weighted"] for run in runs.values()
            )
            cached_val, uncached_val = (run.validated()[domain] for run in runs.values())
            test = (cached, uncached, cached - uncached)
            validation = (cached_val, uncached_val, cached_val - uncached_val)
            rows.append(Same(seed, domain, *test, *validation))
    common.write_table(RESULTS / "training_same.csv", rows, ".6g")
    for seed in range(seeds):
        own = [row for row in rows if row.seed == seed]
        tested = statistics.mean(row.difference_db for row in own)
        validated = statistics.mean(row.validation_difference_db for row in own)
        print(
            f"seed {seed}, mean over domains: test {tested:+.4f} dB, validation {validated:+.4f} dB"
        )


@dataclass(frozen=True)
class Input:
    """Seconds that all steps of a training waited for their batches, and that they computed."""

    way: str
    steps: int
    waited_s: float
    computed_s: float
    share: float


_PROFILED = ("train_dataloader_next", "run_training_batch")  # waited, computed


@app.command()
def inputs(steps: int = 200) -> None:
    """Profile a training on sketch and comic by Lightning's profiler: what waiting for batches takes of it.

    Writes results/training_inputs.csv.
    """
    rows = []
    for way, cached in (("cached", "true"), ("uncached", "false")):
        with tempfile.TemporaryDirectory() as folder:
            common.start(
                *(
                    "train",
                    common.QUICK_CODEC,
                    f"hydra.run.dir={folder}",
                    f"data.latent_cache={cached}",
                ),
                *(f"codec.training.steps={steps}", f"data.batches_per_epoch={steps}"),
                *("data.val_images=1", "evaluation.modes=[base,weighted]", *common.BRIEF),
                "+trainer.profiler._target_=lightning.pytorch.profilers.SimpleProfiler",
                *(f"+trainer.profiler.dirpath={folder}", "+trainer.profiler.filename=profile"),
            )
            (path,) = Path(folder).glob("*profile*.txt")
            lines = path.read_text().splitlines()
        waited, computed = (
            sum(float(line.split("|")[4]) for line in lines if name in line) for name in _PROFILED
        )
        rows.append(Input(way, steps, waited, computed, waited / (waited + computed)))
        print(rows[-1])
    common.write_table(RESULTS / "training_inputs.csv", rows, ".6g")


if __name__ == "__main__":
    app()
