"""Patches for other projects apply to the installed release and do there what they say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path

import pytest

UPSTREAM = Path(__file__).parents[1] / "docs" / "upstream"
PATCH = UPSTREAM / "compressai-1.2.8-lazy-imports.patch"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with a copy of the installed CompressAI."""
    spec = util.find_spec("compressai")
    assert spec is not None and spec.submodule_search_locations
    (installed,) = spec.submodule_search_locations
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(installed, tmp_path / "compressai", ignore=ignored)
    return tmp_path


def git(folder: Path, *arguments: str | Path) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)


def test_every_patch_is_listed_and_names_the_release_that_is_installed() -> None:
    listed = (UPSTREAM / "README.md").read_text()
    patches = [path.name for path in UPSTREAM.glob("*.patch")]
    assert patches == [PATCH.name]
    assert all(f"`{name}`" in listed for name in patches)
    assert metadata.version("compressai") in PATCH.name


def test_the_patch_applies_and_compressai_is_imported_without_what_it_does_not_use(
    copy: Path,
) -> None:
    git(copy, "init", "--quiet")
    git(copy, "apply", "--check", PATCH)
    git(copy, "apply", PATCH)
    tests = "tests/test_lazy_imports.py"
    names = (
        "import_brings_none_of_the_heavy_packages",
        "registered_transforms_take_the_place_of_others",
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            *(f"{tests}::test_{n}" for n in names),
        ],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout
