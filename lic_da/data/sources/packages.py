"""Images inside packages of PyPI, npm and Debian, fetched by their own clients."""

from __future__ import annotations

import fnmatch
import importlib.util
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lic_da.data.licences import (
    Terms,
    debian_terms,
    npm_terms,
    pypi_terms,
)
from lic_da.data.sources.base import Source, SourceUnavailable, unpack_folder


@dataclass
class PypiSource(Source):
    """Images inside an installed Python package (installed by ``make setup``).

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
class NpmSource(Source):
    """Images inside an npm package, fetched with ``npm pack``.

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
    """Images inside a Debian package, fetched with ``apt-get download``; no root, no dependencies.

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
