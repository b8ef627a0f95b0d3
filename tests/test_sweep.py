"""Sweeps by the public command: what they leave, what they do again, what they do when jobs fail."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from bjontegaard import bd_psnr, bd_rate
from scipy.integrate import quad
from scipy.interpolate import PchipInterpolator

import lic_da.config
from lic_da.evaluation.measure import Point, mean, read_points
from lic_da.io.images import RGB
from lic_da.io.lossless import save_png
from lic_da.sweeps import jobs
from lic_da.sweeps.callback import job_name, sweep_name
from tests.conftest import FOUR_STEPS, photo_crops, scribbles
from tests.wandb_records import OfflineRun, runs_below

TINY = (*FOUR_STEPS, "trainer.log_every_n_steps=2", "report.resamples=20")
ANCHORS = {"JPEG", "WebP", "AVIF", "AVIF 4:4:4", "JPEG XL"}
Run = Callable[..., subprocess.CompletedProcess[str]]


class World:
    """A folder with three small domains, in which commands are run."""

    def __init__(self, root: Path, photographs: list[RGB]) -> None:
        self.root = root
        conf = root / "conf"
        shutil.copytree(lic_da.config.CONF, conf)
        domains = {
            "photos": photo_crops(photographs, 24, side=96),
            "lines": scribbles(12, side=96),
            "other": scribbles(6, side=96, seed=4),
        }
        for name, images in domains.items():
            folder = root / "pictures" / name
            for number, pixels in enumerate(images):
                save_png(folder / f"{number:03d}.png", pixels)
            (conf / "domain" / f"{name}.yaml").write_text(
                f"sources:\n  - kind: folder\n    path: {folder}\n"
            )
        package = str(lic_da.config.CONF.parent)
        self.environment = {
            **os.environ,
            "LIC_DA_CONF": str(conf),
            "PYTHONPATH": package,
            "WANDB_MODE": "offline",
        }

    def start(self, module: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=self.root,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        process = self.start(module, *arguments)
        out, err = process.communicate(timeout=500)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def sweep(self, *overrides: str) -> subprocess.CompletedProcess[str]:
        return self.run("lic_da.train", "-m", *TINY, *overrides)

    @property
    def folder(self) -> Path:
        """Folder of the only sweep."""
        (folder,) = (self.root / "outputs" / "sweeps").iterdir()
        return folder

    @property
    def jobs(self) -> list[Path]:
        return sorted(p.parent for p in self.folder.glob("*/config.yaml"))

    def summary(self) -> dict:
        return json.loads((self.folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def swept(
    tmp_path_factory: pytest.TempPathFactory, photographs: list[RGB]
) -> Iterator[tuple[World, str]]:
    """A world after a sweep over four qualities, and what was printed."""
    world = World(tmp_path_factory.mktemp("sweep"), photographs)
    done = world.sweep("codec.quality=1,2,3,4")
    assert done.returncode == 0, done.stderr
    yield world, done.stdout


@pytest.fixture
def world(tmp_path: Path, photographs: list[RGB]) -> World:
    return World(tmp_path, photographs)


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def pchip_bd_rate(anchor: list[tuple[float, float]], test: list[tuple[float, float]]) -> float:
    """BD-rate in percent by scipy alone, of (bpp, psnr) points."""
    curves = [
        PchipInterpolator([p for _, p in c], [math.log(b) for b, _ in c]) for c in (anchor, test)
    ]
    low = max(c[0][1] for c in (anchor, test))
    high = min(c[-1][1] for c in (anchor, test))
    areas = [quad(c, low, high, limit=200)[0] for c in curves]
    return 100 * (math.exp((areas[1] - areas[0]) / (high - low)) - 1)


def mean_curve(points: list[Point]) -> list[tuple[float, float]]:
    by_quality: dict[int, list[Point]] = {}
    for p in points:
        by_quality.setdefault(p.quality, []).append(p)
    return sorted((mean(p.bpp for p in ps), mean(p.psnr for p in ps)) for ps in by_quality.values())


def test_a_sweep_leaves_a_job_a_quality_and_one_summary(swept: tuple[World, str]) -> None:
    world, printed = swept
    assert "4 of 4 jobs done." in printed and "report.html" in printed and "other*" in printed
    assert len(world.jobs) == 4
    for job in world.jobs:
        assert (job / "pack" / "adapters.safetensors").is_file() and not (
            job / "failure.json"
        ).exists()
    points = read_points(world.folder / "rd_points.csv")
    learned = {(p.quality, p.domain, p.blend) for p in points if p.method == "adapters"}
    assert learned == {
        (q, d, b)
        for q in (1, 2, 3, 4)
        for d in ("photos", "lines", "other")
        for b in ("base", "weighted", "top1", "oracle")
        if (d, b) != ("other", "oracle")
    }
    assert {p.codec for p in points if p.method == "classical"} == ANCHORS
    rows = table(world.folder / "bd_rate.csv")
    assert list(rows[0])[:10] == [
        "domain", "seen", "codec", "method", "blend", "anchor", "bd_rate_percent", "bd_psnr_db",
        "interpolation", "points",
    ]  # fmt: skip
    assert {r["anchor"] for r in rows} == {"base", *ANCHORS}
    assert {r["interpolation"] for r in rows} == {"akima", "pchip"}
    assert {r["seen"] for r in rows if r["domain"] == "other"} == {"False"}
    page = (world.folder / "report.html").read_text().split("<script>")[0]
    links = re.findall(r'<a href="([^"]+)"', page)
    assert len(links) == 3 and all((world.folder / link).is_file() for link in links)
    (series,) = world.summary()["series"]
    assert {d: t["kind"] for d, t in series["tested"].items()} == {
        "photos": "source", "lines": "seen", "other": "unseen",
    }  # fmt: skip


def test_bd_rates_are_the_packages_and_agree_with_scipy(swept: tuple[World, str]) -> None:
    world, _ = swept
    points = read_points(world.folder / "rd_points.csv")
    judged = 0
    for row in table(world.folder / "bd_rate.csv"):
        domain = [p for p in points if p.domain == row["domain"]]
        test = mean_curve([p for p in domain if p.blend == row["blend"]])
        anchor = mean_curve(
            [p for p in domain if p.blend == "base"]
            if row["anchor"] == "base"
            else [p for p in domain if p.codec == row["anchor"]]
        )
        value = float(row["bd_rate_percent"])
        if math.isnan(value):
            assert row["reason"]
            continue
        arguments = [np.array(v) for c in (anchor, test) for v in zip(*c, strict=True)]
        common = {"require_matching_points": False, "min_overlap": 0}
        package = bd_rate(*arguments, method=row["interpolation"], **common)
        assert value == pytest.approx(package, abs=1e-4)
        if row["bd_psnr_db"] != "nan":
            package = bd_psnr(*arguments, method=row["interpolation"], **common)
            assert float(row["bd_psnr_db"]) == pytest.approx(package, abs=1e-4)
        if row["interpolation"] == "pchip":
            independent = pchip_bd_rate(anchor, test)
            # within 0.1 % of the rate
            assert 1 + value / 100 == pytest.approx(1 + independent / 100, rel=1e-3)
            judged += 1
    assert judged >= 11


def test_every_job_is_a_finished_wandb_run_of_one_group(swept: tuple[World, str]) -> None:
    world, _ = swept
    runs = runs_below(world.folder)
    assert len({r.id for r in runs}) == len(runs) == 5
    assert {r.group for r in runs} == {world.folder.name}
    assert {r.exit_code for r in runs} == {0}
    jobs = [r for r in runs if r.job_type == "train"]
    assert sorted(r.name for r in jobs) == [job.name for job in world.jobs]
    for run in jobs:
        assert run.metrics["train/*"] == run.metrics["val/*"] == "trainer/global_step"
        assert any("train/loss" in row and "trainer/global_step" in row for row in run.history)
        assert "test/psnr_weighted/lines" in run.summary
    (summary,) = (r for r in runs if r.job_type == "summary")
    check_summary_run(world, summary)


def check_summary_run(world: World, run: OfflineRun) -> None:
    """BD-rates as in the CSV, charts and tables."""
    files = next((world.folder / "wandb").glob("offline-run-*/files"))
    for row in table(world.folder / "bd_rate.csv"):
        if row["anchor"] != "base" or row["interpolation"] != "akima":
            continue
        name = f"{row['domain']}/{row['blend']}"
        assert run.logged(f"bd_rate/{name}") == pytest.approx(
            float(row["bd_rate_percent"]), abs=1e-4
        )
        assert run.logged(f"bd_psnr/{name}") == pytest.approx(float(row["bd_psnr_db"]), abs=1e-4)
        if row["images_compared"] != "0":
            assert run.logged(f"bd_rate_of_images/{name}") == pytest.approx(
                float(row["bd_rate_of_images_percent"]), abs=1e-4
            )
    assert run.metrics["gain/*"] == "quality"
    assert [row["quality"] for row in run.history if "quality" in row][:4] == [1, 2, 3, 4]
    gate = json.loads((files / run.logged("gate/mean_v/path")).read_text())
    assert gate["columns"] == ["domain", "kind", "photos", "lines"]
    assert [r[:2] for r in gate["data"]] == [
        ["photos", "source"],
        ["lines", "seen"],
        ["other", "unseen"],
    ]
    assert all(sum(r[2:]) == pytest.approx(1, abs=1e-4) for r in gate["data"])
    bd = json.loads((files / run.logged("tables/bd_rate/path")).read_text())
    assert len(bd["data"]) == len(table(world.folder / "bd_rate.csv"))
    chart = json.loads((files / run.logged("rd/photos_table/path")).read_text())
    curves = {row[chart["columns"].index("lineKey")] for row in chart["data"]}
    assert curves >= {"base", "weighted", "top1", "oracle", *ANCHORS}


def test_the_same_sweep_again_retrains_nothing_and_more_qualities_join_it(
    swept: tuple[World, str],
) -> None:
    world, _ = swept
    stamps = {job: (job / "pack" / "adapters.safetensors").stat().st_mtime_ns for job in world.jobs}
    before = (world.folder / "bd_rate.csv").read_bytes()
    again = world.sweep("codec.quality=4,2")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("already trained and measured") == 2
    assert "4 of 4 jobs done." in again.stdout
    assert stamps == {
        job: (job / "pack" / "adapters.safetensors").stat().st_mtime_ns for job in world.jobs
    }
    assert (world.folder / "bd_rate.csv").read_bytes() == before
    # nothing new, so no other summary run
    assert len(runs_below(world.folder)) == 5


def test_methods_with_rates_of_their_own_stand_beside_the_others(world: World) -> None:
    settings = ("method.training.lr=5e-2", "logger=none", "report.anchors=[]")
    done = world.sweep("method=finetune", *settings)
    assert done.returncode == 0, done.stderr
    assert "finetune" in (html := (world.folder / "report.html").read_text())
    assert "each at its own rate" in html and "What the gate chooses" not in html
    (folder,) = world.jobs
    points = {(p.domain, p.image, p.blend): p for p in read_points(folder / "rd_points.csv")}
    by_rate = [
        f"{base.psnr:.2f} dB at {base.bpp:.3f} bpp → {own.psnr:.2f} dB at {own.bpp:.3f} bpp"
        for (domain, image, mode), base in points.items()
        if mode == "base"
        for own in [points[domain, image, "adapted"]]
    ]
    assert any(told in html for told in by_rate), by_rate


def test_names_of_sweeps_and_jobs_last() -> None:
    one = sweep_name(["domains=[a,b]", "codec.quality=1,2", "seed=0,1"])
    assert one.startswith("a-b_")
    assert one == sweep_name(
        ["seed=0,1", "domains=[a, b]", "codec.quality=3", "logger.mode=offline"]
    )
    assert one != sweep_name(["domains=[a,b]", "seed=0"])
    common = (["a", "b"], "codec", 3, "adapters", 0)
    plain = job_name(*common, ["domains=[a,b]", "codec.quality=3", "logger=none"])
    assert plain == "a-b_codec_q3_adapters_s0"
    other = job_name(*common, ["codec.training.steps=5", "seed=0"])
    assert other.startswith(f"{plain}_")
    assert other == job_name(*common, ["seed=0", "codec.training.steps=5"])
    assert other != job_name(*common, ["codec.training.steps=6"])


@pytest.mark.slow
def test_a_failing_job_leaves_the_others_and_is_named(world: World) -> None:
    # crop 40 is no multiple of the stride: refused; a loss that is not finite: breaks while training
    done = world.sweep("data.crop=64,40", "method.gamma=0.01,nan", "codec.quality=3")
    assert done.returncode == 1
    assert "1 of 4 jobs done." in done.stdout
    named = [
        line
        for line in done.stderr.splitlines()
        if line.startswith("error: ") and "failed: " in line
    ]
    assert (
        sum("RuntimeError: The loss is nan" in line for line in named) == 2
    )  # at once, at the end
    assert sum("data.crop must be a multiple of 16" in line for line in named) == 4
    states = {j["name"]: j for j in world.summary()["jobs"]}
    assert sorted(j["state"] for j in states.values()) == ["done", "failed", "failed", "failed"]
    report = (world.folder / "report.html").read_text()
    assert all(name in report for name in states)
    assert "The loss is nan" in report
    assert "fewer than 4 points" in (world.folder / "bd_rate.csv").read_text()
    runs = runs_below(world.folder)
    assert sorted((r.job_type, r.exit_code) for r in runs) == [
        ("summary", 0), ("train", 0), ("train", 1),
    ]  # fmt: skip


def test_a_sweep_that_is_refused_leaves_nothing(world: World) -> None:
    refused = world.run("lic_da.train", "-m", *TINY, "codec.quality=1,2", "sead=0,1")
    assert refused.returncode == 2 and "Did you mean 'seed'?" in refused.stderr
    assert not list((world.root / "outputs").rglob("*.*"))


@pytest.mark.slow
def test_a_killed_sweep_goes_on_with_what_is_missing(world: World) -> None:
    arguments = ("-m", *TINY, "codec.quality=1,2", "codec.training.steps=40")
    process = world.start("lic_da.train", *arguments)
    deadline = time.time() + 200
    sweeps = world.root / "outputs" / "sweeps"
    # kill the second job after its first checkpoint
    while len(list(sweeps.glob("*/*/checkpoints/last.ckpt"))) < 2 and time.time() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    first, second = world.jobs
    assert (first / "summary.json").is_file() and not (second / "summary.json").exists()
    written = (first / "pack" / "adapters.safetensors").stat().st_mtime_ns

    partly = world.run("lic_da.summarize", f"sweep={world.folder}")
    assert partly.returncode == 0, partly.stderr
    assert "1 of 2 jobs done." in partly.stdout
    assert f"{second.name} unfinished: it was killed" in partly.stderr

    done = world.run("lic_da.train", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("already trained and measured") == 1
    assert (first / "pack" / "adapters.safetensors").stat().st_mtime_ns == written
    with open(second / "config.yaml") as file:
        assert "last.ckpt" in file.read()  # it was resumed
    assert {j["state"] for j in world.summary()["jobs"]} == {"done"}
    # the killed run is not merged with another: every job has an id of its own
    runs = [r for r in runs_below(world.folder) if r.job_type == "train"]
    ids = {r.name: r.id for r in runs}
    assert len(ids) == len(set(ids.values())) == 2 and all(r.resume for r in runs)


def test_a_job_that_is_killed_is_named_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = (
        "import os, pathlib, sys\n"
        "from lic_da.sweeps import jobs\n"
        "with jobs.running(pathlib.Path(sys.argv[1])):\n"
        "    print('begun', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "one")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    (state,) = jobs.states(tmp_path)
    assert (state.state, state.reason.split(" (")[0]) == ("unfinished", "it is still running")
    in_use = pytest.raises(jobs.InUse, match="one is in use: it is still running")
    with in_use, jobs.running(tmp_path / "one"):
        pass
    assert (tmp_path / "one" / "running.json").is_file()  # the mark is that of the other process
    process.kill()
    process.communicate()
    assert not jobs.report(jobs.states(tmp_path))
    printed = capsys.readouterr()
    assert "0 of 1 jobs done." in printed.out
    assert "error: one unfinished: it was killed: by hand, by a time limit or for" in printed.err
    assert f"process {process.pid} on " in printed.err
    with jobs.running(tmp_path / "one"):  # by another process, and to the end
        (tmp_path / "one" / "summary.json").write_text("{}")
    assert jobs.report(jobs.states(tmp_path))


@pytest.mark.slow
def test_a_worker_that_is_killed_is_named_at_the_end(world: World) -> None:
    (world.root / "killer.py").write_text(
        "import os, signal\ndef kill(**_):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    world.environment["PYTHONPATH"] += f"{os.pathsep}{world.root}"
    done = world.sweep("data._target_=killer.kill", "codec.quality=2,3", "hydra/launcher=joblib")
    assert done.returncode == 1
    assert "0 of" in done.stdout and "_q2_" in done.stderr
    assert "unfinished: it was killed" in done.stderr and "The sweep broke off" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
        ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10"],
    ],
    ids=["joblib", "submitit_local"],
)
def test_other_launchers_do_the_same(world: World, launcher: list[str]) -> None:
    done = world.sweep("codec.quality=2,9,3", *launcher)
    assert done.returncode == 1, done.stderr
    assert "2 of 3 jobs done." in done.stdout
    assert "Unknown quality '9'" in done.stderr
    states = [j["state"] for j in world.summary()["jobs"]]
    assert sorted(states) == ["done", "done", "failed"]
    assert "codec.quality=2,3,9" in (world.folder / "report.html").read_text()
    runs = runs_below(world.folder)
    assert sorted(r.job_type for r in runs) == ["summary", "train", "train"]
    assert {r.group for r in runs} == {world.folder.name} and {r.exit_code for r in runs} == {0}
    again = world.sweep("codec.quality=2,3")  # by the default launcher: the same jobs
    assert again.stdout.count("already trained and measured") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give the folder of a sweep: sweep="),
        (["sweep=nowhere"], "There is no sweep nowhere."),
        (["sweep=conf"], "conf is not the folder of a sweep"),
    ],
)
def test_mistakes_of_summarize_end_in_one_line(
    swept: tuple[World, str], arguments: list[str], message: str
) -> None:
    done = swept[0].run("lic_da.summarize", *arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_a_summary_without_some_images_compares_like_with_like(
    swept: tuple[World, str], tmp_path: Path
) -> None:
    world, _ = swept
    sweep = tmp_path / "copy"
    shutil.copytree(world.folder, sweep)
    (sweep / "wandb_logged").unlink()
    lost = next(p.image for p in read_points(sweep / "rd_points.csv") if p.domain == "lines")
    for file in sweep.glob("*/rd_points.csv"):
        text = file.read_text()
        assert f",{lost}," in text
        file.write_text(text.replace(f",{lost},", ",gone.png,"))
    done = world.run("lic_da.summarize", f"sweep={sweep}", "logger=none")
    assert done.returncode == 0, done.stderr
    anchors = {(r["domain"], r["anchor"]) for r in table(sweep / "bd_rate.csv")}
    assert {a for d, a in anchors if d == "lines"} == {"base"}
    assert len({a for d, a in anchors if d == "photos"}) > 1
    assert "classical codecs were left out on it" in (sweep / "report.html").read_text()
    assert not (sweep / "wandb_logged").exists()  # W&B was off, and may be on the next time


def test_the_saved_view_shows_metrics_that_are_there(swept: tuple[World, str]) -> None:
    pytest.importorskip("wandb_workspaces", reason="needs the package wandb-workspaces")
    from lic_da.workspace import workspace

    view = workspace("someone", "lic_da", ["photos", "lines"], ["other"])
    named = set()
    for section in view.sections:
        for panel in section.panels:
            metrics = [panel.x, *panel.y] if hasattr(panel, "y") else panel.metrics
            named |= {getattr(m, "name", m) for m in metrics}
    logged = {key for run in runs_below(swept[0].folder) for row in run.history for key in row}
    assert len(named) > 15 and named <= logged


def test_the_saved_view_needs_a_key(swept: tuple[World, str]) -> None:
    world, _ = swept
    done = world.run("lic_da.workspace")
    assert done.returncode == 2 and "There is no W&B API key here" in done.stderr
