"""The layers of the package: arrows only point down."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import lic_da

PACKAGE = Path(lic_da.__file__).parent
# What every part above them stands on
GROUND = {"errors", "files", "listing", "migrations", "registry", "surroundings", "workers"}
# fmt: off
BELOW = {  # what a part of the package may import of the others, beside the ground
    "errors": set(),
    "files": {"errors"},
    "surroundings": {"errors"},
    "listing": set(),
    "workers": set(),
    "migrations": {"errors"},
    "registry": {"errors", "migrations"},
    "bitstream": {"errors"},
    "data": {"bitstream", "errors", "config"},
    "codecs": {"data", "bitstream", "errors", "config"},
    "adaptation": {"codecs", "data", "bitstream", "errors", "config"},
    "tracking": {"data", "errors"},
    "jobs": {"data", "errors"},
    "evaluation": {"adaptation", "codecs", "data", "bitstream", "tracking", "errors", "config"},
    "training": {
        "evaluation", "adaptation", "codecs", "data", "tracking", "jobs", "errors", "config", "command",
    },
}
# fmt: on


def imports() -> dict[str, set[str]]:
    """Modules of the package and the modules of the package that each imports, wherever in it."""
    paths = {
        ".".join(("lic_da", *path.relative_to(PACKAGE).with_suffix("").parts)): path
        for path in PACKAGE.rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    }
    found: dict[str, set[str]] = {}
    for module, path in paths.items():
        named = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                named |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
        found[module] = named & paths.keys()
    return found


def test_no_modules_import_each_other() -> None:
    # AdaptedCodec.load reads packs, and a pack is read into an AdaptedCodec: those two are one part
    outside = {m: o for m, o in imports().items() if ".adaptation." not in m}
    TopologicalSorter(outside).prepare()  # raises CycleError, which names them


def test_every_part_imports_what_lies_below_it_alone() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, others in imports().items()
        for other in others
        if (part := module.split(".")[1]) in BELOW
        and other.split(".")[1]
        not in BELOW[part] | {part} | (GROUND if part not in GROUND else set())
    ]
    assert not wrong
