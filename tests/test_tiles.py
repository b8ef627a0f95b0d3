"""Large images in tiles: the same strings and the same pixels as in one piece."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from compressai.layers import AttentionBlock, ResidualBlock
from torch import nn

from lic_da.adapters.synthesis import MODES
from lic_da.codecs.spatial import tiling
from lic_da.io.images import RGB
from lic_da.methods.adapters.codec import AdaptedCodec
from lic_da.spans import spans
from tests.conftest import DOMAINS, codec_config, disturb


@pytest.fixture
def codec(adapted: AdaptedCodec) -> AdaptedCodec:
    return disturb(adapted)


@pytest.fixture(scope="module")
def windowed() -> AdaptedCodec:
    """A codec whose transforms look at windows."""
    return disturb(AdaptedCodec.build(codec_config(name="zou2022_n64"), DOMAINS))


def in_tiles(codec: AdaptedCodec, side: int) -> AdaptedCodec:
    """The codec with so little memory that tiles are ``side`` elements of the latent wide."""
    geometry = codec.synthesis_geometry
    assert geometry.halo is not None
    memory = (side + 2 * geometry.halo) ** 2 * geometry.bytes_each
    assert geometry.side(100, 100, memory) == side
    return dataclasses.replace(codec, memory=memory)


@pytest.mark.parametrize(("side", "mode"), [*((8, mode) for mode in MODES), (11, "weighted")])
def test_tiled_decoding_differs_by_float_rounding_at_most(
    codec: AdaptedCodec, photographs: list[RGB], side: int, mode: str
) -> None:
    domain = "sketch" if mode == "oracle" else None
    for pixels in photographs[: 2 if mode == "weighted" else 1]:
        data = codec.compress(pixels)
        whole = codec.decompress(data, mode, domain)
        tiled = in_tiles(codec, side).decompress(data, mode, domain)
        assert np.abs(whole.astype(int) - tiled).max() <= 1
        assert (whole != tiled).mean() < 1e-4
        assert whole.shape == pixels.shape


@pytest.mark.parametrize("side", [8, 11])
def test_tiled_encoding_writes_the_same_strings(
    codec: AdaptedCodec, photographs: list[RGB], side: int
) -> None:
    for pixels in photographs:
        assert in_tiles(codec, side).compress(pixels) == codec.compress(pixels)


def test_float_images_in_tiles(codec: AdaptedCodec, photographs: list[RGB]) -> None:
    data = codec.compress(photographs[0])
    x = torch.from_numpy(photographs[0]).permute(2, 0, 1)[None].float().div(255)
    stream = in_tiles(codec, 8).encode(x)
    assert stream.to_bytes() == data
    torch.testing.assert_close(
        in_tiles(codec, 8).decode(stream), codec.decode(stream), rtol=0, atol=1e-5
    )


def test_the_gate_looks_at_the_whole_image(codec: AdaptedCodec, photographs: list[RGB]) -> None:
    data = codec.compress(photographs[1])
    codec.decompress(data)
    whole = codec.synthesis.last_v
    in_tiles(codec, 8).decompress(data)
    assert whole is not None and torch.equal(codec.synthesis.last_v, whole)


@torch.no_grad()
def test_the_halo_is_what_a_change_of_one_element_reaches(codec: AdaptedCodec) -> None:
    """A value that is not a number spreads to all that depends on it, and not further."""
    v = torch.tensor([[0.2, 0.3, 0.5]])
    y = torch.zeros(1, 64, 13, 13)
    y[..., 6, 6] = torch.nan
    touched = codec.synthesis(y, v)[0, 0].isnan().nonzero()
    geometry = codec.synthesis_geometry
    assert (geometry.scale, geometry.halo) == (16, 3)
    first, last = touched.min().item() // 16, touched.max().item() // 16
    assert max(6 - first, last - 6) == geometry.halo
    x = torch.zeros(1, 3, 13 * 16, 13 * 16)
    x[..., 6 * 16 : 7 * 16, 6 * 16 : 7 * 16] = torch.nan
    touched = codec.codec.g_a(x)[0, 0].isnan().nonzero()
    reach = max(6 - touched.min().item(), touched.max().item() - 6)
    assert reach == codec.analysis_geometry.halo == 2


@torch.no_grad()
def test_one_element_of_halo_less_is_seen(codec: AdaptedCodec) -> None:
    """So the tests above can fail."""
    torch.manual_seed(0)
    y_hat = 3 * torch.randn(1, 64, 16, 16).round()
    v = torch.tensor([[0.2, 0.3, 0.5]])

    def decoded(halo: int) -> torch.Tensor:
        geometry = dataclasses.replace(codec.synthesis_geometry, halo=halo)
        memory = (8 + 2 * halo) ** 2 * geometry.bytes_each
        x_hat = torch.zeros(1, 3, 256, 256)
        pieces = tiling.synthesise(lambda y: codec.synthesis(y, v), y_hat, geometry, memory)
        for rows, columns, piece in pieces:
            x_hat[..., rows, columns] = piece
        return x_hat

    whole = codec.synthesis(y_hat, v)
    assert (decoded(3) - whole).abs().max() < 1e-5
    assert (decoded(1) - whole).abs().max() > 1e-3


@pytest.mark.parametrize("side", [8, 12])
def test_windows_of_tiles_are_those_of_the_whole_image(
    windowed: AdaptedCodec, photographs: list[RGB], side: int
) -> None:
    geometry = windowed.synthesis_geometry
    assert geometry == windowed.analysis_geometry and geometry.grid == 4 and geometry.halo == 12
    pixels = photographs[2]
    data = windowed.compress(pixels)
    tiled = in_tiles(windowed, side)
    assert tiled.compress(pixels) == data
    for mode in ("weighted", "base"):
        whole, parts = (c.decompress(data, mode) for c in (windowed, tiled))
        assert np.abs(whole.astype(int) - parts).max() <= 1
        assert (whole != parts).mean() < 1e-4


@torch.no_grad()
def test_a_tile_off_the_grid_or_with_less_halo_is_seen(windowed: AdaptedCodec) -> None:
    """So the test above can fail."""
    torch.manual_seed(0)
    y_hat = 3 * torch.randn(1, 160, 32, 32).round()
    g_s, geometry = windowed.synthesis.base, windowed.synthesis_geometry
    whole = g_s(y_hat)

    def error(first: int, start: int) -> float:
        part = g_s(y_hat[..., first : first + 28, :])
        inside = part[..., 16 * (start - first) : 16 * (start - first + 4), :]
        return float((inside - whole[..., 16 * start : 16 * (start + 4), :]).abs().max())

    assert geometry.halo == 12 and error(4, 16) < 1e-5
    assert error(2, 16) > 1e-4
    assert error(12, 16) > 1e-4


def test_memory_sets_the_tiles(codec: AdaptedCodec) -> None:
    geometry = codec.synthesis_geometry
    for memory in (1 << 26, 1 << 30):
        side = geometry.side(1000, 1000, memory)
        assert side is not None and geometry.halo is not None
        assert (side + 2 * geometry.halo) ** 2 * geometry.bytes_each <= memory
        assert geometry.side(side, side, memory) is None


def test_parts_of_an_axis_meet_and_stay_inside() -> None:
    for length in (1, 5, 16, 97):
        for side in (1, 4, 16, None):
            parts = spans(length, side, halo=2)
            assert [p.start for p in parts] == [0, *(p.stop for p in parts[:-1])]
            assert parts[-1].stop == length
            assert all(0 <= p.first <= p.start < p.stop <= p.last <= length for p in parts)
            assert side is None or max(p.stop - p.start for p in parts) <= side


def test_parts_on_a_grid_begin_on_it() -> None:
    for length in (4, 20, 64, 100):
        for side in (4, 12, 16, None):
            parts = spans(length, side, halo=8, grid=4)
            assert [p.start for p in parts] == [0, *(p.stop for p in parts[:-1])]
            assert parts[-1].stop == length
            assert all(place % 4 == 0 for p in parts for place in p)
            assert side is None or max(p.stop - p.start for p in parts) <= side


def test_transforms_that_look_at_the_whole_image_are_not_cut() -> None:
    pool = nn.Sequential(nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.InstanceNorm2d(3))
    assert tiling.synthesis_geometry(pool, 8).halo is None
    assert tiling.synthesis_geometry(pool, 8).side(1000, 1000, 1) is None


@torch.no_grad()
def test_blocks_of_layers_are_cut_with_a_halo_that_suffices() -> None:
    torch.manual_seed(0)
    g_s = nn.Sequential(
        ResidualBlock(8, 8),
        nn.ConvTranspose2d(8, 8, 5, 2, 2, 1),
        AttentionBlock(8),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.PixelShuffle(2),
    ).eval()
    geometry = tiling.synthesis_geometry(g_s, 8)
    y_hat = torch.randn(1, 8, 31, 29)
    whole = g_s(y_hat)
    assert geometry.scale == 4 and geometry.halo is not None
    memory = (8 + 2 * geometry.halo) ** 2 * geometry.bytes_each
    for rows, columns, piece in tiling.synthesise(g_s, y_hat, geometry, memory):
        torch.testing.assert_close(piece, whole[..., rows, columns], rtol=0, atol=1e-5)
