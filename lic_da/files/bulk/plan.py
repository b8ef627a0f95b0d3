"""The plan of a run: every item once, cut into parts, in a Parquet file with a row group for each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lic_da.errors import UserError
from lic_da.files.bulk.inputs import Item, Source
from lic_da.files.bulk.names import stems
from lic_da.io.files import atomic_path
from lic_da.surroundings import printable

FILE = "plan.parquet"
_END = 1 << 16
"""Bytes at the end of a table: Parquet has places, sizes and the least and greatest values there."""
_SCHEMA = pa.schema(
    [
        ("file", pa.binary()),  # a name may be no UTF-8
        ("name", pa.string()),
        ("stem", pa.string()),
        ("start", pa.int64()),
        ("size", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Planned:
    """An item and the name that its result has, without its suffix; safe, and no other's."""

    item: Item
    stem: str


@dataclass(frozen=True)
class Plan:
    """What a run is to do.

    Attributes:
        items: how many.
        parts: how many they are cut into.
        digest: SHA-256 of all items, and of what tells files apart whose rows they are.
    """

    items: int
    parts: int
    digest: str


def part_name(number: int) -> str:
    """What the files of a part are called; their order is that of the items."""
    return f"{number:06d}"


def survey(source: Source, size: int) -> tuple[Plan, list[Item]]:
    """List a source.

    Args:
        source: what to list.
        size: items of a part.

    Raises:
        UserError: it has no items.
    """
    items = list(source.items())
    if not items:
        left = ", ".join(f"{n} {reason}" for reason, n in sorted(source.left_out.items()))
        raise UserError(
            f"There is nothing to do in {source.root}" + (f": {left}." if left else ".")
        )
    digest = hashlib.sha256()
    for item in items:
        digest.update(repr(tuple(item)).encode(errors="surrogateescape"))
    for file in dict.fromkeys(item.file for item in items if item.file and item.size < 0):
        digest.update(_told(source.root / file))
    return Plan(len(items), -(-len(items) // size), digest.hexdigest()), items


def _told(table: Path) -> bytes:
    """Size and end of a file of rows; another one differs in them, if it is not made to deceive."""
    size = table.stat().st_size
    with open(table, "rb") as file:
        file.seek(max(0, size - _END))
        return repr(size).encode() + hashlib.file_digest(file, "sha256").digest()


def write(folder: Path, items: Sequence[Item], size: int) -> None:
    """Write the plan of a run, unless it is there."""
    if not (folder / FILE).is_file():
        with atomic_path(folder / FILE) as temporary:
            _write(temporary, items, size)


def _write(path: Path, items: Sequence[Item], size: int) -> None:
    names = stems([item.name for item in items])
    with pq.ParquetWriter(path, _SCHEMA) as writer:
        for at in range(0, len(items), size):
            rows = items[at : at + size]
            columns = [
                [os.fsencode(item.file) for item in rows],
                [printable(item.name) for item in rows],
                names[at : at + size],
                [item.start for item in rows],
                [item.size for item in rows],
            ]
            writer.write_table(pa.table(columns, _SCHEMA), row_group_size=size)


def part(folder: Path, number: int) -> Iterator[Planned]:
    """The items of a part."""
    with pq.ParquetFile(folder / FILE) as table:
        for row in table.read_row_group(number).to_pylist():
            item = Item(os.fsdecode(row["file"]), row["name"], row["start"], row["size"])
            yield Planned(item, row["stem"])
