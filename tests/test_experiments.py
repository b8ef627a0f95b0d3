"""Experiments and benchmarks start, ask for settings that exist, and write tables as committed."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
import typer
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image
from typer.testing import CliRunner

import lic_da.config
from benchmarks import decoding, everyday, fixtures, large_image, methods, stored, training
from experiments import common
from experiments.ablation import run as ablation
from experiments.adapter_settings import run as adapter_settings
from experiments.added_domain import run as added_domain
from experiments.all_rates import run as all_rates
from experiments.base_codecs import run as base_codecs
from experiments.few_images import run as few_images
from experiments.forgetting import run as forgetting
from experiments.interrupted import run as interrupted
from experiments.pile import run as pile
from experiments.points import run as points
from experiments.pretraining import run as pretraining
from experiments.reads_everywhere import run as reads_everywhere
from experiments.regions import run as regions
from experiments.regions.pages import GUTTER, HEIGHT, WIDTH, Page, composed
from experiments.same_decoder import chosen, effort
from experiments.same_decoder import run as same_decoder
from experiments.scaling_domains import run as scaling_domains
from experiments.separate_rates import run as separate_rates
from experiments.sketch_comic import run as sketch_comic
from experiments.supervised_adapters import run as supervised_adapters
from experiments.sweep import run as sweep
from experiments.unseen import run as unseen
from lic_da.codecs import refine
from lic_da.config import as_yaml, plain
from lic_da.data.datamodule import LabelledImage
from lic_da.data.index import ImageInfo
from lic_da.evaluation.curves import Run, savings, series_of
from lic_da.evaluation.measure import Point, write_points
from lic_da.evaluation.operations import kmacs_per_pixel
from lic_da.io.bitstream import StreamError
from lic_da.io.files import write_json, write_text
from lic_da.io.images import RGB
from lic_da.io.lossless import save_png
from lic_da.methods import pack
from lic_da.methods.adapters.codec import AdaptedCodec
from tests import damage
from tests.conftest import CODEC, DOMAINS, codec_config, disturb, photo_crops, scribbles
from tests.test_regions import sighted
from tests.test_report import run_of

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"
RESULTS = ROOT / "benchmarks" / "results"
NAMES = sorted(path.parent.name for path in EXPERIMENTS.glob("*/run.py"))
PROGRAMS = {
    **{name: f"experiments.{name}.run" for name in NAMES},
    **{
        f"benchmark {name}": f"benchmarks.{name}"
        for name in (
            "bulk",
            "decoding",
            "gpu",
            "large_image",
            "methods",
            "parts",
            "stored",
            "training",
        )
    },
}


def app_of(module: ModuleType) -> typer.Typer:
    """The command line of a program, as it is when the program is run."""
    if hasattr(module, "app"):
        return module.app
    app = typer.Typer(add_completion=False)
    app.command()(module.main)
    return app


def is_plot(path: Path) -> bool:
    """Whether a file is an image that shows something."""
    with Image.open(path) as image:
        return image.format == "PNG" and np.asarray(image.convert("L")).std() > 1


# Command lines


@pytest.mark.parametrize("module", PROGRAMS.values(), ids=PROGRAMS)
def test_every_program_has_a_command_line_that_answers_help(module: str) -> None:
    done = CliRunner().invoke(app_of(importlib.import_module(module)), ["--help"])
    assert done.exit_code == 0
    assert "Usage:" in done.output


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_says_how_it_is_started_and_has_a_page_with_its_answer(name: str) -> None:
    said = importlib.import_module(f"experiments.{name}.run").__doc__
    assert said and f"``make experiments/{name}``" in said
    assert "**Answer.**" in (EXPERIMENTS / name / "README.md").read_text()


def test_programs_start_by_path_and_by_name() -> None:
    ways = (["benchmarks/decoding.py"], ["-m", "experiments.sweep.run"])
    started = [
        subprocess.Popen(
            [sys.executable, *way, "--help"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for way in ways
    ]
    assert all("--codec" in process.communicate()[0] for process in started)
    assert all(process.returncode == 0 for process in started)


def test_the_fuzzer_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "atheris", None)
    monkeypatch.delitem(sys.modules, "benchmarks.fuzz_streams", raising=False)
    with pytest.raises(SystemExit, match="pip install atheris"):
        importlib.import_module("benchmarks.fuzz_streams")


# Settings of the trainings that experiments start


class Started(Exception):
    """What an experiment would have started: the program and its Hydra overrides."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, list[str]]]:
    """Calls a function up to the first program that it starts; what it would have started."""

    def begin(program: str, *settings: str) -> None:
        raise Started(program, [s for s in settings if s != "-m"])

    def of(function: Callable[..., object], *arguments: object) -> tuple[str, list[str]]:
        monkeypatch.setattr(common, "start", begin)
        with pytest.raises(Started) as raised:
            function(*arguments)
        return raised.value.args

    return of


def jobs_of(settings: list[str]) -> set[tuple[str, ...]]:
    """Overrides of the first job of a sweep and of the last, which may be the same."""
    values = [
        [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()]
        if o.is_sweep_override()
        else [o.input_line]
        for o in OverridesParser.create().parse_overrides(settings)
        if not o.input_line.startswith("hydra")
    ]
    return {tuple(value[end] for value in values) for end in (0, -1)}


STARTS: dict[str, tuple[Callable[..., object], tuple[object, ...]]] = {
    "sketch_comic": (sketch_comic.main, ()),
    "sweep": (sweep.main, ()),
    "sweep zou2022_n64": (sweep.main, ("zou2022_n64", 2)),
    "points": (points.main, ()),
    "regions": (regions.main, ()),
    "unseen": (unseen.main, ()),
    "same_decoder": (same_decoder.packs, (same_decoder.LATER, 0, Path("data"), "1,2,3,4")),
    "all_rates": (all_rates.train, (2,)),
    "all_rates, a pack for each": (all_rates.main, ()),
    "benchmark same": (training.same, ()),
    "benchmark inputs": (training.inputs, ()),
    **{
        f"adapter_settings {n}": (adapter_settings.train, ("mbt2018_mean_n64", c))
        for n, c in enumerate(adapter_settings.CHANGES)
    },
    **{
        f"pile {run}": (pile.train, (run, pile.RUNS, "6", ("data.data_dir=data",)))
        for run in pile.TRAININGS
    },
    **{f"few_images {method}": (few_images.train, (method, 2)) for method in few_images.STEPS},
    "few_images augmented": (few_images.train_augmented, (2,)),
    **{
        f"scaling_domains {n}": (scaling_domains.train, (scaling_domains.groups(n, 12), 2, 1))
        for n in scaling_domains.COUNTS
    },
    **{f"forgetting {grid}": (forgetting.train, (grid, 1)) for grid in forgetting.FOLDERS},
    **{
        f"supervised_adapters {codec}": (supervised_adapters.train, (codec, (1, 4), (0, 1)))
        for codec in supervised_adapters.CODECS
    },
    **{
        f"ablation {group}, {variant}": (ablation.train, (group, variant, (0, 1)))
        for group, variants in ablation.SETTINGS.items()
        for variant in variants
    },
    **{
        f"pretraining {n}": (pretraining.train, ("bundled weights", n, c))
        for n, c in pretraining.GO_ON.items()
    },
    **{
        f"pretraining scratch, {n}": (pretraining.train, ("scratch", n, c))
        for n, c in pretraining.SCRATCH.items()
    },
    "separate_rates": (separate_rates.train, ("quality 3", "[3]", 10, "photos,others")),
    "separate_rates, all": (separate_rates.main, ()),
}


@pytest.mark.parametrize("name", STARTS)
def test_what_is_started_is_configured_by_settings_that_exist(
    name: str,
    started: Callable[..., tuple[str, list[str]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(common, "OUTPUTS", tmp_path)
    function, arguments = STARTS[name]
    program, settings = started(function, *arguments)
    with initialize_config_dir(str(lic_da.config.CONF), version_base="1.3"):
        for job in jobs_of(settings):
            assert compose(program, [*job])  # raises where a name or a group's choice is unknown


def test_the_settings_of_other_trainings_exist_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(added_domain, "RUNS", tmp_path)
    # Settings alone: the pack that is extended is not there.
    monkeypatch.setattr(added_domain.RunSettings, "from_config", staticmethod(lambda c: c))
    monkeypatch.setattr(added_domain, "train_what_is_missing", lambda config, folder: config)
    for label, overrides in added_domain.SETTINGS.items():
        assert added_domain.trained(label, overrides).evaluation.ms_ssim is False
    program, *settings = interrupted.command(tmp_path)[2:]
    assert program == "lic_da.train"
    with initialize_config_dir(str(lic_da.config.CONF), version_base="1.3"):
        assert compose("train", [s for s in settings if not s.startswith("hydra")]).unseen == []


def test_a_program_that_fails_ends_the_experiment_with_its_exit_code(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as raised:
        common.start("train", "codec=nonesuch")
    assert raised.value.code == 2
    assert "Unknown codec 'nonesuch'" in capfd.readouterr().err


def test_trainings_at_a_time_are_started_by_joblib(
    started: Callable[..., tuple[str, list[str]]], tmp_path: Path
) -> None:
    program, settings = started(lambda: common.sweep(tmp_path, "codec.quality=4", jobs=3))
    with initialize_config_dir(str(lic_da.config.CONF), version_base="1.3"):
        config = compose(program, settings, return_hydra_config=True)
    assert config.codec.quality == 4
    assert config.hydra.sweep.dir == str(tmp_path)
    assert config.hydra.launcher.n_jobs == 3
    assert config.hydra.launcher._target_.endswith("JoblibLauncher")


@pytest.mark.parametrize("program", [points, regions, unseen])
def test_a_pack_of_an_experiment_is_a_job_that_a_sweep_finishes_or_leaves(
    program: ModuleType,
    started: Callable[..., tuple[str, list[str]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(common, "OUTPUTS", tmp_path)
    command, settings = started(program.main)
    with initialize_config_dir(str(lic_da.config.CONF), version_base="1.3"):
        config = compose(command, settings, return_hydra_config=True)
    assert not any(s.startswith(("name=", "ckpt_path=")) for s in settings)
    job = Path(config.hydra.sweep.dir) / config.hydra.sweep.subdir
    monkeypatch.setattr(common, "start", lambda *_: None)  # nothing is missing
    folder = tmp_path / program.__name__.replace("experiments.", "experiment_").removesuffix(".run")
    assert common.trained(folder) == job / "pack"


def test_a_sweep_of_another_codec_keeps_its_tables_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finish(program: str, *settings: str) -> None:
        (folder,) = (
            Path(s.partition("=")[2]) for s in settings if s.startswith("hydra.sweep.dir=")
        )
        folder.mkdir(parents=True)
        for name in ("bd_rate.csv", "summary.json"):
            (folder / name).write_text(" ".join(s for s in settings if s.startswith("codec=")))

    monkeypatch.setattr(common, "start", finish)
    monkeypatch.setattr(sweep, "HERE", tmp_path)
    monkeypatch.setattr(sweep, "RUNS", tmp_path / "outputs" / "experiment_sweep")
    sweep.main()
    sweep.main(codec="zou2022_n64")
    for name in ("bd_rate.csv", "summary.json"):
        assert (tmp_path / name).read_text() == f"codec={sweep.CODEC}"
    for name in ("bd_rate.csv", "summary.json"):
        assert (tmp_path / "zou2022_n64" / name).read_text() == "codec=zou2022_n64"


def test_a_sweep_refuses_what_is_no_codec() -> None:
    done = CliRunner().invoke(app_of(sweep), ["--codec", "bmshj2018_factorized_n64,zou2022_n64"])
    assert done.exit_code == 1
    assert "Unknown codec" in done.output


def test_finished_runs_of_a_sweep_are_read_and_others_left_out(tmp_path: Path) -> None:
    run = ROOT / "tests" / "fixtures" / "format1" / "run"
    shutil.copytree(run, tmp_path / "done")
    (tmp_path / "stopped").mkdir()
    shutil.copy(run / "config.yaml", tmp_path / "stopped")
    assert [found.folder.name for found in common.finished(tmp_path)] == ["done"]
    points = [*forgetting.means(tmp_path)]
    assert {(p.method, p.trained_on, p.quality) for p in points} == {("adapters", "inked", 1)}
    assert {p.domain for p in points} == {"plain", "inked"}
    assert [row.blend for row in forgetting.rows(tmp_path)] == ["weighted", "oracle"]


# Tables and plots


@dataclasses.dataclass(frozen=True)
class Line:
    """A row with all kinds of cells."""

    name: str
    count: int
    share: float
    same: bool
    change: float | None


LINES = [Line("a, b", 3, 0.25, True, None), Line('"é"', -1, math.inf, False, -1.5)]


def test_a_table_reads_as_the_rows_that_were_written(tmp_path: Path) -> None:
    common.write_table(tmp_path / "new" / "a.csv", LINES)
    assert common.read_rows(tmp_path / "new" / "a.csv", Line) == LINES
    common.write_table(tmp_path / "b.csv", [vars(line) for line in LINES], ".3f")
    assert (tmp_path / "b.csv").read_bytes().decode() == (
        'name,count,share,same,change\n"a, b",3,0.250,True,\n"""é""",-1,inf,False,-1.500\n'
    )


@pytest.mark.parametrize("rows", [[], [{"a": 1}, {"b": 2}]], ids=["none", "other columns"])
def test_a_table_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, rows: list[dict[str, int]]
) -> None:
    common.write_table(tmp_path / "a.csv", LINES)
    before = (tmp_path / "a.csv").read_bytes()
    with pytest.raises(ValueError):
        common.write_table(tmp_path / "a.csv", rows)
    assert (tmp_path / "a.csv").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


TABLES: dict[str, tuple[Callable[..., object], str]] = {
    "experiments/interrupted/results.csv": (interrupted.Result, ".2f"),
    "experiments/points/images.csv": (points.Image, ".4f"),
    "experiments/reads_everywhere/decodings.csv": (reads_everywhere.Decodings, ".2e"),
    "experiments/same_decoder/chosen.csv": (chosen.Image, ".5g"),
    "experiments/same_decoder/effort.csv": (effort.Coded, ".6g"),
    "benchmarks/results/bmshj2018_factorized_n64.csv": (decoding.Measurement, ".5g"),
    "benchmarks/results/zou2022.csv": (decoding.Measurement, ".5g"),
    "benchmarks/results/methods.csv": (methods.Row, ".4f"),
    "benchmarks/results/stored.csv": (stored.Row, ".5g"),
    "benchmarks/results/training_cpu_no_amx.csv": (training.Row, ".6g"),
    "benchmarks/results/training_same.csv": (training.Same, ".6g"),
    "benchmarks/results/training_inputs.csv": (training.Input, ".6g"),
}


@pytest.mark.parametrize("table", TABLES)
def test_rows_of_committed_tables_are_those_that_programs_write(table: str, tmp_path: Path) -> None:
    kind, floats = TABLES[table]
    common.write_table(tmp_path / "again.csv", common.read_rows(ROOT / table, kind), floats)
    assert (tmp_path / "again.csv").read_bytes() == (ROOT / table).read_bytes()


def same_tables(folder: Path, *names: str, of: str) -> bool:
    """Whether tables are those of an experiment, byte for byte."""
    return all(
        (folder / name).read_bytes() == (EXPERIMENTS / of / name).read_bytes() for name in names
    )


def test_few_images_writes_its_committed_table_again_and_a_plot(tmp_path: Path) -> None:
    rows = common.read_rows(EXPERIMENTS / "few_images" / "results.csv", few_images.Result)
    few_images.write(rows, tmp_path)
    assert same_tables(tmp_path, "results.csv", of="few_images")
    assert is_plot(tmp_path / "gains.png")


def test_few_images_tells_runs_with_augmentation_from_those_without() -> None:
    run = Run.read(ROOT / "tests" / "fixtures" / "format1" / "run")
    rows = [run.summary["domains"][name] for name in ("plain", "inked")]
    names = few_images.SOURCE, few_images.TARGET
    summary = {**run.summary, "domains": dict(zip(names, rows, strict=True))}
    data = {**run.config["data"], "train_images": 5}
    runs = [
        dataclasses.replace(run, summary=summary, config={**run.config, "data": changed})
        for changed in ({**data, "augment": True}, {**data, "augment": False, "train_images": None})
    ]
    few, everything = few_images.augmented(runs, 294)
    assert (few.augment, few.train_images) == (True, 5)
    assert (everything.augment, everything.train_images) == (False, 294)
    assert (
        few.gain == rows[1]["gain"]["weighted"] and few.source_gain == rows[0]["gain"]["weighted"]
    )


def test_domains_together_are_compared_with_each_alone(tmp_path: Path) -> None:
    run = Run.read(ROOT / "tests" / "fixtures" / "format1" / "run")
    (row,) = scaling_domains.results([run], [run])
    assert (row.domains, row.domain) == (2, "inked")
    assert row.gain == row.alone == run.summary["domains"]["inked"]["gain"]["weighted"]
    (unknown,) = scaling_domains.results([run], [])
    assert math.isnan(unknown.alone)
    taken = scaling_domains.Cost(2, 0, 333, 0.2, 1.1, 1.6, 0.9)
    scaling_domains.write([row, dataclasses.replace(row, domains=4)], [taken], tmp_path)
    assert common.read_rows(tmp_path / "costs.csv", scaling_domains.Cost) == [taken]
    assert len(common.read_table(tmp_path / "results.csv")) == 2
    assert is_plot(tmp_path / "gains.png")


def test_many_folders_are_trained_as_domains_for_their_cost(
    folder_domain: Callable[..., Path],
    photographs: list[RGB],
    conf: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder_domain("photos", photo_crops(photographs, 12))
    settings = {"SOURCE": "photos", "CONF": conf, "IMAGES": 5, "SIDE": 64, "FOLDER_STEPS": 2}
    for name, value in settings.items():
        monkeypatch.setattr(scaling_domains, name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    names = scaling_domains.folders(tmp_path / "many", 3)
    scaling_domains.train_folders(tmp_path / "many", names)
    (run,) = common.finished(tmp_path / "many" / "runs")
    cost = scaling_domains.cost(run)
    assert (cost.domains, cost.steps) == (3, 2)
    assert cost.step_s > 0 and cost.decode_ratio > 0 and cost.pack_mib > 1
    assert "LIC_DA_CONF" not in os.environ


def test_added_domain_writes_its_committed_tables_again_and_a_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = EXPERIMENTS / "added_domain"
    found = common.read_rows(folder / "results.csv", added_domain.Result)
    kept = common.read_rows(folder / "before_after.csv", added_domain.Change)
    added_domain.write(found, kept, tmp_path)
    assert same_tables(tmp_path, "results.csv", "before_after.csv", of="added_domain")
    assert is_plot(tmp_path / "gains.png")
    assert "extended, replay: clipart gains" in capsys.readouterr().out


def finished_run(folder: Path, quality: int | str, qualities: Sequence[int], gain: float) -> None:
    """What a run over two images leaves: base curves that rise, and a gain at each quality."""
    with initialize_config_dir(str(lic_da.config.CONF), version_base="1.3"):
        config = plain(compose("train", ["codec=zou2022_n64", f"codec.quality={quality}"]))
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "logs" / "version_0").mkdir(parents=True)
    write_text(folder / "config.yaml", as_yaml(config))
    (folder / "checkpoints" / "last.ckpt").touch()
    points = [
        Point(
            *(folder.name, "zou2022_n64", q, 0.01, "adapters", mode, domain, True, "a.png", 64, 64),
            *(
                0,
                0,
                0.1 * q,
                0.1 * q,
                26.0 + 2 * q + gain * (mode == "weighted"),
                math.nan,
                0,
                0,
                {},
            ),
        )
        for q in qualities
        for domain in ("natural", "sketch")
        for mode in ("base", "weighted")
    ]
    write_points(points, folder / "rd_points.csv", ())
    rows = {d: {"gain": {"weighted": gain}, "psnr": {}, "images": 1} for d in ("natural", "sketch")}
    of_quality = {str(q): {"domains": rows, "base_fingerprint": f"{q}" * 64} for q in qualities}
    several = {"rates": of_quality} if len(qualities) > 1 else {}
    write_json(folder / "summary.json", {**next(iter(of_quality.values())), **several})


def test_a_pack_for_all_rates_is_compared_with_one_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    each, every = tmp_path / "each", tmp_path / "every"
    for quality in (1, 2, 3, 4):
        finished_run(each / f"q{quality}", quality, (quality,), 0.5)
    finished_run(every / "run", "all", (1, 2, 3, 4), 0.4)
    monkeypatch.setattr(common, "start", lambda *_: None)  # nothing is missing
    monkeypatch.setattr(sweep, "main", lambda *_: None)
    for name, folder in (("FOR_EACH", each), ("RUNS", every), ("HERE", tmp_path)):
        monkeypatch.setattr(all_rates, name, folder)
    all_rates.main()
    table = common.read_rows(tmp_path / "table.csv", all_rates.Row)
    assert [(r.trained, r.steps, r.packs, r.domain) for r in table] == [
        *(("all", 500, 1, d) for d in ("natural", "sketch")),
        *(("each", 2000, 4, d) for d in ("natural", "sketch")),
    ]
    assert [r.bd_psnr_db for r in table] == pytest.approx([0.4, 0.4, 0.5, 0.5])
    assert all(r.bd_rate_percent < 0 and r.train_s is not None for r in table)
    gains = common.read_rows(tmp_path / "gains.csv", all_rates.Gain)
    assert [g.quality for g in gains if (g.trained, g.domain) == ("each", "sketch")] == [1, 2, 3, 4]
    assert is_plot(tmp_path / "gains.png")
    assert "each, 2000 steps, sketch: -" in capsys.readouterr().out
    (every / "run" / "logs" / "version_1").mkdir()  # as of a run that was interrupted
    assert all_rates.train_seconds(every / "run") is None


def test_a_smaller_pile_has_no_links_of_a_larger_one(
    folder_domain: Callable[..., Path],
    photographs: list[RGB],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder_domain("lines", scribbles(8, side=64))
    folder_domain("photos", photo_crops(photographs, 8, side=64))
    monkeypatch.setattr(pile, "DOMAINS", ("lines", "photos"))
    mixed, data = tmp_path / "runs" / "pile", tmp_path / "data"
    larger = pile.mix(mixed, data, 6)
    assert {path.name for path in mixed.iterdir()} == larger.keys() and len(larger) == 12
    moved = mixed / min(larger)
    moved.unlink()
    moved.symlink_to(tmp_path / "gone")  # as of a data folder that was elsewhere
    assert pile.mix(mixed, data, 6) == larger and moved.is_file()
    smaller = pile.mix(mixed, data, 3)
    assert {path.name for path in mixed.iterdir()} == smaller.keys() < larger.keys()


def test_a_pile_with_other_options_has_a_folder_of_its_own() -> None:
    default = pile.folder_of(pile.PER_DOMAIN, pile.DATA, pile.STEPS)
    assert default == pile.folder_of(160, Path("data").absolute(), 900) == pile.RUNS
    others = [
        *(pile.folder_of(40, pile.DATA, 900), pile.folder_of(160, pile.DATA, 40)),
        *(pile.folder_of(160, Path("other"), 900), pile.folder_of(40, Path("other"), 40)),
    ]
    assert len({default, *others}) == 5
    assert {folder.parent for folder in others} == {default.parent}


def test_finished_runs_on_a_pile_are_those_of_the_same_options(
    started: Callable[..., tuple[str, list[str]]], tmp_path: Path
) -> None:
    write_text(tmp_path / "one" / "looks" / "summary.json", "{}")
    assert pile.train("looks", tmp_path / "one", "6", ()) == tmp_path / "one" / "looks"
    _, settings = started(pile.train, "looks", tmp_path / "other", "6", ())
    assert {"name=other/looks", f"pile={tmp_path / 'other' / 'pile'}"} < {*settings}


def test_a_stream_without_an_image_to_compare_with_counts_as_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = reads_everywhere.SURROUNDINGS[:2]
    monkeypatch.setattr(reads_everywhere, "RUNS", tmp_path)
    (tmp_path / "a" / first).mkdir(parents=True)
    for number in range(2):
        (tmp_path / "a" / first / f"{number}.lic").write_bytes(bytes([number]))
    pixels = scribbles(1, side=64)[0]

    def decompress(content: bytes, mode: str) -> RGB:
        if content == b"\1":
            raise StreamError("other latents")
        return pixels

    refusing = SimpleNamespace(decompress=decompress)
    opening = SimpleNamespace(decompress=lambda *_: pixels)
    found = [
        reads_everywhere.decoded("a", first, "whole", refusing),
        reads_everywhere.decoded("a", first, "tiles", opening),
        reads_everywhere.decoded("a", second, "whole", opening),
    ]
    assert {(r.decodings, r.failed, r.largest_difference) for r in found} == {(2, 1, 0)}
    said = capsys.readouterr().err
    assert said.count("other latents") == 1 and said.count("no image to compare with") == 2


def test_what_an_earlier_call_has_decoded_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    row = reads_everywhere.Decodings("a", "default_1", "whole", 1, 0, 0.0, 0)
    write_text(runs / "a" / "default_1" / "0.png", "")

    def work(here: str, *_: object) -> None:
        assert not (runs / "a").exists()
        common.write_table(runs / f"{here}.csv", [dataclasses.replace(row, decoded_in=here)])

    for name, value in (("RUNS", runs), ("HERE", tmp_path), ("in_surroundings", work)):
        monkeypatch.setattr(reads_everywhere, name, value)
    reads_everywhere.main()
    table = common.read_rows(tmp_path / "decodings.csv", reads_everywhere.Decodings)
    assert [r.decoded_in for r in table] == [*reads_everywhere.SURROUNDINGS]


def test_what_a_pile_gives_is_written_by_true_domain(tmp_path: Path) -> None:
    rows = [
        pile.Placed(f"{n}.png", kind, "test" if n < 2 else "train", f"pile-{n % 2}", f"pile-{kind}")
        for kind in ("a", "b")
        for n in range(4)
    ]
    gains = [pile.Gain("rounds", "a", 4, 1.5)]
    by_looks, *_, by_rounds = pile.write(rows, gains, tmp_path)
    assert by_looks.rand_index < 0.1 and by_rounds.rand_index == 1
    assert (by_rounds.images, by_rounds.count, by_rounds.groups) == ("test", 4, 2)
    assert common.read_rows(tmp_path / "groups.csv", pile.Placed) == rows
    assert common.read_rows(tmp_path / "gains.csv", pile.Gain) == gains


def test_forgetting_replaces_the_rows_of_trainings_that_are_done_anew(tmp_path: Path) -> None:
    for name in ("comparison.csv", "points.csv"):
        shutil.copy(EXPERIMENTS / "forgetting" / name, tmp_path)
    before = forgetting.write(tmp_path, [], [])
    assert same_tables(tmp_path, "comparison.csv", "points.csv", of="forgetting")
    assert is_plot(tmp_path / "forgetting.png") and is_plot(tmp_path / "rd_curves.png")
    new = dataclasses.replace(before[-1], target_bd_rate=-99.0)
    same = (new.method, new.trained_on, new.steps)
    old = [r for r in before if (r.method, r.trained_on, r.steps) != same]
    expected = [*map(str, (new, *old))]  # as text, in which no BD-rate is equal to none
    assert [*map(str, forgetting.write(tmp_path, [new], []))] == expected
    longer = dataclasses.replace(new, steps=9999)  # stands beside the short one
    assert len(forgetting.write(tmp_path, [longer], [])) == len(before) + 1
    assert forgetting.name(longer) == f"{forgetting.name(new)}, 9999 steps"
    shutil.copy(EXPERIMENTS / "forgetting" / "comparison.csv", tmp_path)
    forgetting.write(tmp_path, [new], [])
    written = common.read_rows(tmp_path / "comparison.csv", forgetting.Row)
    assert [*map(str, written)] == expected


def test_forgetting_may_be_measured_quality_by_quality(
    started: Callable[..., tuple[str, list[str]]], tmp_path: Path
) -> None:
    _, settings = started(forgetting.train, "cawf_long", 1, "2,3")
    qualities = {s for job in jobs_of(settings) for s in job if "quality" in s}
    assert qualities == {"codec.quality=2", "codec.quality=3"}
    (row, *_) = common.read_rows(EXPERIMENTS / "forgetting" / "comparison.csv", forgetting.Row)
    third, second = (
        forgetting.Mean("cawf", "sketch", "sketch", "adapted", q, q / 8, 30.0 + q, 8000)
        for q in (3, 2)
    )
    for point in (third, second):
        forgetting.write(tmp_path, [row], [point])
    assert common.read_rows(tmp_path / "points.csv", forgetting.Mean) == [second, third]


def test_forgetting_writes_what_is_finished_where_a_sweep_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise SystemExit(1)

    for name in ("comparison.csv", "points.csv"):
        shutil.copy(EXPERIMENTS / "forgetting" / name, tmp_path)
    run = ROOT / "tests" / "fixtures" / "format1" / "run"
    shutil.copytree(run, tmp_path / "runs" / "done")
    monkeypatch.setattr(forgetting, "HERE", tmp_path)
    monkeypatch.setattr(forgetting, "train", broken)
    monkeypatch.setitem(forgetting.FOLDERS, "cawf_long", tmp_path / "runs")
    with pytest.raises(SystemExit) as raised:
        forgetting.main("cawf_long")
    assert raised.value.code == 1
    rows = common.read_rows(tmp_path / "comparison.csv", forgetting.Row)
    assert "inked" in {row.target for row in rows}


def test_what_the_last_quarter_of_a_training_brought_is_read_from_its_log(tmp_path: Path) -> None:
    def run(number: int, column: str, *values: float) -> Run:
        folder = tmp_path / f"{number}" / "logs" / "version_0"
        folder.mkdir(parents=True)
        rows = [f"{250 * n + 249},{value}" for n, value in enumerate(values)]
        (folder / "metrics.csv").write_text("\n".join([f"step,{column}", *rows, "1999,"]) + "\n")
        return dataclasses.replace(run_of(1, ["sketch"]), folder=tmp_path / f"{number}")

    falling = run(0, "val/loss", 2.0, 1.5, 1.25, 1.0), run(1, "val/loss", 3.0, 2.0, 2.0, 2.0)
    late = forgetting.late(falling)
    assert late == {"late_loss_percent": pytest.approx(10), "late_gain_db": None}
    rising = [run(2, "val/gain", 1.0, 2.0, 2.5, 2.75)]
    assert forgetting.late(rising) == {"late_loss_percent": None, "late_gain_db": 0.25}
    no_log = dataclasses.replace(falling[0], folder=tmp_path / "none")
    assert set(forgetting.late([no_log]).values()) == {None}


def test_means_and_bd_rates_of_base_codecs_follow_from_the_committed_points(tmp_path: Path) -> None:
    folder = EXPERIMENTS / "base_codecs"
    points = common.read_rows(folder / "rd_points.csv", base_codecs.Coded)
    base_codecs.write(points, tmp_path)
    assert same_tables(tmp_path, "rd_points.csv", of="base_codecs")
    assert is_plot(tmp_path / "rd_curves.png")
    for name, figures in (
        ("means.csv", {"bpp": 1e-4, "psnr": 1e-3, "ms_ssim_db": 1e-3}),
        ("bd_rate.csv", {"bd_rate_percent": 0.01, "bd_psnr_db": 0.01}),
    ):
        ours, theirs = (common.read_table(f / name) for f in (tmp_path, folder))
        for a, b in zip(ours, theirs, strict=True):
            assert {k: v for k, v in a.items() if k not in figures} == {
                k: v for k, v in b.items() if k not in figures
            }
            for column, last_digit in figures.items():  # points are rounded to six digits
                assert float(a[column]) == pytest.approx(
                    float(b[column]), abs=1.01 * last_digit, nan_ok=True
                )


def test_how_the_bundled_codecs_were_trained_is_plotted_from_their_logs(tmp_path: Path) -> None:
    base_codecs.plot_training(tmp_path / "training.png")
    assert is_plot(tmp_path / "training.png")


def with_seed(seed: int, quality: int, shift: float = 0.0) -> Run:
    """A run with invented scores, as a training with this seed would leave it."""
    run = run_of(quality, ["sketch", "comic"], shift)
    summary = {
        **run.summary,
        "gate_accuracy": 0.75,
        "compatibility": {"parameters": {"trained": 1000}},
    }
    return dataclasses.replace(run, config={**run.config, "seed": seed}, summary=summary)


def test_supervised_adapters_tells_what_is_there_and_what_is_missing(tmp_path: Path) -> None:
    # One seed at four qualities, a second one that saves more, a third one that has just begun.
    runs = [with_seed(s, q, shift=0.3 * s) for s in (0, 1) for q in (1, 2, 3, 4)]
    found = {CODEC: series_of([*runs, with_seed(2, 1)])}
    rows = supervised_adapters.write(found, tmp_path)
    read = common.read_table(tmp_path / "parts.csv")
    own = {r["seed"]: (r["done"], r["missing"]) for r in read if r["codec"] == CODEC}
    assert own == {"0": ("1 2 3 4", "5 6"), "1": ("1 2 3 4", "5 6"), "2": ("1", "2 3 4 5 6")}
    assert {r["done"] for r in read if r["codec"] != CODEC} == {""}
    (sketch,) = (r for r in rows if (r.domain, r.mode) == ("sketch", "weighted"))
    alone = [
        r.bd_rate_percent
        for seed in (0, 1)
        for r in savings(series_of(run for run in runs if run.config["seed"] == seed))
        if (r.domain, r.blend, r.interpolation) == ("sketch", "weighted", "akima")
    ]
    assert (sketch.seeds, sketch.qualities, sketch.kind) == (2, 4, "seen")
    assert sketch.bd_rate_percent == pytest.approx(np.mean(alone))
    assert (sketch.bd_rate_least, sketch.bd_rate_most) == pytest.approx((min(alone), max(alone)))
    assert sketch.bd_rate_low < sketch.bd_rate_percent < sketch.bd_rate_high
    assert (sketch.images_compared, sketch.images_left_out) == (10, 0)
    assert {r.mode for r in rows if r.kind == "unseen"} == {"weighted", "top1"}
    assert len(common.read_table(tmp_path / "bd_rate.csv")) == len(rows)
    (cost,) = common.read_table(tmp_path / "costs.csv")
    assert cost["parameters_adapter"] == "144195" and cost["parameters_gate"] == "37123"
    assert float(cost["kmac_decoder"]) == pytest.approx(10.944, rel=1e-3)
    assert "2 3 4 5 6" in (tmp_path / "results.md").read_text()
    assert is_plot(tmp_path / "rd_curves.png")


def test_multiplications_are_those_of_the_layers_and_of_one_serial_kernel_and_the_gate_more(
    adapted: AdaptedCodec,
) -> None:
    pixels, y = 64 * 64, adapted.model.g_a(torch.rand(1, 3, 64, 64))
    deconvs = 64 * 64 * 25 * (1 / 256 + 1 / 64 + 1 / 16) + 64 * 3 * 25 / 4
    norms = 64 * 64 * (1 / 64 + 1 / 16 + 1 / 4)
    base = kmacs_per_pixel(adapted.synthesis.base, y, pixels)
    assert base == pytest.approx((deconvs + norms) / 1000)
    gate = kmacs_per_pixel(adapted.synthesis.gate, y, pixels)
    serial = 64 * 64 * 9 / 16 / 1000
    branches = kmacs_per_pixel(adapted.synthesis, y, pixels) - base - gate - serial
    assert 0 <= branches < 0.2 * base  # kernels are added up once an image, whatever its size


def test_the_ablation_compares_variants_with_the_default_by_seed(tmp_path: Path) -> None:
    ((default, _),) = ablation.SETTINGS["default"].items()
    found = {
        ("default", default): {s: with_seed(s, 3, 0.1 * s) for s in (0, 1)},
        ("rank", "rank 4"): {s: with_seed(s, 3, 0.1 * s + 0.2) for s in (1, 2)},
    }
    rows = ablation.write(found, tmp_path)
    (own,) = (r for r in rows if (r.variant, r.domain) == ("rank 4", "sketch"))
    # by the invented scores each image gains 0.5 dB a unit of shift
    assert own.over_default == pytest.approx(0.1)
    assert own.over_default_low == pytest.approx(0.1) == pytest.approx(own.over_default_high)
    assert own.most - own.least == pytest.approx(0.05) and own.seeds == 2
    assert own.low < own.gain < own.high and own.bpp_change == 0
    parts = {r["variant"]: r for r in common.read_table(tmp_path / "parts.csv")}
    assert (parts["rank 4"]["seeds"], parts["rank 4"]["missing"]) == ("1 2", "0")
    assert parts["rank 8"]["missing"] == "0 1 2"
    assert len(parts) == sum(map(len, ablation.SETTINGS.values()))
    assert "rank 8 (seeds 0 1 2)" in (tmp_path / "results.md").read_text()
    assert is_plot(tmp_path / "gains.png")


@pytest.mark.parametrize("module", [supervised_adapters, ablation])
def test_without_finished_runs_there_is_nothing_to_write(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(module, "HERE", tmp_path)
    done = CliRunner().invoke(app_of(module), ["--no-train"])
    assert done.exit_code == 1 and "No run is finished" in done.output
    assert list(tmp_path.iterdir()) == []


def test_unseen_domains_are_those_that_are_prepared_and_stay_those_of_the_runs_that_are_there(
    tmp_path: Path,
) -> None:
    assert supervised_adapters.unseen_domains(tmp_path / "runs", tmp_path / "data") == []
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "config.yaml").write_text("data: {unseen: [map, chart]}\n")
    found = supervised_adapters.unseen_domains(tmp_path / "runs", tmp_path / "data")
    assert found == ["map", "chart"]


CASCADE = tuple(step for step in same_decoder.CASCADE if step.effort < 2)


@pytest.fixture
def four_packs(
    folder_domain: Callable[..., Path],
    photographs: list[RGB],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[int, Path]:
    """Packs of four qualities with calibration and points, which same_decoder takes for trained."""
    folder_domain("photos", photo_crops(photographs, 24, side=48))
    folder_domain("lines", scribbles(24, side=48))
    folders = {quality: tmp_path / f"pack{quality}" for quality in (1, 2, 3, 4)}
    how = {"gate": {"calibration": "learned"}, "points": "means"}
    for quality, folder in folders.items():
        codec = disturb(AdaptedCodec.build(codec_config(quality), ("photos", "other"), how), 2e-3)
        assert codec.synthesis.points is not None and codec.synthesis.trust is not None
        codec.synthesis.points.offsets += 0.05
        codec.synthesis.trust.bias.fill_(0.5)
        pack.save(codec, folder, {})
    monkeypatch.setattr(same_decoder, "packs", lambda *settings: folders)
    monkeypatch.setattr(same_decoder, "CASCADE", CASCADE)
    return folders


def test_a_cascade_of_steps_is_coded_once_and_told_as_tables_and_plot(
    four_packs: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refine, "STEPS", (0, 2, 3, 4))

    def run(effort_images: int) -> tuple[list[same_decoder.Coded], list[dict[str, str]]]:
        same_decoder.main(
            data=tmp_path / "data", domains="photos,lines", per_domain=1, effort_images=effort_images,
            side=32, output=tmp_path,
        )  # fmt: skip
        points = common.read_rows(tmp_path / "points.csv", same_decoder.Coded)
        return points, common.read_table(tmp_path / "table.csv")

    points, table = run(1)
    further = [p for p in points if p.quality > 4]  # of the base, whose curve has to be long enough
    assert len(points) - len(further) == 4 * 2 * len(CASCADE)
    assert {(p.quality, p.step) for p in further} == {(5, "base"), (6, "base")}
    assert len(further) == 2 * 2
    assert [(r["domain"], r["step"]) for r in table] == [
        (domain, step.name) for domain in ("photos", "lines") for step in CASCADE[1:]
    ]
    assert {r["domain"]: r["seen"] for r in table} == {"photos": "True", "lines": "False"}
    assert {r["qualities"] for r in table} == {"4"}
    assert all(math.isfinite(float(r["bd_rate_percent"])) or r["reason"] for r in table)
    assert is_plot(tmp_path / "bd_rate.png")
    # Whole files are counted, and every step decodes in a way of its own.
    assert all(p.bpp == pytest.approx(8 * p.file_bytes / 32**2) for p in points)
    own = {p.step: p for p in points if (p.domain, p.quality) == ("photos", 3)}
    assert own["gate"].file_bytes == own["base"].file_bytes
    assert len({own[s].psnr for s in ("base", "gate", "+ calibrated gate")}) == 3

    monkeypatch.setattr(same_decoder, "coded", lambda *_: pytest.fail("coded again"))
    assert run(1) == (points, table)
    fewer, _ = run(0)
    assert fewer == [p for p in points if p.step != "+ effort 1"]


def test_shares_of_means_are_tried_on_an_existing_latent(
    photographs: list[RGB], tmp_path: Path
) -> None:
    codec = disturb(
        AdaptedCodec.build(codec_config(), ("natural", "sketch", "comic"), {"points": "means"}),
        2e-3,
    )
    file = tmp_path / "a.png"
    save_png(file, photographs[0])
    entry = LabelledImage(ImageInfo("", "a", "", "test", "", "", 395, 301), file, "clipart", -1)
    assert codec.synthesis.points is not None
    means = torch.full_like(codec.synthesis.points.offsets, 0.2)
    images = points.decoded(codec, means, entry, side=64)
    assert {i.share for i in images} == set(points.SHARES)
    assert all((i.gain == 0 and i.latent_percent == 0) == (i.share == 0) for i in images)
    rows = points.rows(images)
    assert [r["share"] for r in rows] == sorted(points.SHARES)
    assert next(r for r in rows if r["share"] == 1)["latent_percent"] > 0  # these are no means


# Benchmarks that run in seconds


def test_decoding_is_timed_and_written_as_table_text_and_plot(tmp_path: Path) -> None:
    options = ["--codecs", CODEC, "--domains", "1", "--rounds", "2", "--slow-rounds", "2"]
    done = CliRunner().invoke(app_of(decoding), [*options, "--output", str(tmp_path)])
    assert done.exit_code == 0, done.output
    rows = common.read_rows(tmp_path / f"{CODEC}.csv", decoding.Measurement)
    assert [(r.form, r.domains, r.rounds) for r in rows] == [
        ("base", 0, 2),
        ("fold", 1, 2),
        ("branches", 1, 2),
    ]
    assert all(r.median_ms > 0 and r.ratio > 0 for r in rows)
    assert rows[1].max_difference < 1e-5
    assert "branches" in (tmp_path / f"{CODEC}.txt").read_text()
    assert is_plot(tmp_path / f"{CODEC}.png")


def test_stored_adapters_are_timed_and_weighed_and_decode_to_the_same_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "MANY", 5)
    monkeypatch.setattr(
        stored, "FORMS", [stored.Form(3, True), stored.Form(5, True), stored.Form(5, False)]
    )
    options = ["--rounds", "2", "--processes", "1", "--output", str(tmp_path)]
    done = CliRunner().invoke(app_of(stored), options)
    assert done.exit_code == 0, done.output
    rows = common.read_rows(tmp_path / "stored.csv", stored.Row)
    assert [(r.domains, r.in_memory, r.mode) for r in rows] == [
        (*form, mode) for form in stored.FORMS for mode in stored.MODES
    ]
    assert all(r.median_ms > 0 and r.ratio > 0 and r.peak_mib > 100 for r in rows)
    assert rows[0].more_mib == 0 and rows[0].adapter_mib == pytest.approx(0.55, abs=0.01)


@pytest.fixture(scope="module")
def page() -> Page:
    """A page whose comic is a smooth image and whose photograph is noise."""
    rows, columns = np.mgrid[:300, :400]
    smooth = np.stack([rows // 2, columns // 2, 255 - rows // 2], axis=-1).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    images = {"natural": noise, "comic": smooth, "sketch": scribbles(1)[0]}
    return composed("a", "seed", images)


def test_a_page_is_made_of_four_panels_and_gutters_by_its_seed(page: Page) -> None:
    count = np.zeros((HEIGHT, WIDTH), int)
    for panel in page.panels:
        count[panel.rows, panel.columns] += 1
    assert sorted(panel.kind for panel in page.panels) == ["comic", "natural", "sketch", "text"]
    assert count.max() == 1 and (page.pixels[count == 0] == 255).all()
    assert (count == 0).sum() == GUTTER * (HEIGHT + WIDTH - GUTTER)
    text = next(panel for panel in page.panels if panel.kind == "text")
    assert page.pixels[text.rows, text.columns].min() == 0
    images = dict.fromkeys(("natural", "comic", "sketch"), scribbles(1)[0])
    pages = [composed("b", seed, images).pixels for seed in ("one", "one", "other")]
    assert np.array_equal(pages[0], pages[1]) and not np.array_equal(pages[0], pages[2])


def test_regions_are_measured_on_pages_and_on_images_of_one_kind(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (smooth,) = (p for p in page.panels if p.kind == "comic")
    codec = sighted(
        AdaptedCodec.build(codec_config(), DOMAINS),
        np.ascontiguousarray(page.pixels[smooth.rows, smooth.columns]),
    )
    pack.save(codec, tmp_path / "pack", {})
    pure = ("sketch", "b", scribbles(1)[0])
    monkeypatch.setattr(regions, "pages", lambda *_: iter([page]))
    monkeypatch.setattr(regions, "pure_images", lambda *_: iter([pure]))
    monkeypatch.setattr(regions, "ROUNDS", 1)
    options = ["--pack", str(tmp_path / "pack"), "--count", "1", "--output", str(tmp_path)]
    done = CliRunner().invoke(app_of(regions), options, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (whole,) = common.read_rows(tmp_path / "pages.csv", regions.Image)
    (one,) = common.read_rows(tmp_path / "images.csv", regions.Image)
    assert whole.regions > 1 and whole.cost > 0 and whole.regional != whole.one
    assert one.regions == 1 and one.regional == one.one
    assert [row["domain"] for row in common.read_table(tmp_path / "table.csv")] == [
        "page",
        "sketch",
    ]
    assert is_plot(tmp_path / "page.png")


def test_methods_are_timed_by_their_packs(adapted: AdaptedCodec, tmp_path: Path) -> None:
    pack.save(disturb(adapted), tmp_path / "pack", {})
    done = CliRunner().invoke(
        app_of(methods), [str(tmp_path / "pack"), "--rounds", "2", "--output", str(tmp_path)]
    )
    assert done.exit_code == 0, done.output
    (row,) = common.read_rows(tmp_path / "methods.csv", methods.Row)
    assert (row.method, row.codec, row.quality, row.domains) == ("adapters", CODEC, 3, 3)
    assert row.ratio > 0


def test_one_round_has_no_quartiles_and_is_refused() -> None:
    done = CliRunner().invoke(app_of(decoding), ["--codecs", CODEC, "--rounds", "1"])
    assert done.exit_code == 2
    assert "--rounds" in done.output


@pytest.mark.parametrize("way", training.WAYS)
def test_every_way_to_train_takes_a_step(way: str) -> None:
    training.step_of(way, CODEC, 2, 64, "cpu")()


def test_psnr_of_a_large_image_is_that_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (600, 40, 3), np.uint8) for _ in range(2))
    mse = np.mean((a.astype(float) - b) ** 2)
    assert large_image.psnr(a, b) == pytest.approx(10 * np.log10(255**2 / mse), rel=1e-6)


@pytest.fixture
def fuzzer(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The fuzzer, with a search that only tries the seeds."""
    atheris = SimpleNamespace(
        instrument_imports=lambda include: contextlib.nullcontext(),
        Setup=lambda words, one: setattr(atheris, "found", (Path(words[-1]), one)),
        Fuzz=lambda: [atheris.found[1](path.read_bytes()) for path in atheris.found[0].iterdir()],
    )
    monkeypatch.setitem(sys.modules, "atheris", atheris)
    monkeypatch.delitem(sys.modules, "benchmarks.fuzz_streams", raising=False)
    yield importlib.import_module("benchmarks.fuzz_streams")
    sys.modules.pop("benchmarks.fuzz_streams")


def test_the_fuzzer_tries_whole_and_damaged_streams(
    fuzzer: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(fuzzer, "SEEDS", 8)
    monkeypatch.setattr(damage, "SECONDS", math.inf)
    monkeypatch.setattr(sys, "argv", ["fuzz_streams", str(tmp_path)])
    fuzzer.main()
    assert len(list(tmp_path.glob("whole_*"))) == 5
    assert len(list(tmp_path.glob("damaged_*"))) > 0
    said = capsys.readouterr().out
    assert "'image': 0" not in said and "'error': 0" not in said


def test_everyday_benchmark_times_an_image_and_a_folder_beside_avif(tmp_path: Path) -> None:
    pixels = scribbles(1, side=64)[0]
    codec = fixtures.adapted("bmshj2018_factorized_n64", 2)
    rows = [*everyday.image(pixels, {"ours": codec}, {"avif6": 40}, rounds=2)]
    assert [(r.what, r.way) for r in rows] == [
        (what, way) for what in ("encode", "decode") for way in ("ours", "avif6")
    ]
    size = len(codec.compress(pixels))
    assert rows[0].bpp == 8 * size / 64**2
    save_png(tmp_path / "images" / "a.png", pixels)
    files = [*everyday.files("folder", tmp_path / "images", tmp_path, 64, {"avif6": 40}, rounds=2)]
    assert all(r.ratio == 1 for r in rows + files if r.way == r.against == "avif6")
    for ways in ("lic", "avif6"):
        assert (tmp_path / f"{ways}_png" / "a.png").is_file()
    everyday.plot(rows + files, tmp_path / "everyday.png")
    assert is_plot(tmp_path / "everyday.png")


def test_a_rate_alone_is_compared_with_all_rates_at_that_rate() -> None:
    together = {q: {"bpp": 0.3, "psnr": 30.0, "loss": 2.0 * int(q)} for q in "136"}
    alone = {"3": {"bpp": 0.3, "psnr": 30.1, "loss": 5.94}, "1": together["1"]}
    found = separate_rates.rows({"all rates": together, "quality 3": alone}, 200)
    assert [(r.trained, r.quality) for r in found[-2:]] == [("all rates", 6), ("quality 3", 3)]
    assert found[-1].over_all_percent == pytest.approx(-1) and found[0].over_all_percent == 0
