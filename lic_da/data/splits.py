"""Splits that depend on content alone, and keep near-identical images together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from lic_da.data.alike import NEAR_IDENTICAL, mirrored_distances
from lic_da.data.index import SPLITS, ImageInfo
from lic_da.data.inspection import Inspected

_ROWS = 1024
"""Images that are compared with all others at a time."""

SHARES = (0.8, 0.1, 0.1)
"""Of training, validation and test images, where a domain says nothing else."""


def assign_splits(
    inspected: list[Inspected], shares: Sequence[float] = SHARES
) -> tuple[list[ImageInfo], int]:
    """Splits by content: a series goes where the smallest key of its files points.

    Images whose source gives their split (``test_only``) come on top: they change the split of no other
    image, and those that are near-identical to one of another split, or of its series, are left out.

    Args:
        inspected: usable images of a domain.
        shares: of training, validation and test images.

    Returns:
        The images with their splits, and how many were left out.
    """
    free = [item for item in inspected if item.candidate.given_split is None]
    groups: dict[str, list[Inspected]] = {}
    for group in _series(free):
        members = [free[i] for i in group]
        groups[min(m.candidate.split_key for m in members)] = members
    splits = {key: _split_of(key, shares) for key in groups}
    fill_empty_splits(splits)
    placed = [(m, splits[key], key) for key, members in groups.items() for m in members]
    given = [item for item in inspected if item.candidate.given_split is not None]
    for split in reversed(SPLITS):  # what is there to test with stays apart from the rest
        own = [item for item in given if item.candidate.given_split == split]
        placed += [
            (item, split, item.candidate.split_key)
            for item in _apart(own, [other for other, place, _ in placed if place != split])
        ]
    images = [
        ImageInfo(
            file=str(item.path),
            name=item.candidate.found.name,
            source=item.candidate.source.label,
            split=split,
            series=key[:16],
            sha256=item.candidate.sha256,
            width=item.width,
            height=item.height,
        )
        for item, split, key in placed
    ]
    images = sorted(_told_apart(images), key=lambda p: p.sha256)
    return images, len(inspected) - len(placed)


def _told_apart(images: list[ImageInfo]) -> Iterator[ImageInfo]:
    """The images; those that share a name, each with its source's before it, or else with its hash.

    Curves, intervals and the report go by the names of a domain's images.
    """

    def longer(image: ImageInfo) -> str:
        return f"{image.source.rsplit('/', 1)[-1]}/{image.name}"

    names = Counter(image.name for image in images)
    names.update(longer(image) for image in images if names[image.name] > 1)
    for image in images:
        own = (name for name in (image.name, longer(image)) if names[name] == 1)
        yield replace(image, name=next(own, f"{image.sha256[:16]}/{image.name}"))


def _apart(items: list[Inspected], others: list[Inspected]) -> list[Inspected]:
    """Those of the items that show nothing of what the others do."""
    if not items or not others:
        return items
    bits = [np.stack([item.fingerprint for item in group]) for group in (items, others)]
    alike = (mirrored_distances(*bits) <= NEAR_IDENTICAL).any(axis=1)
    taken = {_series_name(other) for other in others} - {None}
    return [
        item
        for item, twice in zip(items, alike, strict=True)
        if not twice and _series_name(item) not in taken
    ]


def _series_name(item: Inspected) -> tuple[str, str] | None:
    key = item.candidate.source.series_of(item.candidate.found.name)
    return None if key is None else (item.candidate.source.label, key)


def _split_of(sha256: str, shares: Sequence[float]) -> str:
    position = int(sha256[:8], 16) / 2**32
    train, val, _ = shares
    return "train" if position < train else "val" if position < train + val else "test"


def fill_empty_splits(splits: dict[str, str]) -> None:
    """With few images a split may be empty; then the series with the largest hashes fill it."""
    if len(splits) < len(SPLITS):
        return
    for name in reversed(SPLITS):
        counts = Counter(splits.values())
        if not counts[name]:
            spare = [key for key in splits if counts[splits[key]] > 1]
            splits[max(spare)] = name


def _series(inspected: list[Inspected]) -> Iterator[list[int]]:
    """Groups of indices: near-identical images, mirrored or not, and files that a source calls a series."""
    parent = list(range(len(inspected)))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    by_name: dict[tuple[str, str], int] = {}
    for i, item in enumerate(inspected):
        key = _series_name(item)
        if key is not None:
            parent[find(i)] = find(by_name.setdefault(key, i))
    hashes = np.array([item.fingerprint for item in inspected])
    for start in range(0, len(inspected), _ROWS):
        rows = hashes[start : start + _ROWS]
        alike = np.triu(mirrored_distances(rows, hashes[start:]) <= NEAR_IDENTICAL, k=1)
        for i, j in zip(*np.nonzero(alike), strict=True):
            parent[find(start + int(i))] = find(start + int(j))
    groups: dict[int, list[int]] = defaultdict(list)
    for i in range(len(inspected)):
        groups[find(i)].append(i)
    yield from groups.values()
