"""Names that come from others, made safe: an archive or a table may call an image whatever it likes."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

from lic_da.io.listing import IMAGES

_ODD = re.compile(r'[\x00-\x1f\x7f<>:"|?*\ud800-\udfff]')
_MOST_BYTES = (
    200  # of a part of a name; file systems take 255, and a suffix and a temporary name follow
)
_MOST_DEPTH = 32
_STREAM = ".lic"


def safe_name(name: str) -> str:
    """A relative, ``/``-separated name that stays below any folder, as close to the given one as can be.

    Roots, drives, ``.`` and ``..`` are left out, characters that some systems refuse become ``_``, and
    parts that are too long are cut and get a hash. A name of nothing else is ``image``.
    """
    parts = [part.strip(" ") for part in re.split(r"[/\\]", name)]
    parts = [_safe_part(part) for part in parts if part.strip(".")]
    return "/".join(parts[-_MOST_DEPTH:]) or "image"


def _safe_part(part: str) -> str:
    part = _ODD.sub("_", part)
    if part.startswith("."):  # hidden from whoever lists the folder
        part = f"_{part[1:]}"
    if len(part.encode()) <= _MOST_BYTES:
        return part
    mark = hashlib.sha256(part.encode()).hexdigest()[:16]
    return part.encode()[: _MOST_BYTES - len(mark) - 1].decode(errors="ignore") + f"~{mark}"


def stems(names: Sequence[str]) -> list[str]:
    """Safe names without the suffix of an image or a stream, no two of them alike, whatever the case.

    Names that would become one keep their suffix; those that are the same with it get a number.
    """
    safe = [safe_name(name) for name in names]
    short = [_without_suffix(name) for name in safe]
    count = Counter(name.casefold() for name in short)
    found = [a if count[a.casefold()] == 1 else b for a, b in zip(short, safe, strict=True)]
    count = Counter(name.casefold() for name in found)
    taken = set(count)
    for number, name in enumerate(found):
        if count[name.casefold()] > 1:
            new = f"{name}~{number}"
            while new.casefold() in taken:
                new += "~"
            taken.add(new.casefold())
            found[number] = new
    return found


def _without_suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    known = f".{suffix.lower()}" in IMAGES or f".{suffix.lower()}" == _STREAM
    return stem if dot and known and stem and not stem.endswith("/") else name
