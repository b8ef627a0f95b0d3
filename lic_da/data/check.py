"""Checking prepared domains: unreadable files, near-identical images across splits and domains, sizes."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np

from lic_da.data.alike import (
    NEAR_IDENTICAL,
    Bits,
    distances,
    fingerprints,
    mirrored_distances,
)
from lic_da.data.index import DomainImages, ImageInfo
from lic_da.io.files import output_path, user_path
from lic_da.io.images import ImageProblem, read_rgb
from lic_da.surroundings import granted_cpus
from lic_da.workers import DIED, Workers

_ROWS = 1024  # fingerprints that are compared with all others at a time
_A_PROCESS = 64  # images; fewer are read faster than another process starts
_LEARNT = ("train", "val")


@dataclass(frozen=True)
class Pair:
    """Two near-identical images.

    Attributes:
        domain: of the one.
        split: of the one.
        image: name of the one inside its source.
        other_domain: of the other.
        other_split: of the other.
        other_image: name of the other.
        bits: of 256, by which their fingerprints differ.
        mirrored: whether the one is the other's mirror image.
    """

    domain: str
    split: str
    image: str
    other_domain: str
    other_split: str
    other_image: str
    bits: int
    mirrored: bool

    @property
    def leak(self) -> bool:
        """Whether what the one tests has been learnt from the other."""
        splits = {self.split, self.other_split}
        return "test" in splits and bool(splits & {*_LEARNT})


@dataclass
class Checked:
    """What a check found.

    Attributes:
        unreadable: (domain, file, reason).
        pairs: near-identical images of different splits or different domains.
        sizes: domain -> shorter sides, in pixels.
    """

    unreadable: list[tuple[str, str, str]] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    sizes: dict[str, list[int]] = field(default_factory=dict)

    @property
    def leaks(self) -> list[Pair]:
        """Pairs of a test image and one that is trained on or validated with, the mirrored ones aside."""
        return [pair for pair in self.pairs if pair.leak and not pair.mirrored]

    @property
    def good(self) -> bool:
        """Whether all files can be read and no test image is trained on or validated with."""
        return not self.unreadable and not self.leaks


def check(domains: Sequence[DomainImages], *, read: bool = True) -> Checked:
    """Check prepared domains, each and against each other.

    Args:
        domains: prepared domains.
        read: decode every file; else only those whose fingerprint is not known yet.
    """
    result = Checked()
    places: list[tuple[str, ImageInfo]] = []
    bits: list[Bits] = []
    for images in domains:
        found, unreadable = fingerprints(images)
        failed = {p.sha256: "cannot be read" for p in unreadable}
        failed |= _unreadable(images) if read else {}
        result.unreadable += [
            (images.name, p.name, failed[p.sha256]) for p in images.entries if p.sha256 in failed
        ]
        result.sizes[images.name] = [min(p.width, p.height) for p in images.entries]
        readable = [n for n, p in enumerate(images.entries) if p.sha256 not in failed]
        places += [(images.name, images.entries[n]) for n in readable]
        bits.append(found[readable])
    result.pairs = list(_pairs(places, np.concatenate(bits))) if places else []
    return result


def _unreadable(images: DomainImages) -> dict[str, str]:
    """SHA-256 -> why an image cannot be read."""
    paths = [images.path(image) for image in images.entries]
    failed: dict[str, str] = {}
    with Workers(min(granted_cpus(), -(-len(paths) // _A_PROCESS) or 1)) as workers:
        for number, outcome in workers.outcomes(_problem, paths):
            if outcome is DIED:
                failed[images.entries[number].sha256] = "ended the process that read it"
            elif outcome is not None:
                failed[images.entries[number].sha256] = outcome
    return failed


def _problem(path: Path) -> str | None:
    try:
        read_rgb(path)
    except ImageProblem as problem:
        return problem.reason
    return None


def _pairs(places: list[tuple[str, ImageInfo]], bits: Bits) -> Iterator[Pair]:
    """Near-identical images that are not of one domain and split."""
    kinds = {kind: n for n, kind in enumerate(dict.fromkeys((d, p.split) for d, p in places))}
    kind = np.array([kinds[domain, image.split] for domain, image in places])
    for start in range(0, len(places), _ROWS):
        rows = slice(start, start + _ROWS)
        plain = distances(bits[rows], bits[start:])
        nearest = mirrored_distances(bits[rows], bits[start:])
        close = (nearest <= NEAR_IDENTICAL) & (kind[rows, None] != kind[None, start:])
        for i, j in zip(*np.nonzero(np.triu(close)), strict=True):
            (domain, one), (other_domain, other) = places[start + i], places[start + j]
            yield Pair(
                domain,
                one.split,
                one.name,
                other_domain,
                other.split,
                other.name,
                int(nearest[i, j]),
                bool(plain[i, j] > NEAR_IDENTICAL),
            )


def told(result: Checked, *, most: int = 5) -> list[str]:
    """A check in lines of text: sizes, then what is wrong, with some examples each."""
    lines = []
    for domain, sides in result.sizes.items():
        low, median, high = np.percentile(sides, [0, 50, 100]) if sides else (0, 0, 0)
        lines.append(
            f"{domain}: {len(sides)} images, shorter sides {low:.0f} to {high:.0f} pixels, "
            f"median {median:.0f}"
        )
    lines.append(f"{len(result.unreadable)} files cannot be read")
    lines += [f"  {domain}: {file}: {why}" for domain, file, why in result.unreadable[:most]]
    rest = [p for p in result.pairs if not p.leak and not p.mirrored]
    mirrored = [p for p in result.pairs if p.mirrored]
    for what, pairs in (
        (
            "test images are near-identical to ones that are trained on or validated with",
            result.leaks,
        ),
        ("other near-identical pairs of different splits or domains", rest),
        ("mirrored pairs of different splits or domains", mirrored),
    ):
        lines.append(f"{len(pairs)} {what}")
        counts = Counter(
            (f"{p.domain} ({p.split})", f"{p.other_domain} ({p.other_split})") for p in pairs
        )
        lines += [f"  {number} of {one} and {other}" for (one, other), number in counts.items()]
        lines += [f"    {p.image} and {p.other_image}: {p.bits} bits of 256" for p in pairs[:most]]
    return lines


def write_pairs(result: Checked, path: Path) -> None:
    """The pairs as CSV, with a column for each field of :class:`Pair`; ``-``: standard output."""
    with output_path(user_path(path)) as temporary, open(temporary, "w", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Pair)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(pair) for pair in result.pairs)
