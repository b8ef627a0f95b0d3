"""Refined latents: cheaper or better by the real stream, readable by every decoder, the same each time."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from compressai.models import CompressionModel

from lic_da.codecs import coded, refine, zoo
from lic_da.codecs.image_codec import pad, to_8_bit
from lic_da.data.datamodule import LabelledImage
from lic_da.data.index import ImageInfo
from lic_da.errors import UserError
from lic_da.evaluation.measure import measure, read_points, write_points
from lic_da.evaluation.summary import summarise, table
from lic_da.io.bitstream import Stream
from lic_da.io.images import RGB, read_rgb
from lic_da.io.lossless import save_png
from lic_da.methods import pack
from lic_da.methods.adapters.codec import AdaptedCodec
from tests.conftest import (
    DOMAINS,
    MEAN_SCALE,
    codec_config,
    disturb,
    hyperprior_config,
    scribbles,
)
from tests.test_chosen import SLIGHT, psnr
from tests.test_cli import call

CAWF = Path(__file__).parent / "fixtures" / "format1" / "cawf"
AT_ONCE = {
    "factorized": codec_config(),
    "mean-scale": codec_config(name=MEAN_SCALE),
    "scale": hyperprior_config(),
}
REFINABLE = {**AT_ONCE, "slices": codec_config(name="zou2022_n64")}


def codec_of(kind: str) -> AdaptedCodec:
    torch.manual_seed(0)  # weights of the gate, and of a codec that is random
    return disturb(AdaptedCodec.build(REFINABLE[kind], DOMAINS), SLIGHT)


def cost(codec: AdaptedCodec, data: bytes, pixels: RGB, mode: str | None = None) -> float:
    """R + λ·255²·MSE·pixels of a file and the image that it decodes to."""
    error = (codec.decompress(data, mode).astype(float) - pixels) ** 2
    return 8 * len(data) + codec.config.lmbda() * float(error.sum()) / 3


@pytest.fixture
def photograph(photographs: list[RGB]) -> RGB:
    return np.ascontiguousarray(photographs[0][100:158, 100:180])


@pytest.mark.parametrize("kind", REFINABLE)
def test_effort_lowers_rate_and_distortion_together(kind: str, photograph: RGB) -> None:
    codec = codec_of(kind)
    plain, refined = codec.compress(photograph), codec.compress(photograph, effort=1)
    # The small hyperprior has random weights, which leave little to be found.
    assert cost(codec, refined, photograph) < cost(codec, plain, photograph) * (
        1 if kind == "scale" else 0.99
    )
    first, second = Stream.from_bytes(plain), Stream.from_bytes(refined)
    assert second.strings[1:] == first.strings[1:]  # z stays as it is
    assert dataclasses.replace(second, strings=first.strings, latent_crc=first.latent_crc) == first


@pytest.mark.parametrize("kind", REFINABLE)
def test_an_untouched_codec_reads_refined_strings(kind: str, photograph: RGB) -> None:
    codec = codec_of(kind)
    if kind == "scale":  # of random weights there are no others that are the same
        base: CompressionModel = zoo.build(REFINABLE[kind], weights=False)
        base.load_state_dict(codec.base_weights())
    else:
        base = zoo.build(REFINABLE[kind])
    data = codec.compress(photograph, effort=1)
    stream = Stream.from_bytes(data)
    with torch.inference_mode():
        out = base.decompress([[s] for s in stream.strings], stream.shape)
    height, width = photograph.shape[:2]
    image = to_8_bit(out["x_hat"])[0, :, :height, :width].permute(1, 2, 0).numpy()
    assert np.array_equal(image, codec.decompress(data, "base"))
    # and what it writes of the same image is what was written without effort
    x = torch.from_numpy(photograph).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        strings = base.compress(pad(x, codec.stride))["strings"]
    plain = Stream.from_bytes(codec.compress(photograph))
    assert tuple(s[0] for s in strings) == plain.strings


@pytest.mark.parametrize("kind", ["factorized", "mean-scale"])
def test_the_tables_tell_the_bits_of_the_real_string(kind: str, photograph: RGB) -> None:
    """Also of symbols that no table has an entry for."""
    codec = codec_of(kind)
    x = torch.from_numpy(photograph).permute(2, 0, 1)[None]
    with torch.inference_mode():
        with coded.observed(codec.codec) as seen:
            _, y = codec._encode(x)
        latent = seen.at_once(y)
        assert latent is not None and latent is seen.latent(y, codec.title)
        for factor in (1, 40):
            symbols = latent.symbols() * factor
            with latent.exchanged(symbols + latent.means):
                stream, _ = codec._encode(x)
            told = float(latent.bits(symbols, (slice(None), slice(None))).sum())
            assert told == pytest.approx(8 * len(stream.strings[0]), rel=2e-3, abs=64)
            y_hat = codec.latent(stream)
            assert torch.equal(y_hat, symbols + latent.means)


def test_slices_cost_and_decode_to_what_their_description_says(photograph: RGB) -> None:
    codec = codec_of("slices")
    x = torch.from_numpy(photograph).permute(2, 0, 1)[None]
    everywhere = slice(None), slice(None)
    with torch.inference_mode():
        with coded.observed(codec.codec) as seen:
            stream, y = codec._encode(x)
        latent = seen.latent(y, codec.title)
        y_hat = codec.latent(stream)
        assert torch.equal(latent.decoded(), y_hat) and latent.decoded().stride() == y_hat.stride()
        for factor in (1, 1.5):
            with latent.exchanged(latent.y * factor):
                stream, _ = codec._encode(x)
            told = latent.coded(latent.y * factor, everywhere, coded.rounded)
            assert float(told.bits) == pytest.approx(8 * len(stream.strings[0]), rel=0.02, abs=64)
            torch.testing.assert_close(told.y_hat, codec.latent(stream), rtol=0, atol=1e-5)
            with latent.searched():  # in single precision few symbols come out otherwise
                other = latent.coded(latent.y * factor, everywhere, coded.rounded)
            assert (other.symbols != told.symbols).float().mean() < 1e-3
            assert float(other.bits) == pytest.approx(float(told.bits), rel=1e-3)


def test_v_that_the_encoder_tells_is_that_of_the_decoder_to_the_bit(photographs: list[RGB]) -> None:
    codec = codec_of("slices")
    for pixels in (photographs[1][:100, :90], photographs[0][:64, 30:160]):
        data, v = codec.compress_with_v(np.ascontiguousarray(pixels))
        assert v == codec.gate_weights(data)


def test_no_image_gets_worse(photographs: list[RGB]) -> None:
    codec = codec_of("factorized")
    for pixels in (
        scribbles(1, side=64)[0],
        photographs[1][:20, :130],
        np.zeros((64, 64, 3), np.uint8),
        np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8),
    ):
        pixels = np.ascontiguousarray(pixels)
        for mode in ("weighted", "base"):
            with codec.in_mode(mode):
                plain = codec.compress(pixels)
                refined = codec.compress(pixels, effort=1)
            assert cost(codec, refined, pixels, mode) <= cost(codec, plain, pixels, mode)


def test_where_refining_makes_the_stream_worse_it_is_left(
    photograph: RGB, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = codec_of("factorized")
    monkeypatch.setattr(refine.Refinement, "y", lambda search: search.latent.y.add(1))
    assert codec.compress(photograph, effort=1) == codec.compress(photograph)


def test_the_same_seed_gives_the_same_file_and_another_seed_another(photograph: RGB) -> None:
    codec = codec_of("factorized")
    files = [codec.compress(photograph, effort=1, seed=seed) for seed in (5, 5, 6)]
    assert files[0] == files[1] != files[2]


def test_effort_gives_something_and_more_effort_more(photograph: RGB) -> None:
    """Of the last two levels which is better is a matter of the image."""
    codec = codec_of("factorized")
    costs = [cost(codec, codec.compress(photograph, effort=e), photograph) for e in range(4)]
    assert costs[0] > costs[1] > max(costs[2:])


def test_a_chosen_v_and_refined_latents_go_together(photograph: RGB) -> None:
    codec = codec_of("factorized")
    chosen = codec.compress(photograph, v="best")
    both = codec.compress(photograph, v="best", effort=1)
    assert Stream.from_bytes(both).chosen is not None
    assert cost(codec, both, photograph) < 0.99 * cost(codec, chosen, photograph)
    alone = codec.compress(photograph, effort=1)
    assert cost(codec, both, photograph) < cost(codec, alone, photograph)


@pytest.mark.parametrize(
    ("kind", "shown", "share"),
    [
        ("factorized", np.s_[:160, :224], 0.9),
        # In tiles of 8 elements all are near the border, behind which only the next windows count.
        ("slices", np.s_[100:164, :512], 0.75),
    ],
    ids=["factorized", "slices"],
)
def test_tiles_gain_what_the_whole_image_gains(
    kind: str, shown: tuple[slice, slice], share: float, photographs: list[RGB]
) -> None:
    whole = codec_of(kind)
    pixels = np.ascontiguousarray(photographs[0][shown])
    seen: list[tuple[int, int]] = []
    tiled = dataclasses.replace(whole, memory=32 * whole.synthesis_geometry.bytes_each)
    data = tiled.compress(pixels, effort=1, on_step=lambda *step: seen.append(step))
    steps = refine.STEPS[1]
    total = seen[0][1]
    assert total >= 4 * steps and seen == [(n + 1, total) for n in range(total)]
    before = cost(whole, whole.compress(pixels), pixels)
    gains = [before - cost(whole, d, pixels) for d in (data, whole.compress(pixels, effort=1))]
    assert gains[0] > share * gains[1] > 0


def test_a_table_of_measurements_tells_effort_and_what_the_base_decoder_makes_of_it(
    photographs: list[RGB], tmp_path: Path
) -> None:
    codec = codec_of("factorized")
    photograph = np.ascontiguousarray(photographs[1][60:156, 100:260])
    file = tmp_path / "p.png"
    save_png(file, photograph)
    height, width = photograph.shape[:2]
    image = ImageInfo("", file.name, "", "test", "", "", width, height)
    entry = LabelledImage(image, file, "clipart", -1)
    modes = ("base", "weighted", "top1")
    made = measure(codec, [entry], run="r", modes=modes, metrics=["psnr"], effort=1)
    write_points(made, tmp_path / "rd_points.csv", DOMAINS)
    points = {p.blend: p for p in read_points(tmp_path / "rd_points.csv")}
    assert {b: p.effort for b, p in points.items()} == {"base": 0, "weighted": 1, "top1": 1}
    refined = codec.compress(photograph, effort=1)
    assert points["base"].file_bytes == len(codec.compress(photograph))
    assert points["weighted"].file_bytes == points["top1"].file_bytes == len(refined)
    by_base = psnr(codec.decompress(refined, "base"), photograph)
    for mode in ("weighted", "top1"):
        assert points[mode].psnr_base == pytest.approx(by_base, abs=1e-4)
    assert math.isnan(points["base"].psnr_base)
    summary = {"codec": "c", "quality": 3, **summarise(list(points.values()), DOMAINS)}
    row = summary["domains"]["clipart"]
    assert row["bpp"] != row["bpp_base"] == pytest.approx(points["base"].bpp)
    percent = f"{100 * row['bpp'] / row['bpp_base']:.0f} % of its rate"
    assert percent in str(table(summary).caption)


def test_codecs_that_code_element_after_element_are_refused_in_words() -> None:
    small = {"weights": "random", "model": {"N": 128}}
    codec = AdaptedCodec.build(codec_config(name="cheng2020_attn", **small), DOMAINS)
    with pytest.raises(
        UserError, match="cheng2020_attn, quality 3 cannot be refined: it codes them element by"
    ):
        codec.compress(np.zeros((64, 64, 3), np.uint8), effort=1)
    with pytest.raises(UserError, match="effort must be 0 to 3, not 4"):
        codec.compress(np.zeros((64, 64, 3), np.uint8), effort=4)


def test_the_command_line_spends_the_effort(
    photograph: RGB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    codec = codec_of("factorized")
    pack.save(codec, tmp_path / "pack", {})
    save_png(tmp_path / "a.png", photograph)
    call("compress", "a.png", "a.lic", "--pack", "pack", "--effort", "1", "--seed", "3")
    assert Path("a.lic").read_bytes() == codec.compress(read_rgb("a.png"), effort=1, seed=3)
    alone = ("--codec", codec.config.name)
    call("compress", "a.png", "b.lic", *alone, "--effort", "1")
    call("compress", "a.png", "c.lic", *alone)
    call("decompress", "b.lic", "b.png", *alone)
    refined, plain = Path("b.lic").read_bytes(), Path("c.lic").read_bytes()
    assert cost(codec, refined, photograph, "base") < cost(codec, plain, photograph, "base")
    with pytest.raises(UserError, match=r"effort is for codecs with adapters, .*; this is cawf"):
        call("compress", "a.png", "d.lic", "--pack", CAWF, "--effort", "2")
