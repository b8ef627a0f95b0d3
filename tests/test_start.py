"""What commands import: nothing that they do not use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lic_da.io.lossless import save_png
from tests.conftest import scribbles

HEAVY = {
    *("torch_geometric", "torch._dynamo", "torch._inductor", "sympy", "scipy.stats", "pandas"),
    *("lightning", "torchmetrics", "hydra", "wandb", "datasets", "matplotlib", "sklearn"),
    *("imagehash", "requests"),
}
TORCH = {"torch", "compressai", "scipy", "omegaconf"}
PRINTED = """
import sys
from lic_da.cli import main
sys.argv = ["lic-da", *sys.argv[1:]]
try:
    main()
finally:
    print("MODULES", *sys.modules)
"""


def imported(*arguments: str | Path) -> set[str]:
    """Modules that a process has at the end of ``lic-da …``."""
    done = subprocess.run(
        [sys.executable, "-c", PRINTED, *arguments], capture_output=True, text=True, check=True
    )
    return set(done.stdout.rpartition("MODULES ")[2].split())


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    save_png(tmp_path / "a.png", scribbles(1, 96)[0])
    return tmp_path / "a.lic"


CODEC = ("--codec", "bmshj2018_factorized_n64")


def test_compress_and_decompress_import_nothing_heavy(stream: Path, tmp_path: Path) -> None:
    first = imported("compress", tmp_path / "a.png", stream, *CODEC)
    assert {"torch", "compressai", "lic_da.codecs.zoo"} <= first
    assert not HEAVY & first
    second = imported("decompress", stream, tmp_path / "b.png", *CODEC)
    assert (tmp_path / "b.png").is_file()
    assert not HEAVY & second
    third = imported("info", stream)
    assert not (HEAVY | TORCH) & third
    # 1810 and 317 today; with all that CompressAI imports by itself they are thousands more.
    assert max(len(first), len(second)) < 2000
    assert len(third) < 400


def test_help_imports_no_torch() -> None:
    assert not (HEAVY | TORCH) & imported("decompress", "--help")
