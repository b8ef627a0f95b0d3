"""Splits that depend on content alone, and keep near-identical pictures together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np

from lic_da.data.index import SPLITS, Picture
from lic_da.data.inspection import Inspected

_NEAR_IDENTICAL = 40  # bits of 256; looked at: pairs below are one drawing, pairs above are not


def assign_splits(inspected: list[Inspected]) -> list[Picture]:
    """Splits by content: a series goes where the smallest key of its files points, 80/10/10."""
    groups: dict[str, list[Inspected]] = {}
    for group in _series(inspected):
        members = [inspected[i] for i in group]
        groups[min(m.candidate.split_key for m in members)] = members
    splits = {key: _split_of(key) for key in groups}
    _fill_empty_splits(splits)
    pictures = []
    for key, members in groups.items():
        for m in members:
            pictures.append(
                Picture(
                    file=str(m.path),
                    name=m.candidate.found.name,
                    source=m.candidate.source.label,
                    split=splits[key],
                    series=key[:16],
                    sha256=m.candidate.sha256,
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


def _series(inspected: list[Inspected]) -> Iterator[list[int]]:
    """Groups of indices: near-identical pictures, and files that a source calls one series."""
    parent = list(range(len(inspected)))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    by_name: dict[tuple[str, str], int] = {}
    for i, item in enumerate(inspected):
        key = item.candidate.source.series_of(item.candidate.found.name)
        if key is not None:
            parent[find(i)] = find(by_name.setdefault((item.candidate.source.label, key), i))
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
