"""v chosen at the encoder: found, written only where it pays, and never at the image's cost."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from lic_da.codecs.image_codec import to_8_bit
from lic_da.codecs.spec import CodecSpec
from lic_da.data.datamodule import LabelledImage
from lic_da.data.index import ImageInfo
from lic_da.errors import UserError
from lic_da.evaluation.measure import check_modes, measure
from lic_da.io.bitstream import MAX_ENTRIES, Stream, StreamError
from lic_da.io.images import RGB, read_rgb
from lic_da.io.lossless import save_png
from lic_da.methods import pack
from lic_da.methods.adapters import chosen
from lic_da.methods.adapters.codec import AdaptedCodec
from tests.conftest import DOMAINS, MEAN_SCALE, codec_config, disturb, hyperprior_config
from tests.test_cli import call
from tests.test_tiles import in_tiles

SLIGHT = 0.004  # adapters that change images by some grey levels


def psnr(image: RGB, original: RGB) -> float:
    return 10 * float(np.log10(255**2 / ((image.astype(float) - original) ** 2).mean()))


def recovered(codec: AdaptedCodec, pixels: RGB, true: tuple[int, ...]) -> tuple[int, ...]:
    """The v that is chosen for an image which is, to 8 bits, what the true v decodes to."""
    stream = Stream.from_bytes(codec.compress(pixels))
    y_hat = codec.latent(stream)
    v = chosen.weights(true)
    with torch.inference_mode():
        original = to_8_bit(codec.synthesis(y_hat, v))[..., : stream.height, : stream.width]
        image = chosen.CodedImage(
            codec.synthesis, codec.synthesis_geometry, codec.memory, y_hat, original, lmbda=1.0
        )
        found = image.best(codec.synthesis.mode_weights(y_hat))["chosen"]
    assert isinstance(found, tuple)
    return found


@pytest.mark.parametrize("true", [(16, -40, 0), (0, 0, 70), (-3, 32, 64)])
def test_the_v_that_made_a_image_is_found(photographs: list[RGB], true: tuple[int, ...]) -> None:
    codec = disturb(AdaptedCodec.build(codec_config(), DOMAINS), SLIGHT)
    assert recovered(codec, np.ascontiguousarray(photographs[0][:160, :160]), true) == true


def test_among_64_domains_those_that_matter_are_found(photographs: list[RGB]) -> None:
    domains = ["natural", *(f"domain{k}" for k in range(1, 64))]
    codec = disturb(AdaptedCodec.build(codec_config(), domains), SLIGHT)
    true = [0] * 64
    true[5], true[17], true[63] = 40, -24, 96
    found = recovered(codec, np.ascontiguousarray(photographs[0][:192, :192]), tuple(true))
    assert found == tuple(true)
    stream = Stream.from_bytes(codec.compress(photographs[0][:192, :192], v="best"))
    assert stream.chosen is not None and sum(map(bool, stream.chosen)) <= MAX_ENTRIES
    assert stream.v_bytes <= 1 + 2 * MAX_ENTRIES


@pytest.mark.parametrize(
    "config",
    [
        codec_config(),
        codec_config(name=MEAN_SCALE),
        hyperprior_config(),
        codec_config(name="zou2022_n64"),
    ],
    ids=lambda c: c.name,
)
def test_no_image_gets_worse_than_by_the_gate_or_the_base(
    config: CodecSpec, photographs: list[RGB]
) -> None:
    codec = disturb(AdaptedCodec.build(config, DOMAINS), SLIGHT)
    for pixels in (
        photographs[0][100:190, 100:175],
        photographs[1][:20, :130],
        np.zeros((64, 64, 3), np.uint8),
    ):
        pixels = np.ascontiguousarray(pixels)
        plain = codec.compress(pixels)
        best = codec.compress(pixels, v="best")
        got, by_gate, by_base = (
            psnr(p, pixels)
            for p in (
                codec.decompress(best),
                codec.decompress(plain),
                codec.decompress(plain, "base"),
            )
        )
        assert got >= max(by_gate, by_base) - chosen.TOLERANCE_DB - 1e-9
        stream = Stream.from_bytes(best)
        assert dataclasses.replace(stream, chosen=None) == Stream.from_bytes(plain)
        assert np.array_equal(codec.decompress(best, "base"), codec.decompress(plain, "base"))
        assert np.array_equal(codec.decompress(best, "top1"), codec.decompress(plain, "top1"))


def test_a_decoder_takes_the_chosen_v_and_not_the_gates(photographs: list[RGB]) -> None:
    codec = disturb(AdaptedCodec.build(codec_config(), DOMAINS), SLIGHT)
    pixels = np.ascontiguousarray(photographs[0][:128, :160])
    stream = dataclasses.replace(Stream.from_bytes(codec.compress(pixels)), chosen=(0, -16, 80))
    assert codec.gate_weights(stream) == {"natural": 0.0, "sketch": -0.5, "comic": 2.5}
    with torch.inference_mode():
        expected = codec.synthesis(codec.latent(stream), torch.tensor([[0, -0.5, 2.5]]))
    image = to_8_bit(expected.clamp(0, 1))[0].permute(1, 2, 0).numpy()
    assert np.array_equal(codec.decompress(stream.to_bytes()), image)
    base = dataclasses.replace(stream, chosen=(0, 0, 0))
    assert np.array_equal(codec.decompress(base), codec.decompress(stream, "base"))
    with pytest.raises(StreamError, match="weights for 2 domains, but this pack has 3: natural"):
        codec.decompress(dataclasses.replace(stream, chosen=(1, 2)))
    of_another_pack = dataclasses.replace(stream, chosen=(1, 2))  # whose v top1 does not use
    assert np.array_equal(codec.decompress(of_another_pack, "top1"), codec.decompress(base, "top1"))


def test_bits_that_do_not_pay_are_not_spent(photographs: list[RGB]) -> None:
    """Where a bit is worth more than any error, the stream is the gate's, or says base in a byte."""
    pixels = np.ascontiguousarray(photographs[0][:128, :160])
    config = codec_config(lambdas={3: 1e-9})
    untrained = AdaptedCodec.build(config, DOMAINS)
    assert untrained.compress(pixels, v="best") == untrained.compress(pixels)
    harmful = disturb(AdaptedCodec.build(config, DOMAINS), 5 * SLIGHT)
    stream = Stream.from_bytes(harmful.compress(pixels, v="best"))
    assert stream.chosen == (0, 0, 0) and stream.v_bytes == 1
    assert len(stream.to_bytes()) == len(harmful.compress(pixels)) + 1
    generous = dataclasses.replace(harmful, config=codec_config())
    assert any(Stream.from_bytes(generous.compress(pixels, v="best")).chosen or ())


def test_a_large_image_in_tiles_gets_a_v_that_is_no_worse(photographs: list[RGB]) -> None:
    """Searched on parts of the image, decided on all of it."""
    codec = in_tiles(disturb(AdaptedCodec.build(codec_config(), DOMAINS), SLIGHT), 24)
    pixels = np.ascontiguousarray(
        np.concatenate([np.tile(p, (1, 2, 1)) for p in photographs], axis=0)
    )
    assert pixels.shape[0] * pixels.shape[1] > 1 << 19
    plain, best = codec.compress(pixels), codec.compress(pixels, v="best")
    assert Stream.from_bytes(best).chosen is not None
    got = psnr(codec.decompress(best), pixels)
    assert got > psnr(codec.decompress(plain), pixels) + 0.1
    assert got >= psnr(codec.decompress(plain, "base"), pixels) - chosen.TOLERANCE_DB


@pytest.mark.parametrize("grid", [1, 4])
@pytest.mark.parametrize("length", [4, 20, 64, 92, 300])
def test_parts_that_v_is_searched_on_lie_on_the_grid_of_windows(length: int, grid: int) -> None:
    parts = chosen._spread(length, 15, 3 * grid, grid)
    assert parts and all(place % grid == 0 for part in parts for place in part)
    assert all(0 <= p.first <= p.start < p.stop <= p.last <= length for p in parts)
    assert all(a.stop <= b.start for a, b in pairwise(parts))


def test_a_signalled_v_makes_room_for_a_chosen_one(photographs: list[RGB], tmp_path: Path) -> None:
    how = {"gate": {"input": "signalled"}}
    codec = disturb(AdaptedCodec.build(codec_config(), DOMAINS, how), SLIGHT)
    pixels = np.ascontiguousarray(photographs[0][:128, :160])
    best = codec.compress(pixels, v="best")
    stream = Stream.from_bytes(best)
    assert stream.chosen is not None and stream.v is None
    pack.save(codec, tmp_path, {})
    assert np.array_equal(AdaptedCodec.load(tmp_path).decompress(best), codec.decompress(best))
    with pytest.raises(StreamError, match=r"has a chosen v in the place of the gate's.* than top1"):
        codec.decompress(best, "top1")
    with pytest.raises(StreamError, match="carries no weights of the adapters"):
        codec.decompress(dataclasses.replace(stream, chosen=None))


def test_the_mode_chosen_is_measured_where_it_is_asked_for(
    photographs: list[RGB], tmp_path: Path
) -> None:
    codec = disturb(AdaptedCodec.build(codec_config(), DOMAINS), SLIGHT)
    file = tmp_path / "p.png"
    save_png(file, np.ascontiguousarray(photographs[0][:128, :160]))
    entry = LabelledImage(
        ImageInfo("", file.name, "", "test", "", "", 160, 128), file, "clipart", -1
    )
    assert {p.blend for p in measure(codec, [entry], run="r", metrics=["psnr"])} == {
        "weighted",
        "top1",
        "base",
    }
    points = {
        p.blend: p
        for p in measure(
            codec, [entry], run="r", modes=["base", "chosen", "weighted"], metrics=["psnr"]
        )
    }
    own, gate = points["chosen"], points["weighted"]
    assert own.psnr > max(gate.psnr, points["base"].psnr)
    assert own.string_bytes == gate.string_bytes and own.file_bytes == gate.file_bytes + 3
    assert own.bpp == pytest.approx(gate.bpp + 24 / (128 * 160))
    assert own.gate != gate.gate
    check_modes(["base", "chosen", "weighted"], codec.modes, codec.modes_on_request)
    with pytest.raises(UserError, match="Unknown mode 'chosen'"):
        check_modes(["base", "chosen", "adapted"], ("adapted", "base"))


def test_the_command_line_writes_and_tells_a_chosen_v(
    photographs: list[RGB], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = codec_config(lambdas={3: 1.0})  # three bytes always pay
    codec = disturb(AdaptedCodec.build(config, DOMAINS), SLIGHT / 8)
    pack.save(codec, tmp_path / "outputs" / "run" / "pack", {})
    save_png(tmp_path / "a.png", np.ascontiguousarray(photographs[0][:96, :128]))
    assert call("compress", "a.png", "a.lic", "--v", "best").startswith("0")
    data = Path("a.lic").read_bytes()
    assert data == codec.compress(read_rgb("a.png"), v="best")
    stream = Stream.from_bytes(data)
    assert stream.chosen is not None
    values = ", ".join(f"{d} {c / 32:.3f}" for d, c in zip(DOMAINS, stream.chosen, strict=True))
    told = f"chosen v     {values} (by the encoder, 3 bytes"
    assert f"{told}; names from outputs/run/pack)" in call("info", "a.lic")
    assert f"{told})" in call("info", "a.lic", "--pack", "outputs/run/pack")
    call("decompress", "a.lic", "a2.png")
    assert np.array_equal(read_rgb("a2.png"), codec.decompress(data))
    call("decompress", "a.lic", "base.png", "--codec", codec.config.name)
    assert np.array_equal(read_rgb("base.png"), codec.decompress(data, "base"))
    Path("b.lic").write_bytes(dataclasses.replace(stream, chosen=(0, 0, 0)).to_bytes())
    assert "no adapters: as the base decoder (by the encoder, 1 byte)" in call("info", "b.lic")
    for wrong, message in (
        (("--v", "worst"), "Unknown --v 'worst'. Available: gate, best"),
        (("--v", "best", "--blend", "base"), "give no --mode and no --codec"),
    ):
        with pytest.raises(UserError, match=message):
            call("compress", "a.png", "c.lic", *wrong)
    with pytest.raises(UserError, match=r"Unknown v 'worst'\. Available: gate, best"):
        codec.compress(read_rgb("a.png"), v="worst")  # type: ignore[arg-type]
