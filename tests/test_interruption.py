"""A training that is told to end (SIGTERM), wherever it is, goes on later to the very same weights."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file
from torch import Tensor

from lic_da.errors import Stopped
from lic_da.io.images import RGB
from lic_da.io.lossless import save_png
from lic_da.methods.adapters.module import DecoderAdaptation
from lic_da.methods.module import CodecModule
from lic_da.methods.retraining import RateDistortionTraining
from lic_da.training.run import train_what_is_missing
from lic_da.training.settings import RunSettings
from tests.conftest import CODEC, photo_crops, scribbles

SMALL = (
    f"codec={CODEC}",
    "codec.training.steps=10",
    "codec.training.batch_size=4",
    "codec.training.crop=32",
    "data.batches_per_epoch=5",
    "data.val_images=1",
    "data.val_crop=64",
    "data.source=photos",
    "data.latent_cache=true",
    "data.latent_pixels=10000",
    "evaluation.ms_ssim=false",
    "evaluation.examples=0",
    "logger=none",
    "unseen=[]",
    "domains=[lines]",
)


@pytest.fixture
def trained(
    folder_domain: Callable[..., Path],
    photographs: list[RGB],
    conf: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str], dict[str, Tensor]]:
    """Trains in a folder of this name as far as it is missing; the adapters and the gate."""
    monkeypatch.chdir(tmp_path)
    folder_domain("photos", photo_crops(photographs, 10, side=64))
    folder_domain("lines", scribbles(10, side=64))

    def run(name: str, *overrides: str) -> dict[str, Tensor]:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        with initialize_config_dir(str(conf), version_base="1.3"):
            settings = RunSettings.from_config(compose("train", [*SMALL, *overrides]))
        train_what_is_missing(settings, folder)
        (file,) = (folder / "pack").glob("*.safetensors")
        tensors: dict[str, Tensor] = load_file(file)
        return tensors

    return run


def logged(run: Path) -> set[tuple[str, str]]:
    """Names of what was logged of validations, with their steps."""
    found = set()
    for path in run.glob("logs/version_*/metrics.csv"):
        for row in csv.DictReader(path.read_text().splitlines()):
            found |= {(name, row["step"]) for name in row if name.startswith("val/") and row[name]}
    assert len({step for _, step in found}) == 2
    return found


# In the middle of an epoch; in its last step; before any checkpoint; in the very last step.
@pytest.mark.parametrize(
    ("step", "method"),
    [
        *((step, DecoderAdaptation) for step in (7, 4, 0, 9)),
        (6, RateDistortionTraining),  # whose rounding is noise in training, and not elsewhere
    ],
)
def test_a_terminated_training_goes_on_to_the_same_weights(
    step: int,
    method: type[CodecModule],
    trained: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    named = () if method is DecoderAdaptation else ("method=finetune", "data.latent_cache=false")
    whole = trained("whole", *named)
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    own = method.training_step

    def terminated(self: CodecModule, batch: dict[str, Any], batch_idx: int) -> Tensor:
        if self.global_step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return own(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(method, "training_step", terminated)
        with pytest.raises(Stopped, match=r"To go on: .*last\.ckpt"):
            trained("cut", *named)
    assert torch.load(last, weights_only=False)["global_step"] == step + 1
    assert not (tmp_path / "cut" / "pack").exists()
    again = trained("cut", *named)
    assert logged(tmp_path / "cut") == logged(tmp_path / "whole")
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[k], again[k]) for k in whole)


def test_a_finished_run_is_done_again_where_its_images_are_others(
    trained: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained("run")
    trained("run")
    assert "already trained and measured" in capsys.readouterr().out
    (lines,) = tmp_path.rglob("lines/000.png")
    save_png(lines.with_name("new.png"), scribbles(1, seed=9, side=64)[0])
    trained("run")
    told = capsys.readouterr().out
    assert "other settings, images or base weights" in told and "already trained" not in told
    assert len(list((tmp_path / "run").glob("old-*/summary.json"))) == 1
