"""From a pile to the domains of a run: clusters of alike images, rounds, names, what was found in words.

::

    pile ──► blocks ──► clusters ──┬─► train briefly ─► who decodes it best? ─┬─► merge, name ──► groups.csv
                                   └◄────────────── rounds times ─────────────┘

What is found stands in the folder of the run after each round, so that a search that was killed goes on.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from hydra.utils import instantiate
from numpy.typing import NDArray
from rich.console import Console

from lic_da.config import as_yaml, available
from lic_da.data import clusters
from lic_da.data.blocks import Described, described
from lic_da.data.clusters import Features, Labels
from lic_da.data.datamodule import DomainsDataModule, LabelledImage
from lic_da.data.domains import load_domain, prepared
from lic_da.data.index import DomainImages, ImageInfo
from lic_da.data.pile import (
    FEWEST,
    GROUPS,
    Member,
    group_images,
    members,
    prepare_pile,
    read_groups,
    write_groups,
    write_sheets,
)
from lic_da.errors import UserError
from lic_da.io.files import read_json, user_path, write_json, write_text
from lic_da.io.run_folder import CONFIG
from lic_da.methods.adapters.codec import AdaptedCodec
from lic_da.surroundings import granted_cpus
from lic_da.training.pile import rounds
from lic_da.training.settings import PileSettings, RunSettings
from lic_da.workers import DIED, Workers

STATE = "pile.json"
"""What is known of the search, in the folder of a run; a part of its summary."""

_SQUARE = 256  # pixels a side of an image that tell which adapters decode it best
_A_PROCESS = 64  # images; fewer are read faster than another process starts
_OF_DOMAIN = 24  # images of a known domain that groups are compared with


@dataclass
class Found:
    """How far a search is, and what it has found.

    Attributes:
        asked: the settings that count.
        images: of the pile.
        skipped: how many files were left out, by reason.
        rounds: that are done.
        finished: groups are merged and have their names.
        moved: images that each round has moved.
        like: group -> the known domain that it is most like; None: none.
        notes: what a user should know, in words.
        began_from: hash of the groups of an earlier run that were gone on with; None: there are none, or
            an earlier version has searched.
    """

    asked: dict[str, Any]
    images: int
    skipped: dict[str, int]
    rounds: int = 0
    finished: bool = False
    moved: list[int] = field(default_factory=list)
    like: dict[str, str | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    began_from: str | None = None


def find_groups(settings: RunSettings, folder: Path, console: Console) -> RunSettings:
    """The settings of a run with the groups of its pile as domains; the search is done if it is not yet.

    Args:
        settings: of a run with a pile.
        folder: of the run; ``groups.csv``, ``pile.json`` and contact sheets are written there.
        console: where progress is shown.

    Raises:
        UserError: the pile cannot be used, or several processes would search.
    """
    asked = settings.pile
    assert asked is not None
    if instantiate(settings.trainer, logger=False).world_size > 1:
        raise UserError(
            "Groups of a pile are searched by one process: leave out trainer=ddp, or make domains of the "
            "groups of a run with one process by lic-da data add outputs/NAME/groups.csv."
        )
    data_dir, source = user_path(settings.data["data_dir"]), settings.names[0]
    pile = prepare_pile(asked.folder, data_dir, source, console)
    write_text(folder / CONFIG, as_yaml(settings.config))  # also if the search is killed
    search = _Search(settings, asked, folder, pile, console)
    if not search.found.finished:
        search.run()
    for note in search.found.notes:
        console.print(note, highlight=False)
    return settings.on_groups(sorted(search.found.like), folder)


def began_from_others(settings: RunSettings, folder: Path) -> bool:
    """Whether a run's groups began from those of another run that have changed since."""
    if settings.pile is None or not (folder / STATE).is_file():
        return False
    known = read_json(folder / STATE).get("began_from")
    return known not in (None, _groups_to_begin_from(settings.pile, folder))


def _groups_to_begin_from(asked: PileSettings, folder: Path) -> str | None:
    """Hash of what counts of an earlier run's groups; None: there is none, or it is that of the folder."""
    where = asked.earlier
    if where is None or where.resolve() == folder.resolve():
        return None
    table = sorted((m.sha256, m.domain, m.by_hand) for m in read_groups(where))
    return hashlib.sha256(json.dumps(table).encode()).hexdigest()


class _Search:
    """A search for the groups of a pile, from its beginning or where it was left."""

    def __init__(
        self,
        settings: RunSettings,
        asked: PileSettings,
        folder: Path,
        pile: DomainImages,
        console: Console,
    ) -> None:
        self.settings, self.asked, self.folder = settings, asked, folder
        self.pile, self.console = pile, console
        self.keys = [entry.sha256 for entry in pile.entries]
        self.by_hand: set[str] = set()
        self.began_from = _groups_to_begin_from(asked, folder)
        new = Found(
            self._counts(), len(pile.entries), dict(pile.skipped), began_from=self.began_from
        )
        self.found = self._left() or new

    def _counts(self) -> dict[str, Any]:
        codec = self.settings.codec
        told = {**asdict(self.asked), "codec": codec.name, "quality": codec.quality}
        images = hashlib.sha256("".join(sorted(self.keys)).encode()).hexdigest()
        told |= {"seed": self.settings.seed, "images": images}
        return dict(json.loads(json.dumps(told, default=str)))

    def _left(self) -> Found | None:
        """What an earlier process has left in the folder, if it searched for the same from the same groups.

        Raises:
            UserError: it began from other groups, and a training on what it found is to go on.
        """
        path = self.folder / STATE
        if not path.is_file() or not (self.folder / GROUPS).is_file():
            return None
        try:
            left = Found(**read_json(path))
        except TypeError:
            return None
        if left.asked != self._counts():
            return None
        if left.began_from in (None, self.began_from):
            return left
        if self.settings.ckpt_path is not None:
            raise UserError(
                f"The groups of {self.asked.earlier} have changed since {self.folder} was trained on them: "
                "train on them by another name=…, without ckpt_path."
            )
        return None

    def run(self) -> None:
        """Search to the end."""
        blocks = _blocks_of([self.pile.path(entry) for entry in self.pile.entries])
        (features,) = clusters.word_shares(blocks, seed=self.settings.seed)
        labels = self._start(features)
        while self.found.rounds < self.asked.rounds and len(np.unique(labels)) > 1:
            labels = self._round(labels, features)
        labels = self._enough(labels, features)
        self._finish(labels, blocks)

    @property
    def fixed(self) -> NDArray[np.bool_]:
        """Images that a user has moved, ``(N,)``."""
        return np.array([key in self.by_hand for key in self.keys], bool)

    def _start(self, features: Features) -> Labels:
        """Groups of the folder, of an earlier run, or of images that look alike.

        Raises:
            UserError: the table names no image of the pile, or too few of a group that is kept by hand.
        """
        where = self.folder if self.found.rounds else self.asked.earlier
        if where is None:
            wanted = min(self.asked.groups, len(self.keys) // FEWEST)
            labels = clusters.clustered(features, max(1, wanted), self.settings.seed)
            return self._enough(labels, features)
        known = {member.sha256: member for member in read_groups(where)}
        names = sorted({member.domain for member in known.values()})
        self.by_hand = {key for key in self.keys if key in known and known[key].by_hand}
        labels = np.array([names.index(known[k].domain) if k in known else -1 for k in self.keys])
        if (labels < 0).all():
            raise UserError(f"{where / GROUPS} names no image of {self.asked.folder}.")
        labels = self._enough(clusters.nearest_group(features, labels, labels < 0), features)
        if small := self._too_small(labels, by_hand=True):
            moved = self.fixed & (labels == small[0])
            raise _too_few(known[self.keys[int(moved.argmax())]], where, self.asked.folder)
        return labels

    def _round(self, labels: Labels, features: Features) -> Labels:
        """The group of each image after a round."""
        groups = len(np.unique(labels))
        number = self.found.rounds + 1
        names = [f"group-{k + 1}" for k in range(groups)]
        self._write(labels, names)
        self.console.print(
            f"Round {number} of {self.asked.rounds}: {groups} groups, "
            f"{self.asked.round_steps} steps",
            highlight=False,
        )
        gains = self._gains(names)
        after = self._by_hand_kept(labels, rounds.reassigned(labels, gains, self.fixed))
        self.found.moved.append(int((after != labels).sum()))
        if number < self.asked.rounds:
            anew = rounds.reseeded(after, features, groups, FEWEST, self.fixed)
            after = self._by_hand_kept(labels, anew)
        elif not self.by_hand:
            after = rounds.merged(after, gains)
        after = self._enough(after, features)
        self.found.rounds = number
        self._write(after, names)
        return after

    def _gains(self, names: Sequence[str]) -> rounds.Gains:
        """What briefly trained adapters of each group gain on each image, in dB, ``(N, K)``."""
        L.seed_everything(self.settings.seed, verbose=False)  # the same where a search goes on
        settings = self.settings.on_groups(names, self.folder)
        data: DomainsDataModule = instantiate(
            settings.data, domains=names, train_domains=settings.names, console=self.console
        )
        data.prepare_data()
        data.setup()
        adapted = AdaptedCodec.new(settings.codec, settings.method, settings.names)
        named = ("kind", "_target_", "_partial_")  # what is trained otherwise
        training = {k: v for k, v in settings.training.items() if k not in named}
        training["warmup"] = min(training["warmup"], self.asked.round_steps // 10)
        module = rounds.GroupAdaptation(adapted, **training)
        rounds.train_briefly(module, data, settings.trainer, self.asked.round_steps)
        images = [LabelledImage(p, self.pile.path(p), "", -1) for p in self.pile.entries]
        side = min(data.val_crop, _SQUARE)
        return rounds.decoded_by_each(adapted, images, side, self.console)

    def _enough(self, labels: Labels, features: Features) -> Labels:
        """Labels from 0 on, where groups with too few different images have gone to their nearest ones.

        Those with images moved by hand stay.
        """
        labels = labels.copy()
        while few := self._too_small(labels, by_hand=False):
            smallest = min(few, key=lambda k: int((labels == k).sum()))
            labels = clusters.nearest_group(features, labels, labels == smallest)
        return np.searchsorted(np.unique(labels), labels).astype(np.int64)

    def _too_small(self, labels: Labels, *, by_hand: bool) -> list[int]:
        """Groups with too few different images, of those with images moved by hand, or of the others."""
        series = np.array([entry.series for entry in self.pile.entries])
        return [
            k
            for k in np.unique(labels).tolist()
            if len(np.unique(series[labels == k])) < FEWEST
            and bool(self.fixed[labels == k].any()) == by_hand
        ]

    def _by_hand_kept(self, before: Labels, after: Labels) -> Labels:
        """Labels after a round, but those before it in groups by hand that would have become too small."""
        after = after.copy()
        while small := self._too_small(after, by_hand=True):
            after[before == small[0]] = small[0]
        return after

    def _write(self, labels: Labels, names: Sequence[str]) -> list[Member]:
        groups = {key: names[k] for key, k in zip(self.keys, labels.tolist(), strict=True)}
        table = members(self.pile, groups, self.by_hand)
        write_groups(table, self.folder)
        write_json(self.folder / STATE, asdict(self.found))
        return table

    def _finish(self, labels: Labels, blocks: Sequence[Described]) -> None:
        """Give the groups their names, and say what was found."""
        labels = np.searchsorted(np.unique(labels), labels)
        like = self._like(labels, blocks)
        names = _names(like)
        self.found.like = dict(zip(names, like, strict=True))
        if len(names) < self.asked.groups:
            self.found.notes.append(
                f"{self.asked.folder}: {len(names)} of {self.asked.groups} groups were found; the others "
                "were too small, or decoded best by the same adapters."
            )
        self.found.finished = True
        table = self._write(labels, names)
        write_sheets(group_images(table, self.folder), self.folder)
        counts = Counter(member.domain for member in table)
        told = ", ".join(f"{name} ({counts[name]})" for name in names)
        skipped = ", ".join(f"{n} {reason}" for reason, n in sorted(self.found.skipped.items()))
        told += f"; skipped {skipped}" if skipped else ""
        self.found.notes.insert(0, f"Groups of {self.asked.folder}: {told}.")
        write_json(self.folder / STATE, asdict(self.found))

    def _like(self, labels: Labels, blocks: Sequence[Described]) -> list[str | None]:
        """The known domain that each group is most like."""
        known = _known_domains(self.pile.data_dir)
        own, *others = clusters.word_shares(blocks, *known.values(), seed=self.settings.seed)
        features = dict(zip(known, others, strict=True))
        return [clusters.most_like(own[labels == k], features) for k in np.unique(labels)]


def _too_few(moved: Member, where: Path, pile: str) -> UserError:
    """Error for a group that can be none, though an image was moved to it by hand."""
    return UserError(
        f"Group {moved.domain} of {where}, where {moved.image} was put by hand, has fewer than three "
        f"different images in {pile} (near-identical ones count once): move others into it first, by "
        f"lic-da data groups {where} --move IMAGE={moved.domain}."
    )


def _names(like: Iterable[str | None]) -> list[str]:
    """``pile-sketch``, ``pile-sketch-2``, and ``pile-3`` for a third group like nothing known."""
    names: list[str] = []
    for number, domain in enumerate(like, start=1):
        name = f"pile-{number}" if domain is None else f"pile-{domain}"
        several = (f"{name}-{count}" for count in itertools.count(2))
        names.append(next(n for n in (name, *itertools.islice(several, number)) if n not in names))
    return names


def _known_domains(data_dir: Path) -> dict[str, list[Described]]:
    """Blocks of some images of each domain that is prepared."""
    known = {}
    for name in available("domain"):
        if name.startswith("pile-"):  # made of another pile's groups
            continue
        try:
            images = None if load_domain(name).more_of else prepared(name, data_dir)
        except UserError:  # one that cannot be read is nothing to compare with
            continue
        if images is not None:
            some = [images.path(entry) for entry in _some(images.entries)]
            known[name] = [b for b in _blocks_or_none(some) if b is not None]
    return {name: blocks for name, blocks in known.items() if blocks}


def _some(entries: Sequence[ImageInfo]) -> list[ImageInfo]:
    return sorted(entries, key=lambda entry: entry.sha256[::-1])[:_OF_DOMAIN]


def _blocks_of(paths: Sequence[Path]) -> list[Described]:
    """Blocks of all images of a pile.

    Raises:
        UserError: one cannot be read, though it could when the pile was prepared.
    """
    found = _blocks_or_none(paths)
    for path, blocks in zip(paths, found, strict=True):
        if blocks is None:
            raise UserError(f"{path} cannot be read any more: remove it, and train again.")
    return [blocks for blocks in found if blocks is not None]


def _blocks_or_none(paths: Sequence[Path]) -> list[Described | None]:
    found: list[Described | None] = [None] * len(paths)
    with Workers(min(granted_cpus(), -(-len(paths) // _A_PROCESS))) as workers:
        for number, outcome in workers.outcomes(described, paths):
            if outcome is not DIED and not isinstance(outcome, str):
                found[number] = outcome
    return found
