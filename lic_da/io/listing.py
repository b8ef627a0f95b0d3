"""Which files of a folder count: one rule for the command line and for domains.

A file counts as an image by the end of its name or, where that says nothing, by its first bytes. Links
are followed, every real folder is listed once, and what is left out is counted by reason. Names that
begin with a dot are hidden and no one's business.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

IMAGES = frozenset(
    {
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff"),
        *(".gif", ".avif", ".ppm", ".pgm", ".pbm", ".pnm", ".svg", ".svgz"),
    }
)
"""Ends of the names of images, in lower case."""

_UNREAD = frozenset(
    {
        *(".heic", ".heif", ".jxl", ".jp2", ".j2k", ".psd", ".xcf", ".exr", ".hdr"),
        *(".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2"),
    }
)
"""Those of images that are not read here."""

_SIGNATURES = (
    *(b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM"),
    *(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"P4\n", b"P5\n", b"P6\n"),
)
_HEADER = 16


@dataclass
class Listing:
    """Files of a folder.

    Attributes:
        root: the folder.
        names: of the files that count, relative to it, ``/``-separated, sorted.
        left_out: how many files and folders are left out, by reason.
    """

    root: Path
    names: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def told(self) -> str:
        """What is left out, in words; empty: nothing."""
        return ", ".join(f"{n} {reason}" for reason, n in sorted(self.left_out.items()))


Rule = Callable[[Path], str | None]
"""Says of a file why it does not count, in words that follow a number; None: it counts."""


def image(path: Path) -> str | None:
    """Why a file is not taken for an image; None: it is."""
    suffix = path.suffix.lower()
    if suffix in IMAGES:
        return None
    try:
        with open(path, "rb") as file:
            header = file.read(_HEADER)
    except OSError:
        return "may not be read"
    if is_image(header):
        return None
    if suffix in _UNREAD or header[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1"):
        return f"of a kind that is not read ({suffix or 'HEIC'})"
    return "no images"


def is_image(header: bytes) -> bool:
    """Whether a file that begins with these bytes is an image of a kind that is read."""
    return (
        header.startswith(_SIGNATURES)
        or (header[:4] == b"RIFF" and header[8:12] == b"WEBP")
        or header[4:12] in (b"ftypavif", b"ftypavis")
    )


def ends_in(*suffixes: str) -> Rule:
    """The rule that the name of a file ends in one of these, in any case."""

    def rule(path: Path) -> str | None:
        return None if path.suffix.lower() in suffixes else f"not {' or '.join(suffixes)}"

    return rule


def files_of(folder: Path, rule: Rule = image) -> Listing:
    """List the files below a folder that count.

    Args:
        folder: with its subfolders; it is there.
        rule: which files count.
    """
    found = Listing(folder)
    seen: set[tuple[int, int]] = set()
    waiting, linked = [folder], list[Path]()
    while waiting or linked:
        # A folder goes by its own name rather than by that of a link to it.
        here = waiting.pop() if waiting else linked.pop(0)
        try:
            status = here.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(here) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            found.left_out["folders that may not be read"] += 1
            continue
        folders: list[Path] = []
        for entry in inside:
            if entry.name.startswith("."):
                continue
            path = Path(entry.path)
            if entry.is_dir():
                (linked if entry.is_symlink() else folders).append(path)
            elif (reason := _no_file(path) or rule(path)) is None:
                found.names.append(path.relative_to(folder).as_posix())
            else:
                found.left_out[reason] += 1
        waiting += reversed(folders)
    found.names.sort()
    return found


def _no_file(path: Path) -> str | None:
    """Why a name does not stand for a file that can be read without waiting; None: it does."""
    try:
        status = path.stat()
    except OSError:
        return "links that lead nowhere"
    return None if stat.S_ISREG(status.st_mode) else "pipes or devices"
