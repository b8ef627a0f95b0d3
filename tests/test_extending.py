"""What docs/extending.md shows is done as it says: files from outside the package, and commands."""

from __future__ import annotations

import csv
import json
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
from lic_da.io.images import RGB
from lic_da.io.lossless import save_png
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
        "A metric": ["mine/metrics.py"],
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


@pytest.fixture(scope="module")
def measured(outside: Path) -> tuple[Path, str]:
    """A sweep with a metric of one's own and a published curve beside it, and what was printed."""
    curve = {"name": "VTM", "results": {"bpp": [0.2, 0.4], "psnr-rgb": [24.0, 26.0]}}
    (outside / "vtm.json").write_text(json.dumps(curve))
    anchors = "report.anchors=[{kind:compressai_json,path:vtm.json,domain:blobs}]"
    out = run(
        *(outside, command("A metric"), *QUICK),
        *("logger=none", anchors, "hydra.sweep.dir=outputs/metric"),
    )
    return outside / "outputs" / "metric", out


def test_a_metric_of_ones_own_is_in_the_csv_the_tables_and_the_report(
    measured: tuple[Path, str],
) -> None:
    sweep, out = measured
    points = read_points(sweep / "rd_points.csv")
    header = (sweep / "rd_points.csv").read_text().splitlines()[0]
    assert ",psnr,ms_ssim,mae,encode_s," in header
    ours = [p for p in points if p.method == "adapters"]
    base = {p.image: p.more["mae"] for p in ours if p.blend == "base"}
    assert base and all(0 < error < 255 for error in base.values())
    (job,) = (path.parent for path in sweep.glob("*/summary.json"))
    summary = json.loads((job / "summary.json").read_text())
    mean = sum(p.more["mae"] for p in ours if p.blend == "base" and p.domain == "blobs") / sum(
        p.blend == "base" and p.domain == "blobs" for p in ours
    )
    assert summary["domains"]["blobs"]["mae"]["base"] == pytest.approx(mean, rel=1e-5)
    table = (job / "table.txt").read_text()
    assert re.search(rf"MAE, levels \(lower is better\) +blobs +{mean:.2f}", table), table
    assert "MAE" in out
    report = (sweep / "report.html").read_text()
    assert '<section id="metric-mae">' in report and '"rd-mae-blobs"' in report
    assert "−10·log10(MAE), dB" in report
    with open(sweep / "bd_rate_mae.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {"bd_rate_percent", "bd_mae_db"} <= rows[0].keys()
    assert {r["domain"] for r in rows} == {"photos", "blobs"}
    assert {r["reason"] for r in rows} == {"fewer than 4 points"}  # of one quality


def test_a_published_curve_is_an_anchor_of_the_sweep(measured: tuple[Path, str]) -> None:
    sweep, _ = measured
    rows = [p for p in read_points(sweep / "rd_points.csv") if p.method == "published"]
    assert [(p.codec, p.domain, p.bpp, p.psnr) for p in rows] == [
        ("VTM", "blobs", 0.2, 24.0), ("VTM", "blobs", 0.4, 26.0),
    ]  # fmt: skip
    with open(sweep / "bd_rate.csv", newline="") as file:
        anchors = {(r["anchor"], r["domain"]) for r in csv.DictReader(file)}
    assert ("VTM", "blobs") in anchors and ("VTM", "photos") not in anchors
    assert "VTM (published curve, vtm.json)" in (sweep / "report.html").read_text()
