"""Batches: balanced, labelled, and a function of seed and epoch alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from lic_da.data.datamodule import DomainsDataModule, domain_names
from lic_da.errors import UserError
from lic_da.io.images import RGB
from tests.conftest import photo_crops, scribbles


@pytest.fixture
def data(
    folder_domain: Callable[..., Path], photographs: list[RGB], tmp_path: Path
) -> Callable[..., DomainsDataModule]:
    folder_domain("photos", photo_crops(photographs, 15))
    folder_domain("lines", scribbles(30))
    folder_domain("small", scribbles(9, side=40, seed=2))
    folder_domain("other", scribbles(9, seed=4))

    def make(**settings: object) -> DomainsDataModule:
        module = DomainsDataModule(
            ["lines", "small"],
            ["other"],
            source="photos",
            data_dir=tmp_path / "data",
            crop=64,
            batches_per_epoch=4,
            **{"batch_size": 8, **settings},  # type: ignore[arg-type]
        )
        module.prepare_data()
        module.setup()
        return module

    return make


def test_batches_are_balanced_over_domains_of_any_size(
    data: Callable[..., DomainsDataModule],
) -> None:
    labels = Counter(int(x) for b in data().train_dataloader() for x in b["label"])
    assert sum(labels.values()) == 32
    assert max(labels.values()) - min(labels.values()) <= 1


def test_few_training_images_are_of_the_targets_and_nested(
    data: Callable[..., DomainsDataModule],
) -> None:
    def names(count: int | None) -> list[list[str]]:
        entries = data(train_images=count).train_dataset().entries
        return [[entry.info.name for entry, _ in group] for group in entries]

    everything, few, fewer = names(None), names(5), names(3)
    assert [len(group) for group in few[1:]] == [5, 5]
    assert few[0] == fewer[0] == everything[0]
    assert all(a == b[:3] for a, b in zip(fewer[1:], everything[1:], strict=True))


def test_crops_have_values_in_0_1_also_from_images_smaller_than_the_crop(
    data: Callable[..., DomainsDataModule],
) -> None:
    for batch in data().train_dataloader():
        assert batch["image"].shape == (8, 3, 64, 64)
        assert batch["image"].min() >= 0 and batch["image"].max() <= 1


@pytest.mark.parametrize("settings", [{"num_workers": 2}, {"cache_gb": 0.0}])
def test_batches_do_not_depend_on_workers_or_cache(
    data: Callable[..., DomainsDataModule], settings: dict
) -> None:
    for one, other in zip(
        data().train_dataloader(), data(**settings).train_dataloader(), strict=True
    ):
        assert torch.equal(one["image"], other["image"]) and one["file"] == other["file"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_goes_on_with_the_next_batch(
    data: Callable[..., DomainsDataModule], workers: int
) -> None:
    loader = data(num_workers=0).train_dataloader()
    batches = len(loader)
    epochs = []
    for epoch in range(3):
        loader.batch_sampler.set_epoch(epoch)
        epochs.append([batch["file"] for batch in loader])
    resumed = data(num_workers=workers, done=batches + 2).train_dataloader()
    assert len(resumed) == batches  # of a whole epoch
    first = iter(resumed)  # before anybody says which epoch it is, as Lightning does
    resumed.batch_sampler.set_epoch(1)
    assert [batch["file"] for batch in first] == epochs[1][2:]
    resumed.batch_sampler.set_epoch(2)
    assert [batch["file"] for batch in resumed] == epochs[2]


class Recorder(L.LightningModule):
    """Notes which files each epoch saw."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.seen: dict[int, list[str]] = {}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.seen.setdefault(self.current_epoch, []).extend(batch["file"])

    def configure_optimizers(self) -> None:
        return None


def test_epochs_differ_and_repeat(data: Callable[..., DomainsDataModule]) -> None:
    runs = []
    for _ in range(2):
        recorder = Recorder()
        trainer = L.Trainer(
            max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            limit_val_batches=0, accelerator="cpu",
        )  # fmt: skip
        trainer.fit(recorder, datamodule=data())
        runs.append(recorder.seen)
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[0][1] != runs[0][2]


def test_unseen_images_are_tested_whole_and_never_trained_on(
    data: Callable[..., DomainsDataModule],
) -> None:
    module = data()
    trained = {f for b in module.train_dataloader() for f in b["file"]}
    tested = list(module.test_dataloader())
    unseen = [b for b in tested if b["domain"] == "other"]
    assert unseen and all(int(b["label"]) == -1 for b in unseen)
    assert not trained & {b["file"] for b in tested}
    assert {tuple(b["image"].shape[2:]) for b in unseen} == {(160, 160)}


def test_names_of_domains() -> None:
    assert domain_names(["b", "a"]) == ("natural", "b", "a")
    assert domain_names(["natural", "b"]) == ("natural", "b")
    with pytest.raises(UserError, match="named twice"):
        domain_names(["b", "b"])
    with pytest.raises(UserError, match="both trained on and unseen"):
        DomainsDataModule(["lines"], ["lines"])
