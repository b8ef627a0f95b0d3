"""The report of a sweep as a person sees it: in a real browser, wide and on a phone."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lic_da.data.datamodule import to_tensor
from lic_da.errors import UserError
from lic_da.evaluation.curves import (
    Run,
    Series,
    savings,
    series_of,
    write_savings,
)
from lic_da.evaluation.images import Example
from lic_da.evaluation.measure import Point
from lic_da.io.images import RGB
from lic_da.sweeps.report import (
    Job,
    Report,
    gains,
    pick,
    report_image,
    thumbnail,
    write_report,
)
from lic_da.sweeps.summary import sweep_command
from tests.conftest import codec_config

DOMAINS = ("natural", "sketch", "clipart")
IMAGES = 5


def run_of(quality: int, targets: list[str], shift: float = 0.0) -> Run:
    """A run with invented scores that look like real ones."""
    points = []
    for number, domain in enumerate(DOMAINS):
        seen = domain in ("natural", *targets)
        for i in range(IMAGES):
            base = 26 + 1.6 * quality + 0.7 * i - number
            for mode in ("base", "weighted", "top1", "oracle"):
                if mode == "oracle" and not seen:
                    continue
                gain = {"base": 0.0, "weighted": 0.5, "top1": 0.45, "oracle": 0.55}[mode]
                gain *= (number - 0.05 * i) + shift if mode != "base" else 0
                v = {d: 0.8 if d == domain else 0.2 / len(targets) for d in ("natural", *targets)}
                points.append(
                    Point(
                        run=f"q{quality}", codec="c", quality=quality, lmbda=0.01, method="adapters",
                        blend=mode, domain=domain, seen=seen, image=f"{domain}/{i}.png", width=64,
                        height=64, string_bytes=100, file_bytes=139, bpp=0.07 * 1.6**quality,
                        bpp_estimated=0.1, psnr=base + gain, ms_ssim=math.nan, encode_s=0.1,
                        decode_s=0.1, gate={} if mode == "base" else v,
                    )
                )  # fmt: skip
    config = {
        "codec": {**codec_config().settings(), "quality": quality},
        "domains": targets,
        "data": {"source": "natural", "data_dir": "data"},
        "seed": 0,
    }
    summary = {"base_fingerprint": f"{quality}", "domains": {}}
    return Run(Path(f"q{quality}"), config, summary, tuple(points), quality)


def anchors() -> list[Point]:
    """JPEG, some 2 dB below the base; on clipart so far below that nothing overlaps."""
    some = [p for p in run_of(1, ["sketch"]).points if p.blend == "base"]
    return [
        dataclasses.replace(
            p, run="anchor", codec="JPEG", method="classical", blend="none", quality=10 * q,
            bpp=0.07 * 1.6**q, gate={},
            psnr=p.psnr + 1.6 * (q - 1) - (30 if p.domain == "clipart" else 2),
        )
        for p in some
        for q in (1, 2, 3, 4, 5)
    ]  # fmt: skip


def report_of(series: list[Series], photographs: list[RGB]) -> Report:
    rows = savings(series, anchors(), resamples=20)
    original = to_tensor(photographs[0])
    base = (original.int() + 9).clamp(0, 255).byte()
    adapted = (original.int() + 3).clamp(0, 255).byte()
    images = []
    for p in pick(gains(series[0], 3), per_domain=3, worst=2):
        images.append(
            report_image(p, Example(p.domain, p.image, original, base, adapted), 0.25, 0.25)
        )
    return Report(
        title="sketch_0123ab",
        jobs=[Job("one", "done", ""), Job("two", "failed", "RuntimeError: <broken> & gone")],
        series=series,
        savings=rows,
        anchors=anchors(),
        anchor_names=["JPEG (Pillow)"],
        shown=[s for s in images if s.pick.why != "worst"],
        worst=[s for s in images if s.pick.why == "worst"],
        shown_quality=3,
        notes=["Left out: AVIF"],
        command="python -m lic_da.train -m 'domains=[sketch]' codec.quality=1,2,3,4",
        versions={"Python": "3"},
        thumbnails={("sketch", "sketch/2.png"): thumbnail(photographs[0], 200)},
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, photographs: list[RGB]) -> Path:
    """Folder with report.html and bd_rate.csv of one series."""
    folder = tmp_path_factory.mktemp("report")
    series = series_of([run_of(q, ["sketch"]) for q in (1, 2, 3, 4)])
    report = report_of(series, photographs)
    write_report(report, folder / "report.html")
    write_savings(report.savings, folder / "bd_rate.csv")
    return folder


def chromium() -> str | None:
    """Path of a Chromium: $CHROMIUM, or one that is installed."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


class Visit:
    """A page and everything it asked for or complained about."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda m: self.complaints.append(f"{m.type}: {m.text}"))
        page.on("pageerror", lambda e: self.complaints.append(str(e)))
        page.on("request", lambda r: self.requests.append(r.url))

    def open(self, path: Path) -> Visit:
        self.page.goto(path.as_uri())
        self.page.wait_for_selector(".chart .main-svg")
        return self


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: make setup")
    path = chromium()
    if path is None:
        pytest.skip("no Chromium here: install it (apt-get install chromium) or set $CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    contexts = []

    def make(width: int = 1200, height: int = 900, scheme: str = "light") -> Visit:
        size = {"width": width, "height": height}
        contexts.append(browser.new_context(viewport=size, color_scheme=scheme))
        return Visit(contexts[-1].new_page())

    yield make
    for context in contexts:
        context.close()


def displayed(value: str) -> str:
    """A number of the CSV as the report shows it."""
    return "–" if value == "nan" else f"{float(value):+.2f}".replace("-", "−")


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_the_report_shows_the_numbers_of_the_csv_without_errors_or_requests(
    written: Path, visit: Callable[..., Visit], width: int, scheme: str
) -> None:
    v = visit(width, 844, scheme).open(written / "report.html")
    assert v.complaints == []
    assert [u for u in v.requests if not u.startswith("data:")] == [
        (written / "report.html").as_uri()
    ]
    assert v.page.evaluate("document.documentElement.scrollWidth") <= width
    with open(written / "bd_rate.csv", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["interpolation"] == "akima"]
    compared = 0
    for domain in DOMAINS:
        own = {(r["blend"], r["anchor"]): r for r in rows if r["domain"] == domain}
        cells = v.page.locator(f"#savings tr[data-domain={domain}] td").all_inner_texts()
        expected = [
            displayed(own[b, "base"]["bd_rate_percent"]) if (b, "base") in own else "–"
            for b in ("weighted", "top1", "oracle")
        ]
        row = own["weighted", "base"]
        interval = " … ".join(displayed(row[f"bd_rate_{end}"]) for end in ("low", "high"))
        expected[1:1] = [interval, displayed(row["bd_rate_of_images_percent"])]
        assert cells == [str(IMAGES), *expected, displayed(row["bd_psnr_db"])]
        for mode in ("base", "weighted"):
            line = f"#anchors tr[data-domain={domain}][data-mode={mode}] td"
            cells = v.page.locator(line).all_inner_texts()
            assert cells[1:] == [displayed(own[mode, "JPEG"]["bd_rate_percent"])]
        compared += 1
    assert compared == 3
    # every domain's chart has its curves, with the points of the data
    for domain in DOMAINS:
        data = v.page.evaluate(f"document.getElementById('rd-{domain}').data")
        names = {"base", "weighted", "top1", "JPEG", *(["oracle"] if domain != "clipart" else [])}
        assert {d["name"] for d in data} == names
        base = next(d for d in data if d["name"] == "base")
        assert base["x"] == pytest.approx([0.07 * 1.6**q for q in (1, 2, 3, 4)])
        assert v.page.locator(f"#rd-{domain} .scatterlayer .trace").count() >= 4
    assert v.page.locator("#gains .boxlayer .trace").count() == 3
    # colours follow the scheme of the reader, charts too
    light = (
        v.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    )
    assert light == (scheme == "light")
    assert "<broken> & gone" in v.page.inner_text("body")
    gate = v.page.locator("#gate tr[data-domain=sketch] td").all_inner_texts()
    assert gate == ["0.20", "0.80"]


@pytest.mark.parametrize("width", [1200, 390])
def test_curves_show_their_values_under_the_pointer(
    written: Path, visit: Callable[..., Visit], width: int
) -> None:
    v = visit(width, 900).open(written / "report.html")
    chart = v.page.locator("#rd-sketch")
    chart.scroll_into_view_if_needed()
    point = v.page.locator("#rd-sketch .scatterlayer .trace").first.locator(".point").nth(1)
    box = point.bounding_box()
    v.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    v.page.wait_for_selector("#rd-sketch .hoverlayer .hovertext")
    text = v.page.text_content("#rd-sketch .hoverlayer")
    assert re.search(r"q2: 0\.1792 bpp, 29\.\d{3} dB", text), text


@pytest.mark.parametrize("width", [1200, 390])
def test_the_slider_uncovers_one_image_and_covers_the_other(
    written: Path, visit: Callable[..., Visit], width: int, photographs: list[RGB]
) -> None:
    v = visit(width, 900).open(written / "report.html")
    figure = v.page.locator("#images .compare").first
    stage = figure.locator(".stage")
    figure.scroll_into_view_if_needed()

    def brightness(left: bool) -> float:
        """Mean of one half of the stage, without its tags and frame."""
        from io import BytesIO

        from PIL import Image

        pixels = np.asarray(Image.open(BytesIO(stage.screenshot())).convert("RGB")).astype(float)
        half = pixels.shape[1] // 2
        part = pixels[10:-40, 10 : half - 10] if left else pixels[10:-40, half + 10 : -10]
        return float(part.mean())

    slider = figure.locator("input[type=range]")
    slider.fill("0")
    adapted = brightness(left=True), brightness(left=False)
    slider.fill("100")
    base = brightness(left=True), brightness(left=False)
    assert 2 < base[0] - adapted[0] < 10 and 2 < base[1] - adapted[1] < 10  # 9 and 3 too bright
    slider.fill("50")
    half = brightness(left=True), brightness(left=False)
    assert half[0] == pytest.approx(base[0], abs=0.2)
    assert half[1] == pytest.approx(adapted[1], abs=0.2)
    figure.get_by_text("original | adapted").click()
    slider.fill("100")
    assert 1 < adapted[0] - brightness(left=True) < 5
    # dragging on the image moves the slider
    box = stage.bounding_box()
    v.page.mouse.move(box["x"] + 5, box["y"] + 50)
    v.page.mouse.down()
    v.page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 50)
    v.page.mouse.up()
    assert 23 <= float(slider.input_value()) <= 27
    assert v.complaints == []


@pytest.mark.parametrize("width", [1200, 390])
def test_a_click_on_a_point_shows_its_image_and_figures(
    written: Path, visit: Callable[..., Visit], width: int
) -> None:
    v = visit(width, 900).open(written / "report.html")
    data = v.page.evaluate("document.getElementById('gain-over-rate').data")
    assert [d["name"] for d in data] == [*DOMAINS]
    assert data[1]["y"] == pytest.approx([0.5 * (1 - 0.05 * i) for i in range(IMAGES)])
    picked = v.page.locator("#picked")
    assert not picked.is_visible()
    points = v.page.locator("#gain-over-rate .scatterlayer .trace").nth(1).locator(".point")
    points.nth(2).scroll_into_view_if_needed()
    for number, has_image in ((2, True), (0, False)):
        box = points.nth(number).bounding_box()
        at = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        v.page.mouse.move(*at)
        v.page.locator("#gain-over-rate .hovertext", has_text=f"{number}.png").wait_for()
        v.page.mouse.click(*at)
        picked.locator("p", has_text=f"{number}.png").wait_for()
        assert picked.locator("img").is_visible() == has_image
        gain = 0.5 * (1 - 0.05 * number)
        assert f"sketch, 64×64: +{gain:.2f} dB" in picked.inner_text()
        assert "gate: natural 0.20, sketch 0.80" in picked.inner_text()
    assert v.page.evaluate("document.documentElement.scrollWidth") <= width
    assert v.complaints == []


def test_v_chosen_at_the_encoder_and_its_effort_stand_in_the_report(
    tmp_path: Path, photographs: list[RGB]
) -> None:
    def with_chosen(run: Run) -> Run:
        chosen = [
            dataclasses.replace(p, blend="chosen", gate={"natural": -0.25, "sketch": 1.5})
            for p in run.points
            if p.blend == "weighted"
        ]
        points = [*run.points, *chosen]
        return dataclasses.replace(
            run, points=tuple(dataclasses.replace(p, effort=2) for p in points)
        )

    plain, both = tmp_path / "plain.html", tmp_path / "both.html"
    runs = [run_of(q, ["sketch"]) for q in (1, 2, 3, 4)]
    for path, of in ((plain, runs), (both, [with_chosen(run) for run in runs])):
        write_report(report_of(series_of(of), photographs), path)
    assert 'id="chosen"' not in plain.read_text() and "effort 2" not in plain.read_text()
    text = both.read_text()
    assert "refined by the encoder, effort 2" in text and '<th class="n">chosen %</th>' in text
    matrix = text.split('id="chosen"')[1].split("</section>")[0]
    assert matrix.count("−0.25") == matrix.count("1.50") == len(DOMAINS)


def test_printed_the_report_shows_all_three_images(
    written: Path, visit: Callable[..., Visit]
) -> None:
    v = visit(1200, 900).open(written / "report.html")
    v.page.emulate_media(media="print")
    layers = v.page.locator("#images .compare").first.locator(".layer")
    assert [layers.nth(i).is_visible() for i in range(3)] == [True] * 3
    assert not v.page.locator("input[type=range]").first.is_visible()


def test_validations_of_a_resumed_run_are_those_of_its_last_session(tmp_path: Path) -> None:
    run = dataclasses.replace(run_of(1, ["sketch"]), folder=tmp_path)
    with pytest.raises(UserError, match="no log of validations"):
        run.validated()
    name = "val/psnr_weighted"
    for version, rows in ((2, "20,,\n"), (10, "21,31,\n,,0.5\n")):
        folder = tmp_path / "logs" / f"version_{version}"
        folder.mkdir(parents=True)
        text = f"{name}/natural,{name}/sketch,train/loss\n{rows}"
        (folder / "metrics.csv").write_text(text)
    assert run.validated() == {"natural": 21.0, "sketch": 31.0}


def test_what_has_no_effect_on_a_result_tells_no_series_apart() -> None:
    # The size of the latent cache has none where there is no cache.
    for cached, count in ((False, 1), (True, 2)):
        runs = [run_of(q, ["sketch"]) for q in (1, 2, 3, 4)]
        for run, pixels in zip(runs, (2_000_000, *3 * (1_000_000,)), strict=True):
            data = {"latent_cache": cached, "latent_pixels": pixels}
            run.config["data"].update(data)
        runs[0].config["codec"]["qualities"] = [1, 2, 3, 4, 9]
        assert len(series_of(runs)) == count


def test_a_setting_that_is_null_is_as_one_from_before_it_was_there() -> None:
    runs = [run_of(q, ["sketch"]) for q in (1, 2)]
    later = dataclasses.replace(runs[1], config={**runs[1].config, "pile": None})
    (series,) = series_of([runs[0], later])
    assert [run.quality for run in series.runs] == [1, 2]


def test_several_series_and_curves_without_overlap(tmp_path: Path, photographs: list[RGB]) -> None:
    runs = [run_of(q, ["sketch"]) for q in (1, 2, 3, 4)]
    runs += [run_of(q, ["sketch", "clipart"], shift=0.2) for q in (1, 2, 3)]
    series = series_of(runs)
    assert [s.label for s in series] == ["sketch+clipart", "sketch"]
    rows = savings(series, anchors())
    few = [r for r in rows if r.series == "sketch+clipart"]
    assert all(math.isnan(r.bd_rate_percent) and "fewer than 4 points" in r.reason for r in few)
    far = [r for r in rows if (r.series, r.domain, r.anchor) == ("sketch", "clipart", "JPEG")]
    assert far and all("do not overlap" in r.reason for r in far)
    good = [r for r in rows if (r.series, r.domain, r.blend) == ("sketch", "sketch", "weighted")]
    assert all(r.bd_rate_percent < 0 and not r.reason for r in good)
    write_report(report_of(series, photographs), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "fewer than 4 points" in text and "weighted, sketch+clipart" in text


def test_the_command_asks_for_what_was_asked_for_failed_or_not(tmp_path: Path) -> None:
    series = series_of([run_of(q, ["sketch"]) for q in (1, 2)])  # 1 is of an earlier sweep
    for asked, expected in (("2,9,10", "1,2,9,10"), ("range(2,4)", "1,2,3"), ("3", "1,2,3")):
        overrides = ["domains=[sketch]", f"codec.quality={asked}", "seed=0,1"]
        stored = {"hydra": {"overrides": {"task": overrides}}}
        (tmp_path / "multirun.yaml").write_text(yaml.dump(stored))
        assert sweep_command(tmp_path, series) == (
            f"python -m lic_da.train -m 'domains=[sketch]' seed=0,1 codec.quality={expected}"
        )


def test_images_are_chosen_by_their_gain_and_the_worst_are_not_hidden() -> None:
    by_image = {("a", f"{i}"): float(i) for i in range(9)} | {("b", "x"): -1.0}
    picks = pick(by_image, per_domain=3, worst=2)
    assert [(p.domain, p.image, p.why) for p in picks] == [
        ("a", "8", "largest gain"),
        ("a", "4", "median gain"),
        ("a", "0", "smallest gain"),
        ("b", "x", "the only image"),
        ("b", "x", "worst"),
        ("a", "0", "worst"),
    ]
