"""Folders of images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lic_da.data.sources.base import Source, stated
from lic_da.errors import UserError
from lic_da.io.files import user_path


@dataclass
class FolderSource(Source):
    """Any folder of images, with its subfolders.

    Args:
        path: the folder; ``~`` is expanded.
    """

    of_the_user = True

    path: str = ""

    @property
    def label(self) -> str:
        return f"folder {self.path}"

    def root(self, store: Path) -> Path:
        folder = user_path(str(self.path))
        if not self.path or not folder.is_dir():
            raise UserError(
                f"There is no folder '{self.path}'. Give the path of a folder of images."
            )
        return folder.resolve()

    def watched(self, store: Path) -> list[Any]:
        """Name, size and time of each file."""
        return [*stated(self.files(store)), *sorted(self.left_out.items())]
