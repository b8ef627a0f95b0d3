"""Where images and streams come from: folders, tar shards, Parquet files and data sets.

A source lists its items without reading them, and reads a few of them in any process. It holds names
only, so that it can go to other processes, and on a cluster to other machines, which see the same files.
"""

from __future__ import annotations

import functools
import itertools
import tarfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from lic_da.data.sources.hub import file_of, indexed
from lic_da.errors import UserError
from lic_da.io.files import user_path
from lic_da.io.hub import Unreachable
from lic_da.io.listing import IMAGES, files_of, image, is_image

LIC = ".lic"
_TABLES = (".parquet", ".pq")
_ROWS = 16  # of a table, read at a time
_MOST_BYTES = 1 << 31
_NAMES = ("name", "file_name", "path", "__key__")
"""Columns that may say what a row's image is called."""


class Item(NamedTuple):
    """An image or a stream of a source.

    Attributes:
        file: that holds it, relative to the source's root; of a data set: empty.
        name: what it is called; it may be anything.
        start: where in the file: a byte, or the number of a row.
        size: bytes; of rows: −1.
    """

    file: str
    name: str
    start: int
    size: int


Read = tuple[Item, bytes | UserError]
"""An item with its bytes, or with what is wrong with it."""


@dataclass(frozen=True)
class Source(ABC):
    """Images, or streams.

    Attributes:
        root: folder that the items' files are relative to.
        streams: holds ``.lic`` streams.
        left_out: how many files are no items, by reason, when all have been listed.
    """

    root: Path
    streams: bool
    left_out: Counter[str] = field(default_factory=Counter, compare=False)

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """All items, always in the same order.

        Raises:
            UserError: a file cannot be read.
        """

    @abstractmethod
    def read(self, items: Sequence[Item]) -> Iterator[Read]:
        """The bytes of items that :meth:`items` has listed, one after the other, in their order."""


@dataclass(frozen=True)
class Folder(Source):
    """Files of a folder and its subfolders.

    Attributes:
        names: of them, relative to the root.
    """

    names: tuple[str, ...] = ()

    def items(self) -> Iterator[Item]:
        for name in self.names:
            yield Item(name, name, 0, (self.root / name).stat().st_size)

    def read(self, items: Sequence[Item]) -> Iterator[Read]:
        for item in items:
            yield item, _bytes_at(self.root / item.file, 0, None)


@dataclass(frozen=True)
class Tars(Source):
    """Tar archives, as WebDataset has them: members that are images, or streams.

    Attributes:
        files: the archives, relative to the root.
        within: names go below that of their archive, since several may have the same ones.
    """

    files: tuple[str, ...] = ()
    within: bool = True

    def items(self) -> Iterator[Item]:
        for file in self.files:
            within = f"{Path(file).with_suffix('')}/" if self.within else ""
            for member in _members(self.root / file):
                if self._counts(self.root / file, member):
                    name = f"{within}{member.name}"
                    yield Item(file, name, member.offset_data, member.size)
                else:
                    self.left_out[
                        "members that are " + ("no streams", "no images")[not self.streams]
                    ] += 1

    def _counts(self, path: Path, member: tarfile.TarInfo) -> bool:
        if not member.isreg() or member.issparse():
            return False
        suffix = Path(member.name).suffix.lower()
        if self.streams or suffix == LIC:
            return self.streams and suffix == LIC
        if suffix in IMAGES:
            return True
        header = _bytes_at(path, member.offset_data, min(16, member.size))
        return isinstance(header, bytes) and is_image(header)

    def read(self, items: Sequence[Item]) -> Iterator[Read]:
        for item in items:
            yield item, _bytes_at(self.root / item.file, item.start, item.size)


@dataclass(frozen=True)
class Tables(Source):
    """Parquet files with a column of images or streams, as bytes or as ``{bytes, path}``.

    Attributes:
        files: the tables, relative to the root.
        column: that holds them.
        within: names go below that of their table, since several may have the same ones.
    """

    files: tuple[str, ...] = ()
    column: str = "image"
    within: bool = True

    def items(self) -> Iterator[Item]:
        for file in self.files:
            within = f"{Path(file).with_suffix('')}/" if self.within else ""
            with _table(self.root / file) as table:
                _kind_of_column(table, self.column, self.root / file)
                for number, name in enumerate(_row_names(table, self.column)):
                    yield Item(file, f"{within}{name or f'{number:08d}'}", number, -1)

    def read(self, items: Sequence[Item]) -> Iterator[Read]:
        for file, group in itertools.groupby(items, attrgetter("file")):
            wanted = list(group)
            rest = iter(wanted)
            try:
                with _table(self.root / file) as table:
                    values = _rows(table, self.column, wanted[0].start, wanted[-1].start + 1)
                    for value in values:
                        yield next(rest), _content(value)
            except (pa.ArrowException, OSError, UserError) as error:
                for item in rest:
                    yield item, UserError(f"the table cannot be read ({_first_line(error)})")


@dataclass(frozen=True)
class Dataset(Source):
    """A data set that the package ``datasets`` opens: of the Hub, or a folder that it has saved.

    Attributes:
        name: of the Hub, or the folder.
        split: which split of it.
        column: that holds the images.
        subset: configuration of the data set, where it has several.
    """

    name: str = ""
    split: str = "train"
    column: str = "image"
    subset: str | None = None

    def items(self) -> Iterator[Item]:
        table, _ = self._open()
        for row in range(len(table)):
            yield Item("", f"{row:08d}", row, -1)

    def read(self, items: Sequence[Item]) -> Iterator[Read]:
        table, column = self._open()
        for item in items:
            data = _file_of_row(table[item.start][column], self.name)
            yield item, UserError("the row has no image") if data is None else data

    def _open(self) -> tuple[Any, str]:
        try:
            return _dataset(self.name, self.subset, self.split, self.column)
        except Unreachable as error:
            raise UserError(
                f"There is no file or folder {self.name}, and no data set of this name ({error})."
            ) from error


@functools.lru_cache(maxsize=1)
def _dataset(name: str, subset: str | None, split: str, column: str) -> tuple[Any, str]:
    return indexed(name, subset=subset, split=split, column=column)


def _file_of_row(image: Mapping[str, Any] | None, name: str) -> bytes | None:
    """The file of a row's image; a path counts only in the data set's folder, or in the Hub's cache.

    A data set comes from others: what else of this machine it names is none of its images.
    """
    if image and not image.get("bytes") and image.get("path"):
        from datasets import config

        path = Path(image["path"]).resolve()
        homes = (user_path(name), Path(config.HF_CACHE_HOME))
        if not path.is_file() or not any(path.is_relative_to(home.resolve()) for home in homes):
            return None
    return file_of(image)


def find(
    given: str, *, column: str | None, split: str, subset: str | None, decode: bool | None
) -> Source:
    """The source that a user means.

    Args:
        given: a file, a folder or a glob; else the name of a data set of the Hub.
        column: of a table or data set; None: ``lic`` or ``image``, or the only one of bytes.
        split: of a data set.
        subset: configuration of a data set.
        decode: take streams, or images; None: what is there.

    Raises:
        UserError: there is nothing, or a mixture.
    """
    path = user_path(given)
    if path.is_dir() and any(
        (path / name).is_file() for name in ("state.json", "dataset_dict.json")
    ):
        return Dataset(path, False, name=str(path), split=split, column=column or "image")
    if path.is_dir():
        root, names, left_out = _listed(path)
    elif found := ([path] if path.is_file() else _matching(path)):
        root, left_out = path.parent, Counter[str]()
        names = {kind: [p.name for p in found if _kind(p) == kind] for kind in (*_KINDS, "")}
        names = {kind: of_kind for kind, of_kind in names.items() if of_kind}
    else:
        return Dataset(
            Path(), False, name=given, split=split, column=column or "image", subset=subset
        )
    kind = _one_kind(given, names, decode)
    files = tuple(names[kind])
    within = len(files) > 1 and not (root.parent / "bulk.json").is_file()  # ours are unlike
    if kind == "tar":
        streams = _holds_streams(root / files[0]) if decode is None else decode
        return Tars(root, streams, left_out, files, within)
    if kind == "parquet":
        with _table(root / files[0]) as table:
            column = column or _column(table, root / files[0])
        streams = column == LIC[1:] if decode is None else decode
        return Tables(root, streams, left_out, files, column, within)
    left_out.update({f"{other} files": len(names[other]) for other in names if other != kind})
    return Folder(root, kind == "lic", left_out, files)


OWN = ("shards", "files")
"""Folders of an output, one of which holds what was written."""
_KINDS = ("tar", "parquet", "lic", "image")


def _kind(path: Path) -> str:
    """What a file is taken for; empty: nothing that is read."""
    suffix = path.suffix.lower()
    kinds = {".tar": "tar", LIC: "lic", **dict.fromkeys(_TABLES, "parquet")}
    return kinds.get(suffix) or ("image" if image(path) is None else "")


def _listed(folder: Path) -> tuple[Path, dict[str, list[str]], Counter[str]]:
    """The files of a folder by kind; of one that was written here, its shards alone."""
    if (folder / "bulk.json").is_file():
        folder = next((folder / name for name in OWN if (folder / name).is_dir()), folder)
    listing = files_of(folder, lambda path: None if _kind(path) else image(path))
    names: dict[str, list[str]] = {}
    for name in listing.names:
        names.setdefault(_kind(folder / name), []).append(name)
    return folder, names, listing.left_out


def _matching(path: Path) -> list[Path]:
    """The files that a glob stands for."""
    if not set("*?[") & set(path.name):
        return []
    return sorted(p for p in path.parent.glob(path.name) if p.is_file())


def _one_kind(given: str, names: dict[str, list[str]], decode: bool | None) -> str:
    kinds = [kind for kind in _KINDS if names.get(kind)]
    if decode is not None:  # then images beside streams are no mixture
        kinds = [kind for kind in kinds if kind != ("image" if decode else "lic")]
    if not kinds:
        wanted = {True: "streams", False: "images", None: "images or streams"}[decode]
        raise UserError(f"There are no {wanted} in {given}, nor tar or Parquet files of them.")
    if len(kinds) > 1:
        mixture = ", ".join(f"{len(names[kind])} {kind}" for kind in kinds)
        raise UserError(
            f"{given} is a mixture ({mixture} files): name files of one kind, such as 'IN/*.tar', or say "
            "--decode or --encode."
        )
    return kinds[0]


def _holds_streams(archive: Path) -> bool:
    suffixes = (Path(member.name).suffix.lower() for member in _members(archive))
    return next((suffix == LIC for suffix in suffixes if suffix in {*IMAGES, LIC}), False)


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    """Members of an archive, of which headers alone are read."""
    try:
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # else it keeps all of them
                yield member
    except (tarfile.TarError, OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as a tar file ({error}); compressed ones are to be unpacked."
        ) from error


def _bytes_at(path: Path, start: int, size: int | None) -> bytes | UserError:
    """Bytes of a file; None: all. What goes wrong is the item's, not the run's."""
    if size is not None and size > _MOST_BYTES:
        return UserError(f"larger than {_MOST_BYTES >> 30} GiB")
    try:
        if size is None and path.stat().st_size > _MOST_BYTES:
            return UserError(f"larger than {_MOST_BYTES >> 30} GiB")
        with open(path, "rb") as file:
            file.seek(start)
            data = file.read(-1 if size is None else size)
    except OSError as error:
        return UserError(f"cannot be read ({error.strerror})")
    return UserError("cut off") if size is not None and len(data) < size else data


def _table(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as Parquet ({_first_line(error)}).") from error


def _column(table: pq.ParquetFile, path: Path) -> str:
    """The column that holds streams or images."""
    schema = table.schema_arrow
    known = [name for name in (LIC[1:], "image") if name in schema.names]
    fitting = known or [f.name for f in schema if _is_bytes(f.type) or _is_file(f.type)]
    if not known and len(fitting) != 1:
        raise UserError(f"Say --column: which of {path} holds images? {', '.join(schema.names)}.")
    return str(fitting[0])


def _kind_of_column(table: pq.ParquetFile, column: str, path: Path) -> None:
    schema = table.schema_arrow
    if column not in schema.names:
        raise UserError(f"{path} has no column '{column}'. Columns: {', '.join(schema.names)}.")
    kind = schema.field(column).type
    if not (_is_bytes(kind) or _is_file(kind)):
        raise UserError(f"{path}: column '{column}' holds {kind}, not files as bytes.")


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_file(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind)) and any(f.name == "bytes" for f in kind)


def _row_names(table: pq.ParquetFile, column: str) -> Iterator[str | None]:
    """What the rows' images are called; only names are read."""
    schema = table.schema_arrow
    kind = schema.field(column).type
    named = [
        name
        for name in _NAMES
        if name in schema.names and pa.types.is_string(schema.field(name).type)
    ]
    inside = f"{column}.path" if _is_file(kind) and kind.get_field_index("path") >= 0 else None
    if not named and inside is None:
        yield from itertools.repeat(None, table.metadata.num_rows)
        return
    for batch in table.iter_batches(columns=[named[0] if named else inside]):
        values = batch.column(0)
        if not named:
            values = values.field("path")
        yield from values.to_pylist()


def _rows(table: pq.ParquetFile, column: str, start: int, stop: int) -> Iterator[Any]:
    """Values of a column from a row to another, a few at a time; only their row groups are read."""
    groups: list[int] = []
    first = before = 0
    for group in range(table.num_row_groups):
        rows = table.metadata.row_group(group).num_rows
        if before < stop and before + rows > start:
            first = before if not groups else first
            groups.append(group)
        before += rows
    row = first
    for batch in table.iter_batches(_ROWS, row_groups=groups, columns=[column]):
        for value in batch.column(0):
            if start <= row < stop:
                yield value.as_py()
            row += 1


def _content(value: Any) -> bytes | UserError:
    """The bytes of a row; a path beside them is a name and no file to open."""
    data = value.get("bytes") if isinstance(value, dict) else value
    if not data:
        return UserError("the row has no image")
    return bytes(data)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "no message").rstrip(".")
