"""Pre-training by its command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from lic_da.codecs import zoo
from lic_da.data.images import RGB
from tests.conftest import codec_config, photo_crops

SETTINGS = (
    "qualities=[4,3]",
    "steps={first: 40, next: 20}",
    "data.batches_per_epoch=10",
    "data.batch_size=4",
    "data.crop=64",
    "data.val_images=1",
    "+data.source=photos",
    "+data.val_crop=64",
    "compile=false",
)


def test_interrupted_pretraining_ends_with_the_same_weights(
    folder_domain: Callable[..., Path], photographs: list[RGB], conf: Path, tmp_path: Path
) -> None:
    folder_domain("photos", photo_crops(photographs, 12, side=96))
    environment = {**os.environ, "LIC_DA_CONF": str(conf)}

    def start(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "lic_da.training.pretrain", *SETTINGS]
        command += [f"folder={name}", f"export={name}/export"]
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
        assert (tmp_path / "whole" / "export" / f"q{quality}.log.csv").is_file()
    config = codec_config()
    config.weights = str(tmp_path / "whole" / "export" / "q3.safetensors")
    zoo.build(config)
