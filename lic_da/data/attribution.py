"""``ATTRIBUTION.md``: whose the images are, by the licence files of their packages."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from pathlib import Path

from lic_da.config import available
from lic_da.data.domains import load_domain, prepared
from lic_da.data.index import DomainImages
from lic_da.data.licences import Terms
from lic_da.data.overview import terms_of
from lic_da.errors import UserError
from lic_da.io.files import write_text

_HEAD = """# Whose the images are

Written by `make data` from what came with the packages. The images belong to their authors; nothing here is
part of this project, and none of it is redistributed with it. What a package states of all its files may
go beyond the images that are used.
"""
_MOST_HOLDERS = 60


def write_attribution(data_dir: Path) -> Path:
    """Write ``ATTRIBUTION.md`` into the data folder: every source with licences, authors and files.

    Args:
        data_dir: folder of the prepared images; all domains that are prepared there are told of.

    Returns:
        Where it was written.
    """
    domains: list[DomainImages] = []
    for name in available("domain"):
        with contextlib.suppress(
            UserError
        ):  # a domain that cannot be read is told of where it is used
            domains += filter(None, [prepared(name, data_dir)])
    terms: dict[str, Terms] = {}
    uses: defaultdict[str, list[str]] = defaultdict(list)
    for images in domains:
        for label, (found, number) in terms_of(load_domain(images.name), images).items():
            terms[label] = found
            uses[label].append(f"{number} of {images.name}")
    target = data_dir / "ATTRIBUTION.md"
    parts = [
        _HEAD,
        *(_section(label, terms[label], uses[label], data_dir) for label in sorted(terms)),
    ]
    write_text(target, "\n".join(parts))
    return target


def _section(label: str, terms: Terms, uses: list[str], data_dir: Path) -> str:
    lines = [f"## {label} {terms.version}".rstrip(), "", f"- images: {', '.join(uses)}"]
    if terms.homepage:
        lines.append(f"- from: {terms.homepage}")
    lines.append(f"- licences: {', '.join(terms.names) or 'not stated'}")
    if terms.holders:
        shown = "; ".join(terms.holders[:_MOST_HOLDERS])
        more = len(terms.holders) - _MOST_HOLDERS
        lines.append(
            f"- by: {shown}" + (f"; and {more} more, in the files below" if more > 0 else "")
        )
    lines += [f"- in full: {_relative(file, data_dir)}" for file in terms.files]
    return "\n".join(lines) + "\n"


def _relative(file: Path, data_dir: Path) -> str:
    root = data_dir.resolve()
    return str(file.relative_to(root)) if file.is_relative_to(root) else os.path.relpath(file, root)
