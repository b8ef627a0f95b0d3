"""The fold: one kernel a site for a whole picture, in buffers that stay, out of the adapters that count."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from lic_da.adaptation import mixture
from lic_da.adaptation.codec import PAPER, AdaptedCodec
from lic_da.adaptation.mixture import Conv
from lic_da.adaptation.synthesis import without_tiny
from lic_da.bitstream import Stream
from lic_da.data.images import RGB
from lic_da.errors import UserError
from tests.conftest import DOMAINS, codec_config, disturb
from tests.test_adaptation import Branches

SITES = 3
LOW_RANK = {"adapter": {"kind": "lowrank", "rank": 5}}


def built(**changes: object) -> AdaptedCodec:
    how = OmegaConf.merge(PAPER, changes)
    assert isinstance(how, DictConfig)
    return disturb(AdaptedCodec.build(codec_config(), DOMAINS, how))


@pytest.fixture
def touched(monkeypatch: pytest.MonkeyPatch) -> list[Conv]:
    """The adapters whose kernels are read."""
    seen: list[Conv] = []
    add = mixture.add_kernel

    def noting(kernel: torch.Tensor, adapter: Conv, share: float) -> None:
        seen.append(adapter)
        add(kernel, adapter, share)

    monkeypatch.setattr(mixture, "add_kernel", noting)
    return seen


def test_only_adapters_that_contribute_are_touched(
    photographs: list[RGB], touched: list[Conv]
) -> None:
    codec = built()
    data = codec.compress(photographs[0])
    v = list(codec.gate_weights(Stream.from_bytes(data)).values())
    for blend, domain, count in (
        ("base", None, 0),
        ("oracle", "comic", 1),
        ("top1", None, 1),
        ("weighted", None, 3),
    ):
        touched.clear()
        codec.decompress(data, blend, domain)
        assert len(touched) == SITES * count, blend
        if blend == "oracle":
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


def test_a_picture_in_tiles_is_folded_once(photographs: list[RGB], touched: list[Conv]) -> None:
    codec = built()
    geometry = codec._synthesis
    assert geometry.halo is not None
    small = dataclasses.replace(codec, memory=(8 + 2 * geometry.halo) ** 2 * geometry.bytes_each)
    stream = Stream.from_bytes(codec.compress(photographs[0]))
    assert min(stream.shape) > 8
    small.decode(stream)
    assert len(touched) == SITES * len(DOMAINS)


def test_buffers_are_those_of_the_picture_before(photographs: list[RGB]) -> None:
    codec = built()
    folds = codec.synthesis._folds

    def places() -> list[int]:
        return [tensor.data_ptr() for fold in folds for tensor in fold._kept or ()]

    first = codec.compress(photographs[0])
    pictures = [codec.decompress(first)]
    before = places()
    assert len(before) == 2 * SITES
    sizes = [tensor.numel() for fold in folds for tensor in fold._kept or ()]
    adapter = codec.synthesis.bank.adapters["natural"]
    assert sum(sizes) == sum(p.numel() for p in adapter.parameters())
    other = codec.compress(photographs[1])
    pictures.append(codec.decompress(other))
    assert places() == before
    with torch.no_grad():  # another mode than the one the buffers were made in
        pictures.append(codec.decompress(other))
    assert places() == before
    assert np.array_equal(pictures[1], pictures[2])
    assert np.array_equal(pictures[0], codec.decompress(first))  # nothing of the other is left


def test_new_weights_of_adapters_are_seen(photographs: list[RGB]) -> None:
    codec = built()
    data = codec.compress(photographs[0])
    before = codec.decompress(data)
    disturb(codec, scale=0.1)
    assert not np.array_equal(codec.decompress(data), before)


@pytest.mark.parametrize("changes", [{}, LOW_RANK, {"sites": "all"}, {**LOW_RANK, "sites": "all"}])
@pytest.mark.parametrize("blend", ["weighted", "top1", "oracle"])
def test_fold_equals_branches_on_real_pictures(
    photographs: list[RGB], monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], blend: str
) -> None:
    codec = built(**changes)
    stream = Stream.from_bytes(codec.compress(photographs[0]))
    with codec.synthesis.blending(blend, "sketch" if blend == "oracle" else None):
        folded = codec.decode(stream)
        monkeypatch.setattr(codec.synthesis, "mixture", Branches)
        assert (codec.decode(stream) - folded).abs().max() < 1e-5
    with codec.synthesis.blending("base"):
        assert (codec.decode(stream) - folded).abs().max() > 1e-3
