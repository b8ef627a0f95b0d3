"""Reconstruction points: fitted after training, kept in the pack, added to ŷ behind the gate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from lic_da.adapters.points import CLASSES, SHARED, ReconstructionPoints
from lic_da.codecs import zoo
from lic_da.codecs.coded import CodedAtOnce
from lic_da.codecs.image_codec import to_8_bit
from lic_da.compressai_model import PackModel
from lic_da.errors import UserError
from lic_da.io.bitstream import Stream
from lic_da.io.images import RGB
from lic_da.methods import pack
from lic_da.methods.adapters import placing
from lic_da.methods.adapters.codec import AdaptedCodec
from lic_da.methods.adapters.export import ExportError, export
from lic_da.methods.adapters.module import DecoderAdaptation
from lic_da.methods.adapters.placing import Crop, best_shares, conditional_means
from lic_da.migrations import run_settings
from lic_da.training.run import train
from lic_da.training.settings import RunSettings
from tests.conftest import (
    DOMAINS,
    FOUR_STEPS,
    codec_config,
    disturb,
    photo_crops,
    scribbles,
)
from tests.test_refine import AT_ONCE, cost
from tests.test_tiles import in_tiles

MEANS = "points=means"
V = torch.tensor([[0.5, 0.25, 0.25]])


def codec_of(kind: str = "factorized", points: str = "means") -> AdaptedCodec:
    """A codec with values in its adapters and, if it has points, in their offsets."""
    torch.manual_seed(0)  # weights of the gate, and of a codec that is random
    codec = disturb(AdaptedCodec.build(AT_ONCE[kind], DOMAINS, {"points": points}), 0.002)
    if codec.synthesis.points is not None:
        generator = torch.Generator().manual_seed(2)
        offsets = codec.synthesis.points.offsets
        offsets.copy_(0.1 * torch.randn(offsets.shape, generator=generator))
    return codec


def small(photographs: list[RGB]) -> RGB:
    return np.ascontiguousarray(photographs[0][100:158, 100:180])


def tensor(pixels: RGB) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def placed_by_hand(offsets: torch.Tensor, latent: CodedAtOnce, v: torch.Tensor) -> torch.Tensor:
    """ŷ with each element where its channel's and symbol's offsets want it."""
    y_hat = (latent.symbols() + latent.means).clone()
    for place in np.ndindex(*y_hat.shape[1:]):
        symbol = int(latent.symbols()[(0, *place)])
        entry = min(max(symbol, -SHARED), SHARED) + SHARED
        y_hat[(0, *place)] += float(v[0] @ offsets[:, place[0], entry])
    return y_hat


@pytest.mark.parametrize("kind", AT_ONCE)
@pytest.mark.parametrize("mode", ["weighted", "oracle"])
def test_every_element_moves_by_the_offset_of_its_channel_symbol_and_v(
    kind: str, mode: str, photographs: list[RGB]
) -> None:
    codec, pixels = codec_of(kind), small(photographs)
    latent = codec.coded_at_once(tensor(pixels))
    assert latent.symbols().abs().max() > SHARED or kind == "scale"
    y_hat = latent.symbols() + latent.means
    assert codec.synthesis.points is not None
    with torch.inference_mode(), codec.in_mode(mode, "sketch" if mode == "oracle" else None):
        v = codec.synthesis.mode_weights(y_hat)  # of ŷ as it was before
        assert v is not None
        moved = placed_by_hand(codec.synthesis.points.offsets, latent, v)
        expected = codec.synthesis(moved, v)[..., :58, :80].clamp(0, 1)
        decoded = codec.decode(Stream.from_bytes(codec.compress(pixels)))
    torch.testing.assert_close(decoded, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["factorized", "mean-scale"])
def test_streams_stay_those_of_the_base_codec(kind: str, photographs: list[RGB]) -> None:
    codec, pixels = codec_of(kind), small(photographs)
    data = codec.compress(pixels)
    assert data == codec_of(kind, "none").compress(pixels)
    base, stream = zoo.build(AT_ONCE[kind]), Stream.from_bytes(data)
    with torch.inference_mode():
        out = base.decompress([[s] for s in stream.strings], stream.shape)
    image = to_8_bit(out["x_hat"])[0, :, :58, :80].permute(1, 2, 0).numpy()
    assert np.array_equal(image, codec.decompress(data, "base"))
    assert not np.array_equal(image, codec.decompress(data))


def test_before_they_are_fitted_they_change_no_bit(photographs: list[RGB]) -> None:
    codec = codec_of()
    assert codec.synthesis.points is not None
    codec.synthesis.points.offsets.zero_()
    data = codec.compress(photographs[0])
    assert np.array_equal(codec.decompress(data), codec_of(points="none").decompress(data))


def test_between_whole_symbols_offsets_are_interpolated() -> None:
    points = ReconstructionPoints(1, 1)
    points.offsets.copy_(torch.arange(CLASSES).float() ** 2)
    symbols = torch.tensor([-9.5, -0.25, 2.0, 2.5, 7.75]).view(1, 1, 1, 5).requires_grad_()
    moved = points(symbols, symbols, torch.ones(1, 1))
    torch.testing.assert_close((moved - symbols).flatten(), torch.tensor([0.0, 7.75, 25, 30.5, 36]))
    (slope,) = torch.autograd.grad(moved.sum(), symbols)
    torch.testing.assert_close(slope.flatten(), torch.tensor([1.0, 6, 12, 12, 1]))


def test_large_images_are_decoded_in_tiles_as_in_one_piece(photographs: list[RGB]) -> None:
    whole = codec_of()
    pixels = np.ascontiguousarray(photographs[0][:160, :224])
    data = whole.compress(pixels)
    assert (
        np.abs(in_tiles(whole, 8).decompress(data).astype(int) - whole.decompress(data)).max() <= 1
    )


@pytest.mark.parametrize("kind", ["factorized", "mean-scale"])
def test_the_encoder_searches_through_them(kind: str, photographs: list[RGB]) -> None:
    codec, pixels = codec_of(kind), small(photographs)
    plain, chosen = codec.compress(pixels), codec.compress(pixels, v="best")
    refined = codec.compress(pixels, effort=1)
    assert cost(codec, chosen, pixels) < cost(codec, plain, pixels)
    assert cost(codec, refined, pixels) < 0.99 * cost(codec, plain, pixels)
    # These offsets are noise: without a choice they do harm, and the base decoder has none.
    assert cost(codec, chosen, pixels) <= cost(codec, plain, pixels, "base") + 8 * len(DOMAINS)


def test_a_pack_holds_them_and_one_without_says_nothing_of_them(
    photographs: list[RGB], tmp_path: Path
) -> None:
    pixels = small(photographs)
    for points in ("means", "none"):
        codec, folder = codec_of(points=points), tmp_path / points
        pack.save(codec, folder, {})
        data = codec.compress(pixels)
        loaded = AdaptedCodec.load(folder)
        assert np.array_equal(loaded.decompress(data), codec.decompress(data))
        has = points == "means"
        assert ("points.offsets" in load_file(folder / pack.ADAPTERS_FILE)) == has
        assert ("points" in (folder / pack.CONFIG).read_text()) == has


# Fitting


def crop_of(symbols: torch.Tensor, residual: torch.Tensor, label: int = 1) -> Crop:
    image = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    return Crop(image, label, 0, symbols, symbols, residual)


def test_means_are_those_of_a_domain_channel_and_symbol_and_rare_ones_are_near_zero() -> None:
    symbols = torch.zeros(1, 2, 40, 50)
    symbols[:, 0, :, :10], symbols[:, 1, 0, 0] = -5, 1
    residual = torch.where(symbols == -5, 0.3, torch.where(symbols == 1, -0.4, 0.1))
    means = conditional_means([crop_of(symbols, residual)], 3)
    assert means.shape == (3, 2, CLASSES) and not means[[0, 2]].any()
    assert means[1, 0, 0] == pytest.approx(0.3, rel=0.15) and not means[1, 1, 0]
    assert means[1, 1, SHARED] == pytest.approx(0.1, rel=0.05)
    assert -0.01 < means[1, 1, SHARED + 1] < 0


def test_offsets_that_do_harm_are_left_out(photographs: list[RGB]) -> None:
    codec = codec_of()
    assert codec.synthesis.points is not None
    latent = codec.coded_at_once(tensor(small(photographs)))
    y_hat = latent.symbols() + latent.means
    harm = torch.ones_like(codec.synthesis.points.offsets)
    with torch.inference_mode():
        as_it_is = to_8_bit(codec.synthesis(y_hat))
        codec.synthesis.points.offsets.copy_(0.5 * harm)
        v = codec.synthesis.mode_weights(y_hat)
        moved = to_8_bit(codec.synthesis(codec.synthesis.moved(y_hat, latent.symbols(), v), v))
    residual = torch.zeros_like(y_hat)
    wanted = [
        Crop(image, label, 0, y_hat, latent.symbols(), residual)
        for label, image in ((1, as_it_is), (2, moved))
    ]
    assert best_shares(codec, wanted, harm).tolist() == [0, 0, 0.5]
    assert torch.equal(codec.synthesis.points.offsets, 0.5 * harm)  # as they were


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
    monkeypatch.setattr(placing, "_CROPS", 24)
    monkeypatch.setattr(
        placing, "SHARES", (1.0,)
    )  # four steps leave nothing that could be chosen by
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


def test_a_training_fits_them_and_changes_nothing_else(world: Callable[..., Path]) -> None:
    folders = world("without"), world("fitted", MEANS)
    without, fitted = (load_file(folder / pack.ADAPTERS_FILE) for folder in folders)
    offsets = fitted.pop("points.offsets")
    assert fitted.keys() == without.keys()
    assert all(torch.equal(fitted[name], value) for name, value in without.items())
    # More lies below a positive symbol than above it, and they are no larger than half an interval.
    assert offsets.abs().max() < 0.5
    assert offsets[:, :, SHARED + 1].mean() < 0 < offsets[:, :, SHARED - 1].mean()


def test_an_extended_pack_keeps_those_of_the_earlier_domains_to_the_bit(
    world: Callable[..., Path],
) -> None:
    earlier = world("earlier", MEANS, "gate.calibration=learned")
    more = (f"extend={earlier}", "domains=[other]", "unseen=[]", "codec.training.batch_size=3")
    extended = world("extended", *more)
    offsets, before = (
        load_file(folder / pack.ADAPTERS_FILE)["points.offsets"] for folder in (extended, earlier)
    )
    assert len(offsets) == 3 and torch.equal(offsets[:2], before) and offsets[2].any()
    assert AdaptedCodec.load(extended).adapter_config.points == "means"


# What cannot be


def test_what_they_cannot_do_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"points.*'middle'.*none, means"):
        AdaptedCodec.build(codec_config(), DOMAINS, {"points": "middle"})
    other = AdaptedCodec.build(codec_config(name="zou2022_n64"), DOMAINS, {"points": "means"})
    with pytest.raises(UserError, match=r"zou2022_n64, quality 3 codes .* part by part.*Leave out"):
        DecoderAdaptation(other, gamma=1, lr=1, gate_lr=1)
    codec = codec_of()
    with pytest.raises(ExportError, match="reconstruction points") as raised:
        export(codec, tmp_path / "exported")
    assert raised.value.code == "points"
    pack.save(codec, tmp_path / "pack", {})
    with pytest.raises(UserError, match=r"hand over ŷ alone: take the mode base"):
        PackModel(tmp_path / "pack")
    assert PackModel(tmp_path / "pack", "base")


def test_runs_from_before_them_have_none() -> None:
    settings: dict[str, Any] = {"data": {}, "evaluation": {}}
    assert run_settings(settings)["points"] == "none"
