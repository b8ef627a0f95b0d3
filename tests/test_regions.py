"""v per region: pages of several kinds get a v for each, and are decoded without seams."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import lic_da
from lic_da.adapters import mosaic, synthesis
from lic_da.adapters.formula import AdapterSum
from lic_da.adapters.regions import RegionWeights
from lic_da.codecs.image_codec import to_8_bit
from lic_da.errors import UserError
from lic_da.io.bitstream import Stream
from lic_da.io.images import RGB, read_rgb
from lic_da.methods import pack
from lic_da.methods.adapters.codec import AdaptedCodec
from lic_da.methods.adapters.export import ExportError, export
from lic_da.methods.adapters.placing import Crop, best_shares
from lic_da.migrations import pack_settings, run_settings
from lic_da.runtime import Decoder
from tests.conftest import CODEC, DOMAINS, MEAN_SCALE, codec_config, disturb, scribbles
from tests.test_cli import call

SIDE = 256


@pytest.fixture(scope="module")
def photograph() -> RGB:
    """Like a photograph in that it has no sharp edges."""
    noise = torch.rand(1, 3, 17, 17, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(noise, (SIDE, SIDE), mode="bicubic").clamp(0, 1)[0]
    return smooth.mul(255).byte().permute(1, 2, 0).numpy()


@pytest.fixture(scope="module")
def page(photograph: RGB) -> RGB:
    """A photograph with a drawing beside it; they meet between two positions of the latent."""
    return np.concatenate([photograph[:, : SIDE - 24], scribbles(1, SIDE)[0]], axis=1)


def sighted(codec: AdaptedCodec, photograph: RGB) -> AdaptedCodec:
    """Give a codec adapters, and a gate that tells photographs from drawings, by the nearest mean."""
    disturb(codec, scale=0.01)
    gate = codec.synthesis.gate
    means = []
    with torch.no_grad():
        for image in (photograph, scribbles(1, SIDE, seed=5)[0]):
            means.append(gate.features(codec.latent(Stream.from_bytes(codec.compress(image))))[0])
        both = torch.stack([*means, means[0] + 9])
        gate.classify.weight.copy_(2 * both)
        gate.classify.bias.copy_(-both.square().sum(dim=1))
    return codec


def built(photograph: RGB, name: str = CODEC, **settings: object) -> AdaptedCodec:
    torch.manual_seed(0)
    codec = AdaptedCodec.build(codec_config(name=name), DOMAINS, settings)
    return sighted(codec, photograph)


@pytest.fixture(scope="module")
def codec(photograph: RGB) -> AdaptedCodec:
    return built(photograph, gate={"spatial": "window"})


@pytest.fixture(scope="module")
def folder(codec: AdaptedCodec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack of it that says nothing of regions, as older ones."""
    codec.set_spatial("image")
    path = tmp_path_factory.mktemp("regions") / "pack"
    pack.save(codec, path, {})
    codec.set_spatial("window")
    return path


def regions_of(codec: AdaptedCodec, data: bytes) -> RegionWeights:
    with torch.inference_mode():
        weights = codec.synthesis.mode_weights(codec.latent(Stream.from_bytes(data)))
    assert isinstance(weights, RegionWeights)
    return weights


class ByDefinition(AdapterSum):
    """W(u) + Σ_k v_k A_k(u) with v a map: the shares' v, linear between positions of the latent."""

    def __init__(self, sums: Sequence[AdapterSum], place: mosaic.ShareMap) -> None:
        super().__init__(sums[0].adapters, torch.cat([each.v for each in sums]))
        self.place = place

    def __call__(self, u: Tensor) -> Tensor:
        outs = [adapter(u) for adapter in self.adapters]
        v = torch.einsum("brhw,rk->bkhw", self.place.shares, self.v)
        v = F.interpolate(v, outs[0].shape[2:], mode="bilinear", align_corners=False)
        return sum((v[:, k : k + 1] * out for k, out in enumerate(outs)), torch.zeros(()))


def test_each_kind_of_image_on_a_page_has_its_own_v(codec: AdaptedCodec, page: RGB) -> None:
    weights = regions_of(codec, codec.compress(page))
    assert weights.v.shape == (2, len(DOMAINS))
    assert weights.v[0].argmax() == 0 and weights.v[1].argmax() == 1
    shares = weights.shares[0]
    assert torch.equal(shares.sum(dim=0), torch.ones(shares.shape[1:]))
    border = (SIDE - 24) / 16
    assert (shares[0].sum(dim=1) - border).abs().max() <= 3
    shown = codec.gate_weights(Stream.from_bytes(codec.compress(page)))
    assert sum(shown.values()) == pytest.approx(1, abs=1e-5)
    assert min(shown["natural"], shown["sketch"]) > 0.2


@pytest.mark.parametrize("name", [CODEC, MEAN_SCALE, "zou2022_n64"])
def test_it_is_the_formula_with_v_as_a_map(photograph: RGB, page: RGB, name: str) -> None:
    codec = built(photograph, name, gate={"spatial": "window"})
    data = Stream.from_bytes(codec.compress(page))
    regions_of(codec, data.to_bytes())
    fast = codec.decode(data)
    with mock.patch.object(synthesis, "RegionSum", ByDefinition):
        assert (codec.decode(data) - fast).abs().max() < 1e-5
    codec.set_spatial("image")
    assert (codec.decode(data) - fast).abs().max() > 1e-3


def test_reconstruction_points_are_fitted_to_what_regions_decode(
    photograph: RGB, page: RGB
) -> None:
    codec = built(photograph, points="means", gate={"spatial": "window"})
    assert codec.synthesis.points is not None
    x = torch.from_numpy(page).permute(2, 0, 1)[None].float() / 255
    latent = codec.coded_at_once(x)
    y_hat = latent.symbols() + latent.means
    with torch.inference_mode():
        decoded = to_8_bit(codec.synthesis(y_hat))
    crop = Crop(decoded, 1, 0, y_hat, latent.symbols(), torch.zeros_like(y_hat))
    harm = torch.ones_like(codec.synthesis.points.offsets)
    assert best_shares(codec, [crop], harm)[1] == 0


def test_also_where_every_convolution_is_adapted_and_in_tiles(photograph: RGB, page: RGB) -> None:
    codec = built(photograph, sites="all", gate={"spatial": "window"})
    stream = Stream.from_bytes(codec.compress(page))
    whole = codec.decode(stream)
    with mock.patch.object(synthesis, "RegionSum", ByDefinition):
        assert (codec.decode(stream) - whole).abs().max() < 1e-5
    geometry = codec.synthesis_geometry
    assert geometry.halo is not None
    memory = (8 + 2 * geometry.halo) ** 2 * geometry.bytes_each
    tiled = dataclasses.replace(codec, memory=memory)
    assert (tiled.decode(stream) - whole).abs().max() < 1e-5


def test_an_image_of_one_kind_is_decoded_as_ever(codec: AdaptedCodec, photograph: RGB) -> None:
    small = scribbles(1, 64)[0]
    for image in (photograph, small):
        data = codec.compress(image)
        regional = codec.decompress(data)
        codec.set_spatial("image")
        assert np.array_equal(regional, codec.decompress(data))
        codec.set_spatial("window")


def test_other_modes_and_a_v_in_the_stream_are_of_the_whole_image(
    codec: AdaptedCodec, page: RGB
) -> None:
    plain = Stream.from_bytes(codec.compress(page))
    chosen = dataclasses.replace(plain, chosen=(3, 40, -5))
    ways = [(plain, "base", None), (plain, "top1", None), (plain, "oracle", "comic")]
    ways.append((chosen, "weighted", None))
    regional = [codec.decompress(stream, mode, domain) for stream, mode, domain in ways]
    codec.set_spatial("image")
    of_image = [codec.decompress(stream, mode, domain) for stream, mode, domain in ways]
    codec.set_spatial("window")
    assert all(map(np.array_equal, regional, of_image))


def test_a_v_is_chosen_at_the_encoder_only_where_it_is_better_than_regions(
    codec: AdaptedCodec, page: RGB
) -> None:
    def error(data: bytes) -> float:
        return float(((codec.decompress(data).astype(float) - page) ** 2).mean())

    assert error(codec.compress(page, v="best")) <= 1.002 * error(codec.compress(page))


def test_it_is_a_setting_of_packs_of_loading_and_of_the_command_line(
    codec: AdaptedCodec, folder: Path, page: RGB, tmp_path: Path
) -> None:
    data = codec.compress(page)
    regional = codec.decompress(data)
    plain, other = lic_da.load(folder), lic_da.load(folder, spatial="window")
    assert np.array_equal(other.decompress(data), regional)
    assert not np.array_equal(plain.decompress(data), regional)
    pack.save(other, tmp_path / "other", {})
    assert pack.read_config(tmp_path / "other").own["how"]["gate"]["spatial"] == "window"
    assert np.array_equal(lic_da.load(tmp_path / "other").decompress(data), regional)

    (tmp_path / "a.lic").write_bytes(data)
    for options, wanted in (((), plain.decompress(data)), (("--spatial", "window"), regional)):
        out = tmp_path / f"a{len(options)}.png"
        call("decompress", tmp_path / "a.lic", out, "--pack", folder, *options)
        assert np.array_equal(read_rgb(out), wanted)


def test_what_cannot_work_is_refused(codec: AdaptedCodec, tmp_path: Path) -> None:
    def settings(**gate: object) -> Callable[[], object]:
        return lambda: AdaptedCodec.build(codec_config(), DOMAINS, {"gate": gate})

    for attempt, message in (
        (settings(spatial="pixel"), r"gate\.spatial.*image, window"),
        (settings(spatial="window", input="signalled"), r"leave out gate\.input=signalled"),
        (settings(window=8), r"odd multiple of 2 .* not 8"),
        (lambda: codec.set_spatial("pixel"), r"gate\.spatial"),
    ):
        with pytest.raises(UserError, match=message):
            attempt()
    with pytest.raises(ExportError, match=r"gate\.spatial=window") as raised:
        export(codec, tmp_path / "exported")
    assert raised.value.code == "spatial"
    pack.save(codec, tmp_path / "pack", {})
    call("export", tmp_path / "pack", tmp_path / "exported", "--spatial", "image")
    assert Decoder(tmp_path / "exported").domains == codec.domains
    (tmp_path / "a.lic").write_bytes(b"")
    with pytest.raises(UserError, match="--spatial goes with a pack"):
        decoding = ("decompress", tmp_path / "a.lic", tmp_path / "a.png")
        call(*decoding, "--spatial", "window", "--codec", CODEC)


def test_files_from_before_it_have_one_v_an_image() -> None:
    gate = {"mid": None, "input": "latent"}
    for settings in (
        run_settings({"gate": gate, "evaluation": {}}),
        pack_settings({"format": 2, "how": {"gate": gate}})["how"],
    ):
        assert (settings["gate"]["spatial"], settings["gate"]["window"]) == ("image", 6)


def test_rectangles_cover_what_they_should_once() -> None:
    rng = np.random.default_rng(0)
    for share in (0.0, 0.02, 0.5, 0.98, 1.0):
        mask = rng.random((13, 17)) < share
        for found, exact in ((mosaic.rectangles(mask), True), (mosaic.covering(mask), False)):
            count = np.zeros(mask.shape, int)
            for each in found:
                count[each.top : each.bottom, each.left : each.right] += 1
            assert count.max(initial=0) <= 1
            assert np.array_equal(count > 0, mask) if exact else (count >= mask).all()
