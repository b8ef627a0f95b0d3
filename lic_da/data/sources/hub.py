"""Rows of data sets that the package ``datasets`` reads: on the Hugging Face Hub, or in local files."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lic_da.errors import UserError
from lic_da.io.files import user_path
from lic_da.io.hub import REPLY_S, Unreachable, ask, first_line

_BUILDERS = {".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow", ".tar": "webdataset"}


def local_files(name: str) -> list[Path]:
    """The files that a name stands for here: a file, a folder's files, or a glob; empty: it is no path."""
    path = user_path(name)
    if path.is_file():
        return [path]
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.is_file())
    if not set("*?[") & set(path.name):
        return []
    return sorted(found for found in path.parent.glob(path.name) if found.is_file())


def rows(
    name: str,
    *,
    subset: str | None = None,
    split: str = "train",
    column: str = "image",
    revision: str | None = None,
    where: Mapping[str, Any] | None = None,
    streaming: bool = False,
    count: int | None = None,
) -> Iterator[dict[str, Any] | None]:
    """The images of a data set's rows, undecoded, ``{"bytes": …, "path": …}``; None: a row has none.

    Args:
        name: Hub name, or a folder, file or glob: images in folders (``imagefolder``), Parquet, Arrow,
            ``webdataset`` tars, or what ``save_to_disk`` wrote.
        subset: configuration of the data set, where it has several.
        split: which split of it.
        column: that holds the images; where there is no such column, all of images.
        revision: commit, tag or branch on the Hub.
        where: column -> value, or list of values, that a row must have; classes go by name or number.
        streaming: read row by row from the Hub instead of fetching all of it first.
        count: at most this many rows; None: all.

    Raises:
        Unreachable: it cannot be had: no network, no such data set, no such split.
        UserError: it has no such column.
    """
    found = local_files(name)
    if not found:
        _ask_hub(name, revision)
    try:
        table = _open(name, found, subset, split, revision, streaming)
        features = table.features or table._resolve_features().features
        columns = _image_columns(name, features, column)
        for image in columns:
            table = table.cast_column(image, _undecoded())
        wanted = _as_stored(where or {}, features, name)
        kept = (row for row in table if _meets(row, wanted))
        for row in itertools.islice(kept, count):
            yield next((row[image] for image in columns if row[image]), None)
    except UserError:
        raise
    except Exception as error:  # builders and the Hub's client have no common base of their errors
        raise Unreachable(f"{type(error).__name__}: {first_line(error)}") from error


def indexed(name: str, *, subset: str | None, split: str, column: str) -> tuple[Any, str]:
    """A data set whose rows can be had by number, and its column of images, undecoded.

    Args:
        name: Hub name, or a folder that ``save_to_disk`` wrote.
        subset: configuration of the data set, where it has several.
        split: which split of it.
        column: that holds the images; where there is no such column, the first one of images.

    Raises:
        Unreachable: as :func:`rows`.
        UserError: it has no such column.
    """
    found = local_files(name)
    if not found:
        _ask_hub(name, None)
    try:
        table = _open(name, found, subset, split, None, streaming=False)
        first = _image_columns(name, table.features, column)[0]
        return table.cast_column(first, _undecoded()), first
    except UserError:
        raise
    except Exception as error:  # builders and the Hub's client have no common base of their errors
        raise Unreachable(f"{type(error).__name__}: {first_line(error)}") from error


def file_of(image: Mapping[str, Any] | None) -> bytes | None:
    """The file of a row's image; None: the row has none, or it is not there."""
    if not image:
        return None
    if image.get("bytes"):
        return bytes(image["bytes"])
    try:
        return Path(image["path"]).read_bytes() if image.get("path") else None
    except OSError:
        return None


def _open(
    name: str,
    found: list[Path],
    subset: str | None,
    split: str,
    revision: str | None,
    streaming: bool,
) -> Any:
    import datasets

    path = user_path(name)
    if (path / "state.json").is_file():
        return datasets.load_from_disk(str(path))
    if (path / "dataset_dict.json").is_file():
        return datasets.load_from_disk(str(path))[split]
    if not found:
        return datasets.load_dataset(
            name, subset, split=split, revision=revision, streaming=streaming
        )
    row_by_row = "[" not in split  # otherwise a copy of the whole is made in a cache
    kinds = {_BUILDERS[file.suffix.lower()] for file in found if file.suffix.lower() in _BUILDERS}
    if path.is_dir() and kinds != {"webdataset"}:
        return datasets.load_dataset(str(path), subset, split=split, streaming=row_by_row)
    if len(kinds) != 1:
        raise UserError(
            f"{name} is no data set: files are to be of one kind, Parquet, Arrow or tar."
        )
    files = [str(file) for file in found if file.suffix.lower() in _BUILDERS]
    wanted = split.partition("[")[0]
    return datasets.load_dataset(
        kinds.pop(), data_files={wanted: files}, split=split, streaming=row_by_row
    )


def _undecoded() -> Any:
    import datasets

    return datasets.Image(decode=False)


def _image_columns(name: str, features: Mapping[str, Any], column: str) -> list[str]:
    """The column asked for; where there is none of that name, all that hold images."""
    import datasets

    if column in features:
        return [column]
    typed = [key for key, feature in features.items() if isinstance(feature, datasets.Image)]
    if not typed:
        raise UserError(f"{name} has no column '{column}'. Columns: {', '.join(features)}.")
    return typed


def _as_stored(
    where: Mapping[str, Any], features: Mapping[str, Any], name: str
) -> dict[str, set[Any]]:
    """Wanted values by column, names of classes as their numbers."""
    wanted: dict[str, set[Any]] = {}
    for column, values in where.items():
        if column not in features:
            raise UserError(f"{name} has no column '{column}'. Columns: {', '.join(features)}.")
        values = values if isinstance(values, list | tuple) else [values]
        classes = getattr(features[column], "names", None)
        if classes:
            odd = [v for v in values if isinstance(v, str) and v not in classes]
            if odd:
                raise UserError(
                    f"{name} has no {column} '{odd[0]}'. There are {', '.join(classes)}."
                )
            values = [classes.index(v) if isinstance(v, str) else v for v in values]
        wanted[str(column)] = set(values)
    return wanted


def _meets(row: Mapping[str, Any], wanted: Mapping[str, set[Any]]) -> bool:
    return all(row[column] in values for column, values in wanted.items())


def _ask_hub(name: str, revision: str | None) -> None:
    """See that the Hub has the data set.

    Raises:
        Unreachable: there is no answer, or no such data set.
    """
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return  # what has been fetched before is used
    if os.sep in name.strip("./") and name.count("/") != 1:
        raise Unreachable("there is no such file or folder")
    try:
        ask(lambda: HfApi().dataset_info(name, revision=revision, timeout=REPLY_S))
    except Unreachable:
        raise
    except Exception as error:  # the Hub's client has no common base of its errors
        raise Unreachable(f"{type(error).__name__}: {first_line(error)}") from error
