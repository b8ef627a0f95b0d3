"""Tables of images: one CSV or Parquet file that names the domain of each."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import yaml

from lic_da.config import CONF
from lic_da.data.domains import ALL_PREPARED
from lic_da.data.index import SPLITS
from lic_da.data.sources.base import Found, Source, stated
from lic_da.errors import UserError, unknown
from lic_da.io.files import user_path, write_text

_DOMAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_RESERVED = (
    ALL_PREPARED,
    "null",
    "true",
    "false",
)  # stand for something else in settings, in any case


@dataclass
class TableSource(Source):
    """Images that a table lists: the rows of one domain.

    Columns are ``path`` (relative to the table's folder, or absolute), ``domain``, and if it is there
    ``split``: ``train``, ``val`` or ``test``, or nothing, where the content is to decide.

    Args:
        table: a CSV or Parquet file.
        domain: rows with this value in the column ``domain``; None: all rows.
    """

    of_the_user = True

    table: str = ""
    domain: str | None = None
    _splits: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    @property
    def label(self) -> str:
        """See :attr:`Source.label`."""
        return f"table {self.table}" + (f" ({self.domain})" if self.domain is not None else "")

    def root(self, store: Path) -> Path:
        """The folder of the table."""
        return user_path(self.table).resolve().parent

    def files(self, store: Path) -> list[Found]:
        """The files of the domain's rows, sorted by name; those that are missing are counted.

        Raises:
            UserError: the table cannot be read, or lacks a column.
        """
        root = self.root(store)
        self.left_out = Counter()
        rows = read_table(user_path(self.table))
        found: dict[str, Found] = {}
        for row in rows:
            if self.domain is not None and row["domain"] != self.domain:
                continue
            name = row["path"]
            if not name or not self.wanted(name):
                continue
            path = root / user_path(name)
            if not path.is_file():
                self.left_out["rows without a file"] += 1
                continue
            found[name] = Found(path, name)
            if row["split"]:
                self._splits[name] = row["split"]
        return [
            found[name]
            for name in sorted(found)
            if self.min_bytes <= found[name].path.stat().st_size <= self.max_bytes
        ]

    def given_split(self, name: str) -> str | None:
        """The split that a row names."""
        return super().given_split(name) or self._splits.get(name)

    def watched(self, store: Path) -> list[Any]:
        """The rows with their splits, and size and time of each file."""
        return [*stated(self.files(store)), sorted(self._splits.items())]


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a table of paths: ``path``, ``domain`` and ``split`` as text, empty where there is none.

    Raises:
        UserError: it cannot be read, lacks the column ``path``, or has a split of another name.
    """
    table = _columns(path)
    if "path" not in table.column_names:
        raise UserError(f"{path} has no column 'path'. Columns: {', '.join(table.column_names)}.")
    nothing = [""] * len(table)
    columns = {
        key: [_text(v) for v in table[key].to_pylist()] if key in table.column_names else nothing
        for key in ("path", "domain", "split")
    }
    for split in sorted({*columns["split"]} - {"", *SPLITS}):
        raise unknown("split", split, SPLITS, f"in {path}")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _columns(path: Path, *, only: list[str] | None = None) -> pa.Table:
    if not path.is_file():
        raise UserError(f"There is no table '{path}'. Give the path of a CSV or Parquet file.")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return pyarrow.parquet.read_table(path, columns=only)
        table = pyarrow.csv.read_csv(
            path,
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={name: pa.string() for name in ("path", "domain", "split")}
            ),
        )
        return table if only is None else table.select(only)
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be read as a table ({reason}).") from error


def add_domains(table: Path, *, overwrite: bool = False) -> list[tuple[str, int, Path]]:
    """Write a file in ``conf/domain`` for each value of a table's column ``domain``.

    Args:
        table: CSV or Parquet with ``domain`` and ``path``, or Parquet with ``domain`` and ``image``.
        overwrite: replace domains that exist.

    Returns:
        Of each domain its name, the number of its rows, and its file.

    Raises:
        UserError: the table has no such columns or no rows, a value cannot be the name of a domain, a
            domain exists, or a file does not.
    """
    names = _column_names(table)
    if "domain" not in names or not {"path", "image"} & {*names}:
        raise UserError(
            f"{table} needs a column 'domain' and a column 'path' or 'image'. Columns: {', '.join(names)}."
        )
    rows = read_table(table) if "path" in names else []
    counts = Counter(_text(v) for v in _columns(table, only=["domain"])["domain"].to_pylist())
    counts.pop("", None)
    if not counts:
        raise UserError(f"{table} has no rows that name a domain.")
    files = {name: CONF / "domain" / f"{name}.yaml" for name in sorted(counts)}
    for name, file in files.items():
        if not _DOMAIN_NAME.fullmatch(name):
            raise UserError(
                f"'{name}' in {table} cannot be a domain: use letters, digits, - and _ only."
            )
        if name.lower() in _RESERVED:
            raise UserError(
                f"'{name}' in {table} cannot be a domain: the name means something else in settings. "
                "Choose another."
            )
        if file.exists() and not overwrite:
            raise UserError(
                f"There is a domain '{name}' already ({file}). --overwrite replaces it."
            )
    _refuse_missing(rows, table)
    where = str(table.resolve())
    kind = "lic_da.data.sources.tables.TableSource"
    hub = "lic_da.data.sources.HuggingFaceSource"
    for name, file in files.items():
        source: dict[str, Any] = {"_target_": kind, "table": where, "domain": name}
        if "path" not in names:
            source = {"_target_": hub, "name": where, "where": {"domain": name}}
        write_text(file, yaml.safe_dump({"sources": [source]}, sort_keys=False))
    return [(name, counts[name], file) for name, file in files.items()]


def _refuse_missing(rows: list[dict[str, str]], table: Path) -> None:
    """Raise a UserError where rows of a domain name files that are not there."""
    root = table.resolve().parent
    named = [row["path"] for row in rows if row["domain"]]
    missing = [name for name in named if not (root / user_path(name)).is_file()]
    if missing:
        raise UserError(
            f"{table} names {len(missing)} files that are not there, the first of them '{missing[0]}'. "
            f"Paths are relative to {root}."
        )


def _column_names(table: Path) -> list[str]:
    if table.is_file() and table.suffix.lower() in (".parquet", ".pq"):
        try:
            return [str(name) for name in pyarrow.parquet.read_schema(table).names]
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{table} cannot be read as a table ({reason}).") from error
    return [str(name) for name in _columns(table).column_names]
