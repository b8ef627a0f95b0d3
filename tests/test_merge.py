"""Merged weights: one kernel a site for a whole image, in buffers that stay, of the adapters that count."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from lic_da.adapters import merge
from lic_da.adapters.synthesis import MODES, without_tiny
from lic_da.codecs.models.convolutions import Convolution
from lic_da.errors import UserError
from lic_da.io.bitstream import Stream
from lic_da.io.images import RGB
from lic_da.methods.adapters.codec import AdaptedCodec
from tests.conftest import CODEC, DOMAINS, MEAN_SCALE, by_formula, codec_config, disturb

SITES = 3
LOW_RANK = {"adapter": {"kind": "lowrank", "rank": 5}}


def built(**changes: object) -> AdaptedCodec:
    return disturb(AdaptedCodec.build(codec_config(), DOMAINS, changes))


@pytest.fixture
def touched(monkeypatch: pytest.MonkeyPatch) -> list[Convolution]:
    """The adapters whose kernels are read."""
    seen: list[Convolution] = []
    add = merge.add_kernel

    def noting(kernel: torch.Tensor, adapter: Convolution, share: float) -> None:
        seen.append(adapter)
        add(kernel, adapter, share)

    monkeypatch.setattr(merge, "add_kernel", noting)
    return seen


def test_only_adapters_that_contribute_are_touched(
    photographs: list[RGB], touched: list[Convolution]
) -> None:
    codec = built()
    data = codec.compress(photographs[0])
    assert codec.gate_weights(data) == codec.gate_weights(Stream.from_bytes(data))
    v = list(codec.gate_weights(data).values())
    for mode, domain, count in (
        ("base", None, 0),
        ("oracle", "comic", 1),
        ("top1", None, 1),
        ("weighted", None, 3),
    ):
        touched.clear()
        codec.decompress(data, mode, domain)
        assert len(touched) == SITES * count, mode
        if mode == "oracle":
            own = codec.synthesis.bank.adapters["comic"]
            assert set(touched) == set(own.children())  # type: ignore[operator]
    touched.clear()
    codec.synthesis.threshold = (min(v) + sorted(v)[1]) / 2
    codec.decompress(data)
    assert len(touched) == SITES * 2
    used = codec.synthesis.last_v
    assert used is not None
    assert used[0, int(np.argmin(v))] == 0
    assert used.sum().item() == pytest.approx(1)


def test_threshold_keeps_the_largest_and_is_a_setting() -> None:
    v = torch.tensor([[0.5, 0.45, 0.05], [0.3, 0.36, 0.34]])
    torch.testing.assert_close(
        without_tiny(v, 0.4), torch.tensor([[0.5 / 0.95, 0.45 / 0.95, 0], [0, 1, 0]])
    )
    assert built(gate={"threshold": 0.25}).synthesis.threshold == 0.25
    with pytest.raises(UserError, match=r"gate\.threshold must be from 0 to below 1, not 1"):
        built(gate={"threshold": 1})


def test_an_image_in_tiles_is_merged_once(
    photographs: list[RGB], touched: list[Convolution]
) -> None:
    codec = built()
    geometry = codec.synthesis_geometry
    assert geometry.halo is not None
    small = dataclasses.replace(codec, memory=(8 + 2 * geometry.halo) ** 2 * geometry.bytes_each)
    stream = Stream.from_bytes(codec.compress(photographs[0]))
    assert min(stream.shape) > 8
    small.decode(stream)
    assert len(touched) == SITES * len(DOMAINS)


def test_buffers_are_those_of_the_image_before(photographs: list[RGB]) -> None:
    codec = built()
    merged = codec.synthesis._merged

    def places() -> list[int]:
        return [tensor.data_ptr() for weights in merged for tensor in weights._kept or ()]

    first = codec.compress(photographs[0])
    images = [codec.decompress(first)]
    before = places()
    assert len(before) == 2 * SITES
    sizes = [tensor.numel() for weights in merged for tensor in weights._kept or ()]
    adapter = codec.synthesis.bank.adapters["natural"]
    assert sum(sizes) == sum(p.numel() for p in adapter.parameters())
    other = codec.compress(photographs[1])
    images.append(codec.decompress(other))
    assert places() == before
    with torch.no_grad():  # another mode than the one the buffers were made in
        images.append(codec.decompress(other))
    assert places() == before
    assert np.array_equal(images[1], images[2])
    assert np.array_equal(images[0], codec.decompress(first))  # nothing of the other is left


def test_new_weights_of_adapters_are_seen(photographs: list[RGB]) -> None:
    codec = built()
    data = codec.compress(photographs[0])
    before = codec.decompress(data)
    disturb(codec, scale=0.1)
    assert not np.array_equal(codec.decompress(data), before)


@pytest.mark.parametrize("name", [CODEC, MEAN_SCALE, "zou2022_n64"])
def test_merged_adapters_equal_the_formula_for_every_bundled_codec_and_mode(
    photographs: list[RGB], name: str
) -> None:
    codec = disturb(AdaptedCodec.build(codec_config(name=name), DOMAINS))
    stream = Stream.from_bytes(codec.compress(photographs[0]))
    for mode in MODES:
        with codec.synthesis.in_mode(mode, "sketch" if mode == "oracle" else None):
            merged = codec.decode(stream)
            with by_formula():
                assert (codec.decode(stream) - merged).abs().max() < 1e-5, mode


@pytest.mark.parametrize("changes", [{}, LOW_RANK, {"sites": "all"}, {**LOW_RANK, "sites": "all"}])
@pytest.mark.parametrize("mode", ["weighted", "top1", "oracle"])
def test_merged_adapters_equal_the_formula_on_real_images(
    photographs: list[RGB], changes: dict[str, object], mode: str
) -> None:
    codec = built(**changes)
    stream = Stream.from_bytes(codec.compress(photographs[0]))
    with codec.synthesis.in_mode(mode, "sketch" if mode == "oracle" else None):
        merged = codec.decode(stream)
        with by_formula():
            assert (codec.decode(stream) - merged).abs().max() < 1e-5
    with codec.synthesis.in_mode("base"):
        assert (codec.decode(stream) - merged).abs().max() > 1e-3
