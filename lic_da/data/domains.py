"""Domains: named kinds of images, prepared once and split into train, val and test.

``prepare`` turns a domain's sources into an index of usable images::

    sources ──► candidates ──► inspected (readable? right kind?) ──► series ──► splits ──► index.csv
                               drawings rendered to PNG                         contact_sheet.png

Photographs stay where their package or folder holds them; only drawings (SVG) are written anew.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from rich.console import Console

from lic_da.config import CONF, available, read_settings
from lic_da.data.alike import (
    NEAR_IDENTICAL,
    fingerprints,
    mirrored_distances,
    save_fingerprints,
)
from lic_da.data.augment import UNCHANGED, Augment
from lic_da.data.contact_sheet import write_contact_sheet
from lic_da.data.index import DomainImages, load_index, save_index, signature_of
from lic_da.data.inspection import Inspected, inspect_all
from lic_da.data.sources.base import Found, Source, SourceUnavailable
from lic_da.data.splits import SHARES, assign_splits
from lic_da.errors import UserError, unknown
from lic_da.io.files import read_text, user_path
from lic_da.registry import SOURCES

SOURCE_DOMAIN = "natural"

ALL_PREPARED = "all"
"""Among the unseen domains: every domain that lies prepared on disk."""

_INDEX_VERSION = 1
_KINDS = {"kind", "_target_"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_OF_TRAINING = re.compile(r"^augment:.*\n?(?:[ \t]+.*\n?)*", re.MULTILINE)
"""The entry of a domain's file, of one line or more, that changes nothing in what is prepared."""


@dataclass(frozen=True)
class Domain:
    """What ``conf/domain/<name>.yaml`` says.

    Attributes:
        name: the domain's name.
        sources: where its images come from.
        fallback: sources that take the place of those that cannot be reached.
        min_side: images with a shorter side are left out.
        limit: take at most this many images, chosen by their hashes; None: all.
        expected: fewer usable images than this are reported as an incomplete domain.
        test_only: all images go to the test split.
        shares: of training, validation and test images.
        apart_from: domains whose images must not be here a second time: what is near-identical to one
            of any split there, or its mirror image, is left out here.
        more_of: the domain that these images are more test images of; they are kept apart from it.
        augment: what training may do to its images, where it is asked to.
    """

    name: str
    sources: Sequence[Source]
    fallback: Sequence[Source] = ()
    min_side: int = 16
    limit: int | None = None
    expected: int = 3
    test_only: bool = False
    shares: Sequence[float] = SHARES
    apart_from: Sequence[str] = ()
    more_of: str | None = None
    augment: Augment = UNCHANGED

    @property
    def others(self) -> tuple[str, ...]:
        """Domains that this one is kept apart from."""
        more = () if self.more_of is None else (self.more_of,)
        return tuple(dict.fromkeys((*more, *self.apart_from)))


def load_domain(name: str) -> Domain:
    """The domain of that name, from ``conf/domain``.

    Raises:
        UserError: there is no such domain, or its file does not describe one.
    """
    path = CONF / "domain" / f"{name}.yaml"
    if not path.is_file():
        if name.startswith("pile-"):
            raise UserError(
                f"'{name}' is a group of a pile: lic-da data add outputs/NAME/groups.csv of the run that "
                "found it makes domains of its groups."
            )
        raise UserError(
            f"{unknown('domain', name, available('domain'))} Each is a file in {CONF / 'domain'}; the "
            "variable LIC_DA_CONF names another folder of settings than conf."
        )
    if not _NAME.fullmatch(name):
        raise UserError(f"'{name}' cannot be a domain: use letters, digits, - and _ only.")
    try:
        values: dict[str, Any] = {str(k): v for k, v in read_settings(path).items()}
        for key in ("sources", "fallback"):
            values[key] = [_source(entry) for entry in values.get(key) or []]
        values["augment"] = Augment(**values.get("augment") or {})
        domain = Domain(**{"name": name, **values})
        for number in (domain.min_side, domain.expected, domain.limit or 1):
            if not isinstance(number, int):
                raise TypeError(f"{number} is not a whole number")
        _check_splits(domain)
    except Exception as error:  # mistakes in the file show in many ways
        raise UserError(f"{path} does not describe a domain: {error}") from error
    if not domain.sources:
        raise UserError(f"{path} names no sources.")
    for source in (*domain.sources, *domain.fallback):
        source.test_only = source.test_only or domain.test_only
    return domain


def _source(settings: Any) -> Source:
    """A source, and that which it takes its files from, if it names one."""
    if isinstance(settings, Mapping):
        settings = {
            key: _source(value) if isinstance(value, Mapping) and _KINDS & value.keys() else value
            for key, value in settings.items()
        }
    source: Source = SOURCES.make(settings)
    return source


def _check_splits(domain: Domain) -> None:
    """Raise a TypeError or ValueError where what a domain says of its splits is of a wrong kind."""
    shares = [float(share) for share in domain.shares]
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"shares are three numbers whose sum is 1, not {shares}")
    if isinstance(domain.apart_from, str) or not all(isinstance(n, str) for n in domain.others):
        raise TypeError("apart_from is a list of names")
    if domain.name in domain.others:
        raise ValueError("it cannot be apart from itself")


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
    domain, told = load_domain(name), read_text(CONF / "domain" / f"{name}.yaml")
    folder = user_path(data_dir).resolve() / "domains" / name
    return prepare_domain(
        domain, told, folder, data_dir, console=console, rebuild=rebuild, retry=retry
    )


def prepare_domain(
    domain: Domain,
    told: str,
    folder: Path,
    data_dir: Path,
    *,
    console: Console | None = None,
    rebuild: bool = False,
    retry: bool = False,
) -> DomainImages:
    """As :func:`prepare`, for a domain that need not be one of ``conf/domain``.

    Args:
        domain: its sources and rules.
        told: text that is another one where these are others.
        folder: of its index, drawings and contact sheet, somewhere in the data folder.
        data_dir: folder for packages, drawings and indices.
        console: as of :func:`prepare`.
        rebuild: the same.
        retry: the same.
    """
    data_dir = user_path(data_dir).resolve()
    console = console or Console(quiet=True, stderr=True)
    _refuse_circles(domain)
    others = [prepare(other, data_dir, console=console, retry=retry) for other in domain.others]
    if not rebuild:
        ready = load_index(folder, data_dir, _signature(domain, told, data_dir))
        if ready is not None and not (retry and ready.notes):
            return ready
    data_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(data_dir / ".lock"):  # one for all domains, which may share packages
        signature = _signature(domain, told, data_dir)
        ready = None if rebuild else load_index(folder, data_dir, signature)
        if ready is not None and not (retry and ready.notes):
            return ready
        return _build(domain, folder, data_dir, signature, console, others)


def prepared(name: str, data_dir: Path) -> DomainImages | None:
    """A domain as it lies on disk; None: it is not prepared, or not as its configuration says now.

    Raises:
        UserError: no such domain, or a folder of the user's that is gone.
    """
    data_dir = user_path(data_dir).resolve()
    folder = data_dir / "domains" / name
    if not (folder / "state.json").is_file():
        return None
    told = read_text(CONF / "domain" / f"{name}.yaml")
    return load_index(folder, data_dir, _signature(load_domain(name), told, data_dir))


def unseen_domains(asked: Sequence[str], trained: Sequence[str], data_dir: Path) -> tuple[str, ...]:
    """Names of the domains that are only tested.

    Args:
        asked: names of domains; ``ALL_PREPARED`` stands for those that lie in ``data_dir`` ready to use
            and nothing is fetched for. More images of another domain (``more_of``) are none of them.
        trained: domains of the run, which are left out.
        data_dir: folder of the prepared images.

    Raises:
        UserError: no such domain.
    """
    ready = _ready(data_dir) if ALL_PREPARED in asked else ()
    names = dict.fromkeys((*(name for name in asked if name != ALL_PREPARED), *ready))
    for name in names:
        load_domain(name)
    return tuple(name for name in names if name not in trained)


def _ready(data_dir: Path) -> list[str]:
    """Domains of ``conf/domain`` that are prepared and hold test images of their own."""
    found = []
    for name in available("domain"):
        try:
            images = prepared(name, data_dir) if load_domain(name).more_of is None else None
        except UserError:  # such as a folder of the user's that is gone
            continue
        if images is not None and images.split("test"):
            found.append(name)
    return found


def more_tests(
    images: DomainImages, data_dir: Path, console: Console | None = None
) -> DomainImages:
    """A domain with the test images of all that are ``more_of`` it; see :class:`Domain`."""
    more = [name for name in available("domain") if load_domain(name).more_of == images.name]
    found = [prepare(name, data_dir, console=console) for name in more]
    tests = [image for other in found for image in other.split("test")]
    return replace(images, entries=(*images.entries, *tests))


def _refuse_circles(domain: Domain) -> None:
    waiting, known = list(domain.others), set[str]()
    while waiting:
        name = waiting.pop()
        if name == domain.name:
            raise UserError(
                f"Domain '{name}' is to be kept apart from itself, by way of {', '.join(domain.others)}."
            )
        if name not in known:
            known.add(name)
            waiting += load_domain(name).others


def _build(
    domain: Domain,
    folder: Path,
    data_dir: Path,
    signature: str,
    console: Console,
    others: Sequence[DomainImages],
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
        why = ", ".join(f"{n} {r}" for r, n in skipped.items()) or "no image files there"
        raise UserError(f"Domain '{name}' has no usable images in {where} ({why}).")
    for other in others:
        inspected, twice = _apart_from(inspected, other)
        skipped[f"near-identical to images of {other.name}"] += twice
        if not inspected:
            raise UserError(
                f"All {twice} usable images of '{name}' are near-identical to images of {other.name}."
            )
    if len(inspected) < domain.expected:
        notes.append(
            f"{name}: only {len(inspected)} of at least {domain.expected} expected images were found"
        )
    entries, twice = assign_splits(inspected, domain.shares)
    skipped["near-identical to images of other splits"] += twice
    images = DomainImages(name, tuple(entries), dict(+skipped), tuple(notes), folder, data_dir)
    save_fingerprints(folder, {i.candidate.sha256: i.fingerprint for i in inspected})
    write_contact_sheet(images)
    save_index(images, signature)
    for line in (*notes, images.summary()):
        console.print(line, highlight=False)
    return images


def _apart_from(inspected: list[Inspected], other: DomainImages) -> tuple[list[Inspected], int]:
    """Images that show nothing of what a domain's do, and how many others there were."""
    bits, unreadable = fingerprints(other)
    readable = np.array([p not in unreadable for p in other.entries], bool)
    if not inspected or not readable.any():
        return inspected, 0
    own = np.stack([item.fingerprint for item in inspected])
    alike = (mirrored_distances(own, bits[readable]) <= NEAR_IDENTICAL).any(axis=1)
    series = {p.series for p in other.entries}
    kept = [
        item
        for item, twice in zip(inspected, alike, strict=True)
        if not twice and item.candidate.split_key[:16] not in series
    ]
    return kept, len(inspected) - len(kept)


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


def _signature(domain: Domain, told: str, data_dir: Path) -> str:
    """Changes when the domain's configuration changes, the files of one of its folders, or another domain
    that it is kept apart from.
    """
    parts: list[Any] = [_INDEX_VERSION, _of_preparing(told)]
    for source in domain.sources:
        parts += source.watched(data_dir / "packages")
    for name in domain.others:
        parts.append(_of_preparing(read_text(CONF / "domain" / f"{name}.yaml")))
        parts.append(signature_of(data_dir / "domains" / name))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _of_preparing(told: str) -> str:
    """The text of a domain's configuration, without what is said of training."""
    return _OF_TRAINING.sub("", told)


def refuse_shared_files(domains: Iterable[DomainImages]) -> None:
    """Raise a UserError if two domains hold the same file: labels would contradict each other."""
    seen: dict[str, tuple[str, str]] = {}
    shared: dict[tuple[str, str], list[str]] = defaultdict(list)
    for domain in domains:
        for image in domain.entries:
            first = seen.setdefault(image.sha256, (domain.name, image.name))
            if first[0] != domain.name:
                shared[first[0], domain.name].append(image.name)
    if shared:
        (one, other), names = next(iter(shared.items()))
        raise UserError(
            f"Domains '{one}' and '{other}' share {len(names)} files, for example {names[0]}. "
            "Every image must belong to one domain."
        )
