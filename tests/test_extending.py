"""What docs/extending.md shows is done as it says: files from outside the package, and commands."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lic_da.config
from lic_da.evaluation.measure import read_points
from lic_da.io.images import RGB, save_png
from tests.conftest import photo_crops

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
QUICK = (
    *("unseen=[]", "data.source=photos", "data.batches_per_epoch=2", "data.val_images=1"),
    *("data.val_crop=64", "evaluation.ms_ssim=false", "evaluation.examples=1"),
)


def blocks(language: str) -> dict[str, list[tuple[str, str]]]:
    """Section of the page -> its blocks of a language as (title, text)."""
    found = {}
    for section in PAGE.read_text().split("\n## ")[1:]:
        fences = re.findall(rf'```{language}(?: title="(.+?)")?\n(.*?)```', section, re.DOTALL)
        found[section.split("\n")[0]] = fences
    return found


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory, photographs: list[RGB]) -> Path:
    """A folder with the files of the page, a copy of ``conf`` and a few photographs."""
    root = tmp_path_factory.mktemp("outside")
    shutil.copytree(lic_da.config.CONF, root / "conf")
    for language in ("python", "yaml"):
        for section in blocks(language).values():
            for title, text in section:
                (root / title).parent.mkdir(exist_ok=True)
                (root / title).write_text(text)
    for number, pixels in enumerate(photo_crops(photographs, 20, side=96)):
        save_png(root / "photos" / f"{number:02}.png", pixels)
    (root / "conf" / "domain" / "photos.yaml").write_text(
        f"sources:\n  - {{_target_: lic_da.data.sources.FolderSource, path: {root / 'photos'}}}\n"
        "min_side: 64\n"
    )
    return root


def run(outside: Path, line: str, *more: str) -> str:
    """Run a command of the page, quickly; what it printed."""
    python, *arguments = shlex.split(line)
    assert python == "python"
    done = subprocess.run(
        [sys.executable, *arguments, *more],
        cwd=outside,
        env={
            **os.environ,
            "LIC_DA_CONF": str(outside / "conf"),
            "PYTHONPATH": os.pathsep.join([str(outside), str(lic_da.config.CONF.parent)]),
            "WANDB_MODE": "offline",
        },
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def command(section: str) -> str:
    ((_, text),) = blocks("sh")[section]
    return text.strip()


def test_each_extension_touches_the_files_that_the_page_says() -> None:
    python, yaml = blocks("python"), blocks("yaml")
    files = {name: sorted(title for title, _ in python[name] + yaml[name]) for name in yaml}
    assert files == {
        "A domain, and a source of images": ["conf/domain/blobs.yaml", "mine/sources.py"],
        "A codec": ["conf/codec/onescale.yaml", "conf/codec/tiny.yaml", "mine/codecs.py"],
        "A kind of site, a kind of adapter": [
            "conf/adapter/bias.yaml", "mine/adapters.py", "mine/sites.py",
        ],
        "A method": ["conf/method/absolute.yaml", "mine/methods.py"],
        "A classical codec": ["conf/report/mine.yaml"],
    }  # fmt: skip


def test_domain_source_codec_site_and_adapter_come_from_outside(outside: Path) -> None:
    run(outside, command("A kind of site, a kind of adapter"), *QUICK, "name=own")
    folder = outside / "outputs" / "own"
    points = read_points(folder / "rd_points.csv")
    assert {p.domain for p in points} == {"photos", "blobs"}
    assert {p.codec for p in points} == {"onescale"}
    with pytest.raises(lic_da.errors.UserError, match=r"mine"):
        lic_da.load(folder / "pack")
    tried = (
        "import lic_da, sys; c = lic_da.load(sys.argv[1], trust=['mine']); "
        "s = c.synthesis; print(sorted({type(x).__name__ for x in s.sites}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", tried, str(folder / "pack")],
        env={**os.environ, "PYTHONPATH": str(outside)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Doubled" in done.stdout


def test_method_classical_codec_and_a_quality_of_ones_own_stand_in_a_sweep(outside: Path) -> None:
    run(outside, command("A classical codec"), *QUICK)
    (sweep,) = (outside / "outputs" / "sweeps").iterdir()
    points = read_points(sweep / "rd_points.csv")
    assert {p.method for p in points} == {"adapters", "absolute", "classical"}
    assert {p.quality for p in points if p.method != "classical"} == {9}
    assert {p.codec for p in points if p.method == "classical"} == {"JPEG", "fast_webp"}
    assert {p.quality for p in points if p.codec == "fast_webp"} == {1, 40, 80}
    assert "WebP (Pillow, method 0)" in (sweep / "report.html").read_text()
