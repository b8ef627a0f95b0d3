"""How far the gate is to be trusted: fitted after training, kept in the pack, used by weighted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from lic_da.adapters.calibration import fitted
from lic_da.errors import UserError
from lic_da.io.bitstream import Stream
from lic_da.io.images import RGB
from lic_da.methods import pack
from lic_da.methods.adapters.codec import AdaptedCodec
from lic_da.migrations import codec_settings, pack_settings, run_settings
from lic_da.training.run import train
from lic_da.training.settings import RunSettings
from tests.conftest import DOMAINS, FOUR_STEPS, codec_config, disturb, photo_crops, scribbles
from tests.test_cli import call

LEARNED = "gate.calibration=learned"


def learned(**gate: str) -> dict[str, Any]:
    return {"gate": {"calibration": "learned", **gate}}


@pytest.fixture
def world(
    folder_domain: Callable[..., Path],
    photographs: list[RGB],
    conf: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Path]:
    """Trains on two small domains, in a folder with three, and gives the folder of the pack."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lic_da.methods.adapters.calibrating._CROPS", 16)
    folder_domain("photos", photo_crops(photographs, 10, side=64))
    folder_domain("lines", scribbles(10, side=64))
    folder_domain("other", scribbles(10, side=64, seed=4))

    def trained(name: str, *overrides: str) -> Path:
        with initialize_config_dir(str(conf), version_base="1.3"):
            config = compose("train", [*FOUR_STEPS, "logger=none", *overrides])
        Path(name).mkdir()
        train(RunSettings.from_config(config), Path(name))
        return Path(name) / "pack"

    return trained


def test_before_it_is_fitted_it_changes_no_bit(photographs: list[RGB]) -> None:
    plain = disturb(AdaptedCodec.build(codec_config(), DOMAINS))
    other = disturb(AdaptedCodec.build(codec_config(), DOMAINS, learned()))
    other.synthesis.gate.load_state_dict(plain.synthesis.gate.state_dict())
    y_hat = plain.latent(Stream.from_bytes(plain.compress(photographs[0])))
    with torch.inference_mode():
        assert torch.equal(plain.synthesis(y_hat), other.synthesis(y_hat))


def test_images_that_adapters_harm_get_less_of_them() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 6, generator=generator)
    features[:, 2] = features[:, 2].sign()  # the one that tells
    harmed = features[:, 2] > 0
    errors = torch.where(
        harmed[:, None], torch.tensor([10.0, 12.0, 20.0]), torch.tensor([10.0, 7.0, 6.0])
    )
    trust = fitted(features, errors)
    s = trust(features)[:, 0]
    assert s.min() > 0 and s.max() < 1
    assert s[harmed].mean() < 0.2 and s[~harmed].mean() > 0.6

    # what is unlike all of them counts as their rim, however far it is
    far, farther = torch.zeros(2, 6).index_fill_(1, torch.tensor(2), 1) * torch.tensor([[5], [500]])
    assert torch.equal(trust(far[None]), trust(farther[None]))
    assert trust(far[None]) <= s.min() + 0.1


def test_a_training_fits_it_and_changes_nothing_else(world: Callable[..., Path]) -> None:
    without, calibrated = load_file(world("none") / pack.ADAPTERS_FILE), world("some", LEARNED)
    tensors = load_file(calibrated / pack.ADAPTERS_FILE)
    own = {name for name in tensors if name.startswith("trust.")}
    assert own == {"trust.mean", "trust.deviation", "trust.weight", "trust.bias"}
    assert tensors.keys() - own == without.keys()
    assert all(torch.equal(tensors[name], value) for name, value in without.items())
    again = load_file(world("again", LEARNED) / pack.ADAPTERS_FILE)
    assert all(torch.equal(tensors[name], again[name]) for name in own)


def test_only_the_mode_weighted_uses_it_and_info_shows_it(
    world: Callable[..., Path], photographs: list[RGB], tmp_path: Path
) -> None:
    folder = world("run", LEARNED)
    codec = AdaptedCodec.load(folder)
    synthesis = codec.synthesis
    stream = Stream.from_bytes(codec.compress(photographs[0]))
    y_hat = codec.latent(stream)
    assert synthesis.trust is not None
    with torch.inference_mode():
        v = synthesis.gate(y_hat).softmax(dim=1)
        s = synthesis.trust(synthesis.gate.features(y_hat))
        assert 0 < s < 1
        torch.testing.assert_close(synthesis.mode_weights(y_hat), s * v)
        with synthesis.in_mode("top1"):
            top1 = synthesis.mode_weights(y_hat)
    assert top1 is not None and top1.sum() == 1
    shown = codec.gate_weights(stream)
    assert sum(shown.values()) == pytest.approx(s.item())

    (tmp_path / "a.lic").write_bytes(codec.compress(photographs[0]))
    told = call("info", tmp_path / "a.lic", "--pack", folder)
    assert all(f"{value:.3f}" in told for value in shown.values()), told


def test_an_extended_pack_is_fitted_anew_to_images_of_all_domains(
    world: Callable[..., Path],
) -> None:
    earlier = world("earlier", LEARNED)
    more = (f"extend={earlier}", "domains=[other]", "unseen=[]", "codec.training.batch_size=3")
    with pytest.raises(UserError, match="leave out replay=false"):
        world("new_ones_only", *more, "replay=false")
    extended = AdaptedCodec.load(world("extended", *more, "own_features=5"))
    assert extended.synthesis.trust is not None
    assert extended.synthesis.trust.weight.shape == (64 + 5,)
    assert extended.synthesis.trust.bias.isfinite()


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(UserError, match=r"gate\.calibration.*none, learned"):
        AdaptedCodec.build(codec_config(), DOMAINS, learned(calibration="sure"))
    with pytest.raises(UserError, match=r"leave out gate\.input=signalled"):
        AdaptedCodec.build(codec_config(), DOMAINS, learned(input="signalled"))


def test_files_from_before_it_have_none() -> None:
    gate = {"mid": None, "input": "latent", "threshold": 0.0}
    now = {**gate, "calibration": "none", "spatial": "image", "window": 6}
    assert run_settings({"gate": gate, "evaluation": {}})["gate"] == now
    assert codec_settings({"how": {"sites": "paper", "gate": gate}})["how"]["gate"] == now
    assert pack_settings({"format": 2, "how": {"gate": gate}})["how"]["gate"] == now
