"""A pile: a folder of images without labels, the groups that were found in it, and their table.

A pile is prepared as a domain is, once for all runs. Which of its images are alike is a run's own finding,
and stands in its folder::

    DATA/piles/<folder>_<hash>/         index.csv, drawings, contact sheet of the pile
    outputs/<name>/groups.csv           a row an image: image,path,domain,split,by_hand,sha256,series
    outputs/<name>/groups/<group>.png   a contact sheet a group

In the columns ``path``, ``domain`` and ``split`` the table is one that ``lic-da data add`` reads.
"""

from __future__ import annotations

import contextlib
import csv
import fnmatch
import hashlib
import re
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from lic_da.data.augment import UNCHANGED, Augment
from lic_da.data.contact_sheet import write_contact_sheet
from lic_da.data.datamodule import DomainsDataModule
from lic_da.data.domains import Domain, prepare_domain
from lic_da.data.index import SPLITS, DomainImages, ImageInfo
from lic_da.data.sources.folder import FolderSource
from lic_da.data.splits import fill_empty_splits
from lic_da.errors import UserError, unknown
from lic_da.io.files import atomic_path, user_path

GROUPS = "groups.csv"
"""The table of groups in the folder of a run."""

SHEETS = "groups"
"""The folder beside it, of a contact sheet a group; there may be pictures of the user's in it."""

FEWEST = 3
"""Different images that a group needs: one to train, one to validate and one to test with."""

_WORDS = {"True": True, "False": False}


@dataclass(frozen=True)
class Member:
    """An image of a pile, in a group: a row of ``groups.csv``.

    Attributes:
        image: its name in the pile.
        path: where its pixels are.
        domain: the group.
        split: ``train``, ``val`` or ``test``.
        by_hand: a user has said which group; it is no longer asked.
        sha256: of the bytes of the original file.
        series: key shared by near-identical images; they are one different image.
    """

    image: str
    path: str
    domain: str
    split: str
    by_hand: bool
    sha256: str
    series: str


_NEEDED = tuple(f.name for f in fields(Member) if f.name != "series")
"""Columns of a table; those of earlier versions have no others."""


def prepare_pile(
    folder: Path | str, data_dir: Path, source: str, console: Console | None = None
) -> DomainImages:
    """Make a pile ready to use; quick when it already is.

    What is near-identical to an image of the source domain is left out: it is in that one's batches.

    Args:
        folder: of images, with its subfolders.
        data_dir: folder of the prepared images.
        source: the domain that the codec was pre-trained on.
        console: where progress is shown.

    Raises:
        UserError: there is no such folder, or there are fewer than three different images in it.
    """
    root = user_path(folder).resolve()
    data_dir = user_path(data_dir).resolve()
    slug = re.sub(r"[^A-Za-z0-9]+", "-", root.name).strip("-") or "pile"
    target = data_dir / "piles" / f"{slug}_{hashlib.sha256(str(root).encode()).hexdigest()[:8]}"
    domain = Domain(target.name, [FolderSource(path=str(root))], apart_from=[source])
    pile = prepare_domain(domain, f"{root}, apart from {source}", target, data_dir, console=console)
    different = len({entry.series for entry in pile.entries})
    if different < FEWEST:
        raise UserError(
            f"A pile needs at least three different images; {root} has {different}. {pile.summary()}"
        )
    return pile


def members(pile: DomainImages, groups: Mapping[str, str], by_hand: Container[str]) -> list[Member]:
    """The table of a pile's groups.

    Splits are those of the pile, so an image that moves keeps its own; where a group lacks one, the images
    with the largest hashes fill it, whole series at a time.

    Args:
        pile: prepared.
        groups: SHA-256 of each image -> its group, which has :data:`FEWEST` series or more.
        by_hand: SHA-256 of the images that a user has moved.
    """
    splits: dict[str, dict[str, str]] = defaultdict(dict)
    for entry in pile.entries:
        splits[groups[entry.sha256]][entry.series] = entry.split
    for of_group in splits.values():
        fill_empty_splits(of_group)
    return [
        Member(
            image=entry.name,
            path=str(pile.path(entry).resolve()),
            domain=groups[entry.sha256],
            split=splits[groups[entry.sha256]][entry.series],
            by_hand=entry.sha256 in by_hand,
            sha256=entry.sha256,
            series=entry.series,
        )
        for entry in pile.entries
    ]


def write_groups(table: Sequence[Member], folder: Path) -> None:
    """Write ``groups.csv`` into the folder of a run, whole or not at all.

    Contact sheets of groups that were in the table there before, and are no more, are removed.
    """
    before = _groups_of(folder)
    with (
        atomic_path(folder / GROUPS) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.DictWriter(file, [f.name for f in fields(Member)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(member) for member in sorted(table, key=_by_group))
    gone = before - {member.domain for member in table}
    for sheet in (folder / SHEETS).glob("*.png"):
        if sheet.stem in gone:
            sheet.unlink()


def _groups_of(folder: Path) -> set[str]:
    """Names of the groups in the table of a folder; none where it cannot be read, or is not there."""
    with contextlib.suppress(UserError):
        return {member.domain for member in read_groups(folder)}
    return set()


def _by_group(member: Member) -> tuple[str, str]:
    return member.domain, member.image


def read_groups(folder: Path) -> list[Member]:
    """The groups of a run, from its folder.

    Raises:
        UserError: there are none, or the table is not one that :func:`write_groups` has written.
    """
    path = folder / GROUPS
    if not path.is_file():
        raise UserError(
            f"{folder} has no groups: name the folder of a run that was trained with pile=FOLDER, such as "
            "outputs/NAME."
        )
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = list(csv.DictReader(file))
        found = [_member(row) for row in rows]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path} cannot be read as a table of groups: it needs the columns "
            f"{', '.join(_NEEDED)}, and True or False in by_hand."
        ) from error
    for member in found:
        if member.split not in SPLITS:
            raise unknown("split", member.split, SPLITS, f"in {path}")
    return found


def _member(row: Mapping[str, str]) -> Member:
    """A row of a table; in those of earlier versions each image is a series of its own."""
    told: dict[str, Any] = {**row, "by_hand": _WORDS[row["by_hand"]]}
    return Member(**{"series": row["sha256"][:16], **told})


def named_groups(table: Sequence[Member]) -> list[str]:
    """Names of the groups, in order: those with numbers at their ends count by these."""
    return sorted({member.domain for member in table}, key=_natural)


def _natural(name: str) -> list[Any]:
    return [(not p.isdigit(), int(p) if p.isdigit() else p) for p in re.split(r"(\d+)", name)]


def moved(table: Sequence[Member], moves: Mapping[str, str]) -> list[Member]:
    """A table with images moved by hand; they keep their splits, but where a group would lack one.

    Args:
        table: of a run.
        moves: name of an image in the pile, or a pattern with ``*``, -> group.

    Raises:
        UserError: no such image or group, or a group would have fewer than three different images, which
            a search would not keep.
    """
    groups, result = named_groups(table), list(table)
    for pattern, group in moves.items():
        if group not in groups:
            raise unknown("group", group, groups)
        hit = [n for n, m in enumerate(result) if fnmatch.fnmatchcase(m.image, pattern)]
        hit = [n for n, m in enumerate(result) if m.image == pattern] or hit
        if not hit:
            raise unknown("image", pattern, [m.image for m in table][:20])
        for n in hit:
            result[n] = replace(result[n], domain=group, by_hand=True)
    for group in groups:
        left = len({member.series for member in result if member.domain == group})
        if left < FEWEST:
            raise UserError(
                f"Group {group} would have {left} different images (near-identical ones count once), and "
                "needs three at least: move others into it first, or train again with fewer groups."
            )
    return [member for group in groups for member in _filled(result, group)]


def _filled(table: Sequence[Member], group: str) -> list[Member]:
    """The rows of a group, which has at least three series, with images in each split."""
    own = [member for member in table if member.domain == group]
    splits = {member.series: member.split for member in own}
    fill_empty_splits(splits)
    return [replace(member, split=splits[member.series]) for member in own]


def refuse_missing(table: Sequence[Member], folder: Path) -> None:
    """Raise a UserError where the files of a run's groups are not all there any more."""
    missing = [member for member in table if not Path(member.path).is_file()]
    if missing:
        raise UserError(
            f"{folder / GROUPS} names {len(missing)} images that are gone from disk, such as "
            f"{missing[0].image} ({missing[0].path}): put them back, or take their rows out of the table."
        )


def write_sheets(groups: Mapping[str, DomainImages], folder: Path) -> list[Path]:
    """Draw a contact sheet of each group.

    Args:
        groups: by name.
        folder: of the run.
    """
    sheets = folder / SHEETS
    sheets.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, images in groups.items():
        drawn.append(sheets / f"{name}.png")
        write_contact_sheet(images, drawn[-1])
    return drawn


def group_images(table: Sequence[Member], folder: Path) -> dict[str, DomainImages]:
    """The groups as domains, by name.

    Args:
        table: of a run; sides of the images are not told, which sheets do not need.
        folder: of the run.
    """
    return {
        name: DomainImages(
            name,
            tuple(_info(member) for member in table if member.domain == name),
            {},
            (),
            folder,
            folder,
        )
        for name in named_groups(table)
    }


def _info(member: Member) -> ImageInfo:
    return ImageInfo(
        member.path, member.image, "pile", member.split, member.series, member.sha256, 0, 0
    )


class PileDataModule(DomainsDataModule):
    """The groups of a pile as target domains, beside the source.

    Args:
        domains: names of the groups.
        pile: folder of the images.
        folder: of the run, which holds ``groups.csv``.
        kwargs: see :class:`DomainsDataModule`.
    """

    def __init__(self, domains: Sequence[str], *, pile: str, folder: str, **kwargs: Any) -> None:
        super().__init__(domains, **kwargs)
        self.pile, self.folder = pile, Path(folder)
        self._groups: dict[str, DomainImages] = {}

    def domain(self, name: str, console: Console | None = None) -> DomainImages:
        """A group of the pile, or a domain of ``conf/domain``.

        Raises:
            UserError: ``groups.csv`` names images that are not in the pile.
        """
        if not self._groups:
            self._groups = dict(self._in_groups(console))
        return self._groups.get(name) or super().domain(name, console)

    def augment_of(self, name: str) -> Augment:
        """Nothing, of a group: what it shows is not known."""
        return UNCHANGED if name in self._groups else super().augment_of(name)

    def _in_groups(self, console: Console | None) -> Iterator[tuple[str, DomainImages]]:
        pile = prepare_pile(self.pile, self.data_dir, self.domain_names[0], console)
        entries = {entry.sha256: entry for entry in pile.entries}
        table = read_groups(self.folder)
        for name in named_groups(table):
            own = [member for member in table if member.domain == name]
            missing = [member.image for member in own if member.sha256 not in entries]
            if missing:
                raise UserError(
                    f"{self.folder / GROUPS} names {len(missing)} images that are not in {self.pile} any "
                    f"more, such as {missing[0]}: train again with another name=…."
                )
            placed = tuple(replace(entries[m.sha256], split=m.split) for m in own)
            yield name, replace(pile, name=name, entries=placed, skipped={}, notes=())
