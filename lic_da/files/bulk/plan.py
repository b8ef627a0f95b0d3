"""The plan of a run: every item once, cut into parts, in a Parquet file with a row group for each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        ("changed", pa.int64()),  # when its file was, in ns; 0: the file is told by its content
    ]
)
_TOLD = 3
"""Names in a message."""


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


Planning = tuple[Item, int]
"""An item, and when its file was changed; see ``_SCHEMA``."""


def part_name(number: int) -> str:
    """What the files of a part are called; their order is that of the items."""
    return f"{number:06d}"


def survey(source: Source, size: int) -> tuple[Plan, list[Planning]]:
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
    changed = {"": 0}
    for item in items:
        if item.file not in changed:
            path = source.root / item.file
            changed[item.file] = path.stat().st_mtime_ns if item.size >= 0 else 0
            if item.size < 0:
                digest.update(_told(path))
        digest.update(repr((*item, changed[item.file])).encode(errors="surrogateescape"))
    plan = Plan(len(items), -(-len(items) // size), digest.hexdigest())
    return plan, [(item, changed[item.file]) for item in items]


def _told(table: Path) -> bytes:
    """Size and end of a file of rows; another one differs in them, if it is not made to deceive."""
    size = table.stat().st_size
    with open(table, "rb") as file:
        file.seek(max(0, size - _END))
        return repr(size).encode() + hashlib.file_digest(file, "sha256").digest()


def changes(folder: Path, items: Sequence[Planning]) -> str:
    """Names of what is not there as it was planned, or was not planned; empty: nothing is known of it."""
    try:
        with pq.ParquetFile(folder / FILE) as table:
            planned = {_item(row): row["changed"] for row in table.read().to_pylist()}
    except (OSError, pa.ArrowException, KeyError):  # there is none, or it is of an earlier version
        return ""
    now = dict(items)
    names = [item.name for item, when in planned.items() if now.get(item) != when]
    names += [item.name for item in now if item not in planned]
    names = list(dict.fromkeys(map(printable, names)))
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return ", ".join(names[:_TOLD]) + more


def write(folder: Path, items: Sequence[Planning], size: int) -> None:
    """Write the plan of a run, unless it is there."""
    if not (folder / FILE).is_file():
        with atomic_path(folder / FILE) as temporary:
            _write(temporary, items, size)


def _write(path: Path, items: Sequence[Planning], size: int) -> None:
    names = stems([item.name for item, _ in items])
    with pq.ParquetWriter(path, _SCHEMA) as writer:
        for at in range(0, len(items), size):
            rows = items[at : at + size]
            columns = [
                [os.fsencode(item.file) for item, _ in rows],
                [printable(item.name) for item, _ in rows],
                names[at : at + size],
                [item.start for item, _ in rows],
                [item.size for item, _ in rows],
                [changed for _, changed in rows],
            ]
            writer.write_table(pa.table(columns, _SCHEMA), row_group_size=size)


def part(folder: Path, number: int) -> Iterator[Planned]:
    """The items of a part."""
    with pq.ParquetFile(folder / FILE) as table:
        for row in table.read_row_group(number).to_pylist():
            yield Planned(_item(row), row["stem"])


def _item(row: Mapping[str, Any]) -> Item:
    return Item(os.fsdecode(row["file"]), row["name"], row["start"], row["size"])
