"""Fetching a pack from the Hub or from a folder; torch is not needed for it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lic_da.errors import UserError
from lic_da.io.files import appearing, user_path
from lic_da.io.yaml_files import read_yaml
from lic_da.migrations import pack_settings
from lic_da.travel.folder import check_replaceable, earlier_files
from lic_da.travel.manifest import CONFIG, MANIFEST, MANIFEST_BYTES, Entry, Manifest
from lic_da.travel.place import Listing, Place


def pull(place: Place, folder: Path, *, overwrite: bool = False) -> Manifest:
    """Fetch the files that a place's manifest names; they appear together, and checked, or not at all.

    Nothing of them is opened but ``config.yaml``, and nothing is run.

    Args:
        place: where from.
        folder: where to.
        overwrite: write into a folder that is there; files of other names stay.

    Returns:
        What was fetched.

    Raises:
        UserError: it cannot be had, is incomplete, damaged, or no pack that was pushed.
    """
    folder = Path(os.path.realpath(user_path(folder)))
    check_replaceable(folder, ())
    if folder.exists() and not overwrite:
        raise UserError(
            f"{folder} exists; --overwrite replaces a pack in it, and other files stay."
        )
    there = place.listing()
    if there is None:
        raise UserError(place.absent)
    _check_listed(place, there, MANIFEST, None)
    with appearing(folder, MANIFEST, earlier_files(folder)) as temporary:
        place.fetch(MANIFEST, there, temporary)
        manifest = Manifest.read(temporary / MANIFEST, place)
        check_replaceable(folder, (*manifest.files, MANIFEST))
        for name, entry in manifest.files.items():
            _check_listed(place, there, name, entry)
        free = shutil.disk_usage(temporary).free
        if manifest.size > free:
            raise UserError(
                f"The pack has {manifest.size / 1e6:.1f} MB, and there is room for {free / 1e6:.1f} MB "
                f"where {folder} is."
            )
        for name, entry in manifest.files.items():
            place.fetch(name, there, temporary)
            _check(temporary / name, entry, place)
        _check_config(temporary / CONFIG, place)
    return manifest


def _check_listed(place: Place, there: Listing, name: str, entry: Entry | None) -> None:
    """Refuse a file that is not there or has another size, before it is fetched; None: the manifest."""
    if name not in there.sizes:
        what = (
            "no pack that lic-da push wrote"
            if entry is None
            else f"incomplete: {MANIFEST} names {name}"
        )
        raise UserError(f"{place} holds {what}: there is no {name}.")
    size = there.sizes[name]
    if entry is None and size is not None and size > MANIFEST_BYTES:
        raise UserError(
            f"{MANIFEST} of {place} has {size} bytes, and {MANIFEST_BYTES} is the most that is read."
        )
    if entry is not None and size is not None and size != entry.bytes:
        raise UserError(
            f"{name} of {place} has {size} bytes, and {MANIFEST} says {entry.bytes}: it is damaged, or "
            "was changed after lic-da push."
        )


def _check(file: Path, entry: Entry, place: Place) -> None:
    """Compare a file that has arrived with what the manifest says of it."""
    if Entry.of(file) != entry:
        raise UserError(
            f"{file.name} of {place} has not the hash that {MANIFEST} says: it is damaged, or was changed "
            "after lic-da push."
        )


def _check_config(file: Path, place: Place) -> None:
    """Refuse a pack of a format that this version does not open, or of none."""
    try:
        content = read_yaml(file)
    except UserError as error:
        raise UserError(f"The {CONFIG} of {place} is no pack's, or damaged.") from error
    try:
        pack_settings(content)
    except UserError as error:
        raise UserError(f"The pack of {place} cannot be read: {error}") from error
