"""Photographs to pre-train codecs on: any folders, at many scales, without what a codec is tested with."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track

from lic_da.data.augment import random_crop
from lic_da.data.datamodule import (
    CropDataset,
    CropKey,
    DomainsDataModule,
    LabelledImage,
)
from lic_da.data.index import ImageInfo
from lic_da.data.sources.folder import FolderSource
from lic_da.errors import UserError
from lic_da.io.files import user_path
from lic_da.io.images import ImageProblem, read_rgb
from lic_da.surroundings import granted_cpus

_THUMBNAIL = 24  # side, in pixels
_ALIKE = 0.95  # correlation of thumbnails above which two images are the same photograph
_SCALES = (1.0, 2.0)


@dataclass
class Gathered:
    """Photographs that were found.

    Attributes:
        images: those to train with.
        doubles: file of a photograph that is left out -> the held-out image that it shows too.
        unusable: file -> why it cannot be used.
    """

    images: list[LabelledImage] = field(default_factory=list)
    doubles: dict[Path, Path] = field(default_factory=dict)
    unusable: dict[Path, str] = field(default_factory=dict)

    def __str__(self) -> str:
        text = f"{len(self.images)} photographs"
        if self.doubles:
            text += f"; {len(self.doubles)} left out that show what is validated or tested with"
        if self.unusable:
            text += f"; {len(self.unusable)} that cannot be used"
        return text


def gather(
    folders: Sequence[Path | str],
    held_out: Sequence[Path],
    *,
    min_side: int = 256,
    console: Console | None = None,
) -> Gathered:
    """The photographs of folders, without those that are near-identical to a held-out image.

    Two images show the same where their thumbnails, of whatever size the images are, correlate by
    more than 0.95; mirrored ones are compared too.

    Args:
        folders: with their subfolders.
        held_out: images that must not be trained on.
        min_side: smaller photographs are left out.
        console: where progress is shown.

    Raises:
        UserError: there is no such folder, or no photograph in it.
    """
    found = [
        Path(f.path) for folder in folders for f in FolderSource(path=str(folder)).files(Path())
    ]
    if not found:
        raise UserError(f"There are no photographs in {', '.join(map(str, folders))}.")
    paths = [*held_out, *found]
    with ThreadPoolExecutor(max_workers=granted_cpus()) as pool:
        looked = list(
            track(
                pool.map(_look, paths),
                total=len(paths),
                description="Comparing photographs with held-out ones",
                console=console or Console(quiet=True),
                transient=True,
            )
        )
    held = [look.thumbnail for look in looked[: len(held_out)] if isinstance(look, _Look)]
    tested = np.stack(
        [t for thumbnail in held for t in (thumbnail, thumbnail[:, ::-1])] or [_NOTHING]
    )
    tested = tested.reshape(len(tested), -1)
    names = [p for p, look in zip(held_out, looked, strict=False) if isinstance(look, _Look)]
    result = Gathered()
    for path, look in zip(found, looked[len(held_out) :], strict=True):
        if isinstance(look, str):
            result.unusable[path] = look
        elif min(look.width, look.height) < min_side:
            result.unusable[path] = f"smaller than {min_side} pixels"
        else:
            alike = tested @ look.thumbnail.ravel()
            best = int(alike.argmax())
            if alike[best] > _ALIKE:
                result.doubles[path] = names[best // 2]
                continue
            image = ImageInfo(
                str(path), path.name, "photos", "train", "", "", look.width, look.height
            )
            result.images.append(LabelledImage(image, path, "photos", 0))
    return result


_NOTHING = np.zeros((_THUMBNAIL, _THUMBNAIL), np.float32)


@dataclass(frozen=True)
class _Look:
    width: int
    height: int
    thumbnail: NDArray[np.float32]  # of norm 1 and mean 0


def _look(path: Path) -> _Look | str:
    try:
        pixels = read_rgb(path)
    except ImageProblem as problem:
        return problem.reason
    small = Image.fromarray(pixels).convert("L").resize((_THUMBNAIL,) * 2, Image.Resampling.BOX)
    values = np.asarray(small, np.float32)
    values = values - values.mean()
    return _Look(
        pixels.shape[1], pixels.shape[0], values / max(float(np.linalg.norm(values)), 1e-6)
    )


class PhotographCrops(CropDataset):
    """Random crops at a random scale: a square up to twice as large, scaled down to the crop's side.

    So large and small structures are learnt alike, and the artefacts of compression that photographs
    bring along shrink. Scales are 1 in every third crop and even on a logarithmic scale in the others.
    See :class:`CropDataset` for the arguments.
    """

    def __getitem__(self, key: CropKey) -> dict[str, Any]:
        """See :meth:`CropDataset.__getitem__`."""
        group, number, seed = key
        entry, _ = self.entries[group][number]
        pixels = self._pixels(group, number)
        rng = np.random.default_rng(seed)
        scale = float(np.exp(rng.uniform(*np.log(_SCALES)))) if rng.random() > 1 / 3 else 1.0
        side = min(round(self.crop * scale), max(self.crop, min(pixels.shape[1:])))
        image = random_crop(pixels, side, rng).float()
        if side > self.crop:
            image = F.interpolate(
                image[None], (self.crop, self.crop), mode="bicubic", antialias=True
            )[0].clamp(0, 255)
        return {"image": image.div(255), "label": entry.label, "file": str(entry.path)}


class PhotographsDataModule(DomainsDataModule):
    """The photographs of a domain and of any folders, for pre-training; validated on the domain's own.

    Args:
        domains: as of :class:`DomainsDataModule`, of which the source is trained on; none are added.
        photos: more folders of photographs. What is near-identical to an image that the source is
            validated or tested with is left out.
        crop: side of the training crops in pixels.
        kwargs: see :class:`DomainsDataModule`.
    """

    def __init__(
        self,
        domains: Sequence[str] = (),
        *,
        photos: Sequence[str] = (),
        crop: int = 256,
        **kwargs: Any,
    ) -> None:
        super().__init__(domains, crop=crop, **kwargs)
        self.photos = tuple(str(user_path(folder)) for folder in photos)
        self.gathered = Gathered()
        self._crops: PhotographCrops | None = None

    def train_dataset(self) -> CropDataset:
        """Crops of the source's training images and of the folders."""
        if not self.photos:
            return super().train_dataset()
        if self._crops is None:
            source = self.domain_names[0]
            held = [p.path for split in ("val", "test") for p in self.labelled(source, split)]
            self.gathered = gather(self.photos, held, console=self.console)
            if self.console is not None:
                self.console.print(f"{', '.join(self.photos)}: {self.gathered}")
            images = [*self.labelled(source, "train"), *self.gathered.images]
            cache = int(self.cache_gb * 2**30)
            self._crops = PhotographCrops([images], self.crop, cache_bytes=cache)
        return self._crops
