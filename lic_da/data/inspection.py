"""Looking at every candidate of a domain: is it readable, large enough and of the right kind?"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from lic_da.data import selection
from lic_da.data.alike import fingerprint
from lic_da.data.sources.base import Found, Source
from lic_da.errors import unknown
from lic_da.io.images import (
    RGB,
    ImageProblem,
    rasterise_svg,
    read_rgb,
)
from lic_da.io.lossless import save_png
from lic_da.surroundings import granted_cpus
from lic_da.workers import DIED, Workers

_IMAGES_A_PROCESS = 64  # fewer are inspected faster than another process starts
_CHUNK = 256


@dataclass(frozen=True)
class Candidate:
    """A file that may become an image of a domain."""

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

    @property
    def given_split(self) -> str | None:
        """The split that the source gives this file; None: its content decides."""
        return self.source.given_split(self.found.name)


@dataclass(frozen=True)
class Inspected:
    """A candidate that can be used, and the file that holds its pixels."""

    path: Path
    candidate: Candidate
    width: int
    height: int
    fingerprint: np.ndarray  # perceptual hash, 256 booleans


def inspect_all(
    name: str,
    sources: list[tuple[Source, list[Found]]],
    folder: Path,
    console: Console,
    *,
    min_side: int,
    limit: int | None,
) -> tuple[list[Inspected], Counter[str]]:
    """Look at all files of a domain's sources.

    Args:
        name: of the domain.
        sources: with the files that each has.
        folder: of the domain; drawings are rendered into it.
        console: where progress is shown.
        min_side: images with a shorter side are left out.
        limit: take at most this many images, chosen by their hashes; None: all.

    Returns:
        The usable images, and how many files were left out, by reason.
    """
    skipped: Counter[str] = Counter()
    candidates: dict[str, Candidate] = {}
    for source, files in sources:
        for found in files:
            try:
                digest = hashlib.sha256(found.path.read_bytes()).hexdigest()
            except OSError:
                skipped["unreadable"] += 1
                continue
            if digest in candidates:
                skipped["exact duplicates"] += 1
            else:
                candidates[digest] = Candidate(found, source, digest, folder / "drawings", min_side)
    # The last digits decide which images a limit keeps; the first ones decide the splits.
    ordered = [candidates[digest] for digest in sorted(candidates, key=lambda d: d[::-1])]
    (folder / "drawings").mkdir(parents=True, exist_ok=True)
    accepted: list[Inspected] = []
    processes = min(granted_cpus(), math.ceil(len(ordered) / _IMAGES_A_PROCESS))
    with Progress(console=console, transient=True) as progress, Workers(processes) as workers:
        bar = progress.add_task(f"{name}: inspecting", total=len(ordered))
        for start in range(0, len(ordered), _CHUNK):
            chunk = ordered[start : start + _CHUNK]
            results: list[Inspected | str] = [_DIED] * len(chunk)
            for number, outcome in workers.outcomes(_inspect, chunk):
                progress.advance(bar)
                if outcome is not DIED:
                    results[number] = outcome
            for result in results:
                if isinstance(result, str):
                    skipped[result] += 1
                else:
                    accepted.append(result)
            if limit is not None and len(accepted) >= limit:
                accepted = accepted[:limit]
                break
    skipped.pop(_NOT_SELECTED, None)
    return accepted, skipped


_NOT_SELECTED = "not selected"
_DIED = "ended the process that read them"


def _inspect(candidate: Candidate) -> Inspected | str:
    """Read one candidate; what was found, or why it is left out."""
    path = candidate.found.path
    try:
        if path.suffix.lower() in {".svg", ".svgz"}:
            return _inspect_drawing(candidate)
        pixels = read_rgb(path, min_side=candidate.min_side)
    except ImageProblem as problem:
        return problem.reason
    small = Image.fromarray(pixels)
    small.thumbnail((selection.SIZE, selection.SIZE))
    if not _selected(candidate, np.asarray(small)):
        return _NOT_SELECTED
    if candidate.source.halve:
        path, pixels = _halved(candidate, pixels)
    height, width = pixels.shape[:2]
    if min(height, width) < candidate.min_side:
        return f"smaller than {candidate.min_side} pixels"
    return Inspected(path, candidate, width, height, fingerprint(small))


def _halved(candidate: Candidate, pixels: RGB) -> tuple[Path, RGB]:
    """A file with the image at half its size, and its pixels."""
    target = candidate.drawings / f"{candidate.sha256[:16]}.png"
    height, width = pixels.shape[:2]
    half = Image.fromarray(pixels).resize((width // 2, height // 2), Image.Resampling.LANCZOS)
    if not target.is_file():
        save_png(target, np.asarray(half))
    return target, np.asarray(half)


def _inspect_drawing(candidate: Candidate) -> Inspected | str:
    svg = candidate.found.path.read_bytes()
    if candidate.source.select and not _selected(
        candidate, rasterise_svg(svg, size=selection.SIZE)
    ):
        return _NOT_SELECTED
    target = candidate.drawings / f"{candidate.sha256[:16]}.png"
    if target.is_file():
        pixels = read_rgb(target)
    else:
        pixels = rasterise_svg(svg, name=candidate.found.path)
        save_png(target, pixels)
    height, width = pixels.shape[:2]
    if min(height, width) < candidate.min_side:
        return f"smaller than {candidate.min_side} pixels"
    return Inspected(target, candidate, width, height, fingerprint(Image.fromarray(pixels)))


def _selected(candidate: Candidate, pixels: np.ndarray) -> bool:
    rule = candidate.source.select
    if rule is None:
        return True
    if rule not in selection.RULES:
        raise unknown("selection rule", rule, selection.RULES)
    return selection.RULES[rule](pixels)
