"""Sending a pack to the Hub or to a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lic_da.errors import UserError
from lic_da.io.files import read_json
from lic_da.methods import pack
from lic_da.travel.card import CARD, card
from lic_da.travel.folder import Folder
from lic_da.travel.manifest import CONFIG, MANIFEST, Manifest
from lic_da.travel.place import Place


@dataclass(frozen=True)
class Pushed:
    """What has been sent.

    Attributes:
        where: it is now, for people.
        manifest: of the pack's files.
        paths: of this machine, which they name and everybody will read there.
    """

    where: str
    manifest: Manifest
    paths: tuple[str, ...]


def push(
    folder: Path,
    place: Place,
    *,
    private: bool = False,
    message: str | None = None,
    licence: str | None = None,
    overwrite: bool = False,
    trust: Sequence[str] = (),
) -> Pushed:
    """Send the files of a pack, and no others of its folder, with a card and hashes.

    Args:
        folder: of the pack. It is opened first, as a decoder would.
        place: where to.
        private: on the Hub, make a repository that others do not see.
        message: of the commit on the Hub.
        licence: that the card names, as the Hub abbreviates it, such as ``mit``.
        overwrite: replace files of these names that are there.
        trust: see :func:`lic_da.methods.pack.load`.

    Raises:
        UserError: the pack cannot be opened, or cannot be sent.
    """
    codec = pack.load(folder, trust=trust)
    files = [folder / name for name in (CONFIG, codec.weights_file)]
    metrics: Any = {}
    if (folder / pack.METRICS).is_file():
        files.append(folder / pack.METRICS)
        metrics = read_json(folder / pack.METRICS)
    manifest = Manifest.of(files)
    config = pack.read_config(folder, trust=trust)
    where = "FOLDER" if isinstance(place, Folder) else str(place)
    text = card(config, metrics if isinstance(metrics, Mapping) else {}, where, licence)
    sent: dict[str, Path | bytes] = {
        **{file.name: file for file in files},
        CARD: text.encode(),
        MANIFEST: (json.dumps(manifest.settings(), indent=1) + "\n").encode(),
    }
    there = place.listing()
    taken = sorted(sent.keys() & there.sizes.keys()) if there is not None else []
    if taken and not overwrite:
        them = "it" if len(taken) == 1 else "them"
        raise UserError(
            f"{place} has {', '.join(taken)} already; --overwrite replaces {them}, and other files stay."
        )
    stored = place.store(sent, there, private=private, message=message)
    named = (config.codec.settings(), config.own, metrics)
    return Pushed(stored, manifest, tuple(sorted(set(_paths(named)))))


def _paths(content: Any) -> Iterator[str]:
    """Absolute paths among plain values."""
    if isinstance(content, Mapping):
        content = [*content.keys(), *content.values()]
    if isinstance(content, list | tuple):
        for value in content:
            yield from _paths(value)
    elif isinstance(content, str) and content.startswith(("/", "~/")):
        yield content
