"""Batches of labelled crops for training, whole images for measuring (LightningDataModule)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lic_da.data.augment import UNCHANGED, Augment, random_crop
from lic_da.data.domains import (
    SOURCE_DOMAIN,
    load_domain,
    more_tests,
    prepare,
    refuse_shared_files,
)
from lic_da.data.index import DomainImages, ImageInfo
from lic_da.data.latents.cache import Box, file_hash
from lic_da.data.latents.crops import LatentCrops, crop_region
from lic_da.errors import UserError
from lic_da.io.files import user_path
from lic_da.io.images import RGB, read_rgb
from lic_da.surroundings import granted_cpus, leave_signals_to_the_training

CropKey = tuple[int, int, int]
"""What a sampler asks a :class:`CropDataset` for: (group, number of the image, crop seed)."""


@dataclass(frozen=True)
class LabelledImage:
    """An image and the index of its domain among the run's domains (-1: a domain not trained on)."""

    info: ImageInfo
    path: Path
    domain: str
    label: int


class CropDataset(Dataset[dict[str, Any]]):
    """Random square crops, mirrored at random; a crop is a function of its key alone.

    That makes a run reproducible and exactly resumable whatever the number of workers. Images are
    decoded once and kept in memory as long as they fit, and read again each time otherwise.

    Args:
        images: groups of images; a domain is one.
        crop: side of the crops in pixels; smaller images are continued at their edges.
        cache_bytes: keep decoded images in memory if all of them together need no more.
        half_from: images whose shorter side is at least this many pixels are also there a second
            time at half their size (artefacts of their own compression shrink); None: they are not.
        latents: gives crops with their latents, on the grid of these and not flipped; None: crops lie
            anywhere.
        augments: what is done to the crops of each group; None: they are mirrored.
        qualities: of the codec, one of which is drawn for each crop; the crop is the same with or without.
    """

    def __init__(
        self,
        images: Sequence[Sequence[LabelledImage]],
        crop: int,
        *,
        cache_bytes: int = 4 << 30,
        half_from: int | None = None,
        latents: LatentCrops | None = None,
        augments: Sequence[Augment] | None = None,
        qualities: Sequence[int] = (),
    ) -> None:
        if latents is not None and (half_from is not None or augments is not None):
            raise ValueError("The cache holds latents of images as they are only.")
        if latents is not None and qualities:
            raise ValueError("The cache holds latents of one quality only.")
        self.crop = crop
        self.augments = augments
        self.qualities = tuple(qualities)
        self.latents = latents
        self._boxes: dict[Path, list[Box]] = {}
        self.entries: list[list[tuple[LabelledImage, bool]]] = []
        for group in images:
            entries = [(p, False) for p in group]
            if half_from is not None:
                large = (p for p in group if min(p.info.width, p.info.height) >= half_from)
                entries += [(p, True) for p in large]
            self.entries.append(entries)
        size = sum(3 * self.pixels(p, h) for group in self.entries for p, h in group)
        self.in_memory = size <= cache_bytes
        self._cache: list[list[Tensor]] | None = None

    @staticmethod
    def pixels(image: LabelledImage, half: bool) -> int:
        """Number of pixels of an entry."""
        return image.info.width * image.info.height // (4 if half else 1)

    def preload(self, console: Console | None = None) -> None:
        """Decode all images into memory, if they fit; have their latents at hand, if they are cached."""
        if self.in_memory and self._cache is None:
            self._decode_all(console)
        if self.latents is not None and not self._boxes:
            self._encode_all(self.latents)

    def _encode_all(self, latents: LatentCrops) -> None:
        places = {}
        for group, entries in enumerate(self.entries):
            for number, (entry, _) in enumerate(entries):
                image = entry.info
                boxes = latents.boxes(file_hash(entry.path), image.height, image.width)
                self._boxes[entry.path] = boxes
                places.update({box.key: (group, number) for box in boxes})
        latents.cache.prepare(
            [box for boxes in self._boxes.values() for box in boxes],
            lambda box: crop_region(self._pixels(*places[box.key]), box),
        )

    def _pixels(self, group: int, number: int) -> Tensor:
        """An image, ``(3, H, W)`` uint8."""
        return self._cache[group][number] if self._cache else _decode(self.entries[group][number])

    def _decode_all(self, console: Console | None) -> None:
        flat = [entry for group in self.entries for entry in group]
        with ThreadPoolExecutor(max_workers=granted_cpus()) as pool:
            decoded = list(
                track(
                    pool.map(_decode, flat),
                    total=len(flat),
                    description="Decoding training images",
                    console=console,
                    transient=True,
                )
            )
        images = iter(decoded)
        self._cache = [[next(images) for _ in group] for group in self.entries]

    def __len__(self) -> int:
        return sum(len(group) for group in self.entries)

    def __getitem__(self, key: CropKey) -> dict[str, Any]:
        """A sample.

        Returns:
            ``image``: ``(3, crop, crop)`` float32 in [0, 1]; ``label``: int; ``file``: its path;
            ``quality``: int, where there are several; and what :meth:`LatentCrops.sample` adds.
        """
        group, number, seed = key
        entry, _ = self.entries[group][number]
        pixels = self._pixels(group, number)
        rng = np.random.default_rng(seed)
        if self.latents is None:
            augment = UNCHANGED if self.augments is None else self.augments[group]
            image = random_crop(pixels, self.crop, rng, augment)
            sample: dict[str, Any] = {"image": image.float().div(255)}
        else:
            sample = self.latents.sample(pixels, self._boxes[entry.path], rng)
        if self.qualities:
            sample["quality"] = int(rng.choice(self.qualities))
        return {**sample, "label": entry.label, "file": str(entry.path)}


def _decode(entry: tuple[LabelledImage, bool]) -> Tensor:
    image, half = entry
    pixels = read_rgb(image.path)
    if half:
        size = (pixels.shape[1] // 2, pixels.shape[0] // 2)
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    return to_tensor(pixels)


def to_tensor(pixels: RGB) -> Tensor:
    """``(H, W, 3)`` uint8 array -> ``(3, H, W)`` uint8 tensor."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


class BalancedBatches(Sampler[list[CropKey]]):
    """Batches in which every group of the dataset has the same share, up to one image.

    Epoch e is a function of (seed, e) alone, so a resumed run sees what it would have seen.

    Args:
        dataset: what to sample from.
        batch_size: crops in a batch.
        batches: batches in an epoch.
        seed: of the run.
        done: batches of a run that is resumed; it begins with the epoch of the next one, without those
            that it has had.
        area_power: within a group an image is drawn in proportion to (its pixels)^area_power.
        rank: number of this process among those that train together.
        processes: how many train together; they share what one would have in batches that are as many
            times as large.
    """

    def __init__(
        self,
        dataset: CropDataset,
        batch_size: int,
        batches: int,
        *,
        seed: int = 0,
        done: int = 0,
        area_power: float = 0.0,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.batch_size = batch_size * processes
        self.own = slice(rank, None, processes)
        self.batches = batches
        self.seed = seed
        self.done = done
        self.epoch = done // batches
        self.weights = []
        for group in dataset.entries:
            weight = np.array([dataset.pixels(p, h) for p, h in group], float) ** area_power
            self.weights.append(weight / weight.sum())

    @property
    def sampler(self) -> BalancedBatches:
        """Itself: Lightning calls ``set_epoch`` on the ``sampler`` of a batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[CropKey]]:
        unfinished, seen = divmod(self.done, self.batches)
        return itertools.islice(self._epoch(), seen if self.epoch == unfinished else 0, None)

    def _epoch(self) -> Iterator[list[CropKey]]:
        """All batches of the epoch."""
        rng = np.random.default_rng([self.seed, self.epoch])
        for batch in range(self.batches):
            # Where the batch size is no multiple of the number of groups, the surplus moves on.
            surplus = batch * self.batch_size
            groups = [(surplus + i) % len(self.weights) for i in range(self.batch_size)]
            keys = [
                (
                    group,
                    int(rng.choice(len(self.weights[group]), p=self.weights[group])),
                    int(rng.integers(2**31)),
                )
                for group in groups
            ]
            yield keys[self.own]


class WholeImages(Dataset[dict[str, Any]]):
    """Whole images, or their central square.

    Args:
        images: what to read.
        centre: side of the central square to cut out, in pixels; None: the whole image.
        qualities: of the codec, one for each image; none: it has its own.
    """

    def __init__(
        self,
        images: Sequence[LabelledImage],
        centre: int | None = None,
        qualities: Sequence[int] = (),
    ) -> None:
        self.images = list(images)
        self.centre = centre
        self.qualities = tuple(qualities)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``image``: ``(3, H, W)`` float32 in [0, 1]; ``label``, ``domain``, ``file``, ``quality``."""
        entry = self.images[index]
        image = to_tensor(read_rgb(entry.path))
        if self.centre is not None:
            side = min(self.centre, *image.shape[1:])
            y, x = ((s - side) // 2 for s in image.shape[1:])
            image = image[:, y : y + side, x : x + side]
        return {
            "image": image.float().div(255),
            "label": entry.label,
            "domain": entry.domain,
            "file": str(entry.path),
            **({"quality": self.qualities[index]} if self.qualities else {}),
        }


def _only_item(batch: list[dict[str, Any]]) -> dict[str, Any]:
    """Images differ in size, so a batch of them is one image, with a batch dimension."""
    (item,) = batch
    whole = {**item, "image": item["image"][None]}
    return whole | {k: torch.tensor([item[k]]) for k in ("label", "quality") if k in item}


class DomainsDataModule(L.LightningDataModule):
    """Source and target domains, mixed and labelled.

    Label 0 is the source domain, label k the k-th target in the order given. Unseen domains are
    measured and never trained on; their label is -1.

    Args:
        domains: target domains, names in ``conf/domain``.
        unseen: domains that are only tested.
        source: the domain the codec was pre-trained on.
        data_dir: folder of the prepared images.
        batch_size: crops in a training batch, balanced over the domains.
        crop: side of the training crops in pixels.
        batches_per_epoch: training steps between validations.
        val_images: at most this many validation images a domain.
        val_crop: side of the central square that is validated on, in pixels.
        train_images: at most this many training images of a target domain; None: all. Those of a
            smaller number are among those of a larger one, and the source domain keeps all of its own.
        num_workers: processes that decode; None: none if the images fit into memory, else one
            fewer than there are cores.
        cache_gb: memory for decoded training images, in GiB.
        seed: of the order and place of the crops.
        half_from: see :class:`CropDataset`.
        area_power: see :class:`BalancedBatches`.
        console: where progress is shown.
        train_domains: domains whose images are trained on and validated; None: all but the unseen ones.
        done: training steps of a run that is resumed; their batches are not given again.
        latent_cache: whether latents of training images may come from a cache, if :attr:`latents` is
            given.
        latent_pixels: of a training image that are coded for the cache, about.
        more_tests: test on the images of domains that are ``more_of`` these too, such as natural_more.
        unseen_images: at most this many test images of an unseen domain; None: all. Those of a smaller
            number are among those of a larger one.
        augment: do to training crops what their domains' files say under ``augment``.
        qualities: of the codec, if it is trained for several: one is drawn for each crop, and validation
            images take turns.

    Attributes:
        latents: of the codec that is trained; see :class:`CropDataset`.
    """

    def __init__(
        self,
        domains: Sequence[str],
        unseen: Sequence[str] = (),
        *,
        source: str = SOURCE_DOMAIN,
        data_dir: str | Path = "data",
        batch_size: int = 16,
        crop: int = 128,
        batches_per_epoch: int = 250,
        val_images: int = 16,
        val_crop: int = 256,
        train_images: int | None = None,
        num_workers: int | None = None,
        cache_gb: float = 4.0,
        seed: int = 0,
        half_from: int | None = None,
        area_power: float = 0.0,
        console: Console | None = None,
        train_domains: Sequence[str] | None = None,
        done: int = 0,
        latent_cache: bool = False,
        latent_pixels: int = 1_000_000,
        more_tests: bool = False,
        unseen_images: int | None = None,
        augment: bool = False,
        qualities: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.domain_names = domain_names(domains, source)
        self.train_domains = self.domain_names if train_domains is None else tuple(train_domains)
        self.unseen_names = tuple(unseen)
        for name in self.unseen_names:
            if name in self.domain_names:
                raise UserError(f"Domain '{name}' cannot be both trained on and unseen.")
        self.data_dir = user_path(data_dir)
        self.batch_size, self.crop, self.batches_per_epoch = batch_size, crop, batches_per_epoch
        self.val_images, self.val_crop, self.train_images = val_images, val_crop, train_images
        self.num_workers, self.cache_gb, self.seed = num_workers, cache_gb, seed
        self.half_from, self.area_power, self.done = half_from, area_power, done
        self.console = console
        self.latent_cache, self.latent_pixels = latent_cache, latent_pixels
        self.more_tests, self.unseen_images = more_tests, unseen_images
        self.augment, self.qualities = augment, tuple(qualities)
        self.latents: LatentCrops | None = None
        self.images: dict[str, DomainImages] = {}
        self._train: CropDataset | None = None

    @property
    def _rank(self) -> int:
        """Number of this process among those that train together."""
        return self.trainer.global_rank if self.trainer is not None else 0

    @property
    def _processes(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1

    def prepare_data(self) -> None:
        """Bring the images to disk (once a machine)."""
        for name in (*self.domain_names, *self.unseen_names):
            images = self.domain(name, self.console)
            if self.more_tests:
                more_tests(images, self.data_dir, self.console)

    def domain(self, name: str, console: Console | None = None) -> DomainImages:
        """The images of a domain, brought to disk if they are not there."""
        return prepare(name, self.data_dir, console=console)

    def setup(self, stage: str | None = None) -> None:
        """Read the indices.

        Raises:
            UserError: two domains share files, or a domain has no images in a split that is needed.
        """
        if self.images:
            return
        names = (*self.domain_names, *self.unseen_names)
        self.images = {name: self.domain(name) for name in names}
        if self.more_tests:
            self.images = {n: more_tests(i, self.data_dir) for n, i in self.images.items()}
        refuse_shared_files(self.images.values())
        for name in names:
            needed = ("train", "val", "test") if name in self.train_domains else ("test",)
            for split in needed:
                if not self.images[name].split(split):
                    raise UserError(
                        f"Domain '{name}' has no images to {split} with: it needs at least three "
                        "different images, and must not be test_only. "
                        f"{self.images[name].summary()}"
                    )

    def labelled(self, name: str, split: str) -> list[LabelledImage]:
        """Images of one domain and split."""
        label = self.domain_names.index(name) if name in self.domain_names else -1
        images = self.images[name]
        return [LabelledImage(p, images.path(p), name, label) for p in images.split(split)]

    def train_dataset(self) -> CropDataset:
        """The training crops of the domains that are learned."""
        if self._train is None:
            targets = self.domain_names[1:]
            names = [n for n in self.domain_names if n in self.train_domains]
            groups = [
                self.labelled(n, "train")[: self.train_images if n in targets else None]
                for n in names
            ]
            self._train = CropDataset(
                groups,
                self.crop,
                cache_bytes=int(self.cache_gb * 2**30),
                half_from=self.half_from,
                latents=self.latents,
                augments=[self.augment_of(n) for n in names] if self.augment else None,
                qualities=self.qualities,
            )
        return self._train

    def augment_of(self, name: str) -> Augment:
        """What may be done to the training crops of a domain."""
        return load_domain(name).augment

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Balanced batches of crops."""
        dataset = self.train_dataset()
        dataset.preload(self.console)
        workers = self.num_workers
        if workers is None:
            workers = 0 if dataset.in_memory else max(1, granted_cpus() - 1)
        sampler = BalancedBatches(
            dataset,
            self.batch_size,
            self.batches_per_epoch,
            seed=self.seed,
            done=self.done,
            area_power=self.area_power,
            rank=self._rank,
            processes=self._processes,
        )
        return DataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=leave_signals_to_the_training,
            pin_memory=torch.cuda.is_available(),
        )

    @property
    def validation_size(self) -> int:
        """Number of validation images of all processes."""
        return len(self._validation())

    def _validation(self) -> list[LabelledImage]:
        return [p for n in self.train_domains for p in self.labelled(n, "val")[: self.val_images]]

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Central squares of validation images, one a batch; of several processes each has its share."""
        own = slice(self._rank, None, self._processes)
        images = self._validation()
        # An image has the same quality in every validation, whichever process has it.
        turns = [q for _, q in zip(images, itertools.cycle(self.qualities), strict=False)]
        return _one_by_one(WholeImages(images[own], self.val_crop, turns[own]))

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Whole test images of seen and unseen domains, one a batch."""
        return _one_by_one(WholeImages(self.tested()))

    def tested(self) -> list[LabelledImage]:
        """Test images of all domains, those of unseen ones last."""
        seen = [p for n in self.domain_names for p in self.labelled(n, "test")]
        unseen = (self.labelled(n, "test")[: self.unseen_images] for n in self.unseen_names)
        return [*seen, *(p for images in unseen for p in images)]


def _one_by_one(dataset: WholeImages) -> DataLoader[dict[str, Any]]:
    return DataLoader(dataset, batch_size=1, collate_fn=_only_item)


def domain_names(
    domains: Sequence[str] | str | None, source: str = SOURCE_DOMAIN
) -> tuple[str, ...]:
    """All domains of a run: the source first, then the targets in the order given.

    Raises:
        UserError: a domain is named twice.
    """
    targets = listed(domains)
    names = (source, *(d for d in targets if d != source))
    if len(set(names)) < len(names):
        raise UserError(f"A domain is named twice in {list(targets)}.")
    return names


def listed(names: Sequence[str] | str | None) -> tuple[str, ...]:
    """Names that were given as a list, with commas in one text, or not at all; 2024 is a name too."""
    if names is None:
        return ()
    if not isinstance(names, Sequence):
        names = [names]
    return tuple(str(n) for n in (names.split(",") if isinstance(names, str) else names))
