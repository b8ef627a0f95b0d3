"""Processes that die cost what they worked on, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lic_da.data.domains import prepare
from lic_da.io.lossless import save_png
from lic_da.workers import DIED, Workers
from tests.conftest import scribbles
from tests.deadly import squared

ENDS_THE_PROCESS = '''
import os
from pathlib import Path
import lic_da.io.images as images

read = images.read_rgb

def read_or_die(path, *args, **kwargs):
    """Stands for a decoder with a fault that nobody knows of yet."""
    if "deadly" in Path(path).name:
        os.kill(os.getpid(), 11)
    return read(path, *args, **kwargs)

images.read_rgb = read_or_die
'''


@pytest.mark.parametrize("count", [1, 2, 5])
def test_each_result_comes_once_and_only_what_killed_its_process_is_missing(count: int) -> None:
    with Workers(count) as workers:
        for _ in range(2):  # also after processes have died
            got = dict(workers.outcomes(squared, range(20)))
            assert got == {n: DIED if n % 7 == 3 else n * n for n in range(20)}
        assert list(workers.outcomes(squared, [])) == []


def test_an_error_is_raised_where_results_are_read() -> None:
    with Workers(2) as workers, pytest.raises(ValueError, match="invalid literal"):
        list(workers.outcomes(int, ["1", "x"]))


@pytest.fixture
def deadly_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets every process that is started from here have a decoder that ends it."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(ENDS_THE_PROCESS)
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.syspath_prepend(str(site))


def test_a_image_that_ends_the_process_is_counted_and_the_small_domain_goes_on(
    folder_domain: Callable[..., Path], tmp_path: Path, deadly_decoder: None
) -> None:
    folder = folder_domain("mine", scribbles(12))
    for name in ("deadly_1.png", "deadly_2.png"):
        save_png(folder / name, scribbles(1, seed=5 + len(name))[0])
    (folder / "deadly_2.png").write_bytes((folder / "000.png").read_bytes() + b"\n")
    ready = prepare("mine", tmp_path / "data")
    assert len(ready.entries) == 12
    assert ready.skipped["ended the process that read them"] == 2


def test_a_image_that_ends_the_process_costs_one_of_a_batch(
    tmp_path: Path, deadly_decoder: None, capfd: pytest.CaptureFixture[str]
) -> None:
    import subprocess
    import sys

    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, pixels in enumerate(scribbles(3, 96)):
        save_png(folder / f"{number}.png", pixels)
    (folder / "1.png").rename(folder / "deadly.png")
    codec = ("--codec", "bmshj2018_factorized_n64", "--quality", "1")
    done = subprocess.run(
        [sys.executable, "-m", "lic_da.cli", "compress", folder, tmp_path / "out", *codec],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "deadly.png: the process that worked on it died" in done.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["0.lic", "2.lic"]
