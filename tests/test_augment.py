"""Augmentation: what a domain says of its images, done to training crops alone, and the same each time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from lic_da.data.augment import Augment, random_crop
from lic_da.data.datamodule import DomainsDataModule
from lic_da.data.domains import load_domain, prepare, prepared
from lic_da.errors import UserError
from lic_da.io.images import RGB
from lic_da.same_settings import CURVE, RUN
from lic_da.training.settings import RunSettings
from tests.conftest import photo_crops, scribbles

MakeDomain = Callable[..., Path]


def ramp(height: int = 200, width: int = 200) -> Tensor:
    """An image whose first channel rises by 1 a column and whose second by 1 a row."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([columns, rows, torch.zeros_like(rows)]).to(torch.uint8)


def crops(augment: Augment, pixels: Tensor, count: int = 40, size: int = 32) -> list[Tensor]:
    return [random_crop(pixels, size, np.random.default_rng(n), augment) for n in range(count)]


def steps(crop: Tensor) -> tuple[int, ...]:
    """How the two channels change from a pixel to the next below it and beside it."""
    c = crop[:2].int()
    return (*(c[:, 1, 0] - c[:, 0, 0]).tolist(), *(c[:, 0, 1] - c[:, 0, 0]).tolist())


def test_crops_are_mirrored_or_turned_only_where_the_domain_says_so() -> None:
    as_it_is, mirrored = (0, 1, 1, 0), (0, 1, -1, 0)
    assert {steps(c) for c in crops(Augment(mirror=False), ramp())} == {as_it_is}
    assert {steps(c) for c in crops(Augment(), ramp())} == {as_it_is, mirrored}
    turned = {steps(c) for c in crops(Augment(mirror=False, rotate=True), ramp())}
    assert turned == {as_it_is, (-1, 0, 0, 1), (0, -1, -1, 0), (1, 0, 0, -1)}
    assert len({steps(c) for c in crops(Augment(rotate=True), ramp(), 200)}) == 8


def test_a_smaller_scale_shows_more_of_the_image_within_its_bounds() -> None:
    found = crops(Augment(mirror=False, scale=(0.5, 1.0)), ramp())
    shown = [int(c[0].max()) - int(c[0].min()) for c in found]
    assert all(c.shape == (3, 32, 32) and c.dtype == torch.uint8 for c in found)
    assert 31 <= min(shown) < 40 and 50 < max(shown) <= 64
    enlarged = crops(Augment(mirror=False, scale=(2.0, 2.0)), ramp())
    assert {int(c[0].max()) - int(c[0].min()) for c in enlarged} <= {14, 15}
    small = crops(Augment(scale=(0.25, 0.25)), ramp(40, 300))
    assert {int(c[1].max()) - int(c[1].min()) for c in small} <= {
        38,
        39,
    }  # all rows, none continued


@pytest.fixture
def data(
    folder_domain: MakeDomain, photographs: list[RGB], conf: Path, tmp_path: Path
) -> Callable[..., DomainsDataModule]:
    folder_domain("photos", photo_crops(photographs, 15))
    folder_domain("lines", scribbles(15))
    with open(conf / "domain" / "lines.yaml", "a") as file:
        file.write("augment: {scale: [0.5, 1], rotate: true}\n")

    def make(**settings: Any) -> DomainsDataModule:
        module = DomainsDataModule(
            ["lines"], source="photos", data_dir=tmp_path / "data", crop=64, batch_size=8,
            batches_per_epoch=4, **settings,
        )  # fmt: skip
        module.prepare_data()
        module.setup()
        return module

    return make


def test_augmentation_is_off_by_default_and_touches_only_domains_that_say_it(
    data: Callable[..., DomainsDataModule],
) -> None:
    for plain, augmented in zip(
        data().train_dataloader(), data(augment=True).train_dataloader(), strict=True
    ):
        assert plain["file"] == augmented["file"]
        for label, a, b in zip(plain["label"], plain["image"], augmented["image"], strict=True):
            assert torch.equal(a, b) == (int(label) == 0)


@pytest.mark.parametrize("settings", [{"num_workers": 2}, {"cache_gb": 0.0}])
def test_augmented_crops_are_the_same_with_workers_and_without_cache_and_after_a_stop(
    data: Callable[..., DomainsDataModule], settings: dict[str, Any]
) -> None:
    whole = [batch["image"] for batch in data(augment=True).train_dataloader()]
    resumed = data(augment=True, done=2, **settings).train_dataloader()
    for one, other in zip(whole[2:], resumed, strict=True):
        assert torch.equal(one, other["image"])


def test_images_are_validated_and_tested_as_they_are(
    data: Callable[..., DomainsDataModule],
) -> None:
    for loader in ("val_dataloader", "test_dataloader"):
        plain, augmented = (getattr(data(augment=a), loader)() for a in (False, True))
        assert all(
            torch.equal(a["image"], b["image"]) for a, b in zip(plain, augmented, strict=True)
        )


def test_what_a_domain_says_of_augmentation_does_not_make_it_be_prepared_anew(
    folder_domain: MakeDomain, conf: Path, tmp_path: Path
) -> None:
    folder_domain("mine", scribbles(6))
    images = prepare("mine", tmp_path / "data")
    file = conf / "domain" / "mine.yaml"
    text = file.read_text()
    for augment in ("augment: {rotate: true}\n", "augment:\n  scale: [0.5, 1]\n  mirror: false"):
        file.write_text(text + augment)
        assert prepared("mine", tmp_path / "data") == images
    assert load_domain("mine").augment == Augment(mirror=False, scale=(0.5, 1.0))
    file.write_text(text + "augment: {rotate: true}\nmin_side: 20\n")
    assert prepared("mine", tmp_path / "data") is None


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ("{rotate: 90}", "augment.rotate is true or false, not 90"),
        ("{scale: [1, 0.5]}", "a least and a largest factor from 0.1 to 4"),
        ("{scale: [0, 1]}", "a least and a largest factor from 0.1 to 4"),
        ("{blur: 2}", "blur"),
    ],
)
def test_a_wrong_augmentation_is_told_in_words(
    folder_domain: MakeDomain, conf: Path, augment: str, message: str
) -> None:
    folder_domain("mine")
    with open(conf / "domain" / "mine.yaml", "a") as file:
        file.write(f"augment: {augment}\n")
    with pytest.raises(UserError, match=f"mine.yaml does not describe a domain: .*{message}"):
        load_domain("mine")


def test_augmentation_and_cached_latents_are_refused_together(conf: Path) -> None:
    with initialize_config_dir(str(conf), version_base="1.3"):
        config = compose("train", ["data.augment=true", "data.latent_cache=true", "logger=none"])
    with pytest.raises(UserError, match=r"data\.latent_cache=false, or data\.augment=false"):
        RunSettings.from_config(config)


def test_runs_from_before_there_was_augmentation_are_those_without(conf: Path) -> None:
    with initialize_config_dir(str(conf), version_base="1.3"):
        now = RunSettings.from_config(compose("train", ["logger=none"])).config
        augmented = RunSettings.from_config(compose("train", ["data.augment=true"])).config
    before = {**now, "data": {k: v for k, v in now["data"].items() if k != "augment"}}
    for comparison in (RUN, CURVE):
        assert comparison.differing(now, before) == []
        assert comparison.differing(augmented, before) == ["data.augment"]
