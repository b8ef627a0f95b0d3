"""The report of a sweep: one HTML file with everything in it, for people."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import plotly.graph_objects as go
import plotly.io
from PIL import Image
from plotly.offline import get_plotlyjs
from torch import Tensor

from lic_da.evaluation.bd_rate import Curve
from lic_da.evaluation.curves import (
    PSNR,
    Saving,
    Series,
    anchor_curves,
    curve,
)
from lic_da.evaluation.images import Example, most_changed
from lic_da.evaluation.measure import Point
from lic_da.evaluation.metrics import Scale
from lic_da.io.files import write_text
from lic_da.io.images import RGB

KINDS = {"source": "Source domain", "seen": "Seen domains", "unseen": "Unseen domains"}
_TEMPLATE = Path(__file__).with_name("report.html.j2")
_CROP = 320
# Colours that stand out from white and from black alike.
_MODE_COLOURS = {
    "base": "#8a8f98",
    "weighted": "#2f81f7",
    "top1": "#1fa68c",
    "oracle": "#e0821e",
    "chosen": "#8a63d2",
    "adapted": "#2f81f7",
}
_SERIES_COLOURS = ("#2f81f7", "#d6559a", "#1fa68c", "#e0821e", "#8a63d2", "#7a9a01")
_ANCHOR_COLOURS = ("#c2a02d", "#b3627a", "#6a8caf", "#9a7fb8", "#7d9c5b")
_DASHES = {
    "weighted": "solid",
    "top1": "dash",
    "oracle": "dot",
    "chosen": "dashdot",
    "base": "solid",
    "adapted": "solid",
}


@dataclass(frozen=True)
class Job:
    """A job of the sweep, for the list of what was run."""

    name: str
    state: str
    reason: str


@dataclass(frozen=True)
class Pick:
    """An image chosen to be shown, and why: the largest gain of its domain, say, or "worst"."""

    domain: str
    image: str
    gain: float
    why: str


@dataclass(frozen=True)
class ReportImage:
    """An image as it is shown: a crop of original, base and adapted as data URIs."""

    pick: Pick
    bpp_base: float
    bpp_adapted: float
    psnr_base: float
    psnr_adapted: float
    size: str
    part: str
    original: str
    base: str
    adapted: str


@dataclass(frozen=True)
class Report:
    """Everything a report says.

    Attributes:
        title: name of the sweep.
        jobs: of the sweep.
        series: finished jobs as series.
        savings: rows of ``bd_rate.csv``.
        anchors: points of classical codecs and of published curves.
        anchor_names: their full names, with their settings.
        shown: images to look at, of ``shown_quality`` of the first series.
        worst: images with the smallest gains.
        shown_quality: the quality that images and gains of images are of.
        notes: what else a reader should know.
        command: that made the sweep.
        versions: of everything that matters.
        metrics: others than PSNR, with their rows of ``bd_rate_<metric>.csv``, none if it has no BD-rate.
        thumbnails: small images as data URIs, by (domain, image), for those whose points are clicked.
    """

    title: str
    jobs: Sequence[Job]
    series: Sequence[Series]
    savings: Sequence[Saving]
    anchors: Sequence[Point]
    anchor_names: Sequence[str]
    shown: Sequence[ReportImage]
    worst: Sequence[ReportImage]
    shown_quality: int
    notes: Sequence[str]
    command: str
    versions: dict[str, str]
    metrics: Sequence[tuple[Scale, Sequence[Saving]]] = ()
    thumbnails: Mapping[tuple[str, str], str] = field(default_factory=dict)


def write_report(report: Report, path: Path) -> None:
    """Write the report as one HTML file that asks for nothing from elsewhere."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"signed": _signed, "number": _number}
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    domains = list(dict.fromkeys(d for s in report.series for d in s.domains))
    html = template.render(
        report=report,
        kinds=KINDS,
        judged=" / ".join(dict.fromkeys(s.judged for s in report.series)),
        modes=_other_modes(report),
        savings_table=_savings_table(report, report.savings),
        metrics=_metrics(report, domains),
        anchor_table=_anchor_table(report),
        anchor_labels=list(dict.fromkeys(p.codec for p in report.anchors)),
        gates=_weights(report, "weighted"),
        chosen=_weights(report, "chosen"),
        efforts=[(s, s.effort) for s in report.series if s.effort],
        rates_differ=any(not s.same_rates for s in report.series),
        first_rates_differ=not report.series[0].same_rates,
        domains=domains,
        kind_of={
            d: " / ".join(dict.fromkeys(s.kind(d) for s in report.series if d in s.domains))
            for d in domains
        },
        figures={
            **{f"rd-{d}": _json(_rd_figure(d, report)) for d in domains},
            **{
                f"rd-{metric.name}-{d}": _json(_rd_figure(d, report, metric))
                for metric, _ in report.metrics
                for d in domains
                if _measured(report, d, metric)
            },
            "gains": _json(_gain_figure(report)),
            "gain-over-rate": _json(_scatter_figure(report)),
        },
        images=_escaped(json.dumps(_images_by_point(report))),
        shown_by_domain={d: [s for s in report.shown if s.pick.domain == d] for d in domains},
        plotly=get_plotlyjs(),
    )
    write_text(path, html)


def gains(series: Series, quality: int) -> dict[tuple[str, str], float]:
    """Gain of the series' judged mode over ``base`` in dB at one quality, by (domain, image)."""
    points = {
        b: {(p.domain, p.image): p.psnr for d in series.domains for p in series.points(d, b)
            if p.quality == quality}
        for b in ("base", series.judged)
    }  # fmt: skip
    return {key: psnr - points["base"][key] for key, psnr in points[series.judged].items()}


def pick(by_image: dict[tuple[str, str], float], per_domain: int, worst: int) -> list[Pick]:
    """Choose images by their gains: of each domain from the largest to the smallest, and the worst.

    Args:
        by_image: gain in dB by (domain, image).
        per_domain: how many a domain; with three they are the largest, the median and the smallest gain.
        worst: how many of the smallest gains of all domains, with ``why`` "worst".
    """
    picks = []
    for domain in dict.fromkeys(d for d, _ in by_image):
        own = sorted(((g, n) for (d, n), g in by_image.items() if d == domain), reverse=True)
        ranks = np.unique(np.linspace(0, len(own) - 1, min(per_domain, len(own))).round())
        for rank in ranks.astype(int):
            gain, name = own[rank]
            why = {0: "largest gain", len(own) - 1: "smallest gain"}.get(int(rank), "between")
            if why == "between" and per_domain == 3:
                why = "median gain"
            if len(own) == 1:
                why = "the only image"
            picks.append(Pick(domain, name, gain, why))
    least = sorted(by_image.items(), key=lambda item: item[1])[:worst]
    return picks + [Pick(d, n, g, "worst") for (d, n), g in least]


def report_image(
    choice: Pick, example: Example, bpp_base: float, bpp_adapted: float
) -> ReportImage:
    """An image made ready to be shown: the square that changed most, losslessly."""
    y, x, side = most_changed(example, _CROP)
    height, width = example.original.shape[1:]
    base, adapted = example.psnr

    def crop(pixels: Tensor) -> str:
        return _data_uri(pixels[:, y : y + side, x : x + side])

    return ReportImage(
        pick=choice,
        bpp_base=bpp_base,
        bpp_adapted=bpp_adapted,
        psnr_base=base,
        psnr_adapted=adapted,
        size=f"{width}×{height}",
        part=f"{side}×{side} at ({x}, {y})",
        original=crop(example.original),
        base=crop(example.base),
        adapted=crop(example.adapted),
    )


def thumbnail(pixels: RGB, side: int) -> str:
    """An image that is to be recognised, not judged, as a data URI.

    Args:
        pixels: ``(H, W, 3)`` uint8.
        side: its longest side at most.
    """
    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    return _webp(image, quality=70)


def _data_uri(pixels: Tensor) -> str:
    image = Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))
    return _webp(image, lossless=True)


def _webp(image: Image.Image, **settings: Any) -> str:
    file = io.BytesIO()
    image.save(file, format="WEBP", method=4, **settings)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


@dataclass(frozen=True)
class _Cell:
    value: float
    reason: str


def _other_modes(report: Report) -> list[str]:
    """Modes in the table beside the one that methods are judged by; chosen if it was measured."""
    there = {r.blend for r in report.savings}
    return ["top1", "oracle", *(["chosen"] if "chosen" in there else [])]


_Weights = list[tuple[Series, list[tuple[str, str, dict[str, float]]]]]


def _weights(report: Report, mode: str) -> _Weights:
    """Of each series that has v of a mode: (domain, its kind, mean v) of each domain that has."""
    found = []
    for s in report.series:
        rows = [(d, s.kind(d), v) for d in s.domains if (v := s.gate(d, mode))]
        if rows:
            found.append((s, rows))
    return found


def _cells(
    savings: Sequence[Saving], series: Series, domain: str, field: str
) -> dict[tuple[str, str], _Cell]:
    """Akima figures by (mode, anchor)."""
    return {
        (r.blend, r.anchor): _Cell(getattr(r, field), r.reason)
        for r in savings
        if (r.series, r.domain, r.interpolation) == (series.label, domain, "akima")
    }


def _measured(report: Report, domain: str, metric: Scale) -> bool:
    """Whether a domain has scores of a metric."""
    return any(curve(s.points(domain, "base"), metric).bpp for s in report.series)


def _metrics(report: Report, domains: Sequence[str]) -> list[dict[str, Any]]:
    """The other metrics: what each saves, and which domains have a chart."""
    return [
        {
            "scale": metric,
            "table": _savings_table(report, rows),
            "domains": [d for d in domains if _measured(report, d, metric)],
            "reasons": sorted({r.reason for r in rows if r.anchor == "base" and r.reason}),
        }
        for metric, rows in report.metrics
    ]


def _savings_table(report: Report, savings: Sequence[Saving]) -> dict[str, list[dict[str, Any]]]:
    """Rows of the BD-rate table against the base codec, by kind of domain."""
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for s in report.series:
        for domain in s.domains:
            rate = _cells(savings, s, domain, "bd_rate_percent")
            psnr = _cells(savings, s, domain, "bd_psnr_db")
            modes = [b for b in _MODE_COLOURS if b != "base" and (b, "base") in rate]
            if not rate:
                continue
            judged = [
                r
                for r in savings
                if (r.series, r.domain, r.blend, r.anchor, r.interpolation)
                == (s.label, domain, s.judged, "base", "akima")
            ]
            rows[s.kind(domain)].append(
                {
                    "series": s.label,
                    "domain": domain,
                    "judged": s.judged,
                    "images": _images(s, domain),
                    "rate": {b: rate[b, "base"] for b in modes},
                    "psnr": {b: psnr[b, "base"] for b in modes},
                    "spread": judged[0] if judged else None,
                }
            )
    return {kind: own for kind, own in rows.items() if own}


def _images(series: Series, domain: str) -> int:
    return len(series.points(domain, "base")) // len(series.runs)


def _anchor_table(report: Report) -> list[dict[str, Any]]:
    """Rows of the table against classical codecs: base and adapted, a domain and series."""
    rows = []
    for s in report.series:
        for domain in s.domains:
            rate = _cells(report.savings, s, domain, "bd_rate_percent")
            for mode in ("base", s.judged):
                cells = {a: c for (b, a), c in rate.items() if b == mode and a != "base"}
                if cells:
                    rows.append({"series": s.label, "domain": domain, "mode": mode, "rate": cells})
    return rows


def _rd_figure(domain: str, report: Report, metric: Scale = PSNR) -> go.Figure:
    """Curves of one domain: every series and mode, and the classical codecs."""
    figure = go.Figure()
    learned: list[Curve] = []
    bases: set[str] = set()
    own = [s for s in report.series if domain in s.domains]
    for number, s in enumerate(own):
        for mode in sorted(s.modes(domain), key=list(_MODE_COLOURS).index):
            if mode == "base" and s.codec in bases:
                continue
            bases |= {s.codec} if mode == "base" else set()
            c = curve(s.points(domain, mode), metric)
            learned.append(c)
            several = len(own) > 1 and mode != "base"
            figure.add_trace(
                _trace(
                    c,
                    f"{mode}, {s.label}" if several else mode,
                    _SERIES_COLOURS[number % len(_SERIES_COLOURS)]
                    if several
                    else _MODE_COLOURS[mode],
                    _DASHES[mode],
                    [f"q{r.quality}" for r in s.runs],
                    metric,
                    shown=not several or mode == s.judged,
                )
            )
    labels = list(dict.fromkeys(p.codec for p in report.anchors))
    for (label, d), c in anchor_curves(report.anchors, metric).items():
        if d == domain:
            colour = _ANCHOR_COLOURS[labels.index(label) % len(_ANCHOR_COLOURS)]
            points = [p for p in report.anchors if (p.codec, p.domain) == (label, domain)]
            settings = sorted({p.quality for p in points})
            figure.add_trace(
                _trace(c, label, colour, "dot", [f"quality {q}" for q in settings], metric)
            )
    x, y = _ranges(learned, margin=0.3 if metric.compared else 0.0)
    figure.update_xaxes(title="rate, bits per pixel", range=x)
    figure.update_yaxes(title=metric.axis, range=y)
    return figure


def _trace(
    c: Curve,
    name: str,
    colour: str,
    dash: str,
    texts: Sequence[str],
    metric: Scale,
    *,
    shown: bool = True,
) -> go.Scatter:
    digits = 3 if metric.compared else metric.digits
    unit = " dB" if metric.compared else f" {metric.unit}".rstrip()
    return go.Scatter(
        x=list(c.bpp),
        y=list(c.psnr),
        name=name,
        mode="lines+markers",
        line={"color": colour, "dash": dash, "width": 2},
        marker={"size": 7},
        text=list(texts),
        hovertemplate=f"%{{text}}: %{{x:.4f}} bpp, %{{y:.{digits}f}}{unit}",
        visible=True if shown else "legendonly",
    )


def _ranges(curves: Iterable[Curve], margin: float) -> tuple[list[float], list[float]]:
    """Axes that show the learned curves well; anchors go on beyond them."""
    bpp = [v for c in curves for v in c.bpp]
    psnr = [v for c in curves for v in c.psnr]
    margin += 0.15 * (max(psnr) - min(psnr))
    return [0, 1.25 * max(bpp)], [min(psnr) - margin, max(psnr) + margin]


def _gain_figure(report: Report) -> go.Figure:
    """Gain of every test image at one quality, a strip a domain."""
    figure = go.Figure()
    s = report.series[0]
    by_image = gains(s, report.shown_quality)
    for domain in s.domains:
        own = {n: g for (d, n), g in by_image.items() if d == domain}
        figure.add_trace(
            go.Box(
                y=list(own.values()),
                text=[n.rsplit("/", 1)[-1] for n in own],
                name=domain,
                boxpoints="all",
                pointpos=0,
                jitter=0.6,
                marker={"color": _MODE_COLOURS["weighted"], "size": 5, "opacity": 0.75},
                line={"color": _MODE_COLOURS["base"], "width": 1},
                fillcolor="rgba(0,0,0,0)",
                hovertemplate="%{text}: %{y:+.3f} dB<extra></extra>",
                hoveron="points",
                showlegend=False,
            )
        )
    figure.update_yaxes(title=f"gain over base at quality {report.shown_quality}, dB")
    return figure


def _by_image(report: Report) -> list[tuple[str, str, Point, Point]]:
    """(domain, image, base, judged) of the first series' test images at the shown quality."""
    s = report.series[0]
    found = []
    for domain in s.domains:
        of_mode = {
            mode: {p.image: p for p in s.points(domain, mode) if p.quality == report.shown_quality}
            for mode in ("base", s.judged)
        }
        found += [(domain, n, of_mode["base"][n], p) for n, p in of_mode[s.judged].items()]
    return found


def _scatter_figure(report: Report) -> go.Figure:
    """Gain over rate of every test image at one quality; a point knows the number of its image."""
    figure = go.Figure()
    numbered = [*enumerate(_by_image(report))]
    s = report.series[0]
    for number, domain in enumerate(s.domains):
        own = [(n, base, p) for n, (d, _, base, p) in numbered if d == domain]
        figure.add_trace(
            go.Scatter(
                x=[base.bpp for _, base, _ in own],
                y=[p.psnr - base.psnr for _, base, p in own],
                customdata=[n for n, _, _ in own],
                text=[p.image.rsplit("/", 1)[-1] for _, _, p in own],
                name=domain,
                mode="markers",
                marker={
                    "size": 9,
                    "opacity": 0.8,
                    "color": _SERIES_COLOURS[number % len(_SERIES_COLOURS)],
                    "symbol": "circle-open" if s.kind(domain) == "unseen" else "circle",
                },
                hovertemplate="%{text}: %{x:.3f} bpp, %{y:+.3f} dB",
            )
        )
    figure.update_xaxes(title="rate of the base codec, bits per pixel", rangemode="tozero")
    figure.update_yaxes(title=f"gain over base at quality {report.shown_quality}, dB")
    return figure


def _images_by_point(report: Report) -> list[dict[str, Any]]:
    """What a click on a point shows, in the order of :func:`_by_image`."""
    s = report.series[0]
    chosen = {
        (p.domain, p.image): p.gate
        for d in s.domains
        for p in s.points(d, "chosen")
        if p.quality == report.shown_quality
    }
    found = []
    for domain, name, base, p in _by_image(report):
        rates = [f"{_number(own.psnr)} dB at {_number(own.bpp, 3)} bpp" for own in (base, p)]
        lines = [
            f"{domain}, {p.width}×{p.height}: {_signed(p.psnr - base.psnr)} dB",
            " → ".join(rates),
            *(
                f"{by}: {_told(v)}"
                for by, v in (("gate", p.gate), ("chosen v", chosen.get((domain, name))))
                if v
            ),
        ]
        found.append(
            {
                "name": name.rsplit("/", 1)[-1],
                "lines": lines,
                "image": report.thumbnails.get((domain, name), ""),
            }
        )
    return found


def _told(v: Mapping[str, float]) -> str:
    return ", ".join(f"{domain} {_number(weight)}" for domain, weight in v.items())


def _json(figure: go.Figure) -> str:
    figure.update_layout(template="none")
    return _escaped(plotly.io.to_json(figure, remove_uids=True))


def _escaped(text: str) -> str:
    """JSON that may stand in a script."""
    return text.replace("</", "<\\/")


def _signed(value: float, digits: int = 2) -> str:
    return "–" if math.isnan(value) else f"{value:+.{digits}f}".replace("-", "−")


def _number(value: float, digits: int = 2) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")
