"""What a folder and a repository on the Hub have in common for packs that travel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Listing:
    """What lies at a place.

    Attributes:
        sizes: file -> bytes; None: it is not known.
        commit: of the Hub, from which all files are then taken.
        private: whether others may not see it; None: as its surroundings say.
    """

    sizes: Mapping[str, int | None]
    commit: str | None = None
    private: bool | None = None


class Place(Protocol):
    """A folder, or a repository on the Hub. Messages call it by its ``str``."""

    @property
    def absent(self) -> str:
        """A sentence that says that there is nothing."""

    def listing(self) -> Listing | None:
        """What lies there; None: there is no such place.

        Raises:
            UserError: that cannot be told.
        """

    def fetch(self, name: str, listing: Listing, folder: Path) -> None:
        """Copy a file of the listing into a folder.

        Raises:
            UserError: it cannot be had.
        """

    def store(
        self,
        files: Mapping[str, Path | bytes],
        listing: Listing | None,
        *,
        private: bool,
        message: str | None,
    ) -> str:
        """Put files there, all of them or none.

        Args:
            files: name -> a file, or its bytes.
            listing: what lies there; None: the place is made.
            private: make a place that others do not see.
            message: of the commit.

        Returns:
            Where they are now, for people.

        Raises:
            UserError: it cannot be done.
        """
