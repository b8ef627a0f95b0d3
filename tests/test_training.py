"""Training by the public command, on small folder domains, with the real codec."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lic_da.codecs import zoo
from lic_da.evaluation.measure import read_points
from lic_da.io.images import RGB, read_rgb
from lic_da.methods import pack
from lic_da.methods.adapters.codec import AdaptedCodec
from lic_da.methods.adapters.module import DecoderAdaptation
from lic_da.methods.losses import adaptation, distortion, rate_distortion
from lic_da.methods.schedule import warmup_cosine
from tests.conftest import CODEC, DOMAINS, codec_config, photo_crops, scribbles
from tests.method_steps import train_steps

SMALL = (
    f"codec={CODEC}",
    "codec.training.steps=30",
    "codec.training.batch_size=4",
    "codec.training.crop=64",
    "data.batches_per_epoch=10",
    "data.val_images=2",
    "data.val_crop=64",
    "data.source=photos",
    "evaluation.ms_ssim=false",
    "evaluation.examples=1",
    "unseen=[other]",
)


@pytest.fixture
def world(
    folder_domain: Callable[..., Path], photographs: list[RGB], conf: Path, tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a module in a folder of its own, where three small domains exist."""
    folder_domain("photos", photo_crops(photographs, 12, side=96))
    folder_domain("lines", scribbles(12, side=96))
    folder_domain("other", scribbles(6, side=96, seed=4))
    environment = {**os.environ, "LIC_DA_CONF": str(conf), "WANDB_MODE": "offline"}

    def run(
        module: str, *overrides: str, popen: bool = False
    ) -> subprocess.CompletedProcess[str] | subprocess.Popen[str]:
        command = [sys.executable, "-m", module, *overrides]
        common = {"cwd": tmp_path, "env": environment, "text": True}
        if popen:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            return subprocess.Popen(command, **common, **quiet)  # type: ignore[call-overload]
        return subprocess.run(command, **common, capture_output=True, check=False)  # type: ignore[call-overload]

    return run  # type: ignore[return-value]


def train(world: Callable, name: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    return world("lic_da.train", "domains=[lines]", f"name={name}", *SMALL, *overrides)


def table(folder: Path) -> list[dict[str, str]]:
    """rd_points.csv without what differs from run to run: its name and the times."""
    with open(folder / "rd_points.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in r.items() if k != "run" and not k.endswith("_s")} for r in rows]


def test_a_run_leaves_everything_it_promises(world: Callable, conf: Path, tmp_path: Path) -> None:
    done = train(world, "first")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "outputs" / "first"
    for name in (
        "config.yaml",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
        "pack/adapters.safetensors",
        "pack/config.yaml",
        "pack/metrics.json",
        "rd_points.csv",
        "summary.json",
        "logs/version_0/metrics.csv",
    ):
        assert (folder / name).is_file(), name
    assert list((folder / "pictures").glob("*.png"))

    # the base is what it was, and what the package ships
    summary = json.loads((folder / "summary.json").read_text())
    shipped = zoo.fingerprint(zoo.build(codec_config()).state_dict())
    assert summary["base_fingerprint"] == shipped
    assert pack.read_config(folder / "pack").base_fingerprint == shipped
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=False)["state_dict"]
    assert all(k.startswith(("codec.g_s.bank.", "codec.g_s.gate.")) for k in state)
    trained = load_file(folder / "pack" / "adapters.safetensors")
    assert all(v.abs().sum() > 0 for k, v in trained.items() if k.startswith("bank."))

    # every test image, seen and unseen, with every mode that makes sense
    points = read_points(folder / "rd_points.csv")
    assert {(p.domain, p.blend) for p in points} == {
        *((d, b) for d in ("photos", "lines") for b in ("base", "weighted", "top1", "oracle")),
        *(("other", b) for b in ("base", "weighted", "top1")),
    }
    assert {p.domain for p in points if not p.seen} == {"other"}
    for p in points:
        assert abs(p.bpp_estimated - p.bpp) < 0.05 * p.bpp + 64 / (p.width * p.height)
        assert p.file_bytes > p.string_bytes

    # the printed table and where to go next
    assert "lines" in done.stdout and "other*" in done.stdout
    assert "lic-da compress" in done.stdout

    # the pack decodes to what the table says
    codec = AdaptedCodec.load(folder / "pack")
    point = next(p for p in points if p.domain == "lines" and p.blend == "weighted")
    pixels = read_rgb(tmp_path / "pictures" / "lines" / point.image)
    decoded = codec.decompress(codec.compress(pixels))
    mse = np.mean((decoded.astype(float) - pixels) ** 2)
    assert abs(10 * np.log10(255**2 / mse) - point.psnr) < 0.001

    # W&B offline files are complete
    (record,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    content = record.read_bytes()
    for key in (b"test/psnr_weighted/lines", b"test/gate_accuracy", b"git_commit", b"confusion"):
        assert key in content, key

    evaluated = world(
        "lic_da.evaluate",
        f"pack={folder / 'pack'}",
        "domains=[photos,lines]",
        "unseen=other",
        "output=again",
        "ms_ssim=false",
    )
    assert evaluated.returncode == 0, evaluated.stderr
    assert table(tmp_path / "again") == table(folder)

    evaluated = world(
        *("lic_da.evaluate", f"pack={folder / 'pack'}", "domains=[lines]", "output=unseen"),
        *("unseen=all", "unseen_images=1", "modes=[base,weighted]", "ms_ssim=false"),
    )
    assert evaluated.returncode == 0, evaluated.stderr
    points = read_points(tmp_path / "unseen" / "rd_points.csv")
    assert len([p for p in points if not p.seen]) == 2  # a mode each
    assert {p.domain for p in points} == {"photos", "lines", "other"}

    for arguments, message in (
        ((f"output={folder}",), "holds a run, or a pack: name another folder"),
        (("modes=[]",), "Name ways to decode, such as"),
        (("unseen_images=-1",), "unseen_images must be a whole number of at least 0, not -1"),
    ):
        refused = world("lic_da.evaluate", f"pack={folder / 'pack'}", "unseen=[]", *arguments)
        assert refused.returncode == 2 and message in refused.stderr
    assert table(folder) == table(tmp_path / "again")

    # a checkpoint of other domains, other weights or another optimizer is refused in words
    for overrides, message in (
        (["domains=[lines,other]", "unseen=[]"], "was made for the domains photos, lines, not"),
        (["domains=[lines]", "codec.quality=2"], "belongs to base weights"),
        (
            ["domains=[lines]", "codec.training.optimizer=adam"],
            "made with the optimizer soap, not adam",
        ),
    ):
        last = folder / "checkpoints" / "last.ckpt"
        refused = world("lic_da.train", *SMALL, *overrides, f"ckpt_path={last}", "name=refused")
        assert refused.returncode == 2 and message in refused.stderr, refused.stderr
        assert not (tmp_path / "outputs" / "refused").exists()
    nowhere = "sources:\n  - kind: folder\n    path: /nowhere/at/all\n"
    (conf / "domain" / "nowhere.yaml").write_text(nowhere)
    failed = world("lic_da.train", *SMALL, "domains=[nowhere]", "name=refused")
    assert failed.returncode == 2 and "/nowhere/at/all" in failed.stderr
    assert not (tmp_path / "outputs" / "refused").exists()  # not even for its settings


def test_a_killed_run_resumes_to_the_same_table(world: Callable, tmp_path: Path) -> None:
    assert train(world, "whole").returncode == 0
    last = tmp_path / "outputs" / "killed" / "checkpoints" / "last.ckpt"
    overrides = ("domains=[lines]", *SMALL, "name=killed", "codec.training.steps=30")
    process = world("lic_da.train", *overrides, popen=True)
    deadline = time.time() + 120
    while not last.is_file() and time.time() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    folder = last.parents[1]
    assert last.is_file() and not (folder / "rd_points.csv").is_file()
    step = torch.load(last, weights_only=False)["global_step"]
    assert step in (10, 20)

    before = (folder / "config.yaml").read_text()
    other = ("seed=3", "codec.training.lr=5.0e-4")
    refused = world("lic_da.train", "domains=[lines]", *SMALL, f"ckpt_path={last}", *other)
    assert refused.returncode == 2 and "seed=0 and not 3" in refused.stderr
    assert "codec.training.lr=" in refused.stderr and (folder / "config.yaml").read_text() == before

    done = world("lic_da.train", "domains=[lines]", *SMALL, f"ckpt_path={last}")
    assert done.returncode == 0, done.stderr
    whole = tmp_path / "outputs" / "whole"
    assert table(folder) == table(whole)
    ours = load_file(folder / "pack" / "adapters.safetensors")
    theirs = load_file(whole / "pack" / "adapters.safetensors")
    assert all(torch.equal(ours[k], theirs[k]) for k in ours.keys() | theirs.keys())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["domains=[lines,linse]"], "Unknown domain 'linse'. Did you mean 'lines'? Available: "),
        (
            ["codec.quality=9"],
            "Unknown quality '9' for codec bmshj2018_factorized_n64. Available: ",
        ),
        (["ckpt_path=nowhere/checkpoints/last.ckpt"], "There is no checkpoint"),
        (["codec.weights=nowhere.safetensors"], "There are no weights at nowhere.safetensors"),
        (["logger.mode=loud"], "Unknown W&B mode 'loud'"),
    ],
)
def test_mistakes_end_in_one_line(
    world: Callable, overrides: list[str], message: str, tmp_path: Path
) -> None:
    done = world("lic_da.train", "domains=[lines]", *SMALL, *overrides)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0]
    assert "Traceback" not in done.stderr


def test_an_unknown_codec_lists_those_that_exist(world: Callable) -> None:
    done = world("lic_da.train", "codec=bmshj")
    assert done.returncode != 0
    assert "bmshj2018_factorized_n64" in done.stderr and "Traceback" not in done.stderr


def test_describe_prints_one_json_object_with_the_published_counts(world: Callable) -> None:
    for name in ("sketch", "comic"):
        done = world("lic_da.describe", f"domains=[{name}]")
        assert done.returncode == 0, done.stderr
    description = json.loads(
        world("lic_da.describe", f"codec={CODEC}", "domains=[sketch,comic]").stdout
    )
    params = description["params"]
    assert description["domains"] == list(DOMAINS)
    assert params["base"]["encoder"] == 324_736 and params["base"]["decoder"] == 324_675
    assert params["base"]["total"] == sum(
        params["base"][part] for part in ("encoder", "decoder", "entropy")
    )
    assert params["adapters"] == {"per_domain": 144_195, "total": 432_585}
    assert params["gate"] == 37_123
    assert params["trainable"] == params["adapters"]["total"] + params["gate"]
    assert params["frozen"] == params["base"]["total"]


def test_the_optimizer_holds_bank_and_gate_only() -> None:
    adapted = AdaptedCodec.build(codec_config(), DOMAINS)
    module = DecoderAdaptation(adapted, gamma=1, lr=1e-3, gate_lr=1e-3, schedule="plateau")
    (optimizer,), _ = module.configure_optimizers()
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    wanted = [*adapted.synthesis.bank.parameters(), *adapted.synthesis.gate.parameters()]
    assert held == {id(p) for p in wanted}
    module.train()
    assert not adapted.codec.g_a.training and not adapted.synthesis.base.training


def test_without_a_source_adapter_photographs_keep_their_decoder_and_the_others_learn() -> None:
    adapted = AdaptedCodec.build(codec_config(), DOMAINS)
    rates = {"gamma": 0.01, "lr": 1e-3, "gate_lr": 1e-3}
    module = DecoderAdaptation(adapted, **rates, source_adapter=False)
    source, *others = (adapted.synthesis.bank.adapters[d].parameters() for d in DOMAINS)
    frozen, learned = [*source], [p for own in others for p in own]
    held = {id(p) for p in module.trainable()}
    assert held.isdisjoint(map(id, frozen)) and held.issuperset(map(id, learned))
    train_steps(module, steps=2, lr=1e-3)
    assert not any(p.any() for p in frozen) and all(p.any() for p in learned if p.dim() > 1)
    y_hat = torch.randn(1, 64, 4, 4)
    with torch.inference_mode(), adapted.in_mode("base"):
        base = adapted.synthesis(y_hat)
    with torch.inference_mode(), adapted.in_mode("oracle", DOMAINS[0]):
        assert torch.equal(adapted.synthesis(y_hat), base)
    with torch.inference_mode(), adapted.in_mode("oracle", DOMAINS[1]):
        assert not torch.equal(adapted.synthesis(y_hat), base)


def test_only_a_clamped_loss_forgives_white_that_is_whiter_than_white() -> None:
    white, brighter = torch.ones(1, 3, 8, 8), torch.full((1, 3, 8, 8), 1.5)
    assert distortion(brighter, white, gamma=1)["mse"] == 0
    assert distortion(brighter, white, gamma=1, clamp=False)["mse"] == 0.25
    inside = torch.rand(1, 3, 8, 8)
    losses = [distortion(inside, white, 1, clamp)["loss"] for clamp in (True, False)]
    assert losses[0] == losses[1]


def test_losses_are_the_published_formulas() -> None:
    x, x_hat = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    likelihoods = {"y": torch.full((2, 4, 2, 2), 0.25)}
    out = rate_distortion(x_hat, x, likelihoods, lmbda=0.0067)
    mse = ((x - x_hat) ** 2).mean()
    torch.testing.assert_close(out["bpp"], torch.tensor(2 * 32 / (2 * 64.0)))
    torch.testing.assert_close(out["loss"], 0.0067 * 65025 * mse + out["bpp"])
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
    entropy = -(torch.log(torch.sigmoid(torch.tensor(2.0))) + np.log(0.5)) / 2
    loss = adaptation(x_hat, x, logits, labels, gamma=0.5)["loss"]
    torch.testing.assert_close(loss, 0.5 * 65025 * mse + entropy)


def test_the_schedule_rises_and_falls_to_zero() -> None:
    factors = [warmup_cosine(s, warmup=10, total=100) for s in range(101)]
    assert factors[0] == pytest.approx(0.1) and max(factors) == factors[9] == 1
    assert factors[10:] == sorted(factors[10:], reverse=True) and factors[100] == pytest.approx(0)
