"""What a worker does with a part: read its items, code them, write the shard, its index and its errors."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lic_da.errors import UserError
from lic_da.files.bulk import outputs, plan
from lic_da.files.bulk.inputs import Source
from lic_da.files.coder import Coder
from lic_da.io.bitstream import Stream
from lic_da.io.files import atomic_path
from lic_da.io.images import decode_rgb
from lic_da.io.lossless import lossless_bytes
from lic_da.surroundings import printable

WORK = ".work"
"""Folder of what is needed until a run is complete."""

INDEX = pa.schema(
    [
        ("name", pa.string()),  # as the source calls it
        ("file", pa.string()),  # what it is called in the output
        ("shard", pa.string()),  # where in the output it lies
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("bytes", pa.int64()),
        ("bpp", pa.float64()),  # of the stream
        ("v", pa.list_(pa.float32())),  # the gate's; null: there is none, or it is not asked
        ("sha256", pa.string()),  # of the file
    ]
)
ERRORS = pa.schema([("name", pa.string()), ("source", pa.string()), ("error", pa.string())])

MOST_DEATHS = 3
"""An item during which the worker died so often in one run is taken to be why."""
_MOST_STARTS = 10  # of a part in one run without an item that is to blame


@dataclass(frozen=True)
class Done:
    """What became of a part.

    Attributes:
        part: its number.
        items: how many were coded.
        errors: how many could not be.
        pixels: of all images.
        bits: of the strings of all streams.
        bytes: of the shard.
        sha256: of the shard; of single files: empty.
        failure: why the part could not be done at all; empty: it is done.
    """

    part: int
    items: int = 0
    errors: int = 0
    pixels: int = 0
    bits: int = 0
    bytes: int = 0
    sha256: str = ""
    failure: str = ""


@dataclass(frozen=True)
class Task:
    """What is done with every part; it goes to other processes and machines.

    Attributes:
        run: name of this run, which tells its deaths from those of earlier ones.
        folder: the output.
        source: of images or streams; that decides what is done.
        coder: what codes them.
        form: how parts are written, a name of :data:`lic_da.files.bulk.outputs.FORMS`.
    """

    run: str
    folder: Path
    source: Source
    coder: Coder
    form: str

    def do(self, number: int) -> Done:
        """Do a part; what is there of it from before is replaced by the same."""
        try:
            return self._do(number)
        except (OSError, UserError) as error:
            return Done(number, failure=printable(error))

    def _do(self, number: int) -> Done:
        name = plan.part_name(number)
        journal = _Journal(self.folder / WORK / f"{name}.log", self.run)
        planned = list(plan.part(self.folder, number))
        index: list[dict[str, Any]] = []
        errors: list[dict[str, str]] = []
        with outputs.FORMS[self.form](self.folder, name) as write:
            read = self.source.read([entry.item for entry in planned])
            for position, (entry, (item, data)) in enumerate(zip(planned, read, strict=True)):
                assert entry.item == item
                try:
                    with journal.working_on(position):
                        row = self._code(entry, data)
                        write(row["file"], row.pop("data"))
                    index.append({**row, "shard": outputs.shard_file(self.form, name)})
                except OSError:
                    raise  # of what is written: a full disk is no fault of the image
                except UserError as error:
                    errors.append(_error(entry, str(error)))
                except Exception as error:
                    errors.append(_error(entry, f"{type(error).__name__}: {error}"))
        return self._finished(number, index, errors)

    def _code(self, entry: plan.Planned, data: bytes | UserError) -> dict[str, Any]:
        """A row of the index with the coded file as ``data``.

        Raises:
            UserError: the item cannot be coded.
        """
        if isinstance(data, UserError):
            raise data
        v: dict[str, float] | None = None
        if self.source.streams:
            stream = Stream.from_bytes(data)
            coded = lossless_bytes(self.coder.decode(stream), self.coder.format)
        else:
            coded, v = self.coder.encode(decode_rgb(data, entry.item.name))
            stream = Stream.from_bytes(coded)
        return {
            "name": entry.item.name,
            "file": f"{entry.stem}.{self.coder.format if self.source.streams else 'lic'}",
            "width": stream.width,
            "height": stream.height,
            "bytes": len(coded),
            "bpp": stream.bpp,
            "v": None if v is None else list(v.values()),
            "sha256": hashlib.sha256(coded).hexdigest(),
            "data": coded,
        }

    def _finished(
        self, number: int, index: list[dict[str, Any]], errors: list[dict[str, str]]
    ) -> Done:
        """Write the rows of a part whose shard is there."""
        name = plan.part_name(number)
        for kind, rows, schema in (("index", index, INDEX), ("errors", errors, ERRORS)):
            with atomic_path(self.folder / WORK / f"{name}.{kind}.parquet") as temporary:
                pq.write_table(pa.Table.from_pylist(rows, schema), temporary)
        shard = outputs.shard_file(self.form, name)
        size, digest = _measured(self.folder / shard) if shard else (0, "")
        sizes = [row["width"] * row["height"] for row in index]
        bits = sum(round(row["bpp"] * each) for row, each in zip(index, sizes, strict=True))
        return Done(number, len(index), len(errors), sum(sizes), bits, size, digest)


def _error(entry: plan.Planned, message: str) -> dict[str, str]:
    name = printable(entry.item.name)
    told = printable(message).removeprefix(f"{name}: ")
    return {"name": name, "source": printable(entry.item.file), "error": " ".join(told.split())}


def _measured(path: Path) -> tuple[int, str]:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return path.stat().st_size, digest


class _Journal:
    """What a worker is working on, written down so that whoever comes after it knows what it died of.

    A line ``start RUN PID``, then the position of each item when it is begun and ``-`` when it is not
    worked on any more.

    Args:
        path: the file.
        run: name of this run; deaths in others do not count, as all of them may have been stopped.

    Raises:
        UserError: the part was started again and again, and no item is to blame.
    """

    def __init__(self, path: Path, run: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.is_file() else []
        starts = [n for n, line in enumerate(lines) if line.startswith(f"start {run} ")]
        last = [lines[n - 1] for n in starts[1:]] + lines[-1:] if starts else []
        self._deaths = Counter(line for line in last if line.isdigit())
        if len(last) - self._deaths.total() > _MOST_STARTS:
            raise UserError(f"The workers that began part {path.stem} died {_MOST_STARTS} times.")
        self._path = path
        self._write(f"start {run} {os.getpid()}")

    def _write(self, line: str) -> None:
        with open(self._path, "ab", buffering=0) as file:
            file.write(f"{line}\n".encode())

    @contextmanager
    def working_on(self, position: int) -> Iterator[None]:
        """Note an item while the block lasts.

        Raises:
            UserError: earlier workers have died of it.
        """
        if self._deaths[str(position)] >= MOST_DEATHS:
            raise UserError("the process that worked on it died, probably for want of memory")
        self._write(str(position))
        try:
            yield
        finally:
            self._write("-")
