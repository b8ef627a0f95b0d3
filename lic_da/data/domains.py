"""Domains: named kinds of pictures, prepared once and split into train, val and test.

``prepare`` turns a domain's sources into an index of usable pictures::

    sources ──► candidates ──► inspected (readable? right kind?) ──► series ──► splits ──► index.csv
                               drawings rendered to PNG                         contact_sheet.png

Photographs stay where their package or folder holds them; only drawings (SVG) are written anew.
"""

from __future__ import annotations

import csv
import hashlib
import json
import multiprocessing
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
from filelock import FileLock
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image, ImageDraw
from rich.console import Console
from rich.progress import Progress

from lic_da.config import CONF, available
from lic_da.data import selection
from lic_da.data.images import ImageProblem, atomic_path, rasterise_svg, read_rgb, save_png
from lic_da.data.sources import FolderSource, Found, Source, SourceUnavailable
from lic_da.errors import UserError, unknown

SPLITS = ("train", "val", "test")
SOURCE_DOMAIN = "natural"

_INDEX_VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_HASH_SIDE = 16
_NEAR_IDENTICAL = 40  # bits of 256; looked at: pairs below are one drawing, pairs above are not
_POOL_FROM = 64  # fewer pictures are inspected faster without starting processes
_CHUNK = 256


@dataclass(frozen=True)
class Picture:
    """One usable picture of a domain.

    Attributes:
        file: path, relative to the data folder if it lies inside.
        name: name inside its source.
        source: label of the source.
        split: ``train``, ``val`` or ``test``.
        series: key shared by near-identical pictures and pictures of one series.
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
class Domain:
    """What ``conf/domain/<name>.yaml`` says.

    Attributes:
        name: the domain's name.
        sources: where its pictures come from.
        fallback: sources that take the place of those that cannot be reached.
        min_side: pictures with a shorter side are left out.
        limit: take at most this many pictures, chosen by their hashes; None: all.
        expected: fewer usable pictures than this are reported as an incomplete domain.
    """

    name: str
    sources: Sequence[Source]
    fallback: Sequence[Source] = ()
    min_side: int = 16
    limit: int | None = None
    expected: int = 3


@dataclass(frozen=True)
class DomainImages:
    """A prepared domain.

    Attributes:
        name: the domain's name.
        pictures: all usable pictures, in the order of their hashes.
        skipped: how many files were left out, by reason.
        notes: what a user should know, such as a source that was replaced.
        folder: where index and contact sheet are.
        data_dir: folder that relative paths start from.
    """

    name: str
    pictures: tuple[Picture, ...]
    skipped: dict[str, int]
    notes: tuple[str, ...]
    folder: Path
    data_dir: Path

    def split(self, name: str) -> list[Picture]:
        """Pictures of one split, ``train``, ``val`` or ``test``."""
        return [p for p in self.pictures if p.split == name]

    def path(self, picture: Picture) -> Path:
        """Where a picture's file is."""
        return self.data_dir / picture.file

    def summary(self) -> str:
        """One line: how many pictures, their splits, what was skipped and why."""
        counts = Counter(p.split for p in self.pictures)
        line = f"{self.name}: {len(self.pictures)} images (" + ", ".join(
            f"{counts[s]} {s}" for s in SPLITS
        )
        line += ")"
        if self.skipped:
            line += "; skipped " + ", ".join(f"{n} {r}" for r, n in sorted(self.skipped.items()))
        return line


def load_domain(name: str) -> Domain:
    """The domain of that name, from ``conf/domain``.

    Raises:
        UserError: there is no such domain, or its file does not describe one.
    """
    path = CONF / "domain" / f"{name}.yaml"
    if not path.is_file():
        raise unknown("domain", name, available("domain"))
    if not _NAME.fullmatch(name):
        raise UserError(f"'{name}' cannot be a domain: use letters, digits, - and _ only.")
    try:
        config = OmegaConf.load(path)
        if not isinstance(config, DictConfig):
            raise TypeError("it is a list")
        values: dict[str, Any] = {str(k): v for k, v in config.items()}
        for key in ("sources", "fallback"):
            values[key] = [instantiate(entry) for entry in values.get(key) or []]
            for source in values[key]:
                if not isinstance(source, Source):
                    raise TypeError(f"{source} is not a source")
        domain = Domain(**{"name": name, **values})
        for number in (domain.min_side, domain.expected, domain.limit or 1):
            if not isinstance(number, int):
                raise TypeError(f"{number} is not a whole number")
    except Exception as error:  # instantiate wraps every mistake in the file in its own way
        raise UserError(f"{path} does not describe a domain: {error}") from error
    if not domain.sources:
        raise UserError(f"{path} names no sources.")
    return domain


def prepare(
    name: str,
    data_dir: Path,
    *,
    console: Console | None = None,
    rebuild: bool = False,
    retry: bool = False,
) -> DomainImages:
    """Make a domain ready to use; quick when it already is.

    Of several processes one does the work and the others wait for it.

    Args:
        name: a domain of ``conf/domain``.
        data_dir: folder for packages, drawings and indices.
        console: where progress is shown; None for a quiet run.
        rebuild: inspect all files again even if nothing seems to have changed.
        retry: try sources again that could not be reached the last time.

    Raises:
        UserError: no such domain, no usable images, or no source can be reached.
    """
    domain = load_domain(name)
    data_dir = data_dir.resolve()
    console = console or Console(quiet=True, stderr=True)
    folder = data_dir / "domains" / name
    if not rebuild:
        ready = _load(folder, data_dir, _signature(domain, data_dir))
        if ready is not None and not (retry and ready.notes):
            return ready
    data_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(data_dir / ".lock"):  # one for all domains, which may share packages
        signature = _signature(domain, data_dir)
        ready = None if rebuild else _load(folder, data_dir, signature)
        if ready is not None and not (retry and ready.notes):
            return ready
        return _build(domain, folder, data_dir, signature, console)


def _build(
    domain: Domain, folder: Path, data_dir: Path, signature: str, console: Console
) -> DomainImages:
    name = domain.name
    sources, notes = _reachable_sources(domain, data_dir / "packages", console)
    inspected, skipped = _inspect_all(domain, sources, folder, data_dir, console)
    if not inspected:
        where = ", ".join(source.label for source, _ in sources)
        why = ", ".join(f"{n} {r}" for r, n in skipped.items()) or "no picture files there"
        raise UserError(f"Domain '{name}' has no usable images in {where} ({why}).")
    if len(inspected) < domain.expected:
        notes.append(
            f"{name}: only {len(inspected)} of at least {domain.expected} expected images were found"
        )
    pictures = _assign_splits(inspected)
    images = DomainImages(name, tuple(pictures), dict(skipped), tuple(notes), folder, data_dir)
    _write_contact_sheet(images)
    _save(images, signature)
    for line in (*notes, images.summary()):
        console.print(line, highlight=False)
    return images


def _reachable_sources(
    domain: Domain, store: Path, console: Console
) -> tuple[list[tuple[Source, list[Found]]], list[str]]:
    reached, notes, missing = [], [], []
    for source in domain.sources:
        console.print(f"[dim]{domain.name}: {source.label}[/dim]", highlight=False)
        try:
            reached.append((source, source.files(store)))
        except SourceUnavailable as error:
            missing.append(str(error))
    if missing:
        notes.append(f"{domain.name}: " + " ".join(missing))
        for source in domain.fallback:
            try:
                reached.append((source, source.files(store)))
                notes.append(f"{domain.name}: using {source.label} instead")
            except SourceUnavailable as error:
                notes.append(f"{domain.name}: {error}")
    if not reached:
        raise UserError(f"No source of domain '{domain.name}' can be reached. {' '.join(notes)}")
    return reached, notes


@dataclass(frozen=True)
class _Job:
    found: Found
    source: Source
    sha256: str
    drawings: Path
    min_side: int

    @property
    def split_key(self) -> str:
        """What decides the split: the hash of the file, or of the series where domains share those."""
        series = self.source.series_of(self.found.name)
        if series is None or not self.source.series_across_domains:
            return self.sha256
        return hashlib.sha256(f"{self.source.label}|{series}".encode()).hexdigest()


@dataclass(frozen=True)
class _Inspected:
    path: Path
    job: _Job
    width: int
    height: int
    fingerprint: np.ndarray  # perceptual hash, 256 booleans


def _inspect_all(
    domain: Domain,
    sources: list[tuple[Source, list[Found]]],
    folder: Path,
    data_dir: Path,
    console: Console,
) -> tuple[list[_Inspected], Counter[str]]:
    skipped: Counter[str] = Counter()
    jobs: dict[str, _Job] = {}
    for source, files in sources:
        for found in files:
            try:
                digest = hashlib.sha256(found.path.read_bytes()).hexdigest()
            except OSError:
                skipped["unreadable"] += 1
                continue
            if digest in jobs:
                skipped["exact duplicates"] += 1
            else:
                jobs[digest] = _Job(found, source, digest, folder / "drawings", domain.min_side)
    # The last digits decide which pictures a limit keeps; the first ones decide the splits.
    ordered = [jobs[digest] for digest in sorted(jobs, key=lambda d: d[::-1])]
    (folder / "drawings").mkdir(parents=True, exist_ok=True)
    accepted: list[_Inspected] = []
    with Progress(console=console, transient=True) as progress, _mapper(len(ordered)) as mapper:
        bar = progress.add_task(f"{domain.name}: inspecting", total=len(ordered))
        for start in range(0, len(ordered), _CHUNK):
            for result in mapper(_inspect, ordered[start : start + _CHUNK]):
                progress.advance(bar)
                if isinstance(result, str):
                    skipped[result] += 1
                else:
                    accepted.append(result)
            if domain.limit is not None and len(accepted) >= domain.limit:
                accepted = accepted[: domain.limit]
                break
    skipped.pop(_NOT_SELECTED, None)
    return accepted, skipped


_NOT_SELECTED = "not selected"


class _mapper:  # noqa: N801  (used as a function)
    """``map``, over processes when there is enough to do."""

    def __init__(self, count: int) -> None:
        self._pool: ProcessPoolExecutor | None = None
        if count >= _POOL_FROM and (os.cpu_count() or 1) > 1:
            self._pool = ProcessPoolExecutor(
                max_workers=os.cpu_count(), mp_context=multiprocessing.get_context("spawn")
            )

    def __enter__(self) -> Any:
        if self._pool is None:
            return map
        pool = self._pool
        return lambda function, items: pool.map(function, items, chunksize=8)

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _inspect(job: _Job) -> _Inspected | str:
    """Read one candidate; what was found, or why it is left out."""
    path = job.found.path
    try:
        if path.suffix.lower() in {".svg", ".svgz"}:
            return _inspect_drawing(job)
        pixels = read_rgb(path, min_side=job.min_side)
    except ImageProblem as problem:
        return problem.reason
    small = Image.fromarray(pixels)
    small.thumbnail((selection.SIZE, selection.SIZE))
    if not _selected(job, np.asarray(small)):
        return _NOT_SELECTED
    height, width = pixels.shape[:2]
    return _Inspected(path, job, width, height, _perceptual_hash(small))


def _inspect_drawing(job: _Job) -> _Inspected | str:
    svg = job.found.path.read_bytes()
    if job.source.select and not _selected(job, rasterise_svg(svg, size=selection.SIZE)):
        return _NOT_SELECTED
    target = job.drawings / f"{job.sha256[:16]}.png"
    if target.is_file():
        pixels = read_rgb(target)
    else:
        pixels = rasterise_svg(svg, name=job.found.path)
        save_png(target, pixels)
    height, width = pixels.shape[:2]
    if min(height, width) < job.min_side:
        return f"smaller than {job.min_side} pixels"
    return _Inspected(target, job, width, height, _perceptual_hash(Image.fromarray(pixels)))


def _selected(job: _Job, pixels: np.ndarray) -> bool:
    rule = job.source.select
    if rule is None:
        return True
    if rule not in selection.RULES:
        raise unknown("selection rule", rule, selection.RULES)
    return selection.RULES[rule](pixels)


def _perceptual_hash(image: Image.Image) -> np.ndarray:
    return imagehash.phash(image, hash_size=_HASH_SIDE).hash.ravel()


def _assign_splits(inspected: list[_Inspected]) -> list[Picture]:
    """Splits by content: a series goes where the smallest key of its files points, 80/10/10."""
    groups: dict[str, list[_Inspected]] = {}
    for group in _series(inspected):
        members = [inspected[i] for i in group]
        groups[min(m.job.split_key for m in members)] = members
    splits = {key: _split_of(key) for key in groups}
    _fill_empty_splits(splits)
    pictures = []
    for key, members in groups.items():
        for m in members:
            pictures.append(
                Picture(
                    file=str(m.path),
                    name=m.job.found.name,
                    source=m.job.source.label,
                    split=splits[key],
                    series=key[:16],
                    sha256=m.job.sha256,
                    width=m.width,
                    height=m.height,
                )
            )
    return sorted(pictures, key=lambda p: p.sha256)


def _split_of(sha256: str) -> str:
    position = int(sha256[:8], 16) / 2**32
    return "train" if position < 0.8 else "val" if position < 0.9 else "test"


def _fill_empty_splits(splits: dict[str, str]) -> None:
    """With few pictures a split may be empty; then the series with the largest hashes fill it."""
    if len(splits) < len(SPLITS):
        return
    for name in reversed(SPLITS):
        counts = Counter(splits.values())
        if not counts[name]:
            spare = [key for key in splits if counts[splits[key]] > 1]
            splits[max(spare)] = name


def _series(inspected: list[_Inspected]) -> Iterator[list[int]]:
    """Groups of indices: near-identical pictures, and files that a source calls one series."""
    parent = list(range(len(inspected)))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    by_name: dict[tuple[str, str], int] = {}
    for i, item in enumerate(inspected):
        key = item.job.source.series_of(item.job.found.name)
        if key is not None:
            parent[find(i)] = find(by_name.setdefault((item.job.source.label, key), i))
    if inspected:
        hashes = np.stack([item.fingerprint for item in inspected]).astype(np.int32)
        ones = hashes.sum(axis=1)
        distance = ones[:, None] + ones[None, :] - 2 * hashes @ hashes.T
        for i, j in zip(*np.nonzero(np.triu(distance <= _NEAR_IDENTICAL, k=1)), strict=True):
            parent[find(int(i))] = find(int(j))
    groups: dict[int, list[int]] = defaultdict(list)
    for i in range(len(inspected)):
        groups[find(i)].append(i)
    yield from groups.values()


def _signature(domain: Domain, data_dir: Path) -> str:
    """Changes when the domain's configuration changes, or the files of one of its folders."""
    parts: list[Any] = [_INDEX_VERSION, (CONF / "domain" / f"{domain.name}.yaml").read_text()]
    for source in domain.sources:
        if isinstance(source, FolderSource):
            for found in source.files(data_dir):
                if found.path.exists():
                    stat = found.path.stat()
                    parts.append([found.name, stat.st_size, stat.st_mtime_ns])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _load(folder: Path, data_dir: Path, signature: str) -> DomainImages | None:
    """The saved index, if it belongs to this signature and its files are there."""
    try:
        state = json.loads((folder / "state.json").read_text())
        if state["signature"] != signature:
            return None
        with open(folder / "index.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        pictures = tuple(
            Picture(width=int(r.pop("width")), height=int(r.pop("height")), **r) for r in rows
        )
        images = DomainImages(
            folder.name, pictures, state["skipped"], tuple(state["notes"]), folder, data_dir
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    complete = len(pictures) == state["count"] and all(images.path(p).is_file() for p in pictures)
    return images if complete else None


def _save(images: DomainImages, signature: str) -> None:
    root = images.data_dir.resolve()
    with atomic_path(images.folder / "index.csv") as temporary, open(temporary, "w") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Picture)], lineterminator="\n")
        writer.writeheader()
        for picture in images.pictures:
            row = asdict(picture)
            path = Path(picture.file).resolve()
            row["file"] = path.relative_to(root) if path.is_relative_to(root) else path
            writer.writerow(row)
    state = {
        "signature": signature,
        "count": len(images.pictures),
        "skipped": images.skipped,
        "notes": images.notes,
    }
    with atomic_path(images.folder / "state.json") as temporary:
        temporary.write_text(json.dumps(state, indent=1))


_SPLIT_COLOURS = {"train": "#d0d7de", "val": "#bf8700", "test": "#0969da"}


def _write_contact_sheet(images: DomainImages, *, cell: int = 104, columns: int = 16) -> None:
    """All pictures on one PNG, ordered by split and series; the frame's colour tells the split."""
    order = {name: i for i, name in enumerate(SPLITS)}
    pictures = sorted(images.pictures, key=lambda p: (order[p.split], p.series, p.name))[:800]
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * cell, rows * cell + 20), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text(
        (4, 4), images.summary() + "   frames: grey train, amber val, blue test", fill="black"
    )
    for i, picture in enumerate(pictures):
        with Image.open(images.path(picture)) as opened:
            opened.draft("RGB", (cell, cell))
            thumbnail = opened.convert("RGBA")
        thumbnail.thumbnail((cell - 8, cell - 8))
        x, y = i % columns * cell, i // columns * cell + 20
        draw.rectangle(
            (x + 1, y + 1, x + cell - 2, y + cell - 2), outline=_SPLIT_COLOURS[picture.split]
        )
        sheet.paste(thumbnail, (x + 4, y + 4), thumbnail)
    with atomic_path(images.folder / "contact_sheet.png") as temporary:
        sheet.save(temporary, format="PNG")


def refuse_shared_files(domains: Iterable[DomainImages]) -> None:
    """Raise a UserError if two domains hold the same file: labels would contradict each other."""
    seen: dict[str, tuple[str, str]] = {}
    shared: dict[tuple[str, str], list[str]] = defaultdict(list)
    for domain in domains:
        for picture in domain.pictures:
            first = seen.setdefault(picture.sha256, (domain.name, picture.name))
            if first[0] != domain.name:
                shared[first[0], domain.name].append(picture.name)
    if shared:
        (one, other), names = next(iter(shared.items()))
        raise UserError(
            f"Domains '{one}' and '{other}' share {len(names)} files, for example {names[0]}. "
            "Every picture must belong to one domain."
        )
