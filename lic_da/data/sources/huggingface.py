"""Data sets of the Hugging Face Hub, or of local files that its library reads."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lic_da.data.sources.base import Found, Source, SourceUnavailable, stated, unpack_folder
from lic_da.data.sources.hub import file_of, local_files, rows
from lic_da.io.files import read_json, write_json
from lic_da.io.hub import Unreachable
from lic_da.io.listing import (
    IMAGES,
    is_image,
)

_WITHOUT = ".rows_without_a_picture.json"


@dataclass
class HuggingFaceSource(Source):
    """A data set on the Hugging Face Hub, or local files that ``datasets`` reads.

    Args:
        name: Hub name (``owner/name``), or a path: a folder of images in folders (``imagefolder``), of
            Parquet, Arrow or ``webdataset`` tar files, or of a saved data set; one such file; or a glob.
        split: which split of it to take.
        column: the column that holds the images; where there is none of this name, all of images.
        revision: commit, tag or branch on the Hub.
        subset: configuration of the data set, where it has several.
        where: column -> value, or list of values, that a row must have; classes by name or number.
        streaming: read row by row instead of fetching the whole data set first.
        count: at most this many rows, in the order of the data set; None: all.
    """

    of_the_user = True

    name: str = ""
    split: str = "train"
    column: str = "image"
    revision: str | None = None
    subset: str | None = None
    where: Mapping[str, Any] | None = None
    streaming: bool = False
    count: int | None = None

    @property
    def label(self) -> str:
        return f"Hugging Face data set {self.name} ({self.split})"

    def root(self, store: Path) -> Path:
        parts = [self.name, self.split, self.column, str(self.revision)]
        where = {str(column): values for column, values in (self.where or {}).items()}
        more = [self.subset, json.dumps(where, sort_keys=True, default=list), self.count]
        if more != [None, "{}", None]:
            parts += map(str, more)
        parts += [str(state) for state in self.watched(store)]
        identity = hashlib.sha256("|".join(parts).encode()).hexdigest()[:12]
        target = store / f"huggingface-{re.sub(r'[^A-Za-z0-9]+', '-', self.name)}-{identity}"
        if not target.is_dir():
            with unpack_folder(target) as folder:
                self._export(folder)
        return target

    def watched(self, store: Path) -> list[Any]:
        """Name, size and time of local files."""
        return stated(Found(path, str(path)) for path in local_files(self.name))

    def _export(self, folder: Path) -> None:
        without = 0
        try:
            for number, image in enumerate(
                rows(
                    self.name,
                    subset=self.subset,
                    split=self.split,
                    column=self.column,
                    revision=self.revision,
                    where=self.where,
                    streaming=self.streaming,
                    count=self.count,
                )
            ):
                data = file_of(image)
                if image is None or data is None:
                    without += 1
                    continue
                (folder / f"{number:06d}{_suffix_of(image, data)}").write_bytes(data)
        except Unreachable as error:
            raise SourceUnavailable(
                f"{self.label} cannot be loaded ({error}). "
                "Check the name, the network and 'hf auth login', or download the data "
                "set elsewhere and give its folder as the name."
            ) from error
        write_json(folder / _WITHOUT, without)

    def files(self, store: Path) -> list[Found]:
        """See :meth:`Source.files`; rows without an image are left out and counted."""
        found = super().files(store)
        noted = self.root(store) / _WITHOUT
        if noted.is_file() and (without := read_json(noted)):
            self.left_out["rows without an image"] += without
        return found


def _suffix_of(image: dict[str, Any], data: bytes) -> str:
    """What the name of an image's file ends in, if it says what it is; else as its first bytes say."""
    suffix = Path(image.get("path") or "").suffix.lower()
    if suffix in IMAGES:
        return suffix
    for magic, own in ((b"\x89PNG", ".png"), (b"\xff\xd8", ".jpg"), (b"RIFF", ".webp")):
        if data.startswith(magic):
            return own
    return ".tif" if is_image(data[:16]) else ".unknown"
