"""Measuring: scores, Bjøntegaard deltas, classical anchors, summaries."""

from __future__ import annotations

import dataclasses
import io
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from compressai.utils.bench import codecs as bench_codecs
from PIL import Image
from rich.console import Console
from scipy.integrate import quad
from scipy.interpolate import PchipInterpolator

from lic_da.codecs.latents import encoder_latent
from lic_da.codecs.spatial import tiling
from lic_da.codecs.spec import CodecSpec
from lic_da.config import CONF
from lic_da.data.datamodule import LabelledImage, to_tensor
from lic_da.data.domains import prepare
from lic_da.data.index import ImageInfo
from lic_da.errors import UserError
from lic_da.evaluation import classical
from lic_da.evaluation.bd_rate import Curve, delta
from lic_da.evaluation.by_image import ImageCurves, Interval, bootstrap, delta_intervals, own_deltas
from lic_da.evaluation.classical import (
    AVIF,
    AVIF_444,
    JPEG,
    JPEG_XL,
    WEBP,
    ClassicalCodec,
    measure_anchor,
)
from lic_da.evaluation.curves import curve as mean_curve
from lic_da.evaluation.images import Example, comparison
from lic_da.evaluation.measure import (
    Point,
    estimated_bits,
    judged,
    mean,
    measure,
    read_points,
    score,
    write_points,
)
from lic_da.evaluation.metrics import METRICS
from lic_da.evaluation.summary import summarise, table
from lic_da.io.bitstream import StreamError
from lic_da.io.images import RGB, read_rgb
from lic_da.io.lossless import save_png
from lic_da.methods.adapters.codec import AdaptedCodec
from tests.conftest import codec_config, hyperprior_config

# Published points on Kodak: bmshj2018-factorized and bmshj2018-hyperprior.
FACTORIZED = Curve((0.123, 0.189, 0.288, 0.440), (26.91, 28.22, 29.62, 31.28))
HYPERPRIOR = Curve((0.131, 0.209, 0.320, 0.478), (27.58, 29.20, 30.97, 32.84))


def test_bd_rate_agrees_with_an_independent_implementation() -> None:
    low = max(min(FACTORIZED.psnr), min(HYPERPRIOR.psnr))
    high = min(max(FACTORIZED.psnr), max(HYPERPRIOR.psnr))
    areas = []
    for curve in (FACTORIZED, HYPERPRIOR):
        area, _ = quad(PchipInterpolator(curve.psnr, np.log10(curve.bpp)), low, high)
        areas.append(area)
    expected = 100 * (10 ** ((areas[1] - areas[0]) / (high - low)) - 1)
    got = delta(FACTORIZED, HYPERPRIOR, "pchip")
    assert got.bd_rate_percent == pytest.approx(expected, rel=1e-3)
    assert delta(FACTORIZED, HYPERPRIOR).bd_rate_percent == pytest.approx(expected, abs=1)
    assert got.bd_psnr_db > 0


def test_bd_rate_of_a_curve_with_itself_and_with_half_the_rate() -> None:
    assert delta(FACTORIZED, FACTORIZED).bd_rate_percent == pytest.approx(0, abs=1e-9)
    half = Curve(tuple(b / 2 for b in FACTORIZED.bpp), FACTORIZED.psnr)
    assert delta(FACTORIZED, half).bd_rate_percent == pytest.approx(-50)


def test_curves_without_overlap_give_nan_and_a_reason() -> None:
    far = Curve(FACTORIZED.bpp, tuple(p + 20 for p in FACTORIZED.psnr))
    assert math.isnan(delta(FACTORIZED, far).bd_rate_percent)
    assert delta(FACTORIZED, far).bd_psnr_db == pytest.approx(20)  # at the same rates
    assert delta(FACTORIZED, far).reason == "the PSNR ranges do not overlap"
    farther = Curve(tuple(b * 100 for b in FACTORIZED.bpp), far.psnr)
    assert math.isnan(delta(FACTORIZED, farther).bd_psnr_db)
    assert delta(FACTORIZED, farther).reason.endswith("overlap; the rates do not overlap")
    few = Curve.of([(0.3, 30.0), (0.1, 28.0)])
    assert few.bpp == (0.1, 0.3)
    assert "fewer than 4 points" in delta(FACTORIZED, few).reason


def test_curves_that_hardly_overlap_or_are_exact_give_nan_and_a_reason() -> None:
    higher = tuple(p + max(FACTORIZED.psnr) - min(FACTORIZED.psnr) - 0.01 for p in FACTORIZED.psnr)
    touching = delta(FACTORIZED, Curve(FACTORIZED.bpp, higher))
    assert math.isnan(touching.bd_rate_percent)
    assert "overlap by" in touching.reason and touching.bd_psnr_db > 3
    exact = Curve(FACTORIZED.bpp, (*FACTORIZED.psnr[:-1], math.inf))
    for pair in ((FACTORIZED, exact), (exact, FACTORIZED)):
        assert math.isnan(delta(*pair).bd_rate_percent)
        assert "reproduced exactly" in delta(*pair).reason


def points_of(curves: dict[str, Curve]) -> list[Point]:
    """A point for each image and quality."""
    return [
        Point(
            "run", "c", quality, 0.01, "adapters", "base", "natural", True, name, 64, 64, 1, 1,
            bpp, bpp, psnr, math.nan, 0.1, 0.1, {},
        )
        for name, own in curves.items()
        for quality, (bpp, psnr) in enumerate(zip(own.bpp, own.psnr, strict=True), 1)
    ]  # fmt: skip


def images_of(curves: dict[str, Curve]) -> ImageCurves:
    return ImageCurves.of(points_of(curves), METRICS["psnr"].scale)


def some_images(count: int, saved: float = 0.0) -> dict[str, Curve]:
    """Images of different rates, of which each saves a share of the rate of its own."""
    return {
        f"{n}": Curve(
            tuple((1 - saved * n / count) * (1 + n) * b for b in FACTORIZED.bpp),
            tuple(p + 0.3 * n for p in FACTORIZED.psnr),
        )
        for n in range(count)
    }


def test_the_mean_of_images_own_bd_rates_agrees_with_an_independent_implementation() -> None:
    anchor, test = {"a": FACTORIZED}, {"a": HYPERPRIOR}
    for n, shift in enumerate((0.5, -0.7, 1.1)):
        moved = tuple(p + shift for p in HYPERPRIOR.psnr)
        anchor[f"{n}"], test[f"{n}"] = FACTORIZED, Curve(HYPERPRIOR.bpp, moved)
    expected = []
    for name in anchor:
        curves = anchor[name], test[name]
        low, high = max(min(c.psnr) for c in curves), min(max(c.psnr) for c in curves)
        a, b = (quad(PchipInterpolator(c.psnr, np.log10(c.bpp)), low, high)[0] for c in curves)
        expected.append(100 * (10 ** ((b - a) / (high - low)) - 1))
    anchor["far"], test["far"] = FACTORIZED, Curve(FACTORIZED.bpp, (60.0, 61.0, 62.0, 63.0))
    anchor["alone"] = FACTORIZED
    own = own_deltas(images_of(anchor), images_of(test), "pchip")
    assert own.bd_rate_percent == pytest.approx(np.mean(expected), rel=1e-3)
    assert (own.compared, own.left_out) == (4, 1)


def test_both_conventions_agree_where_all_images_are_alike_and_differ_where_rates_do() -> None:
    same = dict.fromkeys("abc", FACTORIZED), dict.fromkeys("abc", HYPERPRIOR)
    of_mean = delta(*(images_of(c).mean() for c in same))
    assert own_deltas(*map(images_of, same)).bd_rate_percent == pytest.approx(
        of_mean.bd_rate_percent
    )
    anchor, test = some_images(5), some_images(5, saved=0.5)
    of_mean = delta(images_of(anchor).mean(), images_of(test).mean())
    own = own_deltas(images_of(anchor), images_of(test))
    assert own.bd_rate_percent == pytest.approx(-20)  # the mean of 0 to 40 %
    assert of_mean.bd_rate_percent < -24  # large savings are those of images of high rates


def test_intervals_hold_the_delta_shrink_with_images_and_are_the_same_again() -> None:
    widths = []
    for count in (5, 40):
        pair = images_of(some_images(count)), images_of(some_images(count, saved=0.5))
        found = delta_intervals([pair], resamples=200)
        rate = delta(pair[0].mean(), pair[1].mean())
        assert found.bd_rate.low < rate.bd_rate_percent < found.bd_rate.high < 0
        assert 0 < found.bd_psnr.low < rate.bd_psnr_db < found.bd_psnr.high
        assert found == delta_intervals([pair], resamples=200)
        assert found == delta_intervals([pair, pair], resamples=200)  # two seeds that agree
        widths.append(found.bd_rate.high - found.bd_rate.low)
    assert widths[1] < widths[0] / 2


def test_there_is_no_interval_of_one_image_or_of_curves_that_do_not_overlap() -> None:
    far = {name: Curve(c.bpp, tuple(p + 90 for p in c.psnr)) for name, c in some_images(4).items()}
    for anchor, test in ((some_images(1), some_images(1, 0.5)), (some_images(4), far)):
        found = delta_intervals([(images_of(anchor), images_of(test))], resamples=20)
        assert math.isnan(found.bd_rate.low) and math.isnan(found.bd_rate.high)
    assert delta_intervals([(images_of({"a": FACTORIZED}), images_of({"b": FACTORIZED}))]) == (
        delta_intervals([(images_of({}), images_of({}))])
    )


def test_a_bootstrap_of_a_mean_is_as_wide_as_its_standard_error_says() -> None:
    values = np.random.default_rng(1).normal(size=400)
    (found,) = bootstrap(lambda chosen: (float(values[chosen].mean()),), 400)
    error = values.std() / 20
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert Interval.of([1.0] * 19 + [math.nan]) == Interval(1.0, 1.0)
    assert math.isnan(Interval.of([1.0] * 18 + [math.nan] * 2).low)


def test_scores_are_those_of_8_bit_images(photographs: list[RGB]) -> None:
    original = to_tensor(photographs[0])
    noise = torch.randint(-3, 4, original.shape, generator=torch.Generator().manual_seed(0))
    noisy = (original.int() + noise).clamp(0, 255).byte()
    mse = ((noisy.float() - original.float()) ** 2).mean().item()
    psnr, ms_ssim = score(noisy, original)
    assert psnr == pytest.approx(10 * math.log10(255**2 / mse), abs=1e-4)
    assert 0.98 < ms_ssim < 1
    assert math.isnan(score(noisy[:, :175], original[:, :175])[1])
    assert score(noisy[:, :176], original[:, :176])[1] < 1


@pytest.mark.parametrize("memory", [tiling.MEMORY, 1 << 22], ids=["whole", "in_tiles"])
@pytest.mark.parametrize("config", [codec_config(), hyperprior_config()], ids=lambda c: c.name)
def test_the_estimate_is_that_of_a_forward_pass_of_its_own(
    config: CodecSpec, memory: int, photographs: list[RGB], tmp_path: Path
) -> None:
    path = tmp_path / "photograph.png"
    save_png(path, photographs[0])
    height, width = photographs[0].shape[:2]
    image = ImageInfo("", path.name, "", "test", "", "", width, height)
    entry = LabelledImage(image, path, "natural", 0)
    codec = AdaptedCodec.build(config, ["natural"])
    codec.memory = memory
    with encoder_latent(codec.model) as computed:
        (point,) = measure(codec, [entry], run="run", modes=["base"], metrics=["psnr"])
    assert len(computed) == 1 or memory < tiling.MEMORY
    x = to_tensor(photographs[0])[None].float().div(255)
    expected = estimated_bits(codec, x) / (height * width)
    assert point.bpp_estimated == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("config", [codec_config(), hyperprior_config()], ids=lambda c: c.name)
def test_a_latent_that_modes_share_is_decoded_once_and_shows_the_same(
    config: CodecSpec, photographs: list[RGB]
) -> None:
    codec = AdaptedCodec.build(config, ["natural", "sketch"])
    for parameter in codec.synthesis.bank.parameters():
        torch.nn.init.normal_(parameter, std=0.02)  # so that modes differ
    codec.eval()
    images = (
        photographs[0],
        photographs[1][:48],
    )  # an untrained codec writes the same for all of a size
    first, second = (codec.encode(to_tensor(p)[None].float().div(255)) for p in images)

    def shown() -> list[torch.Tensor]:
        images = []
        for stream in (first, second, first):
            for mode in ("base", "weighted", "oracle"):
                with codec.in_mode(mode, "sketch" if mode == "oracle" else None):
                    images.append(codec.decode(stream))
        return images

    alone = shown()
    with codec.sharing_latents():
        together = shown()
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert not torch.equal(alone[0], alone[2])
    with codec.sharing_latents() as shared:
        codec.decode(first)
        assert shared.saved_s == 0
        codec.decode(second)
        assert shared.saved_s == 0
        codec.decode(second)
        assert shared.saved_s > 0
        with pytest.raises(StreamError, match="decode to other values"):
            codec.decode(dataclasses.replace(second, latent_crc=second.latent_crc ^ 1))
    codec.decode(second)
    assert codec.shared is None


def test_classical_codecs_write_real_files(photographs: list[RGB]) -> None:
    for codec in (JPEG, WEBP, AVIF, AVIF_444, JPEG_XL):
        sizes, psnrs = [], []
        for quality in (10, 50, 90):
            size, decoded = codec.code(photographs[2], quality)
            file = io.BytesIO()
            image = Image.fromarray(photographs[2])
            image.save(file, codec.format, quality=quality, **codec.settings)
            assert size == len(file.getvalue())
            sizes.append(size)
            psnrs.append(score(decoded, to_tensor(photographs[2]), ms_ssim=False)[0])
        assert sizes == sorted(sizes) and psnrs == sorted(psnrs) and psnrs[-1] > 33


def test_avif_keeps_its_colours_at_4_4_4() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2, 0] = stripes[:, 1::2, 2] = 255  # red and blue, a pixel wide
    halved, full = (codec.code(stripes, 60)[1] for codec in (AVIF, AVIF_444))
    original = to_tensor(stripes)
    assert score(full, original)[0] > score(halved, original)[0] + 10


def test_no_quality_of_jpeg_xl_codes_at_half_the_size() -> None:
    checks = np.indices((128, 128)).sum(0, keepdims=True).repeat(3, 0) % 2 * 255
    pixels = np.ascontiguousarray(checks.transpose(1, 2, 0).astype(np.uint8))
    grey = torch.full((3, 128, 128), 128, dtype=torch.uint8)  # all that is left at half the size
    left = score(grey, to_tensor(pixels), ms_ssim=False)[0]
    lowest = min(JPEG_XL.qualities)
    decoded = [JPEG_XL.code(pixels, quality)[1] for quality in (lowest - 2, lowest)]
    below, own = (score(image, to_tensor(pixels), ms_ssim=False)[0] for image in decoded)
    assert below < left + 1 and own > left + 5


def bench(codec: type, folder: Path, qualities: list[int]) -> tuple[list[float], list[float]]:
    """Mean bpp and PSNR a quality, as CompressAI's benchmark (compressai.utils.bench) measures them."""
    files = sorted(folder.glob("*.png"))
    rows = [[codec(None).run(str(f), q, ["psnr-rgb"]) for f in files] for q in qualities]
    return tuple([mean(r[key] for r in row) for row in rows] for key in ("bpp", "psnr-rgb"))  # type: ignore[return-value]


def assert_anchors_agree_with_compressai(images: list[RGB], folder: Path) -> None:
    for number, pixels in enumerate(images):
        save_png(folder / f"{number}.png", pixels)
    entries = [
        LabelledImage(ImageInfo(f.name, f.name, "", "test", "", "", 0, 0), f, "natural", 0)
        for f in sorted(folder.glob("*.png"))
    ]
    qualities = [10, 30, 60, 90]
    for codec, tool in ((JPEG, bench_codecs.JPEG), (WEBP, bench_codecs.WebP)):
        bpp, psnr = bench(tool, folder, qualities)
        # the benchmark leaves all else to Pillow's defaults
        plain = dataclasses.replace(codec, qualities=tuple(qualities), settings={})
        ours = mean_curve(measure_anchor(plain, entries, folder / "cache"))
        assert ours.bpp == pytest.approx(bpp, rel=0.02)
        assert ours.psnr == pytest.approx(psnr, rel=0.02)


def test_anchors_agree_with_compressais_benchmark(photographs: list[RGB], tmp_path: Path) -> None:
    assert_anchors_agree_with_compressai(photographs, tmp_path)


@pytest.mark.slow
def test_anchors_agree_with_compressais_benchmark_on_the_natural_test_images(
    tmp_path: Path,
) -> None:
    images = prepare("natural", CONF.parent / "data")
    entries = [read_rgb(images.path(p)) for p in images.split("test")]
    assert_anchors_agree_with_compressai(entries, tmp_path)


def test_what_a_classical_codec_made_is_cached(
    photographs: list[RGB], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_png(tmp_path / "one.png", photographs[0])
    image = ImageInfo("one.png", "one.png", "", "test", "", "", 0, 0)
    entry = LabelledImage(image, tmp_path / "one.png", "natural", 0)
    for codec in (AVIF, JPEG_XL):
        few = dataclasses.replace(codec, qualities=(10, 40))
        first = measure_anchor(few, [entry], tmp_path / "cache")
        assert [p.file_bytes for p in first] == [few.code(photographs[0], q)[0] for q in (10, 40)]
        assert first[0].psnr < first[1].psnr and first[0].bpp < first[1].bpp
        with monkeypatch.context() as patched:
            patched.setattr(ClassicalCodec, "code", None)  # nothing may be coded again
            assert [repr(p) for p in measure_anchor(few, [entry], tmp_path / "cache")] == [
                repr(p) for p in first
            ]
        assert all(math.isnan(p.ms_ssim) for p in first)
        scored = measure_anchor(few, [entry], tmp_path / "cache", ms_ssim=True)
        decoded = few.code(photographs[0], 40)[1]
        assert scored[1].ms_ssim == score(decoded, to_tensor(photographs[0]))[1] > 0.5
        assert [(p.bpp, p.psnr) for p in scored] == [(p.bpp, p.psnr) for p in first]
        with monkeypatch.context() as patched:
            patched.setattr(ClassicalCodec, "code", None)
            for asked, expected in ((True, scored), (False, first)):
                again = measure_anchor(few, [entry], tmp_path / "cache", ms_ssim=asked)
                assert [repr(p) for p in again] == [repr(p) for p in expected]
            with pytest.raises(TypeError):  # other settings, another cache
                other = dataclasses.replace(few, settings={**few.settings, "other": 1})
                measure_anchor(other, [entry], tmp_path / "cache")


def test_what_was_coded_survives_a_kill(
    photographs: list[RGB], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = []
    for name, pixels in (("first", photographs[0]), ("second", photographs[1][:200])):
        save_png(tmp_path / f"{name}.png", pixels)
        image = ImageInfo(f"{name}.png", name, "", "test", "", "", 0, 0)
        entries.append(LabelledImage(image, tmp_path / f"{name}.png", "natural", 0))
    few = dataclasses.replace(JPEG, qualities=(10, 40))
    cache, left = tmp_path / "cache", tmp_path / "left"
    code = ClassicalCodec.code

    def note(codec: ClassicalCodec, pixels: RGB, quality: int) -> tuple[int, torch.Tensor]:
        if len(pixels) == 200 and not left.exists():  # what a kill would leave at this moment
            shutil.copytree(cache, left)
        return code(codec, pixels, quality)

    with monkeypatch.context() as patched:
        patched.setattr(classical, "granted_cpus", lambda: 1)
        patched.setattr(ClassicalCodec, "code", note)
        points = measure_anchor(few, entries, cache)
    with monkeypatch.context() as patched:
        patched.setattr(ClassicalCodec, "code", None)  # nothing may be coded again
        assert repr(measure_anchor(few, entries[:1], left)) == repr(points[:2])
    (whole,) = left.rglob("*.json")
    whole.write_text(whole.read_text()[:30])  # a file that is damaged is made again
    assert repr(measure_anchor(few, entries, left)) == repr(points)


def point(domain: str, mode: str, psnr: float, gate: dict[str, float], seen: bool = True) -> Point:
    return Point(
        run="r", codec="c", quality=3, lmbda=0.0067, method="adapters", blend=mode, domain=domain,
        seen=seen, image=f"{domain}.png", width=64, height=64, string_bytes=100, file_bytes=139,
        bpp=0.2, bpp_estimated=0.19, psnr=psnr, ms_ssim=0.9, encode_s=0.1, decode_s=0.2, gate=gate,
    )  # fmt: skip


def test_points_survive_the_csv_file(tmp_path: Path) -> None:
    points = [point("a", "base", 30.25, {}), point("a", "weighted", 31.5, {"a": 0.75, "b": 0.25})]
    points[0] = dataclasses.replace(points[0], ms_ssim=math.nan)
    write_points(points, tmp_path / "rd_points.csv", ["a", "b"])
    header = (tmp_path / "rd_points.csv").read_text().splitlines()[0]
    assert header == (
        "run,codec,quality,lmbda,method,blend,domain,seen,image,width,height,string_bytes,file_bytes,"
        "bpp,bpp_estimated,psnr,ms_ssim,encode_s,decode_s,effort,psnr_base,gate_a,gate_b"
    )
    again = read_points(tmp_path / "rd_points.csv")
    assert again[1] == points[1] and math.isnan(again[0].ms_ssim)
    write_points(points, tmp_path / "a.csv", ["a"])  # as if b had not been tested
    assert read_points(tmp_path / "a.csv")[1] == points[1]
    with pytest.raises(UserError, match=r"There is no .*nothing\.csv"):
        read_points(tmp_path / "nothing.csv")


def test_a_method_is_judged_by_its_adapted_images_however_modes_are_listed() -> None:
    assert judged(["base", "adapted"]) == judged(b for b in ("base", "adapted")) == "adapted"
    assert judged(iter(["oracle", "base", "weighted"])) == "weighted"
    assert judged(iter(["base"])) is None


def test_summary_and_table() -> None:
    right, wrong = {"a": 0.9, "b": 0.1}, {"a": 0.6, "b": 0.4}
    points = [
        point("a", "base", 30, {}), point("a", "weighted", 31, right), point("a", "oracle", 31.5, right),
        point("b", "base", 20, {}), point("b", "weighted", 22, wrong), point("b", "oracle", 22, right),
        point("c", "base", 25, {}, False), point("c", "weighted", 24, wrong, False),
    ]  # fmt: skip
    summary = summarise(points, ["a", "b"])
    assert summary["domains"]["a"]["gain"] == {"weighted": 1, "oracle": 1.5}
    assert summary["domains"]["b"]["predicted"] == {"a": 1, "b": 0}
    assert summary["gate_accuracy"] == 0.5
    assert summary["weighted_minus_oracle_db"] == -0.5
    assert "gate_accuracy" not in summary["domains"]["c"]
    assert summary["domains"]["c"]["predicted"] == {"a": 1, "b": 0}
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table({**summary, "codec": "some_codec", "quality": 3}))
    text = console.export_text()
    assert "+1.00" in text and "c*" in text and "mean gate a 0.60, b 0.40" in text


def test_of_many_domains_the_table_tells_where_most_of_an_unseen_one_goes() -> None:
    names = "abcdef"
    gate = {name: share / 20 for name, share in zip(names, (1, 8, 2, 5, 1, 3), strict=True)}
    points = [point("z", "base", 25, {}, False), point("z", "weighted", 24, gate, False)]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table({**summarise(points, names), "codec": "some_codec", "quality": 3}))
    assert "mean gate b 0.40, d 0.25, f 0.15, c 0.10, others 0.10." in console.export_text()


def test_images_show_the_part_that_changed(photographs: list[RGB]) -> None:
    original = to_tensor(photographs[0])
    base = original.clone()
    base[:, 200:230, 300:330] = 0
    example = Example("natural", "x.png", original, base, original)
    image = np.asarray(comparison(example, crop=64))
    assert image.shape[1] == 4 * 64 + 3 * 6
    panels = [image[22:, i * 70 : i * 70 + 64].astype(int) for i in range(4)]
    assert np.array_equal(panels[0], panels[2]) and np.abs(panels[0] - panels[1]).max() > 50
    error = example.error_map()
    assert error[0, 215, 315] < error[1, 215, 315]  # green: the adapted image is closer
