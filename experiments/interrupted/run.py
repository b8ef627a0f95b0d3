"""Does a training that is killed end as if nothing had happened? ``make experiments/interrupted``.

Trains for a short time on sketches, with comics, whose images are small, in the source's place: once
undisturbed, then again and again with a signal at a random moment: SIGKILL from the start of the program
to the end of its measuring, SIGTERM between the first training step and the last. Then the same command
goes on from the last checkpoint, or from the beginning where there is none yet. Writes results.csv beside
this file: signals, seeds, moments, and whether weights and table are the same.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
import typer
from rich.console import Console
from rich.progress import track
from safetensors.torch import load_file

from experiments import common
from lic_da.io.files import read_json

HERE = Path(__file__).parent
RUNS = common.OUTPUTS / "experiment_interrupted"
BEGUN = Path("logs") / "version_0" / "hparams.yaml"
"""What a run writes when its training begins."""
SETTINGS = (
    common.QUICK_CODEC,
    *("domains=[sketch]", "data.source=comic", "trainer=cpu", *common.BRIEF),
    *("codec.training.steps=150", "data.batches_per_epoch=25", "codec.training.batch_size=4"),
    *("codec.training.crop=128", "data.val_images=4", "data.val_crop=256"),
    *("evaluation.modes=[base,weighted]", "evaluation.compatibility=1", "data.latent_cache=true"),
)


@dataclass(frozen=True)
class Result:
    """A run that a signal has ended.

    Attributes:
        signal: its name.
        seed: of the moment.
        moment_s: seconds from the start of the program.
        exit_code: of the program; negative: it was killed.
        checkpoint_step: training steps in the last checkpoint, from which it went on; 0: from none.
        same_weights: whether all tensors of the pack are those of the undisturbed run, to the last bit.
        same_table: whether the results of all test images are the same, times aside.
    """

    signal: str
    seed: int
    moment_s: float
    exit_code: int
    checkpoint_step: int
    same_weights: bool
    same_table: bool


def command(folder: Path, *more: str) -> list[str]:
    """The training in a folder."""
    return common.command("train", *SETTINGS, f"hydra.run.dir={folder}", *more)


def environment() -> dict[str, str]:
    """One thread for each run, several of which share the machine."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def train(folder: Path, *more: str) -> None:
    """Train to the end.

    Raises:
        RuntimeError: it did not get there; the message has the end of what it printed.
    """
    done = subprocess.run(
        command(folder, *more), env=environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{folder} ended with {done.returncode}: {done.stderr[-2000:]}")


def disturbed(name: str, seed: int, whole: Path, span: float) -> Result:
    """Train, send a signal, go on, compare.

    Args:
        name: of the signal; SIGTERM waits until the training has begun.
        seed: of the moment.
        whole: folder of the undisturbed run.
        span: seconds in which the moment lies.
    """
    folder = RUNS / f"{name}_{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    moment = random.Random(f"{name} {seed}").uniform(0, span)
    process = subprocess.Popen(
        command(folder),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    began = time.monotonic()
    while name == "SIGTERM" and not (folder / BEGUN).is_file() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(moment)
    moment = time.monotonic() - began
    process.send_signal(signal.Signals[name])
    exit_code = process.wait()
    last = folder / "checkpoints" / "last.ckpt"
    step = 0
    if last.is_file():
        step = int(torch.load(last, weights_only=True)["global_step"])
    if not (folder / "summary.json").is_file():
        train(folder, *([f"ckpt_path={last}"] if step else []))
    return Result(
        *(name, seed, moment, exit_code, step), weights(folder, whole), table(folder, whole)
    )


def weights(one: Path, other: Path) -> bool:
    """Whether two packs hold the same tensors."""
    a, b = (load_file(folder / "pack" / "adapters.safetensors") for folder in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def table(one: Path, other: Path) -> bool:
    """Whether two runs have measured the same."""

    def rows(folder: Path) -> list[dict[str, str]]:
        aside = ("run", "encode_s", "decode_s")
        points = common.read_table(folder / "rd_points.csv")
        return [{k: v for k, v in row.items() if k not in aside} for row in points]

    summaries = [read_json(folder / "summary.json")["domains"] for folder in (one, other)]
    return rows(one) == rows(other) and all(
        summaries[0][d]["psnr"] == summaries[1][d]["psnr"] for d in summaries[0]
    )


def main(kills: int = 20, terminations: int = 8, jobs: common.Jobs = 2) -> None:
    """Run all, write results.csv: ``kills`` runs that SIGKILL ends, ``terminations`` that SIGTERM ends."""
    whole = RUNS / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    train(RUNS / "first")  # what is prepared and cached once
    begun = time.monotonic()
    train(whole)
    duration = time.monotonic() - begun
    last = whole / "checkpoints" / "last.ckpt"
    training = last.stat().st_mtime - (whole / BEGUN).stat().st_mtime
    todo = [("SIGKILL", seed, whole, duration) for seed in range(kills)]
    todo += [("SIGTERM", seed, whole, training) for seed in range(terminations)]
    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(disturbed, *one) for one in todo]
        found = [r.result() for r in track(running, "Disturbed runs", console=Console(stderr=True))]
    common.write_table(HERE / "results.csv", found, ".2f")
    same = sum(r.same_weights and r.same_table for r in found)
    print(f"{same} of {len(found)} runs ended as the undisturbed one, which took {duration:.0f} s")
    if same < len(found):
        raise SystemExit(1)


if __name__ == "__main__":
    typer.run(main)
