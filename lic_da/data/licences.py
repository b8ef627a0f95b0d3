"""What images may be used for, read from the files that their packages carry."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from lic_da.errors import UserError
from lic_da.io.files import read_json, read_text

_LICENCE_FILE = re.compile(r"(licen[cs]e|copying|copyright|notice|info\.json)", re.IGNORECASE)


@dataclass(frozen=True)
class Terms:
    """Licences of a source.

    Attributes:
        names: short names, such as ``CC-BY-SA-4.0``; empty: the source says none.
        files: of the package, that say so in full.
        version: of the package.
        homepage: of the package.
        holders: whose the files are.
    """

    names: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    version: str = ""
    homepage: str = ""
    holders: tuple[str, ...] = ()


def debian_terms(root: Path) -> Terms:
    """Terms of an unpacked Debian package, by its copyright file (DEP-5 where it follows that).

    Args:
        root: folder it is unpacked in.
    """
    files = tuple(sorted(f for f in root.glob("usr/share/doc/*/copyright") if f.is_file()))
    names: dict[str, None] = {}
    holders: dict[str, None] = {}
    for link in sorted(root.glob("usr/share/doc/*")):
        if link.is_symlink() and not link.exists():
            names[f"see package {link.readlink().name}"] = None
    source = ""
    for file in files:
        text = read_text(file)
        source = source or _first(r"^Source: *(\S+)", text)
        for found in re.findall(r"^License: *(\S.*)$", text, re.MULTILINE):
            names[found.strip()] = None
        for block in re.findall(r"^Copyright: *((?:.+\n?)(?:[ \t]+.+\n?)*)", text, re.MULTILINE):
            holders |= dict.fromkeys(line.strip() for line in block.splitlines() if line.strip())
        if not holders:
            found = re.findall(r"^ *Copyright +(?:\(C\) *)?([0-9].*?)\.?$", text, re.MULTILINE)
            holders |= dict.fromkeys(found)
        if not names and "Public Domain Dedication" in text:
            names["public-domain"] = None
        if not names:
            names |= dict.fromkeys(re.findall(r"common-licenses/([\w.+-]*\w)", text))
    return Terms(tuple(names), files, "", source, tuple(holders))


def npm_terms(root: Path) -> Terms:
    """Terms of an unpacked npm package: ``license`` of package.json, and of an icon set's info.json.

    Args:
        root: folder with package.json.
    """
    about, icons = _object(root / "package.json"), _object(root / "info.json")
    own = icons.get("license", about.get("license"))
    name = own.get("spdx") or own.get("type") or own.get("title") if isinstance(own, dict) else own
    files = tuple(sorted(f for f in root.glob("*") if _LICENCE_FILE.match(f.name) and f.is_file()))
    return Terms(
        (str(name),) if name else (),
        files,
        str(about.get("version", "")),
        str(about.get("homepage") or ""),
        tuple(_person(by) for by in (icons.get("author"), about.get("author")) if _person(by)),
    )


def _person(stated: Any) -> str:
    """An author as package.json has it: a text, or an object with a name."""
    return str(stated.get("name") or "") if isinstance(stated, dict) else str(stated or "")


def pypi_terms(package: str) -> Terms:
    """Terms of an installed Python package, by its metadata."""
    try:
        found = metadata.distribution(package)
    except (metadata.PackageNotFoundError, ValueError):
        return Terms()
    about: Any = found.metadata  # a message, as of email
    stated = about.get("License-Expression") or about.get("License") or ""
    classified = [
        c.rpartition(" :: ")[2]
        for c in about.get_all("Classifier") or []
        if c.startswith("License ::")
    ]
    lines = stated.strip().splitlines()
    paragraphs = re.findall(r"^License: *(\S.*)$", stated, re.MULTILINE)  # DEP-5
    names = tuple(lines) if len(lines) == 1 else tuple(dict.fromkeys(paragraphs or classified))
    files = tuple(
        sorted(
            Path(str(found.locate_file(f)))
            for f in found.files or []
            if _LICENCE_FILE.match(f.name)
        )
    )
    urls = [u.partition(",")[2].strip() for u in about.get_all("Project-URL") or []]
    home = about.get("Home-page") or next(iter(urls), "")
    holders = tuple(by for by in (about.get("Author"), about.get("Maintainer")) if by)
    return Terms(names, files, found.version, home, holders)


def dicebear_terms(definition: Path) -> Terms:
    """Terms of a DiceBear style, by ``meta`` of its definition.

    Args:
        definition: JSON file of the style.
    """
    about = _object(definition).get("meta") or {}
    licence, creator, source = (about.get(key) or {} for key in ("license", "creator", "source"))
    names = (str(licence["name"]),) if licence.get("name") else ()
    holders = (str(creator["name"]),) if creator.get("name") else ()
    return Terms(names, (definition,) if names else (), "", str(source.get("url") or ""), holders)


def _object(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, UserError):
        return {}
    return content if isinstance(content, dict) else {}


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1] if found else ""
