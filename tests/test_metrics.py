"""Metrics: scores, how they are read, and curves and BD-rates that follow from their entries."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bjontegaard
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from rich.console import Console

from lic_da.data.datamodule import to_tensor
from lic_da.errors import UserError
from lic_da.evaluation import metrics
from lic_da.evaluation.curves import (
    Series,
    savings,
    series_of,
    write_savings,
)
from lic_da.evaluation.measure import Point, read_points, write_points
from lic_da.evaluation.metrics import METRICS, Scale, scales
from lic_da.evaluation.summary import metrics_table, summarise
from lic_da.io.images import RGB
from lic_da.migrations import metric_names, run_settings
from lic_da.sweeps.report import write_report
from lic_da.tracking.results import log_sweep
from lic_da.tracking.settings import LoggerSettings
from tests.test_report import report_of, run_of
from tests.wandb_records import OfflineRun

MS_SSIM = METRICS["ms_ssim"].scale


@pytest.fixture
def pair(photographs: list[RGB]) -> tuple[torch.Tensor, torch.Tensor]:
    """A photograph as JPEG decodes it, and the photograph."""
    file = io.BytesIO()
    Image.fromarray(photographs[1]).save(file, "JPEG", quality=30)
    return to_tensor(np.asarray(Image.open(file))), to_tensor(photographs[1])


@pytest.fixture
def own_metric() -> Iterator[str]:
    """A metric that a user has registered; it is gone afterwards."""

    @METRICS.register("own", title="Own", better="lower", digits=1)
    def own(image: torch.Tensor, original: torch.Tensor) -> float:
        return float((image.int() - original.int()).abs().max())

    yield "own"
    METRICS.remove("own")


def test_psnr_in_ycbcr_weighs_luma_six_times(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    rgb_to_ycbcr = np.array(  # ITU-R BT.709, full range
        [[0.2126, 0.7152, 0.0722], [-0.114572, -0.385428, 0.5], [0.5, -0.454153, -0.045847]]
    )
    difference = (pair[0].double() - pair[1].double()).numpy().transpose(1, 2, 0)
    mse = ((difference @ rgb_to_ycbcr.T) ** 2).mean(axis=(0, 1))
    y, cb, cr = 10 * np.log10(255**2 / mse)
    assert METRICS["psnr_ycbcr"].score(*pair) == pytest.approx((6 * y + cb + cr) / 8, abs=1e-3)


def fake_weights(network: str, folder: Path, keep: str) -> None:
    """A file of random weights where torchvision looks for its own; what is not used stays zero."""
    with torch.device("meta"):
        shapes = getattr(torchvision.models, network)().state_dict()
    generator = torch.Generator().manual_seed(0)
    state = {
        name: 0.05 * torch.randn(t.shape, generator=generator)
        if name.startswith(keep)
        else torch.zeros(1).expand(t.shape)
        for name, t in shapes.items()
    }
    url = torchvision.models.get_model_weights(network).DEFAULT.url
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / url.rpartition("/")[2])


@pytest.mark.parametrize(("name", "network"), [("lpips", "alexnet"), ("dists", "vgg16")])
def test_deep_metrics_are_measured_where_their_weights_are_and_named_where_not(
    name: str,
    network: str,
    pair: tuple[torch.Tensor, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = {"lpips": metrics._lpips_network, "dists": metrics._dists_network}[name]
    cached.cache_clear()
    with pytest.raises(UserError, match=rf"needs torchvision's weights of {network}.*there is no"):
        METRICS.chosen([name])
    fake_weights(network, tmp_path / "hub" / "checkpoints", "features")
    (_, metric) = METRICS.chosen([name])
    image, original = (x[:, :96, :128] for x in pair)
    worse = (image.int() + torch.randint(-40, 41, image.shape)).clamp(0, 255).byte()
    same, far, further = (metric.score(x, original) for x in (original, image, worse))
    assert same == pytest.approx(0, abs=1e-5) and same < far < further
    assert math.isnan(metric.score(image[:, :31], original[:, :31]))
    cached.cache_clear()


def test_a_name_that_is_no_metric_is_refused_with_those_there_are() -> None:
    with pytest.raises(UserError, match=r"Unknown metric 'lipps'. Did you mean 'lpips'\?"):
        METRICS.find("lipps")
    with pytest.raises(UserError, match="is no metric: register it"):
        METRICS.find("lic_da.evaluation.metrics.scales")
    with pytest.raises(UserError, match="must be a list of names"):
        metric_names({"metrics": "psnr"})


def test_no_metric_takes_the_name_of_another_column(own_metric: str) -> None:
    taken = {f.name for f in dataclasses.fields(Point)} | {"gate_natural", "Bad name", "own"}
    for name in taken:
        with pytest.raises(UserError, match=r"cannot be the name|already"):
            METRICS.register(name)(lambda image, original: 0.0)
    with pytest.raises(UserError, match="Unknown better of a metric 'up'"):
        METRICS.register("other", better="up")  # type: ignore[arg-type]


def test_the_older_option_means_the_same_metrics() -> None:
    assert metric_names({"metrics": ["psnr", "ms_ssim"], "ms_ssim": False}) == ["psnr"]
    assert metric_names({"metrics": ["lpips"], "ms_ssim": True}) == ["psnr", "lpips", "ms_ssim"]
    assert metric_names({"metrics": ["ms_ssim"], "ms_ssim": None}) == ["psnr", "ms_ssim"]
    for older, today in ((True, ["psnr", "ms_ssim"]), (False, ["psnr"])):
        migrated = run_settings({"evaluation": {"ms_ssim": older, "examples": 4}})
        assert migrated["evaluation"]["metrics"] == today
        assert "ms_ssim" not in migrated["evaluation"]


def test_further_scores_survive_the_csv_file_and_older_files_are_read(tmp_path: Path) -> None:
    first, second, *_ = run_of(1, ["sketch"]).points
    first = dataclasses.replace(first, more={"lpips": 0.25, "own": 3.0})
    write_points([first, second], tmp_path / "new.csv", ["natural", "sketch"])
    header = (tmp_path / "new.csv").read_text().splitlines()[0]
    assert ",psnr,ms_ssim,lpips,own,encode_s,decode_s,effort,psnr_base,gate_natural" in header
    again = read_points(tmp_path / "new.csv")
    assert again[0].more == {"lpips": 0.25, "own": 3.0} and again[1].more == {}
    assert again[0].score("lpips") == 0.25 and math.isnan(again[1].score("lpips"))
    older = Path(__file__).parents[1] / "experiments" / "sketch_comic" / "rd_points.csv"
    points = read_points(older)
    assert points and not any(p.more for p in points)
    assert all(p.score("psnr") == p.psnr and p.score("ms_ssim") == p.ms_ssim for p in points)


def with_scores(*names: str) -> list[Series]:
    """A series of four qualities whose images have invented scores by these metrics."""
    runs = []
    for q in (1, 2, 3, 4):
        run = run_of(q, ["sketch"])
        points = []
        for p in run.points:
            error = 10 ** (-p.psnr / 20)
            small = p.image in ("sketch/0.png", "sketch/3.png")  # has no MS-SSIM
            points.append(
                dataclasses.replace(
                    p,
                    ms_ssim=math.nan if small else 1 - error,
                    more={n: error for n in names if n != "ms_ssim"},
                )
            )
        told = [dataclasses.asdict(METRICS[n].scale) for n in ("psnr", *names)]
        summary = {**run.summary, "metrics": told}
        runs.append(dataclasses.replace(run, points=tuple(points), summary=summary))
    return series_of(runs)


def bd_by_hand(series: Series, domain: str, mode: str) -> float:
    """BD-rate at equal MS-SSIM against the base, of images that have it, from the points alone."""
    curves = []
    for which in ("base", mode):
        bpp, quality = [], []
        for run in series.runs:
            own = [p for p in run.points if (p.domain, p.blend) == (domain, which)]
            own = [p for p in own if not math.isnan(p.ms_ssim)]
            bpp.append(sum(p.bpp for p in own) / len(own))
            quality.append(-10 * math.log10(1 - sum(p.ms_ssim for p in own) / len(own)))
        curves += [bpp, quality]
    return float(
        bjontegaard.bd_rate(*curves, method="akima", require_matching_points=False, min_overlap=0)
    )


def test_a_bd_rate_by_ms_ssim_is_one_of_mean_curves_in_decibels(tmp_path: Path) -> None:
    (series,) = with_scores("ms_ssim")
    assert series.metrics == (MS_SSIM,)
    rows = savings([series], (), MS_SSIM)
    write_savings(rows, tmp_path / "bd_rate_ms_ssim.csv", MS_SSIM)
    with open(tmp_path / "bd_rate_ms_ssim.csv", newline="") as file:
        table = [r for r in csv.DictReader(file) if r["interpolation"] == "akima"]
    assert "bd_ms_ssim_db" in table[0] and "bd_psnr_db" not in table[0]
    for domain in ("natural", "sketch"):
        (row,) = (r for r in table if (r["domain"], r["blend"]) == (domain, "weighted"))
        expected = bd_by_hand(series, domain, "weighted")
        assert float(row["bd_rate_percent"]) == pytest.approx(expected, abs=1e-3)
    assert float(row["bd_rate_percent"]) < -1  # of sketch, which gains


def test_a_distance_saves_rate_where_it_falls(own_metric: str) -> None:
    distance = METRICS["lpips"].scale
    (series,) = with_scores("lpips", own_metric)
    assert [m.name for m in series.metrics] == ["lpips", own_metric]
    gains = [
        r for r in savings([series], (), distance) if (r.domain, r.blend) == ("sketch", "weighted")
    ]
    assert gains and all(r.bd_rate_percent < -1 and r.bd_psnr_db > 0 for r in gains)
    assert not METRICS[own_metric].scale.compared


def test_what_a_metric_means_is_read_from_the_run_and_not_imported() -> None:
    told = {"name": "theirs", "title": "Theirs", "unit": "", "better": "lower", "digits": 1}
    assert scales({"metrics": [told]}) == [Scale("theirs", "Theirs", better="lower", digits=1)]
    assert [s.name for s in scales({})] == ["psnr", "ms_ssim"]
    for wrong in ({**told, "better": "up"}, {**told, "run": "x"}, {**told, "digits": 400}, {}):
        with pytest.raises(UserError):
            scales({"metrics": [wrong]})


def test_the_table_of_other_metrics_gives_each_its_digits_and_direction() -> None:
    def row(seen: bool, **scores: Any) -> dict[str, Any]:
        return {"seen": seen, "psnr": {"base": 30.0, "weighted": 31.0}, **scores}

    nan = math.nan
    told = [dataclasses.asdict(METRICS[n].scale) for n in ("psnr", "ms_ssim", "lpips")]
    a = {"ms_ssim": {"base": 0.95, "weighted": 0.96}, "lpips": {"base": 0.25, "weighted": 0.2}}
    b = {"ms_ssim": {"base": nan, "weighted": nan}, "lpips": {"base": 0.5, "weighted": 0.5}}
    summary = {"metrics": told, "domains": {"a": row(True, **a), "b": row(False, **b)}}
    table = metrics_table(summary)
    assert table is not None
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table)
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert "MS-SSIM (higher is better) a 0.9500 0.9600 +0.0100" in lines
    assert "LPIPS (lower is better) a 0.2500 0.2000 -0.0500" in lines
    assert "LPIPS (lower is better) b* 0.5000 0.5000 +0.0000" in lines
    assert not any(line.startswith("MS-SSIM") and " b* " in line for line in lines)
    assert metrics_table({**summary, "metrics": told[:1]}) is None


def test_the_report_has_a_table_and_curves_of_every_metric(
    photographs: list[RGB], tmp_path: Path, own_metric: str
) -> None:
    series = with_scores("ms_ssim", own_metric)
    scale, own = METRICS["ms_ssim"].scale, METRICS[own_metric].scale
    rows = savings(series, (), scale)
    report = report_of(series, photographs)
    write_report(
        dataclasses.replace(report, metrics=[(scale, rows), (own, [])]), tmp_path / "report.html"
    )
    text = (tmp_path / "report.html").read_text()
    section = text.partition('<section id="metric-ms_ssim">')[2].partition("</section>")[0]
    (row,) = (
        r
        for r in rows
        if (r.domain, r.blend, r.anchor, r.interpolation) == ("sketch", "weighted", "base", "akima")
    )
    assert f'data-value="{row.bd_rate_percent:.4f}"' in section
    assert f'data-value="{row.bd_psnr_db:.4f}"' in section
    for domain in ("natural", "sketch", "clipart"):
        assert f'id="rd-ms_ssim-{domain}"' in section
        assert f'"rd-ms_ssim-{domain}": {{"data"' in text
    plain = text.partition('<section id="metric-own">')[2].partition("</section>")[0]
    assert "not compared by a BD-rate" in plain and 'id="rd-own-sketch"' in plain
    assert scale.axis in section and '"Own"' in text


def test_wandb_gets_bd_rates_curves_and_means_of_every_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    series = with_scores("ms_ssim")
    scale = METRICS["ms_ssim"].scale
    rows = savings(series, (), scale)
    logger = LoggerSettings(project="test", mode="offline", group=None)
    summary = {"series": [{"label": "sketch", "tested": {}}]}
    assert log_sweep(tmp_path, logger, series, (), savings(series), summary, [(scale, rows)])
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    run = OfflineRun.read(file)
    (row,) = (
        r for r in rows if (r.domain, r.blend, r.interpolation) == ("sketch", "weighted", "akima")
    )
    assert run.logged("bd_rate_ms_ssim/sketch/weighted") == pytest.approx(row.bd_rate_percent)
    assert run.logged("bd_ms_ssim/sketch/weighted") == pytest.approx(row.bd_psnr_db)
    assert run.logged("bd_rate/sketch/weighted") < 0
    means = json.loads(
        (file.parent / "files" / run.logged("tables/rd_means_ms_ssim/path")).read_text()
    )
    assert means["columns"] == ["domain", "curve", "bpp", "ms_ssim"]
    assert run.logged("rd_ms_ssim/sketch_table/path")


def test_a_metric_that_no_image_has_is_left_out_of_the_summary() -> None:
    (series,) = with_scores("ms_ssim")
    points = [p for p in series.runs[0].points if p.domain == "sketch"]
    some = summarise(points, series.trained)["domains"]["sketch"]
    assert all(0 < score < 1 for score in some["ms_ssim"].values())
    without = [dataclasses.replace(p, ms_ssim=math.nan) for p in points]
    told = summarise(without, series.trained)
    assert "ms_ssim" not in told["domains"]["sketch"]
    json.dumps(told, allow_nan=False)  # strict readers would refuse NaN
