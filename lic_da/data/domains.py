"""Domains: named kinds of pictures, prepared once and split into train, val and test.

``prepare`` turns a domain's sources into an index of usable pictures::

    sources ──► candidates ──► inspected (readable? right kind?) ──► series ──► splits ──► index.csv
                               drawings rendered to PNG                         contact_sheet.png

Photographs stay where their package or folder holds them; only drawings (SVG) are written anew.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from lic_da.config import CONF, available
from lic_da.data.contact_sheet import write_contact_sheet
from lic_da.data.index import DomainImages, load_index, save_index
from lic_da.data.inspection import inspect_all
from lic_da.data.sources import (
    FolderSource,
    Found,
    Source,
    SourceUnavailable,
)
from lic_da.data.splits import assign_splits
from lic_da.errors import UserError, unknown
from lic_da.io.files import read_text, user_path

SOURCE_DOMAIN = "natural"

_INDEX_VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Domain:
    """What ``conf/domain/<name>.yaml`` says.

    Attributes:
        name: the domain's name.
        sources: where its pictures come from.
        fallback: sources that take the place of those that cannot be reached.
        min_side: pictures with a shorter side are left out.
        limit: take at most this many pictures, chosen by their hashes; None: all.
        expected: fewer usable pictures than this are reported as an incomplete domain.
    """

    name: str
    sources: Sequence[Source]
    fallback: Sequence[Source] = ()
    min_side: int = 16
    limit: int | None = None
    expected: int = 3


def load_domain(name: str) -> Domain:
    """The domain of that name, from ``conf/domain``.

    Raises:
        UserError: there is no such domain, or its file does not describe one.
    """
    path = CONF / "domain" / f"{name}.yaml"
    if not path.is_file():
        raise unknown("domain", name, available("domain"))
    if not _NAME.fullmatch(name):
        raise UserError(f"'{name}' cannot be a domain: use letters, digits, - and _ only.")
    try:
        config = OmegaConf.load(path)
        if not isinstance(config, DictConfig):
            raise TypeError("it is a list")
        values: dict[str, Any] = {str(k): v for k, v in config.items()}
        for key in ("sources", "fallback"):
            values[key] = [instantiate(entry) for entry in values.get(key) or []]
            for source in values[key]:
                if not isinstance(source, Source):
                    raise TypeError(f"{source} is not a source")
        domain = Domain(**{"name": name, **values})
        for number in (domain.min_side, domain.expected, domain.limit or 1):
            if not isinstance(number, int):
                raise TypeError(f"{number} is not a whole number")
    except Exception as error:  # instantiate wraps every mistake in the file in its own way
        raise UserError(f"{path} does not describe a domain: {error}") from error
    if not domain.sources:
        raise UserError(f"{path} names no sources.")
    return domain


def prepare(
    name: str,
    data_dir: Path,
    *,
    console: Console | None = None,
    rebuild: bool = False,
    retry: bool = False,
) -> DomainImages:
    """Make a domain ready to use; quick when it already is.

    Of several processes one does the work and the others wait for it.

    Args:
        name: a domain of ``conf/domain``.
        data_dir: folder for packages, drawings and indices.
        console: where progress is shown; None for a quiet run.
        rebuild: inspect all files again even if nothing seems to have changed.
        retry: try sources again that could not be reached the last time.

    Raises:
        UserError: no such domain, no usable images, or no source can be reached.
    """
    domain = load_domain(name)
    data_dir = user_path(data_dir).resolve()
    console = console or Console(quiet=True, stderr=True)
    folder = data_dir / "domains" / name
    if not rebuild:
        ready = load_index(folder, data_dir, _signature(domain, data_dir))
        if ready is not None and not (retry and ready.notes):
            return ready
    data_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(data_dir / ".lock"):  # one for all domains, which may share packages
        signature = _signature(domain, data_dir)
        ready = None if rebuild else load_index(folder, data_dir, signature)
        if ready is not None and not (retry and ready.notes):
            return ready
        return _build(domain, folder, data_dir, signature, console)


def _build(
    domain: Domain, folder: Path, data_dir: Path, signature: str, console: Console
) -> DomainImages:
    name = domain.name
    sources, notes = _reachable_sources(domain, data_dir / "packages", console)
    inspected, skipped = inspect_all(
        name, sources, folder, console, min_side=domain.min_side, limit=domain.limit
    )
    for source, _ in sources:
        skipped.update(source.left_out)
    if not inspected:
        where = ", ".join(source.label for source, _ in sources)
        why = ", ".join(f"{n} {r}" for r, n in skipped.items()) or "no picture files there"
        raise UserError(f"Domain '{name}' has no usable images in {where} ({why}).")
    if len(inspected) < domain.expected:
        notes.append(
            f"{name}: only {len(inspected)} of at least {domain.expected} expected images were found"
        )
    pictures = assign_splits(inspected)
    images = DomainImages(name, tuple(pictures), dict(skipped), tuple(notes), folder, data_dir)
    write_contact_sheet(images)
    save_index(images, signature)
    for line in (*notes, images.summary()):
        console.print(line, highlight=False)
    return images


def _reachable_sources(
    domain: Domain, store: Path, console: Console
) -> tuple[list[tuple[Source, list[Found]]], list[str]]:
    reached, notes, missing = [], [], []
    for source in domain.sources:
        console.print(f"[dim]{domain.name}: {source.label}[/dim]", highlight=False)
        try:
            reached.append((source, source.files(store)))
        except SourceUnavailable as error:
            missing.append(str(error))
    if missing:
        notes.append(f"{domain.name}: " + " ".join(missing))
        for source in domain.fallback:
            try:
                reached.append((source, source.files(store)))
                notes.append(f"{domain.name}: using {source.label} instead")
            except SourceUnavailable as error:
                notes.append(f"{domain.name}: {error}")
    if not reached:
        raise UserError(f"No source of domain '{domain.name}' can be reached. {' '.join(notes)}")
    return reached, notes


def _signature(domain: Domain, data_dir: Path) -> str:
    """Changes when the domain's configuration changes, or the files of one of its folders."""
    parts: list[Any] = [_INDEX_VERSION, read_text(CONF / "domain" / f"{domain.name}.yaml")]
    for source in domain.sources:
        if isinstance(source, FolderSource):
            for found in source.files(data_dir):
                stat = found.path.stat()
                parts.append([found.name, stat.st_size, stat.st_mtime_ns])
            parts += sorted(source.left_out.items())
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def refuse_shared_files(domains: Iterable[DomainImages]) -> None:
    """Raise a UserError if two domains hold the same file: labels would contradict each other."""
    seen: dict[str, tuple[str, str]] = {}
    shared: dict[tuple[str, str], list[str]] = defaultdict(list)
    for domain in domains:
        for picture in domain.pictures:
            first = seen.setdefault(picture.sha256, (domain.name, picture.name))
            if first[0] != domain.name:
                shared[first[0], domain.name].append(picture.name)
    if shared:
        (one, other), names = next(iter(shared.items()))
        raise UserError(
            f"Domains '{one}' and '{other}' share {len(names)} files, for example {names[0]}. "
            "Every picture must belong to one domain."
        )
