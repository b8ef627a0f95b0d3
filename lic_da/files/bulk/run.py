"""A run over very many images: plan, parts that are missing, and the index of all.

The output folder::

    bulk.json          what the run was begun with; it is held against what it goes on with
    plan.parquet       every item, cut into parts
    manifest.jsonl     a line for each part that is done
    shards/, files/    what was asked for
    index.parquet      what was coded, in the order of the items
    errors.parquet     what could not be, and why
    .work/             rows of single parts, until all are done
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from lic_da.errors import UserError, unknown
from lic_da.files.bulk import cluster, outputs, plan
from lic_da.files.bulk.cluster import Cluster
from lic_da.files.bulk.inputs import Source
from lic_da.files.bulk.work import ERRORS, INDEX, WORK, Done, Task
from lic_da.files.coder import Coder, alone, load
from lic_da.io.files import atomic_path, read_json, read_text, write_json
from lic_da.methods.pack import CONFIG
from lic_da.surroundings import printable

FORMAT = 1
"""Of the output folder; those of a later one are refused."""
SETTINGS, MANIFEST, LOCK = "bulk.json", "manifest.jsonl", ".lock"
INDEX_FILE, ERRORS_FILE = "index.parquet", "errors.parquet"
_ITEMS = 256


@dataclass(frozen=True)
class Layout:
    """How the output is written.

    Attributes:
        form: ``tar``, ``parquet`` or ``files``.
        items: images of a part, at least 1; a worker that dies costs at most these.
    """

    form: str = "tar"
    items: int = _ITEMS

    def __post_init__(self) -> None:
        """Raise a UserError for a form that does not exist."""
        if self.form not in outputs.FORMS:
            raise unknown("form of output", self.form, outputs.FORMS)


def run(source: Source, target: Path, coder: Coder, layout: Layout, where: Cluster) -> bool:
    """Code all items of a source that have not been; print a line that sums up.

    Args:
        source: images, or streams.
        target: the output folder; one that was begun is gone on with.
        coder: what codes.
        layout: how the output is written.
        where: workers.

    Returns:
        Whether there were no errors.

    Raises:
        UserError: the folder was begun with other settings or another source, or work had to be given up.
    """
    cluster.check_installed()
    began = time.perf_counter()
    planned, items = plan.survey(source, layout.items)
    settings = _settings(source, coder, layout)
    target.mkdir(parents=True, exist_ok=True)
    with _alone(target):
        _begin(target, settings)
        _keep(target, source, planned, items)
        plan.write(target, items, layout.items)
        del items  # a million of them take some 100 MB
        return _go_on(source, target, coder, layout, where, planned, began)


def _go_on(
    source: Source,
    target: Path,
    coder: Coder,
    layout: Layout,
    where: Cluster,
    planned: plan.Plan,
    began: float,
) -> bool:
    """Do what is missing of an output; whether there were no errors."""
    before = _manifest(target)
    _tell(source, len(before), planned.parts)
    task = Task(secrets.token_hex(4), target.resolve(), source, coder, layout.form)
    if missing := [n for n in range(planned.parts) if n not in before]:
        _do(task, missing, where, planned, before)
    found = _manifest(target)
    index, errors = _complete(target, planned, read_json(target / SETTINGS)["domains"])
    verb = "Decompressed" if source.streams else "Compressed"
    print(_summary(verb, found, index, errors, time.perf_counter() - began), flush=True)
    return not errors


def _settings(source: Source, coder: Coder, layout: Layout) -> dict[str, Any]:
    """What an output depends on, as plain values."""
    said = {f.name: getattr(coder, f.name) for f in fields(coder) if f.name != "steps_shown"}
    domains = None
    if coder.pack is None and coder.codec is not None:
        said["weights"] = alone(coder.codec, coder.quality).fingerprint
    if coder.pack is not None:
        said["pack"] = str(coder.pack.resolve())
        said["weights"] = _digest(coder.pack)
        domains = list(load(coder.pack, coder.trust).domains)
    return {
        "format": FORMAT,
        "direction": "decompress" if source.streams else "compress",
        "form": layout.form,
        "shard": layout.items,
        "coder": {**said, "trust": list(coder.trust)},
        "domains": domains,
    }


def _digest(pack: Path) -> str:
    digest = hashlib.sha256()
    for path in (pack / CONFIG, *sorted(pack.glob("*.safetensors"))):
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _begin(target: Path, settings: dict[str, Any]) -> None:
    """Hold the settings against those that the output was begun with, or begin it."""
    if not (target / SETTINGS).is_file():
        if any(not path.name.startswith(".") for path in target.iterdir()):
            raise UserError(f"{target} holds other files: name a new folder.")
        write_json(target / SETTINGS, settings)
        return
    before = read_json(target / SETTINGS)
    number = before.get("format") if isinstance(before, dict) else None
    if number != FORMAT:
        raise UserError(
            f"{target / SETTINGS} has format {number!r}; this program goes on with format {FORMAT}."
        )
    other = [key for key, value in settings.items() if before.get(key) != value]
    if other:
        raise UserError(
            f"{target} was begun with {_said(before, other)}; now it is {_said(settings, other)}. Name "
            "another folder, or go on as it was begun."
        )


def _keep(target: Path, source: Source, planned: plan.Plan, items: Sequence[plan.Planning]) -> None:
    """Hold what the source has against what the output was begun with, or note it.

    Raises:
        UserError: the source has changed.
    """
    before = read_json(target / SETTINGS)
    if "digest" not in before:
        write_json(target / SETTINGS, {**before, **asdict(planned)})
    elif before["digest"] != planned.digest:
        names = plan.changes(target, items)
        raise UserError(
            f"What is to be coded has changed since {target} was begun with {before['items']} items"
            + (f": {names}" if names else "")
            + f" (now {planned.items} in {printable(source.root)}). Name another folder."
        )


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Let no other process of this machine work at an output.

    Raises:
        UserError: one does.
    """
    with open(target / LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"Another bulk works at {target}: wait for it, or name another folder."
            ) from None
        except OSError:  # a file system without locks
            pass
        try:
            yield
        finally:
            (target / LOCK).unlink(missing_ok=True)


def _said(settings: dict[str, Any], keys: list[str]) -> str:
    return ", ".join(f"{key} {json.dumps(settings.get(key))}" for key in keys)


def _manifest(target: Path) -> dict[int, Done]:
    """The parts that are done, by number; those whose shard is not there any more are to be done again."""
    path = target / MANIFEST
    found: dict[int, Done] = {}
    for line in read_text(path).splitlines() if path.is_file() else []:
        try:
            line_says = Done(**json.loads(line))
        except (ValueError, TypeError):  # cut off when the run was killed
            continue
        found[line_says.part] = line_says
    form = read_json(target / SETTINGS)["form"]
    if form == "files":
        found = _with_all_files(target, found)
    return {n: done for n, done in found.items() if _is_there(target, form, done)}


def _is_there(target: Path, form: str, done: Done) -> bool:
    name = plan.part_name(done.part)
    shard = outputs.shard_file(form, name)
    if shard and not _has(target / shard, done.bytes):
        return False
    rows = (target / WORK / f"{name}.{kind}.parquet" for kind in ("index", "errors"))
    return (target / INDEX_FILE).is_file() or all(path.is_file() for path in rows)


def _has(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _with_all_files(target: Path, parts: dict[int, Done]) -> dict[int, Done]:
    """The parts whose single files are there, as their rows of the index say."""
    columns = ["file", "bytes"]
    whole = target / INDEX_FILE
    index = pq.read_table(whole, columns=columns) if whole.is_file() else None
    first, found = 0, {}
    for number, done in sorted(parts.items()):
        own = target / WORK / f"{plan.part_name(number)}.index.parquet"
        if index is not None:
            rows = index.slice(first, done.items)
            first += done.items
        elif own.is_file():
            rows = pq.read_table(own, columns=columns)
        else:
            continue
        if all(_has(target / "files" / row["file"], row["bytes"]) for row in rows.to_pylist()):
            found[number] = done
    return found


def _do(
    task: Task, missing: list[int], where: Cluster, planned: plan.Plan, before: dict[int, Done]
) -> None:
    """Do parts, with a line of the manifest and a step of the progress bar for each."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    verb = "Decompressed" if task.source.streams else "Compressed"
    columns = (TextColumn(verb), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        Progress(*columns, console=Console(stderr=True), transient=True) as progress,
        open(task.folder / MANIFEST, "ab") as manifest,
    ):
        bar = progress.add_task(
            verb, total=planned.items, completed=sum(d.items + d.errors for d in before.values())
        )
        if manifest.tell():
            manifest.write(b"\n")  # after a line that was cut off
        for done in cluster.done(task, missing, where):
            if done.failure:
                raise UserError(f"{done.failure} The same command goes on.")
            manifest.write(json.dumps(asdict(done)).encode() + b"\n")
            manifest.flush()
            os.fsync(manifest.fileno())
            progress.advance(bar, done.items + done.errors)


def _complete(target: Path, planned: plan.Plan, domains: list[str] | None) -> tuple[int, int]:
    """Make one index and one table of errors of the parts' rows; the numbers of their rows.

    Raises:
        UserError: together they are not the items of the plan.
    """
    names = [plan.part_name(number) for number in range(planned.parts)]
    told = {"domains": json.dumps(domains)} if domains else None
    for kind, file, schema in (("index", INDEX_FILE, INDEX), ("errors", ERRORS_FILE, ERRORS)):
        rows = [target / WORK / f"{name}.{kind}.parquet" for name in names]
        if not (target / file).is_file():
            with (
                atomic_path(target / file) as temporary,
                pq.ParquetWriter(temporary, schema.with_metadata(told)) as writer,
            ):
                for path in rows:
                    writer.write_table(pq.read_table(path).replace_schema_metadata(told))
    index, errors = (pq.read_metadata(target / f).num_rows for f in (INDEX_FILE, ERRORS_FILE))
    if index + errors != planned.items:
        raise UserError(
            f"{target} has {index} images and {errors} errors of {planned.items} items: a file of it was "
            "changed. Name a new folder."
        )
    shutil.rmtree(target / WORK, ignore_errors=True)
    for folder in (target / "shards", target / "files"):
        for path in folder.rglob(
            ".*"
        ):  # what workers that were killed have left; ours are not hidden
            path.unlink(missing_ok=True)
    return index, errors


def _summary(verb: str, parts: dict[int, Done], index: int, errors: int, seconds: float) -> str:
    pixels, bits = (
        sum(getattr(done, name) for done in parts.values()) for name in ("pixels", "bits")
    )
    line = f"{verb} {index} of {index + errors} images, {pixels / 1e6:.1f} megapixels, "
    line += f"{bits / max(1, pixels):.3f} bpp, {len(parts)} parts, {seconds:.1f} s"
    return line + (f"; {errors} failed, see {ERRORS_FILE}" if errors else "")


def _tell(source: Source, before: int, parts: int) -> None:
    if source.left_out:
        left = ", ".join(f"{n} {reason}" for reason, n in sorted(source.left_out.items()))
        print(printable(f"Left out: {left}"), file=sys.stderr)
    if before:
        print(f"Going on: {before} of {parts} parts are done", file=sys.stderr)
