"""From points to what a person wants to know: what was gained, domain by domain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from lic_da.codecs import zoo
from lic_da.codecs.image_codec import ImageCodec
from lic_da.data.datamodule import LabelledImage
from lic_da.evaluation.measure import (
    Decoded,
    Point,
    judged,
    mean,
    measure,
    write_points,
)
from lic_da.evaluation.metrics import (
    METRICS,
    Scale,
    scales,
    written,
)

_MOST_SHARES = 4
"""Domains whose mean v is told of an unseen domain."""


def measure_into(
    folder: Path,
    adapted: ImageCodec,
    images: Sequence[LabelledImage],
    *,
    modes: Sequence[str] | None,
    metrics: Sequence[str] = ("psnr", "ms_ssim"),
    qualities: Sequence[int] | None = None,
    effort: int = 0,
    decoded: Decoded | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Measure a codec on images, write ``rd_points.csv`` into ``folder``, and summarise.

    Args:
        folder: of the run; its name is the run's in the table.
        adapted: the codec.
        images: see :func:`lic_da.evaluation.measure.measure`, as all that follows.
        modes: which ways to decode; None: all.
        metrics: names of metrics; PSNR is always measured.
        qualities: at which the codec codes; None: all that it is for.
        effort: what the encoder spends on each stream but the base's.
        decoded: called for every image, at one of the qualities.
        console: where progress is shown.

    Returns:
        What :func:`summarise` says; the run, method, codec, quality, the base weights as they are now, and
        how to read the metrics. Of a codec for all qualities that is of its own, or of one in the middle of
        those that were measured; and the same of each is under ``rates``.
    """
    points: dict[int, list[Point]] = {}
    summaries: dict[str, dict[str, Any]] = {}
    asked = sorted(adapted.fingerprints if qualities is None else qualities)
    own = adapted.config.default_quality
    shown = own if own in asked else asked[(len(asked) - 1) // 2]
    for quality in asked:
        with adapted.at_quality(quality):
            points[quality] = measure(
                adapted,
                images,
                run=folder.name,
                modes=modes,
                metrics=metrics,
                effort=effort,
                decoded=decoded if quality == shown else None,
                console=console,
            )
            summaries[str(quality)] = _summary(folder, adapted, points[quality], metrics)
    write_points(
        [p for of_one in points.values() for p in of_one], folder / "rd_points.csv", adapted.domains
    )
    several = {"rates": summaries} if adapted.config.all_rates else {}
    return {**summaries[str(shown)], **several}


def at_each_quality(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """What :func:`measure_into` says of each quality that was measured, the lowest first."""
    return list(summary.get("rates", {"": summary}).values())


def _summary(
    folder: Path, adapted: ImageCodec, points: Sequence[Point], metrics: Sequence[str]
) -> dict[str, Any]:
    """What is said of the points of the quality that the codec codes at."""
    return {
        "run": folder.name,
        "method": adapted.method,
        "codec": adapted.config.name,
        "quality": adapted.config.quality,
        "base_fingerprint": zoo.fingerprint(adapted.base_weights()),
        "metrics": written(METRICS.chosen(metrics)),
        **summarise(points, adapted.domains),
    }


def title(summary: dict[str, Any]) -> str:
    """Heading of a table of test images."""
    return f"{summary['codec']}, quality {summary['quality']}: test images, real streams"


def summarise(points: Sequence[Point], domains: Sequence[str]) -> dict[str, Any]:
    """Means a domain, at one quality.

    Args:
        points: of one run.
        domains: the trained domains, the source first.

    Returns:
        ``{"domains": {name: {…}}, "gate_accuracy": …, "weighted_minus_oracle_db": …}``. Of a domain:
        ``images``, ``seen``, ``bpp`` (``bpp_base`` where the base codec's is another), ``psnr``,
        ``ms_ssim`` and all other metrics for every mode, ``gain`` in dB over the base for every other
        mode, ``gate`` (mean v), ``predicted`` (how many images went to which domain), and for seen
        domains ``gate_accuracy``.
    """
    names = list(dict.fromkeys(p.domain for p in points))
    summary = {name: _domain([p for p in points if p.domain == name], domains) for name in names}
    seen = [s for s in summary.values() if s["seen"]]
    gaps = [
        s["psnr"]["weighted"] - s["psnr"]["oracle"]
        for s in seen
        if {"weighted", "oracle"} <= s["psnr"].keys()
    ]
    judged = [s for s in seen if "gate_accuracy" in s]
    right = sum(s["gate_accuracy"] * s["images"] for s in judged)
    return {
        "domains": summary,
        "gate_accuracy": right / sum(s["images"] for s in judged) if judged else None,
        "weighted_minus_oracle_db": min(gaps) if gaps else None,
    }


def _domain(points: Sequence[Point], domains: Sequence[str]) -> dict[str, Any]:
    by_mode = {
        b: [p for p in points if p.blend == b] for b in dict.fromkeys(p.blend for p in points)
    }
    some = by_mode[judged(by_mode) or next(iter(by_mode))]
    result: dict[str, Any] = {
        "images": len(some),
        "seen": some[0].seen,
        "bpp": mean(p.bpp for p in some),
        "psnr": {b: mean(p.psnr for p in rows) for b, rows in by_mode.items()},
    }
    for metric in ("ms_ssim", *dict.fromkeys(name for p in points for name in p.more)):
        scores = {b: [p.score(metric) for p in rows] for b, rows in by_mode.items()}
        measured = {b: [s for s in own if not math.isnan(s)] for b, own in scores.items()}
        if any(measured.values()):  # it may be left out, or none of the images large enough
            result[metric] = {b: mean(own) for b, own in measured.items() if own}
    if "base" in by_mode:
        base = result["psnr"]["base"]
        result["gain"] = {b: psnr - base for b, psnr in result["psnr"].items() if b != "base"}
        rate = mean(p.bpp for p in by_mode["base"])
        if ("adapted" in by_mode or some[0].effort) and rate != result["bpp"]:
            result["bpp_base"] = rate
    if "weighted" in by_mode:
        gates = [p.gate for p in by_mode["weighted"]]
        result["gate"] = {d: mean(g[d] for g in gates) for d in domains}
        winners = [max(g, key=lambda d: g[d]) for g in gates]
        if some[0].seen:
            result["gate_accuracy"] = mean(float(w == some[0].domain) for w in winners)
        result["predicted"] = {d: winners.count(d) for d in domains}
    return result


def table(summary: dict[str, Any]) -> Table:
    """The summary as a table for the terminal: a row a domain."""
    rich = Table(
        title=title(summary),
        title_justify="left",
        caption_justify="left",
        caption_style="",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    adapters = summary.get("method", "adapters") == "adapters"
    row_of = _adapters_row if adapters else _retrained_row
    columns = _ADAPTERS_COLUMNS if adapters else _RETRAINED_COLUMNS
    rich.add_column("domain", no_wrap=True)
    chosen = any("chosen" in row.get("gain", {}) for row in summary["domains"].values())
    for name in (*columns, *(["chosen"] if chosen else [])):
        rich.add_column(name, justify="right", no_wrap=True)
    for name, row in summary["domains"].items():
        last = [f"{row['gain']['chosen']:+.2f}"] if chosen else []
        rich.add_row(name if row["seen"] else f"{name}*", str(row["images"]), *row_of(row), *last)
    rich.caption = "\n".join(_notes(summary) if adapters else _retrained_notes(summary))
    return rich


def metrics_table(summary: dict[str, Any]) -> Table | None:
    """Scores by all metrics beside PSNR: a row a metric and domain; None: there are no others."""
    rich = Table(
        title="Other metrics",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for column in ("metric", "domain"):
        rich.add_column(column, no_wrap=True)
    for column in ("base", "adapted", "difference"):
        rich.add_column(column, justify="right", no_wrap=True)
    for scale in scales(summary):
        for domain, row in summary["domains"].items() if scale.name != "psnr" else ():
            cells = _metric_cells(scale, row.get(scale.name, {}))
            if cells:
                rich.add_row(_told(scale), domain if row["seen"] else f"{domain}*", *cells)
    return rich if rich.rows else None


def _told(scale: Scale) -> str:
    return f"{scale.title}{f', {scale.unit}' if scale.unit else ''} ({scale.better} is better)"


def _metric_cells(scale: Scale, scores: dict[str, float]) -> list[str]:
    """Scores of base and adapted codec, and their difference; empty: there is no score."""
    if all(math.isnan(score) for score in scores.values()):
        return []
    base = scores.get("base", math.nan)
    adapted = scores.get(judged(scores) or "", math.nan)
    return [scale.shown(base), scale.shown(adapted), scale.shown(adapted - base, signed=True)]


_ADAPTERS_COLUMNS = ("images", "bpp", "base", "adapted", "weighted", "top1", "oracle", "gate")
_RETRAINED_COLUMNS = ("images", "bpp base", "bpp", "base", "adapted", "gain")


def _adapters_row(row: dict[str, Any]) -> list[str]:
    gains, psnr = row.get("gain", {}), row["psnr"]
    return [
        f"{row['bpp']:.3f}",
        *(f"{psnr[b]:.2f}" if b in psnr else "–" for b in ("base", "weighted")),
        *(f"{gains[b]:+.2f}" if b in gains else "–" for b in ("weighted", "top1", "oracle")),
        f"{100 * row['gate_accuracy']:.0f} %" if "gate_accuracy" in row else "–",
    ]


def _retrained_row(row: dict[str, Any]) -> list[str]:
    gains, psnr = row.get("gain", {}), row["psnr"]
    return [
        f"{row.get('bpp_base', row['bpp']):.3f}" if "base" in psnr else "–",
        f"{row['bpp']:.3f}" if "adapted" in psnr else "–",
        *(f"{psnr[b]:.2f}" if b in psnr else "–" for b in ("base", "adapted")),
        f"{gains['adapted']:+.2f}" if "adapted" in gains else "–",
    ]


def _retrained_notes(summary: dict[str, Any]) -> list[str]:
    lines = [
        f"Method {summary['method']}. base, adapted: PSNR in dB of the base codec and of the trained",
        "one, each from streams of its own bpp; gain: their difference, at different rates.",
    ]
    return lines + [
        f"* {n} was never trained on." for n, r in summary["domains"].items() if not r["seen"]
    ]


def _notes(summary: dict[str, Any]) -> list[str]:
    lines = [
        "base, adapted: PSNR in dB. weighted, top1, oracle: gain over base in",
        "dB, from the same streams. gate: how often its largest weight is right.",
    ]
    if any("chosen" in row.get("gain", {}) for row in summary["domains"].values()):
        lines.append(
            "chosen: likewise, with v chosen by the encoder, whose bytes the stream grew by."
        )
    if refined := [row for row in summary["domains"].values() if "bpp_base" in row]:
        rates = mean(row["bpp"] / row["bpp_base"] for row in refined)
        lines += [
            f"Streams were refined, but for the base's, and take {100 * rates:.0f} % of its rate:",
            "gains are at different rates; the curves of a sweep tell more.",
        ]
    if summary["gate_accuracy"] is not None:
        lines.append(
            f"Gate accuracy over the seen domains: {100 * summary['gate_accuracy']:.1f} %."
        )
    for name, row in summary["domains"].items():
        if not row["seen"]:
            lines.append(f"* {name} was never trained on;")
            lines.append(f"  mean gate {_shares(row.get('gate', {}))}.")
    return lines


def _shares(gate: Mapping[str, float]) -> str:
    """Mean v by domain; of many domains those that have the most."""
    names = list(gate)
    if len(names) > _MOST_SHARES:
        names = sorted(names, key=lambda d: -gate[d])[:_MOST_SHARES]
    rest = sum(gate.values()) - sum(gate[d] for d in names)
    others = [f"others {rest:.2f}"] if len(names) < len(gate) else []
    return ", ".join([*(f"{d} {gate[d]:.2f}" for d in names), *others])
