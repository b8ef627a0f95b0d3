"""Pre-training by its command."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from rich.console import Console
from safetensors.torch import load_file

from lic_da.codecs import zoo
from lic_da.codecs.models.zou2022_variable import VariableRateWACNN
from lic_da.errors import Stopped, UserError
from lic_da.io.images import RGB
from lic_da.pretraining import program, weights_files
from lic_da.pretraining.module import Pretraining
from lic_da.pretraining.settings import PretrainingSettings
from lic_da.training.interruption import read_checkpoint
from tests.conftest import MEAN_SCALE, codec_config, photo_crops

SETTINGS = (
    f"codec={MEAN_SCALE}",
    "qualities=[4,3]",
    "steps={first: 20, next: 10}",
    "data.batches_per_epoch=10",
    "data.batch_size=4",
    "data.crop=64",
    "data.val_images=1",
    "+data.source=photos",
    "data.val_crop=64",
    "warmup=5",
    "compile=false",
)


def validations(log: Path) -> list[dict[str, str]]:
    """Rows of validations; the mean of an epoch's losses is written after its checkpoint only."""
    with open(log, newline="") as file:
        return [row for row in csv.DictReader(file) if row["val/psnr"]]


def test_pretraining_goes_on_exactly_and_keeps_what_is_better(
    folder_domain: Callable[..., Path], photographs: list[RGB], conf: Path, tmp_path: Path
) -> None:
    folder_domain("photos", photo_crops(photographs, 12, side=96))
    environment = {**os.environ, "LIC_DA_CONF": str(conf)}

    def start(name: str, *settings: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "lic_da.pretrain", *SETTINGS]
        command += [f"folder={name}", f"export={name}/export", *settings]
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, text=True, stderr=subprocess.PIPE
        )

    whole = start("whole")
    _, errors = whole.communicate()
    assert whole.returncode == 0, errors

    killed = start("killed")
    last = tmp_path / "killed" / "q4" / "checkpoints" / "last.ckpt"
    deadline = time.time() + 120
    while not last.is_file() and time.time() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert last.is_file() and not (tmp_path / "killed" / "export").exists()

    again = start("killed")
    _, errors = again.communicate()
    assert again.returncode == 0, errors
    for quality in (4, 3):
        ours = load_file(tmp_path / "killed" / "export" / f"q{quality}.safetensors")
        theirs = load_file(tmp_path / "whole" / "export" / f"q{quality}.safetensors")
        assert all(torch.equal(ours[k], theirs[k]) for k in ours.keys() | theirs.keys())
        recipe = json.loads((tmp_path / "whole" / "export" / f"q{quality}.json").read_text())
        assert recipe["training"][0]["started_from"] == ("scratch" if quality == 4 else "quality 4")
        assert recipe["validation"]["bpp"] > 0
        logs = [tmp_path / run / "export" / f"q{quality}.log.csv" for run in ("whole", "killed")]
        assert validations(logs[0]) == validations(logs[1]) != []
    export = tmp_path / "whole" / "export"
    config = codec_config(3, MEAN_SCALE, weights=str(export / "q3.safetensors"))
    fingerprint = zoo.fingerprint(zoo.build(config).state_dict())
    recorded = json.loads((export / "fingerprints.json").read_text())
    assert recorded[fingerprint] == [MEAN_SCALE, 3]
    kernels = [v for v in load_file(export / "q3.safetensors").values() if v.ndim == 4]
    assert kernels and all(v.dtype == torch.float16 for v in kernels)
    assert (export / "validation.png").is_file()

    exported = {path: path.read_bytes() for path in export.glob("q*")}
    into = ("export=whole/export", "qualities=[3]")
    worse = start("worse", *into, "steps.first=10", "lr.first=0")
    _, errors = worse.communicate()
    assert worse.returncode == 0, errors
    assert "stay, for they are better" in " ".join(errors.split())
    assert all(path.read_bytes() == content for path, content in exported.items())

    better = start("better", *into, "refine=true", "steps.next=30")
    _, errors = better.communicate()
    assert better.returncode == 0, errors
    assert load_file(export / "q3.safetensors").keys() and (
        (export / "q3.safetensors").read_bytes() != exported[export / "q3.safetensors"]
    )
    trainings = json.loads((export / "q3.json").read_text())["training"]
    assert [t["started_from"] for t in trainings] == ["quality 4", "the weights before"]
    before = exported[export / "q3.log.csv"].decode()
    assert (export / "q3.log.csv").read_text().startswith(before)
    assert [row["training"] for row in validations(export / "q3.log.csv")] == [*"0111"]

    other = start("killed", "clip=2")
    _, errors = other.communicate()
    assert other.returncode == 2 and "training with other settings (clip)" in errors


@pytest.fixture
def train(
    folder_domain: Callable[..., Path],
    photographs: list[RGB],
    conf: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., None]:
    """Pre-trains quality 4 for ten steps in a folder of this name, and exports it if there is an export."""
    folder_domain("photos", photo_crops(photographs, 12, side=96))
    monkeypatch.chdir(tmp_path)

    def train(name: str, *overrides: str) -> None:
        settings = ("steps={first: 10, next: 10}", "data.batches_per_epoch=5", f"folder={name}")
        with initialize_config_dir(str(conf), version_base="1.3"):
            config = compose("pretrain", [*SETTINGS, *settings, *overrides])
        training = PretrainingSettings.from_settings(config).at_quality(4)
        data, console = instantiate(training.data), Console(quiet=True)
        program.pretrain_quality(training, None, data, console)
        if training.export:
            data.setup()
            program.export(training, data, console)

    return train


@contextlib.contextmanager
def terminated_at(step: int) -> Iterator[None]:
    """SIGTERM comes in this step, and ends the training."""
    own = Pretraining.training_step

    def training_step(self: Pretraining, batch: dict[str, Any], batch_idx: int) -> None:
        if self.global_step // 2 == step:  # Lightning counts the steps of two optimizers
            os.kill(os.getpid(), signal.SIGTERM)
        own(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Pretraining, "training_step", training_step)
        yield


def test_terminated_pretraining_goes_on_from_its_last_step(
    train: Callable[..., None], tmp_path: Path
) -> None:
    train("whole")
    # In the middle of the first epoch, of the second, and in the very last step.
    for step in (2, 7, 9):
        with terminated_at(step):
            train("cut")
        checkpoint = read_checkpoint(tmp_path / "cut" / "q4" / "checkpoints" / "last.ckpt")
        assert checkpoint["global_step"] // 2 == step + 1
    train("cut")
    ours, theirs = (
        load_file(tmp_path / name / "q4" / "weights.safetensors") for name in ("cut", "whole")
    )
    assert all(torch.equal(ours[k], theirs[k]) for k in ours.keys() | theirs.keys())
    logs = [validations(tmp_path / name / "q4" / "log.csv") for name in ("cut", "whole")]
    assert logs[0] == logs[1] and [row["step"] for row in logs[0]] == ["4", "9"]


def test_a_recipe_tells_of_the_weights_that_a_training_started_from(
    train: Callable[..., None], tmp_path: Path
) -> None:
    def told(folder: str) -> tuple[list[str], list[str]]:
        """The recipe's trainings, and those that the rows of the log are of."""
        (recipe,) = tmp_path.glob(f"{folder}/*[4e].json")
        (log,) = tmp_path.glob(f"{folder}/*log.csv")
        trainings = json.loads(recipe.read_text())["training"]
        return [t["started_from"] for t in trainings], [r["training"] for r in validations(log)]

    train("first", "refine=true", "export=export")
    assert told("export") == (["scratch"], ["0", "0"])
    # Now there is something to refine, but this training is finished.
    train("first", "refine=true", "export=export", "codec.training.lr=1")
    with terminated_at(7):
        train("cut", "refine=true", "export=export", "seed=1")
    train("other", "refine=true", "export=export", "seed=2")
    refined = (["scratch", "the weights before"], ["0", "0", "1", "1"])
    assert told("export") == told("other/q4") == refined
    train("cut", "refine=true", "export=export", "seed=1")
    assert told("cut/q4") == refined
    # Logs were without that column once.
    log = tmp_path / "export" / "q4.log.csv"
    log.write_text("".join(line.partition(",")[2] for line in log.read_text().splitlines(True)))
    train("third", "refine=true", "export=export", "seed=3")
    assert told("third/q4")[1] == [*"111122"]


NARROW = (
    *("codec=zou2022_n64", "codec.model.N=8", "codec.model.M=40"),
    *("+codec.model.hyper=[8,8]", "+codec.model.slice_net=[8]", "+codec.model.residual_net=[8]"),
)


@pytest.mark.parametrize(("rates", "drawn"), [("null", {0, 1, 2, 3, 4, 5}), ("[3,5]", {2, 4})])
def test_of_a_variable_rate_all_or_some_are_trained(
    rates: str,
    drawn: set[int],
    train: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []
    forward = VariableRateWACNN.forward

    def recorded(
        codec: VariableRateWACNN, x: torch.Tensor, rates: torch.Tensor | None = None
    ) -> dict[str, Any]:
        if codec.training and rates is not None:
            seen.extend(rates.tolist())
        return forward(codec, x, rates)

    monkeypatch.setattr(VariableRateWACNN, "forward", recorded)
    train("some", *NARROW, f"rates={rates}", "data.batch_size=8", "export=export")
    assert len(seen) == 80 and set(seen) == drawn
    recipe = json.loads((tmp_path / "some" / "all" / "recipe.json").read_text())
    assert [*recipe["validation"]["rates"]] == [*"123456"]  # all are measured
    assert len(recipe["lmbda"]) == len(drawn)
    (training,) = recipe["training"]
    assert training.get("rates") == (None if rates == "null" else [3, 5])


def test_logs_of_killed_sessions_are_joined(tmp_path: Path) -> None:
    logs = (
        "",
        "epoch,step,val/bpp,val/loss\n0,4,0.5,2.5\n",  # killed after the first checkpoint
        "epoch,step,train/loss,val/bpp,val/loss\n1,10,,0.4,2.0\n1,10,1.5,,\n2,14,,",
        "epoch,step,train/loss,val/bpp,val/loss\n2,14,,0.3,1.5\n",
    )
    for number, log in enumerate(logs):
        folder = tmp_path / f"session_{number}"
        folder.mkdir()
        (folder / "metrics.csv").write_text(log)
    rows = weights_files.logged(tmp_path, 3, batches=5)
    assert [(r["training"], r["epoch"], r["step"]) for r in rows] == [
        *(("3", "0", "4"), ("3", "1", "9"), ("3", "1", "9"), ("3", "2", "14"))
    ]
    assert [r.get("val/loss") for r in rows] == ["2.5", "2.0", "", "1.5"]
    assert rows[2]["train/loss"] == "1.5"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("qualities=4", "qualities must be a list"),
        ("qualities=[]", "qualities must be a list"),
        ("data.val_images=0", "data.val_images must be 1 at least"),
        ("steps.first=0", "steps.first must be 1 at least"),
        ("data.batches_per_epoch=0", "data.batches_per_epoch must be 1 at least"),
        ("data.crop=50", "data.crop must be a multiple of 64"),
        ("refine=true", "leave out start"),
        ("rates=[3]", "rates is for codecs of variable rate"),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    override: str, message: str, conf: Path
) -> None:
    with initialize_config_dir(str(conf), version_base="1.3"):
        config = compose("pretrain", [*SETTINGS, "start=q4.safetensors", override])
    with pytest.raises(UserError, match=message):
        PretrainingSettings.from_settings(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rates=[7]", "export=x"], "Unknown quality in rates '7'"),
        (["rates=[]", "export=x"], "must be a list"),
        (["rates=3", "export=x"], "must be a list"),
        (["rates=[3,3]", "export=x"], "twice"),
        (["rates=[3]"], "give them a folder"),
    ],
)
def test_rates_that_cannot_be_trained_are_refused(
    overrides: list[str], message: str, conf: Path
) -> None:
    with initialize_config_dir(str(conf), version_base="1.3"):
        config = compose("pretrain", ["codec=zou2022_n64", *overrides])
    with pytest.raises(UserError, match=message):
        PretrainingSettings.from_settings(config)
