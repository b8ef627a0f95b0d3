"""The floors of the package: imports point down, and neighbours on a floor do not know each other."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import lic_da

PACKAGE = Path(lic_da.__file__).parent
FLOORS = (  # from the roof down; a part imports itself and what lies below its floor
    {
        "cli",
        "compressai_model",
        "describe",
        "evaluate",
        "pretrain",
        "summarize",
        "train",
        "workspace",
    },
    {"command"},
    {"sweeps", "pretraining"},
    {"training", "files", "travel"},
    {"tracking"},
    {"methods"},
    {"evaluation"},
    {"adapters"},
    {"codecs"},
    {"data"},
    {"runtime"},
    {"io"},
    {"same_settings"},
    {"config", "registry", "workers"},
    {"migrations", "surroundings"},
    {"errors", "light_imports", "spans"},
)

READ_SETTINGS = {
    *("describe", "evaluate", "pretrain", "summarize", "train", "workspace"),  # the roof
    "sweeps.callback",  # which Hydra calls
    *("config", "training.settings"),
}
"""Modules that may know OmegaConf; to all others settings are frozen values, or plain ones."""

OF_OMEGACONF = {"DictConfig", "ListConfig", "OmegaConf", "open_dict", "read_write"}


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


def knows_omegaconf(tree: ast.AST) -> bool:
    """Whether a module imports OmegaConf or names something of it, in annotations too."""
    return any(
        (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "omegaconf")
        or (isinstance(node, ast.Import) and any("omegaconf" in a.name for a in node.names))
        or (isinstance(node, ast.Name) and node.id in OF_OMEGACONF)
        or (isinstance(node, ast.Attribute) and node.attr in OF_OMEGACONF)
        or (isinstance(node, ast.arg | ast.AnnAssign) and _in_text(node.annotation))
        or (isinstance(node, ast.FunctionDef) and _in_text(node.returns))
        for node in ast.walk(tree)
    )


def _in_text(annotation: ast.expr | None) -> bool:
    text = annotation.value if isinstance(annotation, ast.Constant) else ""
    return any(name in str(text) for name in OF_OMEGACONF)


def floor(module: str) -> int:
    """0 for the roof."""
    (number,) = (n for n, parts in enumerate(FLOORS) if module.split(".")[1] in parts)
    return number


def test_no_modules_import_each_other() -> None:
    TopologicalSorter(imports()).prepare()  # raises CycleError, which names them


def test_every_part_imports_what_lies_below_it_alone() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, others in imports().items()
        for other in others
        if module.split(".")[1] != other.split(".")[1] and floor(other) <= floor(module)
    ]
    assert not wrong


def test_methods_do_not_know_each_other() -> None:
    folders = {path.name for path in (PACKAGE / "methods").iterdir() if path.is_dir()}
    wrong = [
        f"{module} imports {other}"
        for module, others in imports().items()
        for other in others
        if module.startswith("lic_da.methods.")
        and (theirs := other.split(".")[2:3])
        and other.startswith("lic_da.methods.")
        and theirs[0] in folders
        and module.split(".")[2] != theirs[0]
    ]
    assert not wrong


def test_only_the_roof_and_what_reads_settings_know_omegaconf() -> None:
    knowing = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for path in PACKAGE.rglob("*.py")
        if knows_omegaconf(ast.parse(path.read_text()))
    }
    assert knowing == READ_SETTINGS


def test_a_function_that_takes_a_configuration_is_found() -> None:
    for code in (
        "def f(config: DictConfig): ...",
        "def f(config: 'DictConfig'): ...",
        "def f() -> omegaconf.ListConfig: ...",
        "from omegaconf.dictconfig import DictConfig as Settings",
        "import omegaconf as oc",
    ):
        assert knows_omegaconf(ast.parse(code)), code
    assert not knows_omegaconf(ast.parse("def f(config: Mapping[str, Any]): ..."))


def test_functions_fit_on_a_screen() -> None:
    root = PACKAGE.parent
    too_long = [
        f"{path.relative_to(root)}: {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for folder in ("lic_da", "experiments", "benchmarks")
        for path in (root / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= 60
    ]
    assert not too_long
