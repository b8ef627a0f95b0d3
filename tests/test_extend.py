"""A domain added later: ``extend=PACK``, on small folder domains, with the real codec."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict
from safetensors.torch import load_file, save_file

from lic_da.adapters.gate import Gate
from lic_da.codecs import zoo
from lic_da.errors import UserError
from lic_da.evaluation.measure import mean, measure, read_points
from lic_da.io.images import RGB
from lic_da.io.yaml_files import read_yaml
from lic_da.methods import pack
from lic_da.methods.adapters.codec import AdaptedCodec, adapter_state
from lic_da.methods.adapters.extension import GrowingGate, extend
from lic_da.methods.adapters.module import DecoderAdaptation
from lic_da.migrations import pack_settings
from lic_da.training.run import train, train_what_is_missing
from lic_da.training.settings import RunSettings
from tests.conftest import codec_config, disturb, photo_crops, scribbles

EARLIER = ("photos", "lines")
SMALL = (
    "codec.training.steps=10",
    "codec.training.batch_size=3",
    "codec.training.crop=32",
    "data.batches_per_epoch=5",
    "data.val_images=1",
    "data.val_crop=64",
    "evaluation.ms_ssim=false",
    "evaluation.examples=1",
    "logger=none",
    "unseen=[]",
    "extend=earlier",
)

Configure = Callable[..., RunSettings]


@pytest.fixture
def configure(
    folder_domain: Callable[..., Path],
    photographs: list[RGB],
    conf: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Configure]:
    """Reads the settings of a command line, in a folder with three domains and a pack."""
    monkeypatch.chdir(tmp_path)
    folder_domain("photos", photo_crops(photographs, 10, side=64))
    folder_domain("lines", scribbles(10, side=64))
    folder_domain("other", scribbles(10, side=64, seed=4))
    for name in ("run", "whole", "cut"):
        Path(name).mkdir()
    torch.manual_seed(1)
    pack.save(disturb(AdaptedCodec.build(codec_config(2), EARLIER), 0.002), Path("earlier"), {})

    def command_line(*overrides: str) -> RunSettings:
        arguments = [*SMALL, "domains=[other]", *overrides]
        with initialize_config_dir(str(conf), version_base="1.3"):
            config = compose("train", arguments, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        with open_dict(config):
            del config.hydra
        before = config.copy()
        settings = RunSettings.from_config(config)
        assert config == before and RunSettings.from_config(config) == settings
        return settings

    yield command_line
    HydraConfig.instance().cfg = None


def tensors(folder: str | Path) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "adapters.safetensors")


def test_an_extended_pack_is_an_ordinary_pack_that_holds_the_earlier_one_bit_for_bit(
    configure: Configure,
) -> None:
    summary = train(configure("own_features=5"), Path("run"))
    before, after = tensors("earlier"), tensors("run/pack")
    adapted = AdaptedCodec.load("run/pack")
    assert adapted.domains == (*EARLIER, "other") and adapted.config.quality == 2
    assert type(adapted.synthesis.gate) is Gate
    assert adapted.synthesis.gate.classify.weight.shape == (3, 64 + 5)

    for name, value in before.items():
        now = after[name]
        if name.startswith("gate."):  # the first rows and features are the earlier ones
            assert len(now) > len(value)
            now = now[tuple(slice(side) for side in value.shape)]
        assert torch.equal(now, value), name
    assert not after["gate.classify.weight"][:2, 64:].any()
    assert all(after[n].any() for n in after if n.startswith("bank.adapters.other."))

    record = pack.read_config(Path("run/pack")).own["extended"]
    assert record["from"] == zoo.fingerprint(before)
    assert set(record["frozen"]) == {"bank.photos", "bank.lines", "gate.features", "gate.classify"}

    # before and after are those of the two packs' real decoding
    assert set(summary["before_after"]) == set(EARLIER)
    points = read_points(Path("run/rd_points.csv"))
    for domain in EARLIER:
        for mode in ("weighted", "top1", "oracle"):
            values = summary["before_after"][domain][mode]
            now = mean(p.psnr for p in points if (p.domain, p.blend) == (domain, mode))
            assert values["after"] == now
            assert values["difference"] == values["after"] - values["before"]
        oracle = summary["before_after"][domain]["oracle"]
        assert abs(oracle["difference"]) < 1e-4
    earlier = read_points(Path("run/rd_points_before.csv"))
    assert {p.domain for p in earlier} == set(EARLIER)
    assert summary["domains"]["other"]["gain"].keys() == {"weighted", "top1", "oracle"}
    assert "change" in Path("run/table.txt").read_text()

    # a pack that lies about what it took over is refused
    after["bank.adapters.lines.4.bias"][0] += 1e-6
    save_file(after, "run/pack/adapters.safetensors")
    with pytest.raises(UserError, match=r"bank\.lines should be those of the pack"):
        AdaptedCodec.load("run/pack")


def test_an_interrupted_extension_goes_on_to_the_same_pack(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(configure("replay=false", "own_features=0"), Path("whole"))
    step = DecoderAdaptation.training_step

    def interrupted(self: DecoderAdaptation, batch: dict[str, Any], batch_idx: int) -> Any:
        assert batch["label"].tolist() == [2, 2, 2]  # without replay there are new images only
        if self.global_step == 7:
            raise RuntimeError("a power cut")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(DecoderAdaptation, "training_step", interrupted)
    with pytest.raises(RuntimeError, match="a power cut"):
        train_what_is_missing(configure("replay=false", "own_features=0"), Path("cut"))
    monkeypatch.setattr(DecoderAdaptation, "training_step", step)
    last = torch.load("cut/checkpoints/last.ckpt", weights_only=False)
    assert last["global_step"] == 5

    # it belongs to the pack that was extended
    with pytest.raises(UserError, match="another setting of extend"):
        disturbed = extend(disturb(AdaptedCodec.load("earlier"), 0.003), ["other"])
        DecoderAdaptation(disturbed, gamma=1, lr=1, gate_lr=1).check_checkpoint(last)

    train_what_is_missing(configure("replay=false", "own_features=0"), Path("cut"))
    ours, theirs = tensors("cut/pack"), tensors("whole/pack")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    earlier = tensors("earlier")
    frozen = [k for k in earlier if not k.startswith("gate.classify.")]
    assert all(torch.equal(ours[k], earlier[k]) for k in frozen)

    capsys.readouterr()
    train_what_is_missing(
        configure("replay=false", "own_features=0", "extend=./earlier"), Path("cut")
    )
    assert "already trained" in capsys.readouterr().out


def test_only_what_is_new_is_trained() -> None:
    earlier = disturb(AdaptedCodec.build(codec_config(), EARLIER))
    state = {k: v.clone() for k, v in adapter_state(earlier.codec).items()}
    adapted = extend(earlier, ["other"], own_features=4)
    module = DecoderAdaptation(adapted, gamma=1, lr=1e-3, gate_lr=1e-3, schedule="plateau")
    (optimizer,), _ = module.configure_optimizers()
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    gate = adapted.synthesis.gate
    assert isinstance(gate, GrowingGate) and gate.own is not None
    new = [adapted.synthesis.bank.adapters["other"], gate.rows, gate.own]
    assert held == {id(p) for part in new for p in part.parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.data.fill_(1)
    assert all(torch.equal(v, state[k]) for k, v in adapter_state(earlier.codec).items())


@pytest.mark.parametrize("own", [0, 3])
def test_the_gate_in_one_says_what_its_parts_say(own: int) -> None:
    known = Gate(8, 6, 3)
    growing = GrowingGate(known, 2, own)
    y_hat = torch.randn(4, 8, 5, 7)
    torch.testing.assert_close(growing.in_one()(y_hat), growing(y_hat))
    torch.testing.assert_close(growing(y_hat)[:, :3], known(y_hat))


def test_oracle_decodes_earlier_domains_as_before_whatever_the_gate_does(
    configure: Configure,
) -> None:
    from lic_da.data.datamodule import DomainsDataModule

    data = DomainsDataModule(["lines"], source="photos")
    data.prepare_data()
    data.setup()
    earlier = AdaptedCodec.load("earlier")
    adapted = extend(earlier, ["other"])
    codes = [
        measure(codec, data.tested(), run="r", modes=["oracle"], metrics=["psnr"])
        for codec in (earlier, adapted)
    ]
    assert [p.psnr for p in codes[0]] == [p.psnr for p in codes[1]]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["extend=nowhere"], "There is no folder nowhere"),
        (["domains=[lines,other]"], "has the domains photos, lines already. Name new ones only"),
        (["domains=[]"], "Name new ones only"),
        (["codec=mbt2018_mean"], "codec.name is that of the pack earlier"),
        (["codec.quality=3"], "codec.quality is that of the pack earlier"),
        (["sites=all"], "sites is that of the pack earlier"),
        (["adapter=lowrank"], "adapter is that of the pack earlier"),
        (["gate.input=signalled"], "gate.input is that of the pack earlier"),
        (["data.source=lines"], "data.source is that of the pack earlier"),
    ],
)
def test_mistakes_end_in_a_sentence(
    configure: Configure, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError) as error:
        train(configure(*overrides), Path("run"))
    assert message in str(error.value)


def test_what_is_the_packs_may_be_said_and_training_may_differ(configure: Configure) -> None:
    Path("earlier").rename("ear2lier")
    settings = configure("codec.quality=2", "codec.training.lr=7e-4", "extend=ear%qlier")
    assert settings.names == (*EARLIER, "other") and settings.domains == ("other",)
    assert settings.codec.training["lr"] == 7e-4 and settings.steps == 10
    assert settings.data["source"] == "photos" and settings.codec.quality == 2
    saved = pack_settings(read_yaml("ear2lier/config.yaml"))["how"]
    adapters = settings.method.adapters
    assert adapters == {**saved, "points": "none"} == {k: settings.config[k] for k in adapters}
    assert json.loads(Path("ear2lier/metrics.json").read_text()) == {}


def test_a_pack_that_names_no_optimizer_was_trained_by_adam(configure: Configure) -> None:
    saved = read_yaml("earlier/config.yaml")
    assert saved["codec"]["training"].pop("optimizer") == "soap"
    Path("earlier/config.yaml").write_text(yaml.dump(saved))
    assert configure("extend=earlier").training["optimizer"] == "adam"
