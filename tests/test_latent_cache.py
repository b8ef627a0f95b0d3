"""The cache of latents: computed once, shared, exact; whatever is wrong with it is found and mended."""

from __future__ import annotations

import io
import resource
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from lic_da.codecs.latents import LatentFormat, decoder_latent
from lic_da.data.datamodule import DomainsDataModule, to_tensor
from lic_da.data.latents import cache
from lic_da.data.latents.cache import (
    Box,
    Latent,
    LatentCache,
    file_hash,
)
from lic_da.data.latents.crops import LatentCrops, crop_region
from lic_da.io.bitstream import Stream
from lic_da.io.images import RGB, read_rgb
from lic_da.methods.adapters.codec import AdaptedCodec
from lic_da.methods.adapters.module import DecoderAdaptation
from lic_da.methods.encoder import FrozenEncoder
from tests.conftest import DOMAINS, codec_config, disturb, hyperprior_config, photo_crops, scribbles

CODEC, OTHER = "c0de" * 16, "07e7" * 16


class Counted:
    """A cache of latents of random images, with what it says and how many latents it computes."""

    def __init__(self, folder: Path, fingerprint: str = CODEC) -> None:
        self.encoded = 0
        self.said = io.StringIO()
        console = Console(file=self.said, width=400)
        self.cache = LatentCache(folder, fingerprint, self._encode, console)
        self.boxes = [Box(f"{i:064x}", 0, 0, 32, 48) for i in range(5)]
        self.cache.prepare(self.boxes, self._read)

    def _encode(self, pixels: Tensor) -> Latent:
        self.encoded += 1
        latent: Latent = pixels[:2, ::16, ::16].to(torch.int8).numpy()
        return latent

    def _read(self, box: Box) -> Tensor:
        generator = torch.Generator().manual_seed(int(box.sha256, 16))
        size = (3, box.height, box.width)
        return torch.randint(0, 100, size, dtype=torch.uint8, generator=generator)

    @property
    def latents(self) -> list[Latent]:
        return [self.cache[box] for box in self.boxes]

    @property
    def parts(self) -> list[Path]:
        return sorted(self.cache.folder.glob("*.arrow"))


def test_latents_are_computed_once(tmp_path: Path) -> None:
    first, second = Counted(tmp_path), Counted(tmp_path)
    assert (first.encoded, second.encoded) == (5, 0)
    for one, other in zip(first.latents, second.latents, strict=True):
        assert one.dtype == np.int8 and one.shape == (2, 2, 3)
        assert np.array_equal(one, other)
    assert not second.said.getvalue()
    assert not any(left.name.startswith(".") for left in second.parts)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit_of_a_latent(path: Path) -> None:
    data = bytearray(path.read_bytes())
    latent = np.ascontiguousarray(Counted(path.parent / "other").latents[3]).tobytes()
    data[data.index(latent) + 1] ^= 4
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def overwrite(path: Path) -> None:
    path.write_text("not what it should be\n" * 100)


def take_that_of_another_codec(path: Path) -> None:
    (theirs,) = Counted(path.parents[1], OTHER).parts
    data = theirs.read_bytes()
    path.unlink()
    path.with_name(theirs.name).write_bytes(data)


def exchange_two_names(path: Path) -> None:
    one, other = (f"{i:064x}:".encode() for i in (1, 2))
    data = path.read_bytes().replace(one, b"?" * len(one)).replace(other, one)
    path.write_bytes(data.replace(b"?" * len(one), other))


def write_something_else_under_its_own_checksum(path: Path) -> None:
    path.unlink()
    data = b"not what it should be"
    path.with_name(f"part-{zlib.crc32(data):08x}-0.arrow").write_bytes(data)


def test_every_damaged_byte_is_found(tmp_path: Path) -> None:
    (part,) = Counted(tmp_path).parts
    data = part.read_bytes()
    for position in range(0, len(data), 97):
        wrong = bytearray(data)
        wrong[position] ^= 0x80
        with pytest.raises(cache.Damaged):
            part.unlink()
            part.write_bytes(wrong)
            list(cache._rows(part))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate, "damaged"),
        (flip_a_bit_of_a_latent, "damaged"),
        (empty, "damaged"),
        (overwrite, "damaged"),
        (take_that_of_another_codec, "belong to another codec"),
        (exchange_two_names, "damaged"),
        (write_something_else_under_its_own_checksum, "cannot be read"),
    ],
)
def test_damage_is_found_said_and_mended(
    tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    sound = Counted(tmp_path)
    latents = [np.array(latent) for latent in sound.latents]
    (part,) = before = sound.parts
    copy = part.with_name("copy")
    copy.write_bytes(part.read_bytes())
    copy.replace(part)  # a file of its own: the sound one is mapped into memory
    damage(part)
    again = Counted(tmp_path)
    assert again.encoded == 5
    (line,) = [line for line in again.said.getvalue().splitlines() if line.strip()]
    assert str(part.parent) in line and "computed anew" in line
    assert said in line
    assert len(again.parts) == 1 and again.parts != before
    assert all(np.array_equal(a, b) for a, b in zip(latents, again.latents, strict=True))
    assert Counted(tmp_path).encoded == 0


def test_what_a_killed_run_has_left_is_removed_and_what_it_had_kept_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_IN_A_PART", 2)
    encode = Counted._encode

    def killed(self: Counted, pixels: Tensor) -> Latent:
        if self.encoded == 3:
            raise KeyboardInterrupt
        return encode(self, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(Counted, "_encode", killed)
        with pytest.raises(KeyboardInterrupt):
            Counted(tmp_path)
    left = tmp_path / CODEC[:16] / ".half_written.arrow"
    left.write_bytes(b"ARROW")
    again = Counted(tmp_path)
    assert again.encoded == 3
    assert not left.exists()
    assert Counted(tmp_path).encoded == 0


def test_a_folder_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    sound = Counted(tmp_path / "sound")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))  # bytes, as on a disk that is full
    try:
        full = Counted(tmp_path / "full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "Latents cannot be kept in" in full.said.getvalue()
    assert all(np.array_equal(a, b) for a, b in zip(sound.latents, full.latents, strict=True))
    assert not full.parts
    assert Counted(tmp_path / "full").encoded == 5


def test_integers_are_kept_to_the_last_bit(photographs: list[RGB]) -> None:
    codec = AdaptedCodec.build(codec_config(4), DOMAINS)
    kept = LatentFormat.of(codec.codec)
    for pixels in photographs:
        y_hat = codec.latent(Stream.from_bytes(codec.compress(pixels)))[0]
        stored = kept.stored(y_hat)
        assert stored.dtype == np.int8
        assert torch.equal(kept.restored(stored), y_hat)
    y_hat = y_hat + 1000 * (y_hat == y_hat.max())
    assert kept.stored(y_hat).dtype == np.int16
    assert torch.equal(kept.restored(kept.stored(y_hat)), y_hat)


def test_predicted_latents_are_kept_as_16_bit_floats() -> None:
    codec = AdaptedCodec.build(hyperprior_config(), DOMAINS)
    y_hat = torch.randn(24, 6, 6) * 20
    kept = LatentFormat.of(codec.codec)
    assert kept.stored(y_hat).dtype == np.float16
    torch.testing.assert_close(kept.restored(kept.stored(y_hat)), y_hat, rtol=1e-3, atol=0)


@pytest.fixture
def data(
    folder_domain: Callable[..., Path], photographs: list[RGB], tmp_path: Path
) -> Callable[..., DomainsDataModule]:
    folder_domain("photos", [*photo_crops(photographs, 9), *photographs])
    folder_domain("lines", scribbles(9, side=50))  # smaller than the crop

    def make(codec: AdaptedCodec, **settings: object) -> DomainsDataModule:
        module = DomainsDataModule(
            ["lines"],
            source="photos",
            data_dir=tmp_path / "data",
            crop=64,
            batch_size=4,
            batches_per_epoch=6,
            latent_cache=True,
            **settings,  # type: ignore[arg-type]
        )
        module.prepare_data()
        module.setup()
        encoder = FrozenEncoder(codec)
        module.latents = encoder.cached(tmp_path / "latents", 64, pixels=60_000)
        return module

    return make


@torch.no_grad()
def test_cached_crops_decode_as_in_the_whole_image(
    data: Callable[..., DomainsDataModule], tmp_path: Path
) -> None:
    codec = disturb(AdaptedCodec.build(codec_config(), ("photos", "lines")))
    module = data(codec)
    encoder = FrozenEncoder(codec)
    encoder.cached(tmp_path / "latents", 64, pixels=60_000)
    entries = [entry for group in module.train_dataset().entries for entry, _ in group]
    v = torch.tensor([[0.3, 0.7]])
    at_borders = 0
    for batch in module.train_dataloader():
        y_hat, read = encoder.of_crops(batch)
        assert read.shape[-2:] == (4, 4)
        with codec.synthesis.mixed_by(v) as transform:
            decoded = encoder.decode(transform, y_hat, batch)
        for image, inside, file, x_hat in zip(
            batch["image"], batch["inside"], batch["file"], decoded, strict=True
        ):
            (entry,) = (e for e in entries if str(e.path) == file)
            pixels = to_tensor(read_rgb(entry.path))
            found = []
            for box in module.latents.boxes(file_hash(entry.path), *pixels.shape[1:]):
                x = crop_region(pixels, box)[None].float() / 255
                top, left = (-16 * int(inside[i]) for i in (0, 2))
                if torch.equal(image, x[0, :, top : top + 64, left : left + 64]):
                    whole = codec.synthesis(decoder_latent(codec.codec, x), v)
                    found.append(whole[0, :, top : top + 64, left : left + 64])
            assert any(torch.allclose(x_hat, whole, rtol=0, atol=1e-4) for whole in found)
            at_borders += bool(inside[0] == 0)
    assert at_borders


def test_small_images_are_coded_several_times_and_of_large_ones_a_part() -> None:
    cache = LatentCache(Path(), CODEC, lambda x: x.numpy())
    crops = LatentCrops(
        cache, torch.from_numpy, crop=64, stride=16, scale=16, margin=3, pixels=40_000
    )
    small = crops.boxes("1" * 64, 100, 80)
    assert len(small) == 5 and len(set(small)) == 5
    assert {box.mirrored for box in small} == {False, True}
    assert all(0 <= box.top < 16 and 0 <= box.left < 16 for box in small)
    assert all(box.top + box.height >= 100 for box in small)
    (large,) = crops.boxes("2" * 64, 900, 1600)
    assert 30_000 < large.height * large.width < 50_000
    assert large.top + large.height <= 900 + 15
    (narrow,) = crops.boxes("3" * 64, 20, 2000)
    assert (narrow.top, narrow.height) == (0, 64)
    assert 30_000 < narrow.height * narrow.width < 50_000
    assert len(crops.boxes("4" * 64, 20, 20)) == 2
    assert crops.boxes("1" * 64, 100, 80) == small


def test_crops_of_a_decoder_that_cannot_be_cut_are_coded_one_by_one(
    data: Callable[..., DomainsDataModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = AdaptedCodec.build(codec_config(), ("photos", "lines"))
    monkeypatch.setattr(
        AdaptedCodec,
        "synthesis_parts",
        property(lambda c: (torch.nn.ModuleList([c.codec.g_s]), ())),
    )
    for batch in data(codec).train_dataloader():
        expected = decoder_latent(codec.codec, batch["image"])
        assert torch.equal(batch["latent"], expected)


@pytest.mark.parametrize("settings", [{"num_workers": 2}, {"cache_gb": 0.0, "num_workers": 0}])
def test_cached_crops_do_not_depend_on_workers(
    data: Callable[..., DomainsDataModule], settings: dict
) -> None:
    codec = AdaptedCodec.build(codec_config(), ("photos", "lines"))
    for one, other in zip(
        data(codec).train_dataloader(), data(codec, **settings).train_dataloader(), strict=True
    ):
        assert one["file"] == other["file"]
        for name in ("image", "latent", "inside", "label"):
            assert torch.equal(one[name], other[name])


def test_nothing_frozen_is_in_the_graph(data: Callable[..., DomainsDataModule]) -> None:
    codec = disturb(AdaptedCodec.build(codec_config(), ("photos", "lines")))
    module = DecoderAdaptation(codec, gamma=0.01, lr=1e-3, gate_lr=1e-3, bf16=False)
    module.train()
    loader = data(codec)
    assert module.encoder is not None
    loader.latents = module.encoder.cached(loader.data_dir / "latents", 64, pixels=60_000)
    batch = next(iter(loader.train_dataloader()))
    encoded = []
    codec.codec.g_a.register_forward_hook(lambda *_: encoded.append(1))
    before_sites: list[Tensor] = []
    codec.synthesis.base[2].register_forward_hook(lambda m, i, out: before_sites.append(out))
    monkeyed = module.check_and_log
    module.check_and_log = lambda losses, batch: losses["loss"]  # type: ignore[method-assign]
    loss = module.training_step(batch, 0)
    module.check_and_log = monkeyed  # type: ignore[method-assign]
    loss.backward()
    assert not encoded
    assert all(out.grad_fn is None for out in before_sites) and before_sites
    with_gradient = {n for n, p in codec.codec.named_parameters() if p.grad is not None}
    assert with_gradient == {n for n, p in codec.codec.named_parameters() if p.requires_grad}
