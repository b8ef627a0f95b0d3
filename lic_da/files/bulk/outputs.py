"""How a part is written: as a tar shard, as a Parquet shard, or as single files."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lic_da.errors import NotWritable, UserError
from lic_da.io.files import atomic_path

_GROUP_BYTES = 1 << 24  # of a Parquet shard, held before they are written as a row group
_LIC = ".lic"

Write = Callable[[str, bytes], None]
"""Takes the name of a file in the part, and its bytes."""


@contextmanager
def _tar(folder: Path, part: str) -> Iterator[Write]:
    """``shards/<part>.tar``, the same bytes for the same files whoever writes them, and when."""
    with (
        atomic_path(folder / shard_file("tar", part)) as temporary,
        tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as archive,
    ):

        def write(name: str, data: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))

        yield write


@contextmanager
def _parquet(folder: Path, part: str) -> Iterator[Write]:
    """``shards/<part>.parquet``: ``name`` and ``lic``, or ``image`` as the package ``datasets`` has it."""
    rows: list[tuple[str, bytes]] = []
    with atomic_path(folder / shard_file("parquet", part)) as temporary:
        writer: pq.ParquetWriter | None = None

        def flush() -> None:
            nonlocal writer
            streams = all(name.endswith(_LIC) for name, _ in rows)
            table = _streams_table(rows) if streams else _images_table(rows)
            writer = writer or pq.ParquetWriter(temporary, table.schema)
            writer.write_table(table)
            rows.clear()

        def write(name: str, data: bytes) -> None:
            rows.append((name, data))
            if sum(len(content) for _, content in rows) > _GROUP_BYTES:
                flush()

        yield write
        if rows or writer is None:  # a shard without files is a table without rows
            flush()
        assert writer is not None
        writer.close()


def _streams_table(rows: list[tuple[str, bytes]]) -> pa.Table:
    schema = pa.schema([("name", pa.string()), ("lic", pa.binary())])
    return pa.table([[name for name, _ in rows], [data for _, data in rows]], schema)


def _images_table(rows: list[tuple[str, bytes]]) -> pa.Table:
    features = {"name": {"dtype": "string", "_type": "Value"}, "image": {"_type": "Image"}}
    told = {"huggingface": json.dumps({"info": {"features": features}})}
    file = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("name", pa.string()), ("image", file)], told)
    files = [{"bytes": data, "path": name} for name, data in rows]
    return pa.table([[name for name, _ in rows], files], schema)


@contextmanager
def _files(folder: Path, part: str) -> Iterator[Write]:
    """Single files below ``files/``."""

    def write(name: str, data: bytes) -> None:
        try:
            with atomic_path(folder / "files" / name) as temporary:
                temporary.write_bytes(data)
        except NotWritable as error:
            if isinstance(error.__cause__, (FileExistsError, NotADirectoryError)):
                raise UserError(f"{name} would lie below a file") from error
            raise

    yield write


FORMS: dict[str, Callable[[Path, str], AbstractContextManager[Write]]] = {
    "tar": _tar,
    "parquet": _parquet,
    "files": _files,
}
"""Names of the ways to write a part: ``FORMS[name](folder, part)`` takes files until the block ends."""


def shard_file(form: str, part: str) -> str:
    """Where a part lies in the output folder; empty: its files lie there one by one."""
    return "" if form == "files" else f"shards/{part}.{form}"
