"""How good are the bundled base codecs? Rate and distortion on test images of every domain.

``make experiments/base_codecs`` codes them by all bundled qualities, as real streams, and by classical
codecs, as real files. Writes rd_points.csv (every image), means.csv (the curves), bd_rate.csv,
rd_curves.png and training.png (how the codecs were trained) beside this file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import typer
from matplotlib.axes import Axes
from rich.console import Console

from experiments import common
from lic_da.codecs import zoo
from lic_da.codecs.spec import CodecSpec
from lic_da.config import CONF, read_settings
from lic_da.data.datamodule import LabelledImage
from lic_da.data.domains import SOURCE_DOMAIN, prepare
from lic_da.evaluation.bd_rate import INTERPOLATIONS, Curve, delta
from lic_da.evaluation.classical import AVIF, JPEG, WEBP, measure_anchor
from lic_da.evaluation.measure import Point, mean, measure
from lic_da.evaluation.metrics import METRICS
from lic_da.io.files import read_json
from lic_da.methods.adapters.codec import AdaptedCodec

HERE = Path(__file__).parent
DATA = Path("data")
CODECS = ("bmshj2018_factorized_n64", "mbt2018_mean_n64", "zou2022_n64")
FIRST_FOUR = f"{CODECS[0]}, qualities 1 to 4"  # the rates of the other one
DOMAINS = (SOURCE_DOMAIN, "sketch", "comic", "clipart")
CLASSICAL = (JPEG, WEBP, AVIF)
Curves = dict[tuple[str, str], dict[int, tuple[float, float]]]
"""Domain and codec -> quality -> mean bpp and mean score, on the axis of a curve."""
COMPARED = {name: METRICS[name].scale for name in ("psnr", "ms_ssim")}


@dataclass(frozen=True)
class Coded:
    """A test image, coded once: bits per pixel, PSNR in dB, and MS-SSIM, which small images have not."""

    domain: str
    codec: str
    quality: int
    image: str
    bpp: float
    psnr: float
    ms_ssim: float


def configured(codec: str) -> CodecSpec:
    """A codec of ``conf/codec``."""
    return CodecSpec.from_settings(read_settings(CONF / "codec" / f"{codec}.yaml"))


def learned(codec: str, images: Sequence[LabelledImage], console: Console) -> list[Point]:
    """Points of a bundled codec at all its qualities."""
    points = []
    for quality in (spec := configured(codec)).qualities:
        points += measure(
            AdaptedCodec.build(spec.at_quality(quality), [SOURCE_DOMAIN]),
            images,
            run="base",
            modes=["base"],
            metrics=[*COMPARED],
            console=console,
        )
    return points


def averaged(points: Iterable[Coded], metric: str = "psnr") -> Curves:
    """Mean bpp and score over the images that have one."""
    groups: dict[tuple[str, str], dict[int, list[Coded]]] = {}
    for point in (p for p in points if not math.isnan(getattr(p, metric))):
        by_quality = groups.setdefault((point.domain, point.codec), {})
        by_quality.setdefault(point.quality, []).append(point)
    scale = COMPARED[metric]
    return {
        key: {
            q: (mean(p.bpp for p in of), scale.on_axis(mean(getattr(p, metric) for p in of)))
            for q, of in group.items()
        }
        for key, group in groups.items()
    }


def bd_rates(curves: Curves, metric: str) -> Iterator[dict[str, Any]]:
    """Rows of ``bd_rate.csv``: each codec against the classical ones, and the second against the first."""
    for domain in DOMAINS:
        of = {c: Curve.of([*v.values()]) for (d, c), v in curves.items() if d == domain}
        four = [point for quality, point in curves[domain, CODECS[0]].items() if quality <= 4]
        of[FIRST_FOUR] = Curve.of(four)
        pairs = [(codec, c.label) for codec in (*CODECS, FIRST_FOUR) for c in CLASSICAL]
        pairs += [(CODECS[1], CODECS[0]), (CODECS[1], FIRST_FOUR)]
        pairs += [(CODECS[2], CODECS[0]), (CODECS[2], CODECS[1])]
        for codec, anchor in pairs:
            for interpolation in INTERPOLATIONS:
                result = delta(of[anchor], of[codec], interpolation)
                pair = {"domain": domain, "codec": codec, "anchor": anchor, "metric": metric}
                yield {**pair, "interpolation": interpolation, **asdict(result)}


def plot(curves: Curves, counts: dict[str, int], path: Path) -> None:
    """Rate-distortion curves, a panel a domain, over the rates that the learned codecs reach."""
    figure, panels = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    for domain, axes in zip(DOMAINS, panels.flat, strict=True):
        of = {c: sorted(v.values()) for (d, c), v in curves.items() if d == domain}
        for codec, points in of.items():
            style = {"marker": "o"} if codec in CODECS else {"linestyle": "--"}
            axes.plot(*zip(*points, strict=True), label=codec, **style)
        shown = [p for codec in CODECS for p in of[codec]]
        axes.set(
            xlim=(0, 1.15 * max(p[0] for p in shown)),
            ylim=(min(p[1] for p in shown) - 2, max(p[1] for p in shown) + 3),
            xlabel="rate, bits per pixel",
            ylabel="PSNR, dB",
            title=f"{domain}: {counts[domain]} test images",
        )
        axes.grid(alpha=0.3)
    panels[0, 0].legend(loc="lower right")
    common.save_plot(figure, path)


@dataclass(frozen=True)
class Training:
    """A training of bundled weights.

    Attributes:
        val_crop: sides of the central squares of photographs that it was validated on.
        losses: their loss R + λ·255²·MSE, and on how many megapixels the weights were trained until then.
    """

    val_crop: int
    losses: list[tuple[float, float]]


def trainings(codec: str, quality: int) -> list[Training]:
    """The trainings that led to bundled weights."""
    stem = zoo.WEIGHTS / codec / f"q{quality}"
    told = read_json(stem.with_suffix(".json"))["training"]
    rows = [row for row in common.read_table(stem.with_suffix(".log.csv")) if row["val/loss"]]
    found, before = [], 0.0
    for number, training in enumerate(told):
        of_step = training["batch_size"] * training["crop"] ** 2 / 1e6
        losses = [
            (before + (int(row["step"]) + 1) * of_step, float(row["val/loss"]))
            for row in rows
            if int(row["training"]) == number
        ]
        found.append(Training(training["val_crop"], losses))
        before += training["steps"] * of_step
    return found


def plot_variable(codec: str, axes: Axes) -> None:
    """As :func:`plot_training`, for a codec of variable rate, whose weights have one log."""
    rows = common.read_table(zoo.WEIGHTS / codec / "all.log.csv")
    for quality in configured(codec).qualities:
        losses = [float(row[f"loss_q{quality}"]) for row in rows]
        axes.plot(
            [1000 * float(row["gigapixels"]) for row in rows],
            [100 * (loss / losses[-1] - 1) for loss in losses],
            marker=".",
            label=f"quality {quality}",
        )
    axes.set(xlabel="megapixels trained on, all rates together", title=codec, ylim=(-1, 20))
    axes.grid(alpha=0.3)
    axes.legend()


def plot_training(path: Path) -> None:
    """How the validation loss fell while the weights were trained, relative to where it ended."""
    figure, panels = plt.subplots(1, len(CODECS), figsize=(15, 4.4), layout="constrained")
    for codec, axes in zip(CODECS, panels, strict=True):
        if configured(codec).variable_rate:
            plot_variable(codec, axes)
            continue
        for index, quality in enumerate(configured(codec).qualities):
            told = trainings(codec, quality)
            last = told[-1]
            axes.plot([], color=f"C{index}", label=f"quality {quality}")
            for training in told:
                axes.plot(
                    [megapixels for megapixels, _ in training.losses],
                    [100 * (loss / last.losses[-1][1] - 1) for _, loss in training.losses],
                    color=f"C{index}",
                    linestyle="-" if training.val_crop == last.val_crop else ":",
                    marker=".",
                )
        axes.set(
            xlabel="megapixels trained on (dotted: other validation squares)",
            ylabel="R + λD of validation photographs over its last value, %",
            title=codec,
            ylim=(-1, 20),
        )
        axes.grid(alpha=0.3)
        axes.legend()
    common.save_plot(figure, path)


def write(points: Sequence[Coded], folder: Path) -> None:
    """rd_points.csv, means.csv, bd_rate.csv and rd_curves.png; says the BD-rates."""
    common.write_table(folder / "rd_points.csv", points, ".6g")
    by_metric = {metric: averaged(points, metric) for metric in COMPARED}
    curves, similar = by_metric.values()
    means = (
        {
            **{"domain": domain, "codec": codec, "quality": quality},
            **{"bpp": f"{bpp:.4f}", "psnr": f"{psnr:.3f}"},
            "ms_ssim_db": f"{similar[domain, codec][quality][1]:.3f}",
        }
        for (domain, codec), curve in curves.items()
        for quality, (bpp, psnr) in sorted(curve.items())
    )
    common.write_table(folder / "means.csv", means)
    rates = [row for metric, of in by_metric.items() for row in bd_rates(of, metric)]
    common.write_table(folder / "bd_rate.csv", rates, ".2f")
    for row in rates:
        if row["interpolation"] == INTERPOLATIONS[0]:
            said = "{domain}: {codec} against {anchor}, {metric}: BD-rate {bd_rate_percent:.2f} %"
            print(said.format(**row))
    counts = {d: len({p.image for p in points if p.domain == d}) for d in DOMAINS}
    plot(curves, counts, folder / "rd_curves.png")


def main() -> None:
    """Measure, write tables and plots."""
    console = Console(stderr=True)
    entries = []
    for label, domain in enumerate(DOMAINS):
        images = prepare(domain, DATA, console=console)
        entries += [LabelledImage(p, images.path(p), domain, label) for p in images.split("test")]
    points = [p for codec in CODECS for p in learned(codec, entries, console)]
    for classical in CLASSICAL:
        points += measure_anchor(classical, entries, DATA / "anchors", console, ms_ssim=True)
    write(
        [Coded(*(p.domain, p.codec, p.quality, p.image), p.bpp, p.psnr, p.ms_ssim) for p in points],
        HERE,
    )
    plot_training(HERE / "training.png")


if __name__ == "__main__":
    typer.run(main)
