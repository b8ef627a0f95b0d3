"""Which place a user means: a folder, or a repository on the Hugging Face Hub."""

from __future__ import annotations

import re
from pathlib import Path

from lic_da.errors import UserError
from lic_da.io.files import user_path
from lic_da.travel.folder import Folder
from lic_da.travel.hub import Hub
from lic_da.travel.place import Place

_SCHEME = "hf://"
_HUB = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^@\s]+))?")


def place_of(where: str, revision: str | None = None) -> Place:
    """The place that a user names: a folder, or a repository on the Hub.

    What is there as a path, begins with ``./``, ``../``, ``/`` or ``~`` or ends in ``/`` is a folder.
    ``owner/name``, ``owner/name@revision`` and what begins with ``hf://`` is on the Hub.

    Args:
        where: as the user writes it.
        revision: commit, tag or branch on the Hub.

    Raises:
        UserError: it is neither, or could be both.
    """
    if not where:
        raise UserError("The name of a folder or of a repository on the Hub is empty.")
    on_hub = _HUB.fullmatch(where.removeprefix(_SCHEME))
    if where.startswith(_SCHEME):
        if on_hub is None:
            raise UserError(
                f"{where} is no name on the Hub: those are {_SCHEME}owner/name[@revision]."
            )
        return _hub(on_hub, revision)
    if where in (".", "..") or where.startswith(("./", "../", "/", "~")) or where.endswith("/"):
        return _folder(where, revision)
    if user_path(where).exists():
        return _folder(where, revision)
    if on_hub is None:
        raise UserError(
            f"There is no folder {where}, and on the Hub names are owner/name. A new folder is ./{where}."
        )
    if Path(where).parent.is_dir():
        raise UserError(
            f"{where} could be a folder or a name on the Hub: write ./{where} or {_SCHEME}{where}."
        )
    return _hub(on_hub, revision)


def _folder(where: str, revision: str | None) -> Folder:
    if revision is not None:
        raise UserError(f"{where} is a folder: --revision is for the Hub.")
    return Folder(user_path(where))


def _hub(found: re.Match[str], revision: str | None) -> Hub:
    if revision is not None and found["revision"] is not None:
        raise UserError(f"Give either @{found['revision']} or --revision, not both.")
    return Hub(found["name"], revision or found["revision"])
