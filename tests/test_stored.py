"""Packs of many domains: adapters stay in their file, and decode as if they were in memory."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lic_da.adapters.stored import StoredBank
from lic_da.adapters.synthesis import MODES
from lic_da.codecs import zoo
from lic_da.errors import UserError
from lic_da.io.bitstream import Stream
from lic_da.io.images import RGB
from lic_da.io.tensors import TensorFile
from lic_da.methods import pack
from lic_da.methods.adapters.codec import AdaptedCodec
from lic_da.methods.adapters.export import export
from lic_da.methods.adapters.extension import extend
from lic_da.methods.adapters.module import DecoderAdaptation
from tests.conftest import codec_config, disturb

FEW = ("natural", "sketch", "comic", "map")
LOW_RANK = {"adapter": {"kind": "lowrank", "rank": 5}}
KERNELS = 3  # one a site


def saved(folder: Path, domains: tuple[str, ...] = FEW, **changes: object) -> Path:
    """A pack with adapters of some size."""
    torch.manual_seed(0)
    codec = disturb(AdaptedCodec.build(codec_config(), domains, changes), 0.01)
    pack.save(codec, folder, {})
    return folder


def both(folder: Path) -> tuple[AdaptedCodec, AdaptedCodec]:
    """The codec of a pack with its adapters in memory, and with those in their file."""
    in_memory, stored = (AdaptedCodec.load(folder, in_memory=m) for m in (True, False))
    assert isinstance(stored.synthesis.bank, StoredBank)
    assert not isinstance(in_memory.synthesis.bank, StoredBank)
    return in_memory, stored


@pytest.fixture
def image(photographs: list[RGB]) -> RGB:
    return photographs[0][:96, :128]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """Names of kernels that are read from files, and how many of them were alive when each was."""
    found: dict[str, list[Any]] = {"names": [], "alive": []}
    alive = weakref.WeakSet[Tensor]()
    reading = TensorFile.__getitem__

    def noting(file: TensorFile, name: str) -> Tensor:
        tensor = reading(file, name)
        if name.startswith("bank.") and tensor.ndim > 1:
            alive.add(tensor)
            found["names"].append(name)
            found["alive"].append(len(alive))
        return tensor

    monkeypatch.setattr(TensorFile, "__getitem__", noting)
    return found


@pytest.mark.parametrize(
    "changes", [{}, LOW_RANK, {"sites": "all"}, {"gate": {"calibration": "learned"}}]
)
def test_images_are_the_same_bit_for_bit_in_every_mode(
    image: RGB, tmp_path: Path, changes: dict[str, object]
) -> None:
    in_memory, stored = both(saved(tmp_path / "pack", **changes))
    data = in_memory.compress(image)
    assert stored.compress(image) == data
    for mode in MODES:
        of = {"mode": mode, "domain": "comic" if mode == "oracle" else None}
        assert np.array_equal(stored.decompress(data, **of), in_memory.decompress(data, **of)), mode
    assert not np.array_equal(stored.decompress(data), stored.decompress(data, "base"))
    stream = Stream.from_bytes(data)
    assert stored.gate_weights(stream) == in_memory.gate_weights(stream)
    assert stored.added_parameters() == in_memory.added_parameters()


def test_an_encoder_that_searches_finds_the_same_streams(image: RGB, tmp_path: Path) -> None:
    in_memory, stored = both(saved(tmp_path / "pack"))
    small = image[:16, :16]
    for options in ({"v": "best"}, {"effort": 1}):
        assert stored.compress(small, **options) == in_memory.compress(small, **options)


def test_adapters_are_read_one_by_one_and_those_without_weight_not_at_all(
    image: RGB, tmp_path: Path, read: dict[str, list[Any]]
) -> None:
    folder = saved(tmp_path / "pack")
    _, stored = both(folder)
    assert len(read["names"]) == KERNELS * len(FEW)  # once, to compare the fingerprint
    data = stored.compress(image)
    read["names"].clear()
    for mode, domain, count in (
        ("base", None, 0),
        ("oracle", "map", 1),
        ("top1", None, 1),
        ("weighted", None, len(FEW)),
    ):
        stored.decompress(data, mode, domain)
        assert len(read["names"]) == KERNELS * count, mode
        if mode == "oracle":
            assert all(name.startswith("bank.adapters.map.") for name in read["names"])
        read["names"].clear()
    stored.synthesis.threshold = 0.9
    stored.decompress(data)
    assert len(read["names"]) == KERNELS
    assert set(read["alive"]) == {1}


def test_packs_of_many_domains_stay_in_their_file_by_themselves(tmp_path: Path) -> None:
    names = tuple(f"domain{n}" for n in range(pack.STORED_FROM))
    for count, stays in ((len(names), True), (len(names) - 1, False)):
        folder = saved(tmp_path / str(count), names[:count])
        codec = pack.load(folder)
        assert isinstance(codec, AdaptedCodec)
        assert isinstance(codec.synthesis.bank, StoredBank) is stays
        assert codec.domains == names[:count]


def test_the_file_that_was_opened_is_read_also_where_another_took_its_place(
    image: RGB, tmp_path: Path
) -> None:
    in_memory, stored = both(saved(tmp_path / "pack"))
    data = in_memory.compress(image)
    pack.save(disturb(AdaptedCodec.build(codec_config(), FEW), 0.05), tmp_path / "pack", {})
    assert np.array_equal(stored.decompress(data), in_memory.decompress(data))


def test_a_stored_codec_is_saved_as_the_same_pack(tmp_path: Path) -> None:
    in_memory, stored = both(saved(tmp_path / "pack"))
    for codec, name in ((in_memory, "one"), (stored, "other")):
        pack.save(codec, tmp_path / name, {})
    for file in ("adapters.safetensors", "config.yaml"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()
    assert zoo.fingerprint(stored.state()) == zoo.fingerprint(in_memory.state())
    stored.check_base_unchanged()


def test_an_extended_pack_is_checked_and_decodes_from_its_file(image: RGB, tmp_path: Path) -> None:
    earlier = AdaptedCodec.load(saved(tmp_path / "pack"))
    longer = extend(earlier, ["mine"], own_features=2)
    longer.finish()
    pack.save(longer, tmp_path / "longer", {})
    in_memory, stored = both(tmp_path / "longer")
    data = in_memory.compress(image)
    assert np.array_equal(stored.decompress(data), in_memory.decompress(data))
    file = tmp_path / "longer" / "adapters.safetensors"
    tensors = load_file(file)
    tensors["bank.adapters.sketch.3.bias"] += 1
    save_file(tensors, file)
    with pytest.raises(UserError, match=r"is not what it says: bank\.sketch"):
        pack.load(tmp_path / "longer", in_memory=False)


def test_adapters_follow_the_codec_to_another_kind_of_numbers(tmp_path: Path) -> None:
    _, stored = both(saved(tmp_path / "pack"))
    site = stored.synthesis.sites[0]
    assert stored.synthesis.bank.at(site)[1].weight.dtype == torch.float32
    stored.codec.double()
    assert stored.synthesis.bank.at(site)[1].weight.dtype == torch.float64


def damaged(tensors: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    name = "bank.adapters.comic.3.weight"
    if how == "missing":
        return {k: v for k, v in tensors.items() if k != name}
    if how == "unknown":
        return {**tensors, "bank.adapters.more.3.weight": tensors[name].clone()}
    if how == "shape":
        return {**tensors, name: tensors[name][:1].clone()}
    return {**tensors, name: tensors[name] + 1}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", r"first differences: bank\.adapters\.comic\.3\.weight\."),
        ("unknown", r"first differences: bank\.adapters\.more\.3\.weight\."),
        ("shape", r"first differences: bank\.adapters\.comic\.3\.weight\."),
        ("values", r"are not those that config\.yaml names"),
    ],
)
def test_a_file_that_is_not_the_packs_is_refused_as_in_memory(
    tmp_path: Path, how: str, message: str
) -> None:
    file = saved(tmp_path / "pack") / "adapters.safetensors"
    save_file(damaged(load_file(file), how), file)
    for in_memory in (True, False):
        with pytest.raises(UserError, match=message):
            pack.load(tmp_path / "pack", in_memory=in_memory)


def test_a_file_that_cannot_be_read_is_refused_in_words(tmp_path: Path) -> None:
    folder = saved(tmp_path / "pack")
    file = folder / "adapters.safetensors"
    whole = file.read_bytes()
    for content in (b"", b"no tensors", whole[:-100]):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"adapters\.safetensors cannot be read"):
            pack.load(folder, in_memory=False)


def test_a_file_that_is_cut_off_later_is_an_error_and_no_other_image(
    image: RGB, tmp_path: Path
) -> None:
    _, stored = both(saved(tmp_path / "pack"))
    data = stored.compress(image)
    with open(tmp_path / "pack" / "adapters.safetensors", "r+b") as file:
        file.truncate(1 << 20)
    with pytest.raises(UserError, match="ends too early"):
        stored.decompress(data)


def test_what_needs_the_adapters_in_memory_says_how_to_get_them(tmp_path: Path) -> None:
    _, stored = both(saved(tmp_path / "pack"))
    for use in (
        lambda: extend(stored, ["mine"]),
        lambda: export(stored, tmp_path / "exported"),
        lambda: DecoderAdaptation(stored, gamma=1.0, lr=1e-3, gate_lr=1e-3),
        lambda: stored.load_trained({}, "elsewhere"),
    ):
        with pytest.raises(UserError, match=r"cannot be .*in_memory=True"):
            use()
    assert not (tmp_path / "exported").exists()


def test_a_closed_codec_leaves_no_file_open(tmp_path: Path) -> None:
    _, stored = both(saved(tmp_path / "pack"))
    file = weakref.ref(stored.synthesis.bank.file)
    del stored
    gc.collect()
    assert file() is None
