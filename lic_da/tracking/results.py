"""Results of runs and sweeps in Weights & Biases: scalars, charts and tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

from lic_da.evaluation.curves import (
    BD_COLUMNS,
    PSNR,
    Saving,
    Series,
    anchor_curves,
    curve,
)
from lic_da.evaluation.images import Example, comparison
from lic_da.evaluation.measure import JUDGED, Point
from lic_da.evaluation.metrics import Scale, scales
from lic_da.tracking import loggers
from lic_da.tracking.settings import LoggerSettings


def log_result(
    loggers: Sequence[Logger],
    summary: dict[str, Any],
    domains: Sequence[str],
    examples: Sequence[Example],
) -> None:
    """Log the test result to W&B, if it is there: scalars, confusion matrix, table of images."""
    runs = [logger.experiment for logger in loggers if isinstance(logger, WandbLogger)]
    if not runs:
        return
    import wandb

    scalars = _test_scalars(summary, "test")
    for quality, own in summary.get("rates", {}).items():
        scalars |= _test_scalars(own, f"test/q{quality}")
    tables = {}
    told = {n: r["predicted"] for n, r in summary["domains"].items() if "predicted" in r}
    if told:
        tables["test/confusion"] = wandb.Table(["domain", *domains])
    for name, predicted in told.items():
        tables["test/confusion"].add_data(name, *(predicted[d] for d in domains))
    images = wandb.Table(
        ["domain", "image", "original", "base", "adapted", "error map", "psnr base", "psnr adapted"]
    )
    for e in examples:
        panels = [
            wandb.Image(pixels.permute(1, 2, 0).numpy())
            for pixels in (e.original, e.base, e.adapted, e.error_map())
        ]
        images.add_data(e.domain, e.name, *panels, *e.psnr)
    for run in runs:
        run.summary.update(scalars)
        run.log(
            {
                **tables,
                "test/images": images,
                "test/comparisons": [
                    wandb.Image(comparison(e), caption=f"{e.domain}: {e.name}") for e in examples
                ],
            }
        )


def _test_scalars(summary: dict[str, Any], under: str) -> dict[str, Any]:
    """What a summary says at one quality, as names below ``under`` and numbers."""
    scalars: dict[str, Any] = {}
    if summary["gate_accuracy"] is not None:
        scalars[f"{under}/gate_accuracy"] = summary["gate_accuracy"]
    for name, row in summary["domains"].items():
        for kind in (*(scale.name for scale in scales(summary)), "gain"):
            scalars |= {f"{under}/{kind}_{mode}/{name}": v for mode, v in row.get(kind, {}).items()}
        scalars |= {f"{under}/gate_{name}/{d}": v for d, v in row.get("gate", {}).items()}
        scalars[f"{under}/bpp/{name}"] = row["bpp"]
        if "bpp_base" in row:
            scalars[f"{under}/bpp_base/{name}"] = row["bpp_base"]
    return scalars


def log_sweep(
    sweep: Path,
    logger: LoggerSettings,
    series: Sequence[Series],
    anchors: Sequence[Point],
    savings: Sequence[Saving],
    summary: dict[str, Any],
    more: Sequence[tuple[Scale, Sequence[Saving]]] = (),
) -> bool:
    """The summary run of a sweep: BD-rates as scalars, curves as charts, the gate's v and all tables.

    It belongs to the group of the sweep's jobs. Summarised again with another result, a sweep gets
    another such run, so that none is ever written over.

    Args:
        sweep: folder of the sweep.
        logger: ``conf/logger``.
        series: of the sweep.
        anchors: points of classical codecs.
        savings: rows of ``bd_rate.csv``.
        summary: contents of ``summary.json``; its series become the run's config.
        more: other metrics, and the rows of their ``bd_rate_<metric>.csv``.

    Returns:
        Whether there is such a run now: W&B may be turned off.
    """
    grouped = replace(logger, group=logger.group or sweep.name)
    loggers.forget(sweep)
    settings = [{k: v for k, v in s.items() if k != "tested"} for s in summary["series"]]
    run = loggers.begin(grouped, sweep, "summary", {"series": settings}, f"{sweep.name} summary")
    if run is None:
        return False
    try:
        _log_sweep(run, series, anchors, savings, more)
    except BaseException:
        loggers.forget(sweep)
        run.finish(exit_code=1)
        raise
    run.finish()
    return True


def _log_sweep(
    run: Any,
    series: Sequence[Series],
    anchors: Sequence[Point],
    savings: Sequence[Saving],
    more: Sequence[tuple[Scale, Sequence[Saving]]],
) -> None:
    import wandb

    # Gains have the quality as their axis; all else is one number or one chart.
    run.define_metric("quality", hidden=True)
    for metrics in ("gain/*", "bpp/*"):
        run.define_metric(metrics, step_metric="quality")
    for quality in sorted({r.quality for s in series for r in s.runs}):
        run.log({"quality": quality, **_means(series, quality)})
    scalars: dict[str, float] = {}
    charts: dict[str, Any] = {}
    tables: dict[str, Any] = {}
    for metric, rows in ((PSNR, savings), *more):
        own = "" if metric == PSNR else f"_{metric.name}"
        scalars |= _bd_scalars(series, rows, metric)
        for domain in dict.fromkeys(d for s in series for d in s.domains):
            chart = _rd_chart(domain, series, anchors, metric)
            charts |= {f"rd{own}/{domain}": chart} if chart else {}
        tables[f"tables/rd_means{own}"] = _rd_means(series, anchors, metric)
        if rows:
            columns: list[str | int] = [
                column.replace("psnr", metric.name) for column in BD_COLUMNS
            ]
            tables[f"tables/bd_rate{own}"] = wandb.Table(columns)
        for r in rows:
            tables[f"tables/bd_rate{own}"].add_data(*(getattr(r, c) for c in BD_COLUMNS))
    for s in series:
        chosen = {domain: v for domain in s.domains if (v := s.gate(domain))}
        if not chosen:
            continue
        gate = wandb.Table(["domain", "kind", *s.trained])
        for domain, v in chosen.items():
            gate.add_data(domain, s.kind(domain), *(v[d] for d in s.trained))
        tables[f"gate/{_prefix(series, s.label)}mean_v"] = gate
    run.log({**scalars, **charts, **tables})


def _bd_scalars(
    series: Sequence[Series], savings: Sequence[Saving], metric: Scale
) -> dict[str, float]:
    own = "" if metric == PSNR else f"_{metric.name}"
    scalars = {}
    for r in savings:
        shown = r.anchor == "base" or r.blend in ("base", *JUDGED)
        if shown and r.interpolation == "akima" and not math.isnan(r.bd_rate_percent):
            against = "" if r.anchor == "base" else f"_against_{r.anchor.lower().replace(' ', '_')}"
            name = f"{r.domain}/{_prefix(series, r.series)}{r.blend}"
            scalars[f"bd_rate{own}{against}/{name}"] = r.bd_rate_percent
            if not math.isnan(r.bd_psnr_db):
                scalars[f"bd_{metric.name}{against}/{name}"] = r.bd_psnr_db
            if not math.isnan(r.bd_rate_of_images_percent):
                scalars[f"bd_rate_of_images{own}{against}/{name}"] = r.bd_rate_of_images_percent
            bounds = {"low": r.bd_rate_low, "high": r.bd_rate_high}
            scalars |= {
                f"bd_rate_{end}{own}{against}/{name}": bound
                for end, bound in bounds.items()
                if not math.isnan(bound)
            }
    return scalars


def _prefix(series: Sequence[Series], label: str) -> str:
    """What tells the series of a sweep apart in names; nothing if there is one."""
    return f"{label}/" if len(series) > 1 else ""


def _means(series: Sequence[Series], quality: int) -> dict[str, float]:
    values = {}
    for s in series:
        for run in (r for r in s.runs if r.quality == quality):
            for domain, row in run.summary["domains"].items():
                name = f"{domain}/{_prefix(series, s.label)}"
                values[f"bpp/{name.rstrip('/')}"] = row["bpp"]
                values |= {f"gain/{name}{b}": g for b, g in row.get("gain", {}).items()}
    return values


def _curves(
    series: Sequence[Series], anchors: Sequence[Point], metric: Scale
) -> Iterator[tuple[str, str, tuple[float, ...], tuple[float, ...]]]:
    """(domain, name, bpp, scores) of all mean curves."""
    for s in series:
        for domain in s.domains:
            for mode in s.modes(domain):
                c = curve(s.points(domain, mode), metric)
                yield domain, f"{_prefix(series, s.label)}{mode}", c.bpp, c.psnr
    for (label, domain), c in anchor_curves(anchors, metric).items():
        yield domain, label, c.bpp, c.psnr


def _rd_chart(
    domain: str, series: Sequence[Series], anchors: Sequence[Point], metric: Scale
) -> Any:
    """The curves of a domain; None: nothing there has a score."""
    import wandb

    names, xs, ys = [], [], []
    rates = [b for s in series for b in curve(s.points(domain, "base"), metric).bpp]
    highest = max(rates, default=0)
    for d, name, bpp, psnr in _curves(series, anchors, metric):
        # Anchors go on to rates at which the learned curves could not be told apart.
        near = [(x, y) for x, y in zip(bpp, psnr, strict=True) if x <= 1.5 * highest]
        if d == domain and near:
            names.append(name)
            xs.append([x for x, _ in near])
            ys.append([y for _, y in near])
    if not names:
        return None
    return wandb.plot.line_series(
        xs=xs,
        ys=ys,
        keys=names,
        title=f"{domain}: {metric.axis} over bits per pixel",
        xname="bpp",
    )


def _rd_means(series: Sequence[Series], anchors: Sequence[Point], metric: Scale) -> Any:
    import wandb

    table = wandb.Table(["domain", "curve", "bpp", metric.name])
    for domain, name, bpp, psnr in _curves(series, anchors, metric):
        for point in zip(bpp, psnr, strict=True):
            table.add_data(domain, name, *point)
    return table
