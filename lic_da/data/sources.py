"""Where the images of a domain come from: folders, Hugging Face data sets, and packages.

A source is a small object named by ``_target_`` in ``conf/domain/*.yaml``. It has one job,
:meth:`Source.files`: bring the pictures to disk, if they are not there, and list them. Packages are
fetched with the ordinary client of their registry (``apt-get``, ``npm``, ``pip``), which checks what
it downloads, and unpacked without root under ``<data>/packages``.
"""

from __future__ import annotations

import fnmatch
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from lic_da.data.hub import Unreachable, local_files, rows
from lic_da.data.licences import (
    Terms,
    debian_terms,
    dicebear_terms,
    npm_terms,
    pypi_terms,
)
from lic_da.errors import UserError, unknown
from lic_da.io.files import read_json, user_path, write_json
from lic_da.io.listing import (
    PICTURES,
    ends_in,
    files_of,
    is_picture,
    picture,
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
    """Whether all files are meant to be pictures, so that those that are none are told of."""

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
        """Picture files of this source, sorted by name.

        Args:
            store: folder for downloads, shared by all domains.
        """
        root = self.root(store)
        listing = files_of(root, picture if self.of_the_user else ends_in(*PICTURES))
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


@dataclass
class HuggingFaceSource(Source):
    """A data set on the Hugging Face Hub, or local files that ``datasets`` reads.

    Args:
        name: Hub name (``owner/name``), or a path: a folder of images in folders (``imagefolder``), of
            Parquet, Arrow or ``webdataset`` tar files, or of a saved data set; one such file; or a glob.
        split: which split of it to take.
        column: the column that holds the pictures; where there is none of this name, all of pictures.
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
            for number, picture in enumerate(
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
                data = _bytes_of(picture)
                if picture is None or data is None:
                    without += 1
                    continue
                (folder / f"{number:06d}{_suffix_of(picture, data)}").write_bytes(data)
        except Unreachable as error:
            raise SourceUnavailable(
                f"{self.label} cannot be loaded ({error}). "
                "Check the name, the network and 'hf auth login', or download the data "
                "set elsewhere and give its folder as the name."
            ) from error
        write_json(folder / _WITHOUT, without)

    def files(self, store: Path) -> list[Found]:
        """See :meth:`Source.files`; rows without a picture are left out and counted."""
        found = super().files(store)
        noted = self.root(store) / _WITHOUT
        if noted.is_file() and (without := read_json(noted)):
            self.left_out["rows without a picture"] += without
        return found


@dataclass
class PypiSource(Source):
    """Pictures inside an installed Python package (installed by ``make setup``).

    Args:
        package: name on PyPI, for messages.
        module: name to import, whose folder is searched.
    """

    package: str = ""
    module: str = ""

    @property
    def label(self) -> str:
        return f"PyPI package {self.package}"

    def root(self, store: Path) -> Path:
        spec = importlib.util.find_spec(self.module)
        if spec is None or not spec.submodule_search_locations:
            raise SourceUnavailable(
                f"The {self.label} is not installed: run 'make setup', or 'pip install {self.package}'."
            )
        return Path(next(iter(spec.submodule_search_locations)))

    def terms(self, store: Path) -> Terms:
        """See :meth:`Source.terms`."""
        return pypi_terms(self.package)


@dataclass
class DiceBearSource(Source):
    """Drawings that the PyPI package dicebear-core puts together from seeds.

    Args:
        style: one of the styles in the package dicebear-styles.
        count: how many drawings.
    """

    style: str = ""
    count: int = 100

    @property
    def label(self) -> str:
        return f"DiceBear style {self.style}"

    def terms(self, store: Path) -> Terms:
        """See :meth:`Source.terms`."""
        spec = importlib.util.find_spec("dicebear_styles")
        folder = Path(next(iter(spec.submodule_search_locations or [""]))) if spec else Path()
        return dicebear_terms(folder / f"{self.style}.json")

    def root(self, store: Path) -> Path:
        target = store / f"dicebear-{self.style}-{self.count}"
        if target.is_dir():
            return target
        spec = importlib.util.find_spec("dicebear_styles")
        if spec is None or importlib.util.find_spec("dicebear") is None:
            raise SourceUnavailable(
                "The PyPI packages dicebear-core and dicebear-styles are missing."
            )
        import dicebear

        styles = Path(next(iter(spec.submodule_search_locations or [])))
        if not (styles / f"{self.style}.json").is_file():
            raise unknown(
                "DiceBear style", self.style, sorted(p.stem for p in styles.glob("*.json"))
            )
        style = dicebear.Style(read_json(styles / f"{self.style}.json"))
        with unpack_folder(target) as folder:
            for seed in range(self.count):
                drawing = dicebear.Avatar(style, {"seed": f"{self.style}-{seed}"}).to_string()
                (folder / f"{self.style}-{seed:04d}.svg").write_text(drawing, encoding="utf-8")
        return target


@dataclass
class NpmSource(Source):
    """Pictures inside an npm package, fetched with ``npm pack``.

    Args:
        package: name on the npm registry.
        version: exact version.
    """

    package: str = ""
    version: str = ""

    @property
    def label(self) -> str:
        return f"npm package {self.package}"

    def _target(self, store: Path) -> Path:
        return store / f"npm-{self.package.replace('/', '-').lstrip('@')}-{self.version}"

    def terms(self, store: Path) -> Terms:
        """See :meth:`Source.terms`."""
        return npm_terms(self._target(store) / "package")

    def root(self, store: Path) -> Path:
        target = self._target(store)
        if target.is_dir():
            return target
        _need_client("npm", self.label)
        with unpack_folder(target) as folder, tempfile.TemporaryDirectory(dir=store) as download:
            command = ["npm", "pack", f"{self.package}@{self.version}", "--silent"]
            _client([*command, "--pack-destination", download], self.label)
            with tarfile.open(next(Path(download).glob("*.tgz"))) as archive:
                archive.extractall(folder, filter="data")
        return target


@dataclass
class DebianSource(Source):
    """Pictures inside a Debian package, fetched with ``apt-get download``; no root, no dependencies.

    Args:
        package: name, or a glob such as ``wesnoth-*-data`` of which the last match is taken.
    """

    package: str = ""

    @property
    def label(self) -> str:
        return f"Debian package {self.package}"

    def _target(self, store: Path) -> Path:
        return store / f"debian-{self.package.replace('*', '_')}"

    def terms(self, store: Path) -> Terms:
        """See :meth:`Source.terms`."""
        return debian_terms(self._target(store))

    def root(self, store: Path) -> Path:
        target = self._target(store)
        if target.is_dir():
            return target
        _need_client("apt-get", self.label)
        _need_client("dpkg-deb", self.label)
        apt = _Apt(store / "apt")
        name = self._resolve(apt)
        with unpack_folder(target) as folder, tempfile.TemporaryDirectory(dir=store) as download:
            try:
                apt.run(["apt-get", "download", name], self.label, cwd=download)
            except SourceUnavailable:  # the package lists may be out of date
                apt.update()
                apt.run(["apt-get", "download", name], self.label, cwd=download)
            archive = next(Path(download).glob("*.deb"))
            _client(["dpkg-deb", "-x", str(archive), str(folder)], self.label)
        return target

    def _resolve(self, apt: _Apt) -> str:
        prefix = self.package.split("*")[0]
        names = apt.run(["apt-cache", "pkgnames", prefix], self.label).split()
        matches = sorted(fnmatch.filter(names, self.package), key=_version_key)
        if not matches:
            raise SourceUnavailable(f"apt knows no package that matches {self.package}.")
        return matches[-1]


@dataclass
class _Apt:
    """apt with package lists of its own under ``state``, so that no root is needed."""

    state: Path
    options: list[str] = field(init=False)

    def __post_init__(self) -> None:
        lists = (self.state / "lists").resolve()
        cache = (self.state / "cache").resolve()
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        (cache / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        self.options = [
            f"-oDir::State::Lists={lists}",
            f"-oDir::Cache={cache}",
            "-oDebug::NoLocking=1",
            "-oAPT::Sandbox::User=",
        ]
        if not any(lists.glob("*Packages*")):
            self.update()

    def update(self) -> None:
        """Fetch the package lists."""
        self.run(["apt-get", "-q", "update"], "list of Debian packages")

    def run(self, command: list[str], label: str, cwd: str | None = None) -> str:
        return _client([command[0], *self.options, *command[1:]], label, cwd)


def _version_key(name: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", name)]


def _need_client(program: str, label: str) -> None:
    if shutil.which(program) is None:
        raise SourceUnavailable(f"The {label} needs the program '{program}', which is not here.")


def _client(command: Iterable[str], label: str, cwd: str | None = None) -> str:
    """Run a registry client; its standard output, or SourceUnavailable with its last line."""
    done = subprocess.run(list(command), cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise SourceUnavailable(f"The {label} could not be fetched: {lines[-1]}")
    return done.stdout


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


_WITHOUT = ".rows_without_a_picture.json"


def _bytes_of(picture: dict[str, Any] | None) -> bytes | None:
    """The file of a row's picture; None: the row has none, or it is not there."""
    if not picture:
        return None
    if picture.get("bytes"):
        return bytes(picture["bytes"])
    try:
        return Path(picture["path"]).read_bytes() if picture.get("path") else None
    except OSError:
        return None


def _suffix_of(picture: dict[str, Any], data: bytes) -> str:
    """What the name of a picture's file ends in, if it says what it is; else as its first bytes say."""
    suffix = Path(picture.get("path") or "").suffix.lower()
    if suffix in PICTURES:
        return suffix
    for magic, own in ((b"\x89PNG", ".png"), (b"\xff\xd8", ".jpg"), (b"RIFF", ".webp")):
        if data.startswith(magic):
            return own
    return ".tif" if is_picture(data[:16]) else ".unknown"
