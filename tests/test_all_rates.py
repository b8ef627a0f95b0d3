"""One pack for all qualities of a codec of variable rate: trained, measured, stored and used."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.torch import load_file
from typer.testing import CliRunner

import lic_da.config
import lic_da.data.domains
from lic_da import evaluate
from lic_da.cli import app
from lic_da.codecs.latents import decoder_latent
from lic_da.codecs.spec import CodecSpec
from lic_da.compressai_model import PackModel, register
from lic_da.config import merged, plain
from lic_da.data.datamodule import BalancedBatches, DomainsDataModule
from lic_da.errors import Stopped, UserError
from lic_da.evaluation.curves import Run, series_of
from lic_da.evaluation.measure import read_points, write_points
from lic_da.io.bitstream import Stream
from lic_da.io.images import RGB, read_rgb
from lic_da.io.lossless import save_png
from lic_da.methods import pack
from lic_da.methods.adapters.codec import AdaptedCodec
from lic_da.methods.adapters.extension import extend
from lic_da.methods.adapters.module import DecoderAdaptation
from lic_da.methods.encoder import FrozenEncoder
from lic_da.migrations import pack_settings
from lic_da.same_settings import CURVE, RUN
from lic_da.sweeps.settings import ReportSettings
from lic_da.sweeps.summary import summarize
from lic_da.tracking.settings import LoggerSettings
from lic_da.training.run import train, train_what_is_missing
from lic_da.training.settings import RunSettings
from tests.conftest import CODEC, codec_config, disturb, photo_crops, scribbles

ZOU = "zou2022_n64"
DOMAINS = ("photos", "lines")
NETS = {"hyper": [8, 8], "slice_net": [8], "residual_net": [8]}
TINY = {"weights": "random", "model": {"N": 8, "M": 40, **NETS}, "gate": {"mid": 8}}
"""The codec with so few channels, and random weights, that it codes in no time."""
SMALL = (
    *("codec.weights=random", "codec.model.N=8", "codec.model.M=40", "codec.gate.mid=8"),
    *(f"+codec.model.{net}={widths}" for net, widths in NETS.items()),
    *("codec=zou2022_n64", "codec.quality=all", "domains=[lines]", "unseen=[]", "logger=none"),
    *("codec.training.steps=4", "codec.training.batch_size=4", "codec.training.crop=64"),
    *("data.batches_per_epoch=2", "data.val_images=1", "data.val_crop=64", "data.source=photos"),
    *("evaluation.ms_ssim=false", "evaluation.examples=1", "evaluation.modes=[base,weighted]"),
    "evaluation.compatibility=1",
)


def all_rates(name: str = ZOU, **changes: Any) -> CodecSpec:
    """A codec of ``conf/codec``, with changes to its settings, for all its qualities."""
    settings = merged(codec_config(name=name).settings(), changes)
    return CodecSpec.from_settings({**settings, "quality": "all"})


def configured(*overrides: str) -> RunSettings:
    with initialize_config_dir(str(lic_da.config.CONF), version_base="1.3"):
        return RunSettings.from_config(compose("train", [*SMALL, *overrides]))


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, photographs: list[RGB]
) -> Iterator[pytest.MonkeyPatch]:
    """The working directory is a folder with two small domains."""
    root = tmp_path_factory.mktemp("all_rates")
    shutil.copytree(lic_da.config.CONF, root / "conf")
    for name, images in (
        ("photos", photo_crops(photographs, 8, side=64)),
        ("lines", scribbles(8, side=64)),
    ):
        for number, pixels in enumerate(images):
            save_png(root / "pictures" / name / f"{number:03d}.png", pixels)
        (root / "conf" / "domain" / f"{name}.yaml").write_text(
            f"sources:\n  - kind: folder\n    path: {root / 'pictures' / name}\n"
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for module in (lic_da.config, lic_da.data.domains):
            patch.setattr(module, "CONF", root / "conf")
        yield patch


@pytest.fixture(scope="module")
def trained(world: pytest.MonkeyPatch) -> Path:
    """Folder of a run that is trained for all qualities, measured at 1 to 4."""
    folder = Path("run")
    folder.mkdir()
    train(configured(), folder)
    return folder


@pytest.fixture(scope="module")
def codec() -> AdaptedCodec:
    """Adapters for all qualities of a tiny codec, with values."""
    return disturb(AdaptedCodec.build(all_rates(**TINY), DOMAINS), 0.003)


@pytest.fixture
def image(photographs: list[RGB]) -> RGB:
    return photographs[0][100:164, 100:196]


# The codec


def test_streams_are_those_of_the_codec_at_each_quality_and_open_at_any(image: RGB) -> None:
    codec = disturb(AdaptedCodec.build(all_rates(), DOMAINS), 0.003)
    alone = AdaptedCodec.build(codec_config(6, ZOU), DOMAINS)
    alone.load_trained(codec.trained_state(), "the codec for all qualities")
    assert codec.fingerprints[6] == alone.fingerprint
    with codec.at_quality(6):
        data = codec.compress(image)
    assert data == alone.compress(image)
    assert codec.config.quality == 3
    assert np.array_equal(codec.decompress(data), alone.decompress(data))
    stream = Stream.from_bytes(data)
    assert codec.gate_weights(stream) == alone.gate_weights(stream)
    codec.check_base_unchanged()


def test_a_quality_or_a_stream_of_another_codec_is_refused(codec: AdaptedCodec, image: RGB) -> None:
    with pytest.raises(UserError, match=r"Unknown quality '7' .*Available: 1, 2, 3, 4, 5, 6"):
        codec.select_quality(7)
    foreign = AdaptedCodec.build(codec_config(2), DOMAINS).compress(image)
    with pytest.raises(UserError, match=f"{CODEC}, quality 2 .*{ZOU}, qualities 1, 2, 3, 4, 5, 6"):
        codec.decompress(foreign)
    with pytest.raises(UserError, match="Unknown quality '2'"):
        AdaptedCodec.build(codec_config(3), DOMAINS).select_quality(2)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (CODEC, {}, f"needs a codec of variable rate, such as {ZOU}. {CODEC} has other weights"),
        (ZOU, {"qualities": [1, 2, 2]}, r"must be different numbers, not \[1, 2, 2\]"),
        (ZOU, {"qualities": [1, 9]}, "which λ its quality 9 stands for"),
    ],
)
def test_a_codec_that_cannot_be_for_all_qualities_is_refused_in_words(
    name: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        all_rates(name, **changes)


def test_all_is_a_quality_of_its_own_in_settings() -> None:
    spec = all_rates()
    assert spec.settings()["quality"] == "all"
    assert (spec.quality, spec.default_quality) == (3, 3)
    assert spec.served == spec.qualities == (1, 2, 3, 4, 5, 6)
    assert spec.at_quality(2) == codec_config(2, ZOU)
    assert spec.coding_at(2).settings() == spec.settings()
    assert spec.coding_at(6).default_quality == 3
    with initialize_config_dir(str(lic_da.config.CONF), version_base="1.3"):
        ours = plain(compose("train", [f"codec={ZOU}", "codec.quality=all"]))
    fewer, one = {"codec": {"qualities": [1, 2]}}, {"codec": {"quality": 3}}
    for comparison in (RUN, CURVE):  # what it is trained for counts, and makes a curve of its own
        assert comparison.differing(ours, merged(ours, fewer)) == ["codec.qualities"]
        assert "codec.quality" in comparison.differing(ours, merged(ours, one))


# Its pack


def test_a_pack_lists_its_qualities_and_opens_at_each(
    codec: AdaptedCodec, tmp_path: Path, image: RGB
) -> None:
    with codec.at_quality(5):
        pack.save(codec, tmp_path, {})
    written = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert (written["format"], written["quality"]) == (3, 3)
    assert written["qualities"] == [1, 2, 3, 4, 5, 6]
    assert written["base_fingerprints"] == codec.fingerprints
    assert written["base_fingerprint"] == codec.fingerprints[3]
    with codec.at_quality(2):
        data = codec.compress(image)
    opened = AdaptedCodec.load(tmp_path, quality=2)
    assert opened.compress(image) == data
    assert AdaptedCodec.load(tmp_path).config.quality == 3
    assert np.array_equal(AdaptedCodec.load(tmp_path).decompress(data), codec.decompress(data))
    with pytest.raises(UserError, match=r"is for qualities 1, 2, 3, 4, 5, 6 of .* not for 7"):
        AdaptedCodec.load(tmp_path, quality=7)
    pack.save(opened, tmp_path / "again", {})
    again = yaml.safe_load((tmp_path / "again" / "config.yaml").read_text())
    assert again == pack_settings(written)


def test_a_pack_for_one_quality_is_written_as_ever_and_opens_at_no_other(tmp_path: Path) -> None:
    pack.save(AdaptedCodec.build(codec_config(2, ZOU, **TINY), DOMAINS), tmp_path, {})
    written = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert written["format"] == 2
    assert not {"qualities", "base_fingerprints"} & written.keys()
    assert AdaptedCodec.load(tmp_path, quality=2).config.quality == 2
    with pytest.raises(UserError, match=f"is for quality 2 of {ZOU}, not for 3"):
        AdaptedCodec.load(tmp_path, quality=3)


def test_an_extended_pack_is_for_all_qualities_too(codec: AdaptedCodec, tmp_path: Path) -> None:
    longer = extend(codec, ["third"], own_features=2)
    longer.finish()
    pack.save(longer, tmp_path, {})
    opened = AdaptedCodec.load(tmp_path, quality=6)
    assert opened.domains == (*DOMAINS, "third")
    assert opened.fingerprints == codec.fingerprints
    assert opened.fingerprint == codec.fingerprints[6]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_fingerprints": {**dict.fromkeys(range(1, 7), "0" * 64)}}, "at quality 1 here are"),
        ({"base_fingerprints": {3: "0" * 64}}, "for all qualities, 1, 2, 3, 4, 5, 6, but lists 3"),
        ({"base_fingerprints": None}, "does not describe a codec"),
        ({"qualities": [1, 2]}, "for all qualities, 1, 2, 3, 4, 5, 6, but lists 1, 2"),
        ({"quality": 9}, "Unknown quality '9'"),
        ({"format": 2}, "its format is 2, its codec.quality all"),
        ({"format": 4}, "has format 4, and this version of lic_da reads packs up to format 3"),
    ],
)
def test_a_pack_that_is_not_for_what_it_says_is_refused(
    codec: AdaptedCodec, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    pack.save(codec, tmp_path, {})
    written = yaml.safe_load((tmp_path / "config.yaml").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**written, **changes}))
    with pytest.raises(UserError, match=message):
        pack.load(tmp_path)


# Its training


def module_of(tmp_path: Path, **settings: Any) -> DomainsDataModule:
    """The data of the small domains, with qualities."""
    data = DomainsDataModule(
        ["lines"],
        source="photos",
        data_dir=tmp_path / "data",
        crop=64,
        batch_size=6,
        val_crop=64,
        **settings,
    )
    data.prepare_data()
    data.setup()
    return data


def test_the_quality_of_a_crop_follows_from_its_key_and_does_not_change_the_crop(
    world: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn = module_of(tmp_path, qualities=(1, 2, 5)).train_dataset()
    plain_crops = module_of(tmp_path).train_dataset()
    keys = [key for batch in BalancedBatches(drawn, 6, 50, seed=1) for key in batch]
    counts = Counter(drawn[key]["quality"] for key in keys)
    assert counts.keys() == {1, 2, 5} and min(counts.values()) > 0.8 * len(keys) / 3
    for key in keys[:12]:
        assert drawn[key]["quality"] == drawn[key]["quality"]
        assert torch.equal(drawn[key]["image"], plain_crops[key]["image"])
        assert "quality" not in plain_crops[key]


def test_validation_images_keep_their_qualities_however_many_processes_share_them(
    world: pytest.MonkeyPatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = module_of(tmp_path, qualities=(1, 5))
    whole = {b["file"]: b["quality"].item() for b in data.val_dataloader()}
    assert set(whole.values()) == {1, 5}
    data.trainer = L.Trainer(logger=False, accelerator="cpu")
    shared: dict[str, int] = {}
    for rank in range(2):
        monkeypatch.setattr(L.Trainer, "global_rank", rank)
        monkeypatch.setattr(L.Trainer, "world_size", 2)
        shared |= {b["file"]: b["quality"].item() for b in data.val_dataloader()}
    assert shared == whole


def test_crops_of_a_batch_are_coded_at_their_own_qualities(
    codec: AdaptedCodec, photographs: list[RGB]
) -> None:
    crops = np.stack([pixels[:64, :64] for pixels in photographs])
    x = torch.from_numpy(crops).permute(0, 3, 1, 2).float().div(255)
    qualities = torch.tensor([6, 1, 4])
    y_hat, read = FrozenEncoder(codec).of_crops({"image": x, "quality": qualities})
    assert read is y_hat
    for own, crop, quality in zip(y_hat, x, qualities.tolist(), strict=True):
        with codec.at_quality(quality):
            expected = decoder_latent(codec.codec, crop[None])[0]
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=finetune"], "is for method=adapters: method=finetune trains for one quality"),
        (["data.latent_cache=true"], "leave out data.latent_cache=true"),
        (["evaluation.qualities=[1,7]"], r"Unknown quality in evaluation\.qualities '7'"),
        (["evaluation.qualities=[2,2]"], "names a quality twice"),
        (["evaluation.qualities=3"], "must be a list of qualities, such as"),
        ([f"codec={CODEC}"], "needs a codec of variable rate"),
        (["codec.quality=2", "evaluation.qualities=[1,2]"], "Unknown quality .*'1'.*Available: 2"),
    ],
)
def test_what_does_not_go_with_all_qualities_is_refused_before_anything_is_trained(
    world: pytest.MonkeyPatch, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        configured(*overrides)


def test_qualities_are_measured_as_asked_for_else_one_to_four(world: pytest.MonkeyPatch) -> None:
    assert configured().measured == (1, 2, 3, 4)
    assert configured("evaluation.qualities=[6,2]").measured == (6, 2)
    assert configured("codec.qualities=[4,5,6]").measured == (4,)
    assert configured("codec.qualities=[5,6]").measured == (5, 6)
    assert configured("codec.quality=5").measured == (5,)


def test_a_stopped_training_goes_on_to_the_same_weights(
    trained: Path, world: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, seen = DecoderAdaptation.training_step, []
    once = "evaluation.qualities=[3]"
    Path("cut").mkdir()

    def stopped(self: DecoderAdaptation, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        seen.append(batch["quality"].tolist())
        if self.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return own(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(DecoderAdaptation, "training_step", stopped)
        with pytest.raises(Stopped):
            train_what_is_missing(configured(once), Path("cut"))
    assert len({quality for batch in seen for quality in batch}) > 2
    checkpoint = torch.load(Path("cut/checkpoints/last.ckpt"), weights_only=True)
    assert checkpoint["qualities"] == [1, 2, 3, 4, 5, 6]
    alone = configured("codec.quality=3").resumed(Path("cut/checkpoints/last.ckpt"))
    with pytest.raises(UserError, match=r"made for qualities .*: give codec\.quality=all"):
        train(alone, Path("cut"))
    train_what_is_missing(configured(once), Path("cut"))
    whole, again = (load_file(Path(f, "pack", "adapters.safetensors")) for f in (trained, "cut"))
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[key], again[key]) for key in whole)


# What a run leaves


def test_a_run_leaves_one_pack_and_points_of_each_quality(trained: Path) -> None:
    points = read_points(trained / "rd_points.csv")
    assert {(p.quality, p.domain, p.blend) for p in points} == {
        (q, d, b) for q in (1, 2, 3, 4) for d in DOMAINS for b in ("base", "weighted")
    }
    summary = json.loads((trained / "summary.json").read_text())
    assert list(summary["rates"]) == ["1", "2", "3", "4"]
    known = pack.read_config(trained / "pack")
    for quality, own in summary["rates"].items():
        assert own["quality"] == int(quality)
        assert own["base_fingerprint"] == known.base_fingerprints[int(quality)]
    assert summary["quality"] == 3
    assert summary["domains"] == summary["rates"]["3"]["domains"]
    said = (trained / "table.txt").read_text()
    assert all(f"{ZOU}, quality {q}: test images" in said for q in (1, 2, 3, 4))
    assert Run.read(trained).quality == 3


def test_a_finished_run_is_not_done_again_and_another_one_makes_room(
    trained: Path, world: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / "summary.json").read_bytes()
    train_what_is_missing(configured(), trained)
    assert "already trained and measured" in capsys.readouterr().out
    assert (trained / "summary.json").read_bytes() == before


def test_bd_rates_of_a_run_are_those_of_a_sweep_of_four(
    trained: Path, world: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same points, once in the folder of the run and once in those of four runs."""
    config = yaml.safe_load((trained / "config.yaml").read_text())
    summary = json.loads((trained / "summary.json").read_text())
    points = read_points(trained / "rd_points.csv")
    for quality, own in summary["rates"].items():
        folder = tmp_path / f"q{quality}"
        folder.mkdir()
        changes = {"codec": {"quality": int(quality)}}
        of_one = yaml.safe_dump(merged(config, changes), sort_keys=False)
        (folder / "config.yaml").write_text(of_one)
        whole = {**{k: v for k, v in summary.items() if k != "rates"}, **own}
        (folder / "summary.json").write_text(json.dumps(whole))
        of_quality = [p for p in points if p.quality == int(quality)]
        write_points(of_quality, folder / "rd_points.csv", DOMAINS)
    report = ReportSettings.from_settings(
        {"anchors": [], "classical": {}, "examples": 0, "worst": 1}
    )
    logger = LoggerSettings("lic_da", "disabled", None)
    shutil.rmtree(trained / "run_curves", ignore_errors=True)
    of_run = summarize(trained, report, logger)
    of_sweep = summarize(tmp_path, report, logger)
    assert of_run["series"] == of_sweep["series"]
    assert of_run["series"][0]["qualities"] == [1, 2, 3, 4]
    tables = [f / "bd_rate.csv" for f in (trained / "run_curves", tmp_path)]
    assert tables[0].read_bytes() == tables[1].read_bytes()
    with open(tables[0], newline="") as file:
        rows = list(csv.DictReader(file))
    assert {r["points"] for r in rows} == {"4"}
    assert (trained / "run_curves" / "report.html").is_file()
    assert json.loads((trained / "summary.json").read_text()) == summary
    series = series_of(run for f in (trained, *tmp_path.glob("q*")) for run in Run.read_all(f))
    assert [len(s.runs) for s in series] == [4, 4]
    assert {s.label for s in series} == {"lines", "lines, quality=all"}


def call(*arguments: object) -> str:
    """Exit code, a line break, and what was printed."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return f"{result.exit_code}\n{result.output}"


def test_the_command_line_codes_at_a_quality_and_finds_it_again(
    trained: Path, world: pytest.MonkeyPatch
) -> None:
    taken = next(Path("pictures/lines").glob("*.png"))
    options = ("--pack", trained / "pack", "--overwrite")
    sizes = []
    for quality in (1, 3, 5):
        assert call("compress", taken, "a.lic", *options, "--quality", quality).startswith("0")
        told = call("info", "a.lic", "--pack", trained / "pack")
        assert f"written by   the pack's base codec ({ZOU}, quality {quality})" in told
        assert call("decompress", "a.lic", "a.png", *options).startswith("0")
        codec = AdaptedCodec.load(trained / "pack", quality=quality)
        data = codec.compress(read_rgb(taken))
        assert Path("a.lic").read_bytes() == data
        assert np.array_equal(read_rgb(Path("a.png")), codec.decompress(data))
        sizes.append(len(data))
    assert sizes == sorted(sizes)
    with pytest.raises(UserError, match="is for qualities 1, 2, 3, 4, 5, 6"):
        call("compress", taken, "a.lic", *options, "--quality", 9)
    with pytest.raises(UserError, match="A stream says its quality"):
        call("decompress", "a.lic", "a.png", *options, "--quality", 5)


def test_a_pack_is_evaluated_at_the_qualities_asked_for(
    trained: Path, world: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with initialize_config_dir(str(lic_da.config.CONF), version_base="1.3"):
        config = compose(
            "evaluate",
            [
                *(f"pack={trained / 'pack'}", f"output={tmp_path}", "domains=[lines]", "unseen=[]"),
                *("metrics=[psnr]", "modes=[base,weighted]", "quality=[1,6]"),
            ],
        )
    evaluate.main.__wrapped__(OmegaConf.create(config))
    points = read_points(tmp_path / "rd_points.csv")
    assert {p.quality for p in points} == {1, 6}
    of_run = {(p.quality, p.image, p.blend): p.psnr for p in read_points(trained / "rd_points.csv")}
    known = [p for p in points if p.quality in (1, 2, 3, 4)]
    assert known
    for p in known:
        assert p.psnr == of_run[p.quality, p.image, p.blend]


def test_compressais_tools_get_a_model_for_each_quality(trained: Path) -> None:
    from compressai.zoo import image_models

    register("all_rates", dict.fromkeys((1, 6), trained / "pack"))
    models = [image_models["all_rates"](quality=quality) for quality in (1, 6)]
    assert all(isinstance(model, PackModel) for model in models)
    assert [model.model.rate.item() for model in models] == [0, 5]
