"""Several processes train as one does with batches as many times as large."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import multiprocessing

from lic_da.data.datamodule import BalancedBatches, DomainsDataModule
from lic_da.io.images import RGB
from lic_da.methods import processes
from tests.conftest import photo_crops, scribbles

ROOT = Path(__file__).parents[1]


@pytest.fixture
def data(
    folder_domain: Callable[..., Path], photographs: list[RGB], tmp_path: Path
) -> DomainsDataModule:
    folder_domain("photos", photo_crops(photographs, 30))
    folder_domain("lines", scribbles(30))
    module = DomainsDataModule(["lines"], source="photos", data_dir=tmp_path / "data", crop=64)
    module.prepare_data()
    module.setup()
    return module


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_the_batches_of_one(data: DomainsDataModule, count: int) -> None:
    dataset = data.train_dataset()
    whole = list(BalancedBatches(dataset, 6 * count, 5, seed=3))
    shares = [
        list(BalancedBatches(dataset, 6, 5, seed=3, rank=rank, processes=count))
        for rank in range(count)
    ]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert all(len(part) == 6 for part in parts)
        assert sorted(batch) == sorted(key for part in parts for key in part)


def test_validation_images_are_shared_out(
    data: DomainsDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [batch["file"] for batch in data.val_dataloader()]
    assert len(whole) > 3
    data.trainer = L.Trainer(logger=False, accelerator="cpu")
    seen = []
    for rank in range(2):
        monkeypatch.setattr(L.Trainer, "global_rank", rank)
        monkeypatch.setattr(L.Trainer, "world_size", 2)
        seen += [batch["file"] for batch in data.val_dataloader()]
    assert sorted(seen) == sorted(whole)


def _gather(rank: int, port: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    noted = {"both": [float(rank)], f"only {rank}": [1.0, 2.0]}
    Path(folder, str(rank)).write_text(json.dumps(processes.gathered(noted)))
    torch.distributed.destroy_process_group()


def test_what_processes_note_is_put_together(tmp_path: Path) -> None:
    from socket import socket

    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(_gather, (port, str(tmp_path)), nprocs=2)
    for rank in range(2):
        noted = json.loads((tmp_path / str(rank)).read_text())
        assert noted == {"both": [0.0, 1.0], "only 0": [1.0, 2.0], "only 1": [1.0, 2.0]}


def test_jobs_of_a_sweep_do_not_start_processes_by_the_sweeps_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lic_da.train", "-m", "codec.quality=1", "trainer=ddp_cpu"]
    settings = [
        "logger=none",
        "unseen=[]",
        f"hydra.sweep.dir={tmp_path}",
        f"data.data_dir={tmp_path}",
    ]
    done = subprocess.run([*command, *settings], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "cannot start 2 processes by itself" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_two_processes_end_as_one_with_batches_of_twice_the_size(tmp_path: Path) -> None:
    def run(name: str, *settings: str) -> tuple[dict, list[dict[str, str]]]:
        folder = tmp_path / name
        command = [
            *(sys.executable, "-m", "lic_da.train", "domains=[sketch]", "unseen=[]", "logger=none"),
            *("codec.training.steps=60", "data.batches_per_epoch=20", "data.val_images=5"),
            *("evaluation.ms_ssim=false", "evaluation.examples=0", "evaluation.compatibility=2"),
            *(f"hydra.run.dir={folder}", *settings),
        ]
        subprocess.run(command, check=True, cwd=ROOT)
        with open(folder / "logs" / "version_0" / "metrics.csv", newline="") as file:
            validations = [row for row in csv.DictReader(file) if row["val/gain"]]
        return json.loads((folder / "summary.json").read_text()), validations

    one, one_validated = run("one", "trainer=cpu", "codec.training.batch_size=8")
    two, two_validated = run("two", "trainer=ddp_cpu", "codec.training.batch_size=4")
    for domain in ("natural", "sketch"):
        measured, expected = (summary["domains"][domain]["psnr"] for summary in (two, one))
        # The processes have fewer threads each, which round sums otherwise.
        assert measured["base"] == pytest.approx(expected["base"], abs=1e-5)
        for mode in ("weighted", "top1", "oracle"):
            assert abs(measured[mode] - expected[mode]) < 0.02
        # Means over the same five images, each once: of four, or of one twice, they would differ.
        means = [
            [float(row[f"val/psnr_base/{domain}"]) for row in rows]
            for rows in (one_validated, two_validated)
        ]
        assert means[0] == pytest.approx(means[1], abs=1e-4)
    assert len(one_validated) == len(two_validated) == 3
