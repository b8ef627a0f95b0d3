"""Other tools read what is written here, and the other way round: CompressAI's plot and eval_model."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bjontegaard
import pytest
import torch
from compressai.utils.eval_model.__main__ import inference, read_image
from compressai.utils.eval_model.__main__ import main as eval_model
from compressai.utils.plot.__main__ import main as plot
from omegaconf import OmegaConf
from typer.testing import CliRunner

from lic_da.cli import app
from lic_da.compressai_model import PackModel, register
from lic_da.data.datamodule import LabelledImage
from lic_da.data.index import ImageInfo
from lic_da.errors import UserError
from lic_da.evaluation.classical import anchors_of
from lic_da.evaluation.curves import savings, write_savings
from lic_da.evaluation.measure import measure, read_points
from lic_da.evaluation.metrics import METRICS
from lic_da.evaluation.summary import measure_into
from lic_da.io.files import write_json
from lic_da.io.images import RGB
from lic_da.io.lossless import save_png
from lic_da.methods import pack
from lic_da.methods.adapters.codec import AdaptedCodec
from lic_da.sweeps.export import read_series
from tests.conftest import CODEC, codec_config, disturb, photo_crops

PAGE = Path(__file__).parents[1] / "docs" / "interoperability.md"
QUALITIES = (1, 2, 3, 4)
DOMAINS = ("natural", "sketch")


def entry(path: Path, domain: str, side: int) -> LabelledImage:
    name = f"{domain}/{path.name}"
    return LabelledImage(ImageInfo(name, name, "", "test", "", "", side, side), path, domain, 0)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, photographs: list[RGB]) -> Path:
    """Finished runs of four qualities: real streams of photographs, by adapters that were disturbed."""
    root = tmp_path_factory.mktemp("sweep")
    entries = []
    for number, pixels in enumerate(photo_crops(photographs, 4, side=192)):
        path = root / f"{number}.png"
        save_png(path, pixels)
        entries.append(entry(path, DOMAINS[number % 2], 192))
    for quality in QUALITIES:
        codec = disturb(AdaptedCodec.build(codec_config(quality), DOMAINS), 0.001)
        folder = root / "sweep" / f"q{quality}"
        folder.mkdir(parents=True)
        summary = measure_into(folder, codec, entries, modes=["base", "weighted"])
        write_json(folder / "summary.json", summary)
        config = {"codec": codec_config(quality).settings(), "domains": ["sketch"], "seed": 0}
        config |= {"data": {"source": "natural", "data_dir": "data"}}
        OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    series = read_series(root / "sweep")
    write_savings(savings(series), root / "sweep" / "bd_rate.csv")
    scale = METRICS["ms_ssim"].scale
    write_savings(savings(series, (), scale), root / "sweep" / "bd_rate_ms_ssim.csv", scale)
    return root / "sweep"


def export(*arguments: object) -> str:
    result = CliRunner().invoke(
        app, ["results", "export", "--format", "compressai", *map(str, arguments)]
    )
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def curve(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    assert list(content) == ["name", "description", "meta", "results"]
    return content


def test_bd_rates_from_exported_curves_are_those_of_the_sweep(sweep: Path, tmp_path: Path) -> None:
    assert "4 curves" in export(sweep, tmp_path / "curves")
    to_db: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "psnr-rgb": lambda x: x,
        "ms-ssim-rgb": lambda x: -10 * torch.log10(1 - x),
    }
    compared = 0
    for table, key in (("bd_rate.csv", "psnr-rgb"), ("bd_rate_ms_ssim.csv", "ms-ssim-rgb")):
        with open(sweep / table, newline="") as file:
            rows = [r for r in csv.DictReader(file) if r["anchor"] == "base"]
        for row in rows:
            curves = []
            for mode in ("base", row["blend"]):
                own = curve(tmp_path / "curves" / f"{row['domain']}_{mode}.json")["results"]
                scores = to_db[key](torch.tensor(own[key], dtype=torch.float64)).tolist()
                curves += [own["bpp"], scores]
            again = bjontegaard.bd_rate(
                *curves, method=row["interpolation"], require_matching_points=False, min_overlap=0
            )
            assert abs(float(row["bd_rate_percent"])) > 0.1
            assert again == pytest.approx(float(row["bd_rate_percent"]), abs=0.1)
            assert again == pytest.approx(float(row["bd_rate_percent"]), rel=1e-3)
            compared += 1
    assert compared == 2 * 2 * 2  # tables, domains, interpolations


def test_compressais_plot_reads_the_exported_curves(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    export(sweep, tmp_path / "curves")
    files = [str(p) for p in sorted((tmp_path / "curves").iterdir())]
    for metric in ("psnr", "ms-ssim"):
        image = tmp_path / f"{metric}.png"
        plot(["-f", *files, "-m", metric, "-o", str(image)])
        assert image.stat().st_size > 10_000


def test_one_file_is_a_curve_over_all_seen_images(sweep: Path, tmp_path: Path) -> None:
    export(sweep, tmp_path / "all.json", "--name", "mine")
    content = curve(tmp_path / "all.json")
    assert content["name"] == "mine"
    assert content["meta"]["dataset"] == "natural+sketch" and content["meta"]["images"] == 4
    assert content["meta"]["qualities"] == list(QUALITIES)
    points = [p for p in read_points(sweep / "q3" / "rd_points.csv") if p.blend == "weighted"]
    results = content["results"]
    assert results["bpp"][2] == pytest.approx(sum(p.bpp for p in points) / 4)
    assert results["ms-ssim-rgb"][2] == pytest.approx(sum(p.ms_ssim for p in points) / 4)
    assert all(0 < t < 60 for t in results["encoding_time"] + results["decoding_time"])
    export(sweep / "q3", tmp_path / "run.json", "--domain", "sketch", "--blend", "base")
    run = curve(tmp_path / "run.json")
    assert len(run["results"]["bpp"]) == 1 and run["meta"]["images"] == 2


def test_what_there_is_not_is_named(sweep: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ((sweep, tmp_path / "x.json", "--domain", "clipart"), "Unknown domain 'clipart'"),
        ((sweep, tmp_path / "x.json", "--blend", "oracle"), "Unknown mode 'oracle' for domain"),
        ((sweep, tmp_path / "x.json", "--series", "other"), "Unknown series 'other'"),
        ((sweep, tmp_path / "x", "--name", "mine"), r"let OUT end in \.json"),
        ((tmp_path / "nothing", tmp_path / "x.json"), "There is no sweep"),
    ):
        with pytest.raises(UserError, match=message):
            export(*arguments)
    with pytest.raises(UserError, match="Unknown format 'other'"):
        CliRunner().invoke(
            app,
            ["results", "export", "--format", "other", str(sweep), str(tmp_path / "x.json")],
            catch_exceptions=False,
        )
    assert list(tmp_path.iterdir()) == []


def test_a_domain_that_is_named_twice_counts_once(sweep: Path, tmp_path: Path) -> None:
    twice = ("--domain", "sketch", "--domain", "sketch", "--domain", "natural")
    export(sweep, tmp_path / "twice.json", *twice)
    export(sweep, tmp_path / "once.json", *twice[2:])
    assert curve(tmp_path / "twice.json")["results"] == curve(tmp_path / "once.json")["results"]


def test_files_that_exist_are_kept(sweep: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("mine")
    (tmp_path / "curves").mkdir()
    (tmp_path / "curves" / "sketch_base.json").write_text("mine")
    for target in ("mine.json", "curves"):
        with pytest.raises(UserError, match="exists; --overwrite replaces it"):
            export(sweep, tmp_path / target)
    assert (tmp_path / "mine.json").read_text() == "mine"
    assert [path.name for path in (tmp_path / "curves").iterdir()] == ["sketch_base.json"]
    export(sweep, tmp_path / "mine.json", "--overwrite")
    curve(tmp_path / "mine.json")


def test_jobs_that_are_missing_are_named(sweep: Path, tmp_path: Path) -> None:
    copied = tmp_path / "sweep"
    shutil.copytree(sweep, copied)
    (copied / "q2" / "summary.json").unlink()
    assert "Left out: q2, unfinished" in export(copied, tmp_path / "a.json")
    (copied / "q3" / "rd_points.csv").write_text("")
    with pytest.raises(UserError, match="it has no rows"):
        export(copied, tmp_path / "b.json")
    (copied / "q3" / "summary.json").write_text("{}")
    with pytest.raises(UserError, match=r"summary\.json is no summary of a run"):
        export(copied, tmp_path / "b.json")


def test_an_exported_curve_is_an_anchor_as_good_as_the_points(sweep: Path, tmp_path: Path) -> None:
    export(sweep, tmp_path / "base.json", "--domain", "sketch", "--blend", "base")
    listed = {"kind": "compressai_json", "path": str(tmp_path / "base.json"), "domain": "sketch"}
    (anchor,) = anchors_of([{**listed, "label": "theirs"}], {})
    images = [entry(sweep.parent / f"{n}.png", DOMAINS[n % 2], 192) for n in range(4)]
    points = anchor.measured(images, tmp_path)
    assert {(p.method, p.domain, p.codec) for p in points} == {("published", "sketch", "theirs")}
    for metric in ("psnr", "ms_ssim"):
        rows = savings(read_series(sweep), points, METRICS[metric].scale)
        weighted = [r for r in rows if (r.domain, r.blend) == ("sketch", "weighted")]
        rates = {(r.anchor, r.interpolation): r.bd_rate_percent for r in weighted}
        for interpolation in ("akima", "pchip"):
            assert rates["theirs", interpolation] == pytest.approx(
                rates["base", interpolation], rel=1e-6
            )
    with pytest.raises(UserError, match=r"Unknown domain 'sketch' of .*base\.json"):
        anchor.measured(images[:1], tmp_path)


def test_files_that_are_no_curves_are_refused(tmp_path: Path) -> None:
    good = {"bpp": [0.1, 0.2], "psnr-rgb": [30, 31.5]}
    file = tmp_path / "curve.json"
    listed = {"kind": "compressai_json", "path": str(file), "domain": "natural"}
    with pytest.raises(UserError, match=r"there is no .*curve\.json"):
        anchors_of([listed], {})
    for content, message in (
        ([1], "holds no results"),
        ({"results": {"bpp": [0.1]}}, "has no psnr-rgb"),
        ({"results": {**good, "bpp": [0.1]}}, "different lengths"),
        ({"results": {**good, "bpp": [0.1, "x"]}}, "not a list of numbers"),
        ({"results": {**good, "bpp": [0.1, float("nan")]}}, "not a list of numbers"),
        ({"results": {**good, "ms-ssim-rgb": [10.2, 12.1]}}, "must be linear"),
    ):
        file.write_text(json.dumps(content))
        with pytest.raises(UserError, match=message):
            anchors_of([listed], {})
    file.write_text(json.dumps({"name": "VTM", "results": good}))
    (anchor,) = anchors_of([listed], {})
    assert anchor.label == "VTM" and "published curve, curve.json" in anchor.name
    for wrong, message in (
        ({**listed, "kind": "csv"}, "Unknown kind of report.anchors 'csv'"),
        ({"kind": "compressai_json", "path": "x"}, "needs path, domain"),
    ):
        with pytest.raises(UserError, match=message):
            anchors_of([wrong], {})
    with pytest.raises(UserError, match="two of them are called VTM"):
        anchors_of([listed, listed], {})
    assert len(anchors_of([listed, {**listed, "domain": "sketch"}, "jpeg"], {})) == 3


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory, photographs: list[RGB]) -> Path:
    """A pack, and ten photographs whose sides are multiples of 64."""
    root = tmp_path_factory.mktemp("packs")
    pack.save(disturb(AdaptedCodec.build(codec_config(), DOMAINS)), root / "q3", {})
    for number, pixels in enumerate(photo_crops(photographs, 10, side=256)):
        folder = "few" if number < 2 else "more"
        save_png(
            root / "images" / folder / f"{number}.png", pixels[:192, : 192 + 64 * (number % 2)]
        )
    return root


@pytest.mark.parametrize("mode", ["weighted", "base"])
def test_eval_model_measures_a_pack_as_we_do(packs: Path, mode: str) -> None:
    codec = pack.load(packs / "q3")
    model = PackModel(packs / "q3", mode)
    files = sorted((packs / "images").glob("*/*.png" if mode == "weighted" else "few/*.png"))
    entries = [entry(file, "natural", 256) for file in files]
    ours = measure(codec, entries, run="r", modes=[mode], metrics=[])
    assert len(ours) == (10 if mode == "weighted" else 2)
    for file, point in zip(files, ours, strict=True):
        theirs = inference(model, read_image(file))
        assert theirs["bpp"] == pytest.approx(point.bpp, abs=1e-4)
        assert theirs["psnr-rgb"] == pytest.approx(point.psnr, abs=1e-4)


def test_registered_packs_are_models_of_compressais_command(
    packs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = packs / "images" / "few"
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    here = {"outputs/NAME/pack": packs / "q3", "images/": images, "out/": tmp_path}
    for written, path in here.items():
        assert written in code
        code = code.replace(f'"{written}"', f'"{path}"')
    exec(code, {})
    table = json.loads(capsys.readouterr().out)
    assert json.loads(next(tmp_path.glob("*.json")).read_text()) == table
    entries = [entry(file, "natural", 256) for file in sorted(images.iterdir())]
    ours = measure(pack.load(packs / "q3"), entries, run="r", modes=["weighted"], metrics=[])
    for key, column in (("bpp", "bpp"), ("psnr-rgb", "psnr")):
        mean = sum(getattr(p, column) for p in ours) / len(ours)
        assert table["results"][key] == [pytest.approx(mean, abs=1e-4)]
    register("mine", {1: packs / "q3"})  # once more is no mistake
    with pytest.raises(UserError, match=f"is for quality 3 of {CODEC}, not for 1"):
        eval_model(["pretrained", str(images), "-a", "mine", "-q", "1"])
    with pytest.raises(UserError, match="CompressAI has a model mbt2018-mean itself"):
        register("mbt2018-mean", {1: packs / "q3"})
    with pytest.raises(UserError, match="Unknown quality '3' of mine"):
        eval_model(["pretrained", str(images), "-a", "mine", "-q", "3"])


def test_a_program_with_a_pack_model_ends_without_a_word(packs: Path) -> None:
    code = (
        f"from lic_da.compressai_model import PackModel; model = PackModel({str(packs / 'q3')!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_mode_that_a_pack_has_not_is_refused(packs: Path) -> None:
    with pytest.raises(UserError, match="Unknown mode 'adapted'"):
        PackModel(packs / "q3", "adapted")
    with pytest.raises(UserError, match="needs the name of a domain"):
        PackModel(packs / "q3", "oracle")
