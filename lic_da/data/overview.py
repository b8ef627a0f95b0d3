"""What domains there are on this machine: counts, sizes, licences, and where the images are from."""

from __future__ import annotations

import csv
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from rich.table import Table

from lic_da.data.domains import Domain, load_domain, prepared
from lic_da.data.index import SPLITS, DomainImages
from lic_da.data.licences import Terms
from lic_da.errors import UserError
from lic_da.io.files import output_path, user_path


@dataclass(frozen=True)
class Overview:
    """A domain at a glance.

    Attributes:
        domain: its name.
        train: training images; None: the domain is not prepared.
        val: validation images.
        test: test images.
        test_only: whether nothing of it is trained on.
        width: median, in pixels.
        height: median, in pixels.
        megapixels: of all images together.
        licences: of its sources, by what their packages say.
        sources: where its images are from, with their numbers.
    """

    domain: str
    train: int | None
    val: int | None
    test: int | None
    test_only: bool
    width: int | None
    height: int | None
    megapixels: float | None
    licences: str
    sources: str


def overview(names: Iterable[str], data_dir: Path) -> list[Overview]:
    """What is known of domains; nothing is fetched or prepared for it.

    Args:
        names: domains of ``conf/domain``.
        data_dir: folder of the prepared images.

    Raises:
        UserError: one of them does not exist.
    """
    return [_of_domain(load_domain(name), data_dir) for name in names]


def _of_domain(domain: Domain, data_dir: Path) -> Overview:
    test_only = all(source.test_only for source in domain.sources)
    try:
        images = prepared(domain.name, data_dir)
    except UserError as error:  # a folder that is gone
        return _empty(domain.name, test_only, str(error))
    if images is None or not images.entries:
        where = ", ".join(dict.fromkeys(source.label for source in domain.sources))
        return _empty(domain.name, test_only, where)
    counts = Counter(image.split for image in images.entries)
    train, val, test = (counts[split] for split in SPLITS)
    found = terms_of(domain, images)
    names = dict.fromkeys(name for terms, _ in found.values() for name in terms.names)
    return Overview(
        domain.name,
        train,
        val,
        test,
        test_only,
        round(statistics.median(p.width for p in images.entries)),
        round(statistics.median(p.height for p in images.entries)),
        round(sum(p.width * p.height for p in images.entries) / 1e6, 1),
        ", ".join(names) or "not stated",
        ", ".join(f"{label} ({number})" for label, (_, number) in found.items()),
    )


def _empty(name: str, test_only: bool, where: str) -> Overview:
    return Overview(name, None, None, None, test_only, None, None, None, "", where)


def terms_of(domain: Domain, images: DomainImages) -> dict[str, tuple[Terms, int]]:
    """The sources that a domain's images are from: label -> what they may be used for, and their number."""
    store = images.data_dir / "packages"
    sources = {source.label: source for source in (*domain.fallback, *domain.sources)}
    counts = Counter(image.source for image in images.entries)
    return {
        label: (sources[label].terms(store) if label in sources else Terms(), number)
        for label, number in sorted(counts.items(), key=lambda item: -item[1])
    }


def overview_table(rows: Sequence[Overview]) -> Table:
    """The overview for a terminal."""
    table = Table(box=None, pad_edge=False)
    for heading in ("domain", *SPLITS, "median size", "Mpx"):
        table.add_column(heading, justify="left" if heading == "domain" else "right", no_wrap=True)
    table.add_column("licence")
    table.add_column("from")
    for row in rows:
        size = "–" if row.width is None else f"{row.width}×{row.height}"
        counts = [row.train, row.val, row.test, row.megapixels]
        train, val, test, pixels = ("–" if value is None else f"{value:.0f}" for value in counts)
        licences, sources = (
            _short(text, most) for text, most in ((row.licences, 3), (row.sources, 2))
        )
        state = "not prepared" if row.train is None else licences
        table.add_row(row.domain, train, val, test, size, pixels, state, sources)
    return table


def _short(text: str, most: int) -> str:
    """The first parts of a text that is parted by commas."""
    parts = text.split(", ")
    more = len(parts) - most
    return ", ".join(parts[:most]) + (f" and {more} more" if more > 0 else "")


def write_overview(rows: Sequence[Overview], path: Path) -> None:
    """The overview as CSV, with a column for each field of :class:`Overview`; ``-``: standard output."""
    with output_path(user_path(path)) as temporary, open(temporary, "w", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Overview)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
