"""Folders that packs are pushed to and pulled from, and pulled into."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lic_da.errors import UserError
from lic_da.io.files import appearing
from lic_da.travel.manifest import MANIFEST, Entry, Manifest
from lic_da.travel.place import Listing


@dataclass(frozen=True)
class Folder:
    """A folder of this machine, or one that it has mounted."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def absent(self) -> str:
        return f"There is no folder {self.path}."

    def listing(self) -> Listing | None:
        if not self.path.exists():
            return None
        if not self.path.is_dir():
            raise UserError(f"{self.path} is a file, not a folder.")
        return Listing({f.name: f.stat().st_size for f in self.path.iterdir() if f.is_file()})

    def fetch(self, name: str, listing: Listing, folder: Path) -> None:
        shutil.copyfile(self.path / name, folder / name)

    def store(
        self,
        files: Mapping[str, Path | bytes],
        listing: Listing | None,
        *,
        private: bool,
        message: str | None,
    ) -> str:
        for given, option in ((private, "--private"), (message, "--message")):
            if given:
                raise UserError(f"{self.path} is a folder: {option} is for the Hub.")
        folder = Path(os.path.realpath(self.path))
        check_replaceable(folder, files)
        with appearing(folder, MANIFEST, earlier_files(folder)) as temporary:
            for name, content in files.items():
                if isinstance(content, bytes):
                    (temporary / name).write_bytes(content)
                else:
                    shutil.copyfile(content, temporary / name)
        return str(self.path)


def check_replaceable(folder: Path, names: Iterable[str]) -> None:
    """Refuse a place where a folder stands in the way of a file, before any file is replaced.

    Raises:
        UserError: one does.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, not a folder.")
    for name in names:
        if (folder / name).is_dir():
            raise UserError(f"{folder / name} is a folder, where a file of the pack was to be.")


def earlier_files(folder: Path) -> set[str]:
    """Files of a folder that an earlier push or pull wrote and nobody has changed."""
    try:
        known = Manifest.read(folder / MANIFEST, folder).files
        return {
            n
            for n, entry in known.items()
            if (folder / n).is_file() and Entry.of(folder / n) == entry
        }
    except (OSError, UserError):
        return set()
