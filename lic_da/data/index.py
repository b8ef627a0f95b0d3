"""What is known of a prepared domain's images, and the index that keeps it."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from lic_da.errors import UserError
from lic_da.io.files import atomic_path, read_json, write_json

SPLITS = ("train", "val", "test")

FEW_TESTS = 10
"""Test images, of which fewer say little of others of their kind."""


@dataclass(frozen=True)
class ImageInfo:
    """One usable image of a domain.

    Attributes:
        file: path, relative to the data folder if it lies inside.
        name: name inside its source, unique in the domain.
        source: label of the source.
        split: ``train``, ``val`` or ``test``.
        series: key shared by near-identical images and images of one series.
        sha256: of the bytes of the original file.
        width: in pixels.
        height: in pixels.
    """

    file: str
    name: str
    source: str
    split: str
    series: str
    sha256: str
    width: int
    height: int


@dataclass(frozen=True)
class DomainImages:
    """A prepared domain.

    Attributes:
        name: the domain's name.
        entries: all usable images, in the order of their hashes.
        skipped: how many files were left out, by reason.
        notes: what a user should know, such as a source that was replaced.
        folder: where index and contact sheet are.
        data_dir: folder that relative paths start from.
    """

    name: str
    entries: tuple[ImageInfo, ...]
    skipped: dict[str, int]
    notes: tuple[str, ...]
    folder: Path
    data_dir: Path

    def split(self, name: str) -> list[ImageInfo]:
        """Images of one split, ``train``, ``val`` or ``test``."""
        return [p for p in self.entries if p.split == name]

    def path(self, image: ImageInfo) -> Path:
        """Where an image's file is."""
        return self.data_dir / image.file

    @property
    def digest(self) -> str:
        """SHA-256 of what images there are, and in which split each is."""
        told = sorted(f"{image.sha256} {image.split}" for image in self.entries)
        return hashlib.sha256("\n".join(told).encode()).hexdigest()

    @property
    def few_tests(self) -> bool:
        """Whether there are test images, and too few to say much of others of their kind."""
        return 0 < len(self.split("test")) < FEW_TESTS

    def summary(self) -> str:
        """One line: how many images, their splits, what was skipped and why, what may be too few."""
        counts = Counter(p.split for p in self.entries)
        line = f"{self.name}: {len(self.entries)} images (" + ", ".join(
            f"{counts[s]} {s}" for s in SPLITS
        )
        line += ")"
        if self.skipped:
            line += "; skipped " + ", ".join(f"{n} {r}" for r, n in sorted(self.skipped.items()))
        if self.few_tests:
            line += f"; figures of {counts['test']} test images say little of others"
        return line


def signature_of(folder: Path) -> str | None:
    """The signature that an index was saved with; None: there is none."""
    try:
        return str(read_json(folder / "state.json")["signature"])
    except (OSError, UserError, KeyError, TypeError):
        return None


def load_index(folder: Path, data_dir: Path, signature: str) -> DomainImages | None:
    """The saved index, if it belongs to this signature and its files are there."""
    try:
        state = read_json(folder / "state.json")
        if state["signature"] != signature:
            return None
        with open(
            folder / "index.csv", encoding="utf-8", errors="surrogateescape", newline=""
        ) as file:
            rows = list(csv.DictReader(file))
        entries = tuple(
            ImageInfo(width=int(r.pop("width")), height=int(r.pop("height")), **r) for r in rows
        )
        images = DomainImages(
            folder.name, entries, state["skipped"], tuple(state["notes"]), folder, data_dir
        )
    except (OSError, UserError, ValueError, KeyError, TypeError):
        return None
    complete = len(entries) == state["count"] and all(images.path(p).is_file() for p in entries)
    names = {image.name for image in entries}  # once, images of two sources could share one
    return images if complete and len(names) == len(entries) else None


def save_index(images: DomainImages, signature: str) -> None:
    """Write ``index.csv`` and ``state.json``, from which :func:`load_index` reads."""
    root = images.data_dir.resolve()
    with (
        atomic_path(images.folder / "index.csv") as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.DictWriter(file, [f.name for f in fields(ImageInfo)], lineterminator="\n")
        writer.writeheader()
        for image in images.entries:
            row = asdict(image)
            path = Path(image.file).resolve()
            row["file"] = path.relative_to(root) if path.is_relative_to(root) else path
            writer.writerow(row)
    state = {
        "signature": signature,
        "count": len(images.entries),
        "skipped": images.skipped,
        "notes": images.notes,
    }
    write_json(images.folder / "state.json", state)
