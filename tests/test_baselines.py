"""Fine-tuning of the whole codec and of the decoder alone, beside the base codec."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader
from typer.testing import CliRunner

from lic_da import AdaptedCodec
from lic_da.cli import app
from lic_da.codecs import zoo
from lic_da.codecs.spec import CodecSpec
from lic_da.describe import describe
from lic_da.errors import UserError
from lic_da.evaluation.measure import read_points
from lic_da.io.bitstream import Stream, StreamError
from lic_da.io.images import RGB
from lic_da.methods import pack
from lic_da.methods.finetuning.codec import FinetunedCodec, FinetunedDecoderCodec
from lic_da.methods.finetuning.module import DecoderFinetuning
from lic_da.methods.module import TrainedAveraging
from lic_da.methods.retraining import RateDistortionTraining
from tests.conftest import FOUR_STEPS, codec_config, scribbles
from tests.method_steps import DOMAINS, composed, crops, specs, train_steps
from tests.test_training import world  # noqa: F401

CODECS = ("bmshj2018_factorized_n64", "bmshj2018_hyperprior")


def of_codec(name: str) -> tuple[str, ...]:
    small = ("codec.model.N=16", "codec.model.M=24", "codec.weights=random")
    return (f"codec={name}", *(small if name != CODECS[0] else ()))


def image() -> RGB:
    return scribbles(1, side=64, seed=7)[0]


def old_stream(config: CodecSpec) -> bytes:
    """What the base codec writes, by the codec that knows nothing of other methods."""
    return AdaptedCodec.build(config, ["natural"]).compress(image())


def test_describe_counts_what_is_trained() -> None:
    decoder = describe(composed("finetune_decoder", "domains=[sketch]"))["params"]
    assert decoder["trainable"] == decoder["base"]["decoder"] == 324_675
    assert decoder["frozen"] == decoder["base"]["total"] - 324_675
    for method in ("finetune", "scratch"):
        params = describe(composed(method, "domains=[sketch]"))["params"]
        assert (params["trainable"], params["frozen"]) == (params["base"]["total"], 0)


@pytest.mark.parametrize("name", CODECS)
def test_a_finetuned_codec_writes_streams_of_its_own(name: str, tmp_path: Path) -> None:
    config, method = specs("finetune", *of_codec(name))
    old = old_stream(config)
    codec = FinetunedCodec.new(config, method, DOMAINS)
    base = codec.decompress(old, "base")
    module = RateDistortionTraining(codec, lr=1e-3)
    losses = train_steps(module, steps=5, lr=1e-4)
    assert losses[-1] < losses[0]
    assert all(p.grad is not None for p in module.trainable())
    codec.finish()
    codec.check_base_unchanged()
    pack.save(codec, tmp_path, {})
    again = pack.load(tmp_path)
    data = codec.compress(image())
    assert again.compress(image()) == data
    assert np.array_equal(again.decompress(data), codec.decompress(data))
    assert Stream.from_bytes(data).fingerprint != Stream.from_bytes(old).fingerprint
    with pytest.raises(StreamError, match=rf"was made with .*this is {name}.* adapted by finetune"):
        again.decompress(old)
    assert np.array_equal(again.decompress(old, "base"), base)
    with pytest.raises(UserError, match=r"pack of method finetune: use lic_da\.load"):
        AdaptedCodec.load(tmp_path)


@pytest.mark.parametrize("name", CODECS)
def test_a_finetuned_decoder_opens_and_betters_old_streams(name: str, tmp_path: Path) -> None:
    config, method = specs("finetune_decoder", *of_codec(name))
    old = old_stream(config)
    codec = FinetunedDecoderCodec.new(config, method, DOMAINS)
    base = codec.decompress(old)
    losses = train_steps(DecoderFinetuning(codec, gamma=0.01, lr=1e-3), steps=5, lr=1e-3)
    assert losses[-1] < losses[0]
    codec.finish()
    codec.check_base_unchanged()
    pack.save(codec, tmp_path, {})
    again = pack.load(tmp_path)
    for mode in again.modes:
        with again.in_mode(mode):
            assert again.compress(image()) == old
    assert np.array_equal(again.decompress(old, "base"), base)
    adapted = again.decompress(old)
    assert np.array_equal(adapted, codec.decompress(old))

    def error(decoded: RGB) -> float:
        return float(np.mean((decoded.astype(float) - image()) ** 2))

    assert error(adapted) < error(base)
    assert all(k.split(".")[0].isdigit() for k in codec.trained_state())  # parts of g_s


def test_a_pack_whose_weights_were_changed_is_refused(tmp_path: Path) -> None:
    codec = FinetunedDecoderCodec.new(*specs("finetune_decoder"), DOMAINS)
    pack.save(codec, tmp_path, {})
    with torch.no_grad():
        codec.codec.g_s[6].bias += 1
    pack.save(codec, tmp_path / "other", {})
    (tmp_path / "other" / "weights.safetensors").replace(tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=r"weights\.safetensors are not those"):
        pack.load(tmp_path)


def test_scratch_starts_from_random_weights() -> None:
    scratch = FinetunedCodec.new(*specs("scratch"), DOMAINS)
    assert scratch.method == "scratch"
    assert not torch.equal(scratch.codec.g_a[0].weight, scratch.base.codec.g_a[0].weight)
    with pytest.raises(UserError, match=r"Unknown method\.start 'best'"):
        FinetunedCodec.new(*specs("finetune", "method.start=best"), DOMAINS)


def test_the_tables_are_those_of_the_trained_weights() -> None:
    codec = FinetunedCodec.new(*specs("finetune"), DOMAINS)
    train_steps(RateDistortionTraining(codec, lr=1e-2), steps=3, lr=1e-2)
    codec.finish()
    again = zoo.build(codec_config(), weights=False)
    again.load_state_dict(codec.codec.state_dict())
    again.update(force=True)
    assert torch.equal(
        again.entropy_bottleneck.quantized_cdf, codec.codec.entropy_bottleneck.quantized_cdf
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["finetune_decoder", "finetune", "cawf"])
def test_a_run_of_every_method(method: str, world: Callable, tmp_path: Path) -> None:  # noqa: F811
    arguments = (*FOUR_STEPS, f"method={method}", "ema=0.5")
    done = world("lic_da.train", *arguments, "name=run")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "outputs" / "run"
    points = read_points(folder / "rd_points.csv")
    assert {(p.method, p.blend) for p in points} == {(method, "base"), (method, "adapted")}
    assert {p.domain for p in points} == {"photos", "lines", "other"}
    for p in points:
        assert abs(p.bpp_estimated - p.bpp) < 0.05 * p.bpp + 128 / (p.width * p.height)

    # the base is the base codec on the same images, and compatibility is what the method promises
    summary = json.loads((folder / "summary.json").read_text())
    shipped = zoo.build(codec_config())
    assert summary["base_fingerprint"] == zoo.fingerprint(shipped.state_dict())
    tried = summary["compatibility"]
    images = tried["images"]
    refused = method == "finetune"
    assert images > 0 and tried["old_streams_decoded"] == (0 if refused else images)
    assert len(tried["refused"]) == (1 if refused else 0)
    assert tried["same_streams"] == (images if method == "finetune_decoder" else 0)
    assert (tried["same_pictures"] == images) == (method == "cawf")
    assert tried["parameters"]["domains"] == 1

    # the pack says what the table says, on the command line too
    codec = pack.load(folder / "pack")
    point = next(p for p in points if p.domain == "lines" and p.blend == "adapted")
    source = tmp_path / "pictures" / "lines" / point.image
    runner, lic, out = CliRunner(), tmp_path / "a.lic", tmp_path / "a.png"
    for call in (["compress", source, lic], ["decompress", lic, out], ["info", lic]):
        result = runner.invoke(app, [*map(str, call), "--pack", str(folder / "pack")])
        assert result.exit_code == 0, result.output
    stream = Stream.read(lic)
    assert stream.string_bytes == point.string_bytes
    assert np.array_equal(codec.decompress(stream), codec.decompress(stream, "adapted"))

    # the command line tells who wrote a stream, and opens it accordingly
    def call(*arguments: object) -> str:
        result = runner.invoke(app, [str(a) for a in arguments])
        return f"{result.exit_code}\n{result.output}{result.exception or ''}"

    where = ("--pack", folder / "pack")
    writer = (
        "the pack's base codec"
        if method == "finetune_decoder"
        else f"the pack ({codec.config.name}"
    )
    assert f"written by   {writer}" in call("info", lic, *where)
    base, plain, told = tmp_path / "base.lic", tmp_path / "plain.png", tmp_path / "told.png"
    assert call("compress", source, base, *where, "--blend", "base")[0] == "0"
    assert Stream.read(base).fingerprint == bytes.fromhex(codec.fingerprint)[:8]
    assert "written by   the pack's base codec" in call("info", base, *where)
    assert call("decompress", base, plain)[0] == "0" or method == "finetune"
    assert call("decompress", base, told, *where, "--blend", "base")[0] == "0"
    if method != "finetune_decoder":
        assert "leave out the mode base" in call(
            "decompress", lic, told, *where, "--blend", "base", "--overwrite"
        )
        assert "none of this package's" in call("info", lic)
        alone = call("decompress", lic, told, "--codec", codec.config.name, "--overwrite")
        assert "Use the pack or the codec that wrote it" in alone
    assert "--domain names the adapters" in call(
        "decompress", lic, told, *where, "--domain", "lines"
    )

    # checkpoints hold what is trained, and another method or other settings refuse them
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=False)
    assert last["method"] == method and "optimizer_states" in last
    names = last["state_dict"].keys()
    prefix = {"finetune_decoder": "codec.g_s.", "finetune": "codec.", "cawf": "codec."}[method]
    assert all(n.startswith(prefix) and ".source" not in n for n in names)
    other = world(
        "lic_da.train", *FOUR_STEPS, f"ckpt_path={folder}/checkpoints/last.ckpt", "name=x"
    )
    assert other.returncode == 2 and f"made by method {method}" in other.stderr
    own = (*arguments, f"ckpt_path={folder}/checkpoints/last.ckpt", "method.train_on=all")
    other = world("lic_da.train", *own)
    assert other.returncode == 2 and "made with other settings of the codec" in other.stderr
    assert "train_on: targets" in (folder / "config.yaml").read_text()

    # measured with some modes only, the table says what it does not know
    for mode in ("adapted", "base"):
        call_ = ("lic_da.evaluate", f"pack={folder / 'pack'}", "domains=[lines]", "unseen=[]")
        told_ = world(*call_, f"blends=[{mode}]", "ms_ssim=false", f"output={mode}")
        (row,) = (line for line in told_.stdout.splitlines() if line.startswith(" lines"))
        assert row.count("–") == 3, row


class Drawings(L.LightningDataModule):
    """Line drawings, the same in every epoch."""

    train_domains = ("sketch",)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader([crops(2), crops(3)], batch_size=None)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader([{**crops(1), "domain": "sketch"}], batch_size=None)


class NoiseStandsForRounding(L.Callback):
    """In training, and nowhere else; the base codec and a frozen encoder are never in training mode."""

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
        whole = isinstance(pl_module, RateDistortionTraining)
        assert pl_module.codec.g_s.training and not pl_module.base.g_s.training
        assert pl_module.codec.entropy_bottleneck.training == whole

    def on_validation_batch_start(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
        assert not any(m.training for m in pl_module.codec.modules())


class StopAfterFirstEpoch(L.Callback):
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = True


@pytest.mark.parametrize("method", ["finetune_decoder", "finetune", "cawf"])
def test_a_stopped_training_goes_on_to_the_same_weights(method: str, tmp_path: Path) -> None:
    def trained(name: str, *more: L.Callback, ckpt_path: Path | None = None) -> dict[str, Tensor]:
        torch.manual_seed(0)
        config, how = specs(method)
        codec = pack.codec_class(how.codec).new(config, how, DOMAINS)
        kind = DecoderFinetuning if method == "finetune_decoder" else RateDistortionTraining
        extra = {"gamma": 0.01} if method == "finetune_decoder" else {}
        module = kind(codec, lr=1e-3, warmup=1, **extra)  # type: ignore[arg-type]
        trainer = L.Trainer(
            max_epochs=2,
            accelerator="cpu",
            logger=False,
            callbacks=[
                ModelCheckpoint(tmp_path / name, filename="last", save_on_train_epoch_end=True),
                TrainedAveraging(0.5),
                NoiseStandsForRounding(),
                *more,
            ],
            gradient_clip_val=1.0,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, datamodule=Drawings(), ckpt_path=ckpt_path, weights_only=False)
        assert trainer.callback_metrics["val/loss"] > 0
        codec.check_base_unchanged()
        return {k: v.clone() for k, v in codec.trained_state().items()}

    whole = trained("whole")
    half = trained("half", StopAfterFirstEpoch())
    ours = trained("again", ckpt_path=tmp_path / "half" / "last.ckpt")
    assert all(torch.equal(whole[k], ours[k]) for k in whole.keys() | ours.keys())
    assert not all(torch.equal(whole[k], half[k]) for k in whole)
