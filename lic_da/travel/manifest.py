"""``hashes.json``: which files a pack on its way has, how large they are, and their SHA-256."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lic_da.errors import UserError
from lic_da.io.files import read_json

MANIFEST = "hashes.json"
MANIFEST_BYTES = 1 << 16
"""The most that a manifest may have; those of packs have some 500 bytes."""
CONFIG = "config.yaml"
CONFIG_BYTES = 1 << 20

_FORMAT = 1
_FILES = 64  # of a pack, which has three
_TENSORS = ".safetensors"
_KINDS = (_TENSORS, ".yaml", ".json")
_NAME = re.compile(r"\w[\w.-]{0,99}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Entry:
    """What a manifest says of a file.

    Attributes:
        bytes: its size.
        sha256: its SHA-256, in hexadecimal digits.
    """

    bytes: int
    sha256: str

    @classmethod
    def of(cls, file: Path) -> Entry:
        """The entry of a file as it is."""
        with file.open("rb") as opened:
            return cls(file.stat().st_size, hashlib.file_digest(opened, "sha256").hexdigest())


@dataclass(frozen=True)
class Manifest:
    """The files of a pack, by their names; all lie in its folder itself.

    Attributes:
        files: name -> size and hash.
    """

    files: Mapping[str, Entry]

    @classmethod
    def of(cls, files: Iterable[Path]) -> Manifest:
        """The manifest of files as they are.

        Raises:
            UserError: they are not those of a pack.
        """
        manifest = cls({file.name: Entry.of(file) for file in files})
        manifest._check("The pack")
        return manifest

    @classmethod
    def read(cls, file: Path, whose: object) -> Manifest:
        """The manifest in a file, which may come from anybody.

        Args:
            file: to read.
            whose: the place that it comes from, for messages.

        Raises:
            UserError: it is damaged, of a newer format, or names what is no file of a pack.
        """
        damaged = UserError(f"{MANIFEST} of {whose} is damaged, or not written by lic-da push.")
        if file.stat().st_size > MANIFEST_BYTES:
            raise UserError(
                f"{MANIFEST} of {whose} has {file.stat().st_size} bytes, and {MANIFEST_BYTES} is the most "
                "that is read."
            )
        try:
            content = read_json(file)
        except UserError as error:
            raise damaged from error
        number = content.get("format") if isinstance(content, dict) else None
        if type(number) is int and number > _FORMAT:
            raise UserError(
                f"{MANIFEST} of {whose} has format {number}, and this version of lic_da reads format "
                f"{_FORMAT}: install a newer one."
            )
        if (
            type(number) is not int
            or number != _FORMAT
            or not isinstance(content.get("files"), dict)
        ):
            raise damaged
        entries = {name: _entry(entry) for name, entry in content["files"].items()}
        manifest = cls({name: entry for name, entry in entries.items() if entry is not None})
        if len(manifest.files) < len(entries):
            raise damaged
        manifest._check(f"{MANIFEST} of {whose}")
        return manifest

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.bytes for entry in self.files.values())

    def settings(self) -> dict[str, Any]:
        """As it is written: plain values."""
        files = {n: {"bytes": e.bytes, "sha256": e.sha256} for n, e in self.files.items()}
        return {"format": _FORMAT, "files": files}

    def _check(self, subject: str) -> None:
        """Refuse files that no pack has; ``subject`` begins the sentence."""
        if len(self.files) > _FILES:
            raise UserError(
                f"{subject} names {len(self.files)} files, and packs have {_FILES} at most."
            )
        for name in self.files:
            if not _NAME.fullmatch(name) or ".." in name:
                raise UserError(
                    f"{subject} names {name[:100]!r}: files of a pack lie in its folder itself, and have "
                    "names of letters, digits, '_', '-' and '.'."
                )
            if name == MANIFEST or not name.endswith(_KINDS):
                raise UserError(
                    f"{subject} names {name}: a pack has {', '.join(_KINDS)} files only."
                )
        if CONFIG not in self.files or not any(name.endswith(_TENSORS) for name in self.files):
            raise UserError(
                f"{subject} does not name a {CONFIG} and a {_TENSORS} file: it is no pack's."
            )
        if self.files[CONFIG].bytes > CONFIG_BYTES:
            raise UserError(
                f"{subject} says that {CONFIG} has {self.files[CONFIG].bytes} bytes, and {CONFIG_BYTES} is "
                "the most that is read."
            )


def _entry(content: Any) -> Entry | None:
    """What a manifest says of a file; None: it says nothing that is understood."""
    if not isinstance(content, dict):
        return None
    size, digest = content.get("bytes"), content.get("sha256")
    if type(size) is not int or size < 0 or not isinstance(digest, str):
        return None
    return Entry(size, digest) if _SHA256.fullmatch(digest) else None
