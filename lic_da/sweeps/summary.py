"""What a sweep saved, as tables, a report and a W&B run."""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from rich import box
from rich.console import Console
from rich.table import Table

from lic_da.errors import UserError
from lic_da.io.files import (
    read_text,
    write_json,
    write_text,
)
from lic_da.io.yaml_files import read_yaml
from lic_da.sweeps import jobs
from lic_da.sweeps.settings import ReportSettings
from lic_da.tracking.settings import LoggerSettings

if TYPE_CHECKING:
    from lic_da.data.datamodule import LabelledImage
    from lic_da.evaluation.classical import Anchor
    from lic_da.evaluation.curves import Run, Saving, Series
    from lic_da.evaluation.measure import Point
    from lic_da.evaluation.metrics import Scale
    from lic_da.sweeps.report import Pick, ReportImage

_VERSIONS = (
    "torch", "compressai", "lightning", "bjontegaard", "pillow", "pillow-jxl-plugin", "wandb",
)  # fmt: skip


def summarize(sweep: Path, report: ReportSettings, logger: LoggerSettings) -> dict[str, Any]:
    """Write ``rd_points.csv``, ``bd_rate.csv``, ``summary.json`` and ``report.html``; log them to W&B.

    Args:
        sweep: folder of the sweep; or of a run, whose tables are written to ``NAME_curves/`` in it.
        report: ``conf/report``.
        logger: ``conf/logger``.

    Returns:
        The contents of ``summary.json``.

    Raises:
        UserError: no job is finished, or jobs cannot be compared.
    """
    from lic_da import surroundings
    from lic_da.evaluation.bd_rate import MIN_POINTS
    from lic_da.evaluation.classical import anchors_of
    from lic_da.evaluation.curves import Run
    from lic_da.tracking import loggers
    from lic_da.tracking.results import log_sweep

    console = Console(stderr=True)
    classical = anchors_of(report.anchors, report.classical)
    surroundings.wandb_mode(logger.mode)
    states = jobs.states(sweep)
    runs = [r for s in states if s.state == "done" for r in Run.read_all(s.folder)]
    if not runs:
        raise UserError(f"No job of {sweep} is done, so there is nothing to summarise.")
    if states[0].folder == sweep:
        sweep = sweep / f"{sweep.name}_curves"
        sweep.mkdir(exist_ok=True)
    if (count := len({run.quality for run in runs})) < MIN_POINTS:
        console.print(
            f"BD-rates need {MIN_POINTS} qualities, and here {'is' if count == 1 else 'are'} {count}: the "
            "tables will have none.",
            style="yellow",
            soft_wrap=True,
        )
    tables = _tables(sweep, runs, classical, report, console)
    versions = _versions(tables.series, loggers.git_commit())
    summary = _summary(sweep, states, tables.series, tables.savings, versions)
    write_json(sweep / "summary.json", summary)
    _report(sweep, states, tables, [c.name for c in classical], report, versions, console)
    logged, bd_rate = sweep / "wandb_logged", sweep / "bd_rate.csv"
    digest = hashlib.sha256(bd_rate.read_bytes()).hexdigest()
    done = logged.is_file() and read_text(logged) == digest
    of_all = (tables.series, tables.anchors, tables.savings, summary, tables.others)
    if not done and log_sweep(sweep, logger, *of_all):
        write_text(logged, digest)
    Console().print(_table(tables.savings), highlight=False)
    if any(r.images_compared for r in tables.savings):
        Console().print(_spread(tables.savings), highlight=False)
    for metric, own in tables.others:
        if own:
            Console().print(_table(own, metric.title), highlight=False)
    print(
        f"Tables rd_points.csv, bd_rate.csv and summary.json are in {sweep}\n"
        f"Report: {sweep / 'report.html'}"
    )
    return summary


@dataclass(frozen=True)
class _Tables:
    """What was read and computed of a sweep.

    Attributes:
        series: the curves.
        anchors: points of the classical codecs.
        savings: what is saved, by PSNR.
        others: metrics beside PSNR, and what is saved by them.
        images: test images per domain, as far as they are there.
        notes: what there is to say of all that.
    """

    series: list[Series]
    anchors: list[Point]
    savings: list[Saving]
    others: list[tuple[Scale, list[Saving]]]
    images: dict[str, list[LabelledImage]]
    notes: list[str]


def _tables(
    sweep: Path,
    runs: Sequence[Run],
    classical: Sequence[Anchor],
    report: ReportSettings,
    console: Console,
) -> _Tables:
    """Write ``rd_points.csv``, ``bd_rate.csv`` and those of other metrics."""
    from lic_da.evaluation.curves import savings, series_of, write_savings
    from lic_da.evaluation.measure import ANCHORS, read_points, write_points

    series = series_of(runs)
    images, incomplete, notes = _test_images(series, console)
    # A classical codec is compared on the very images that the runs were tested on, or not at all.
    whole = {domain: own for domain, own in images.items() if domain not in incomplete}
    cache = Path(runs[0].config["data"]["data_dir"]) / "anchors"
    anchors, more = _anchors(classical, whole, cache, report.anchor_ms_ssim, console)
    gate_domains = list(dict.fromkeys(d for s in series for d in s.trained))
    points = [p for s in series for r in s.runs for p in r.points]
    write_points([*points, *anchors], sweep / "rd_points.csv", gate_domains)
    # What is reported is what can be computed again from the table, to the last digit.
    anchors = [p for p in read_points(sweep / "rd_points.csv") if p.method in ANCHORS]
    rows = savings(series, anchors, resamples=report.resamples)
    write_savings(rows, sweep / "bd_rate.csv")
    others = _other_metrics(series, anchors, sweep, report.resamples)
    return _Tables(series, anchors, rows, others, images, [*notes, *more])


def _report(
    sweep: Path,
    states: Sequence[jobs.JobState],
    tables: _Tables,
    anchor_names: list[str],
    report: ReportSettings,
    versions: dict[str, str],
    console: Console,
) -> None:
    """Write ``report.html``."""
    from lic_da.sweeps.report import Job, Report, write_report

    series, notes = tables.series, tables.notes
    quality = series[0].runs[len(series[0].runs) // 2].quality
    try:
        shown = _shown(series[0], quality, tables.images, report, console)
    except UserError as error:
        shown, notes = [], [*notes, f"No images are shown. {error}"]
    content = Report(
        title=sweep.name,
        jobs=[Job(s.folder.name, s.state, s.reason) for s in states],
        series=series,
        savings=tables.savings,
        anchors=tables.anchors,
        anchor_names=anchor_names,
        shown=[s for s in shown if s.pick.why != "worst"],
        worst=[s for s in shown if s.pick.why == "worst"],
        shown_quality=quality,
        notes=notes,
        command=sweep_command(sweep, series),
        versions=versions,
        metrics=tables.others,
        thumbnails=_thumbnails(tables.images, report.thumbnails),
    )
    write_report(content, sweep / "report.html")


def _other_metrics(
    series: Sequence[Series], anchors: Sequence[Point], sweep: Path, resamples: int
) -> list[tuple[Scale, list[Saving]]]:
    """Metrics beside PSNR and what is saved by them, which is written to ``bd_rate_<metric>.csv``."""
    from lic_da.evaluation.curves import savings, write_savings

    found = []
    for metric in dict.fromkeys(m for s in series for m in s.metrics):
        rows = savings(series, anchors, metric, resamples) if metric.compared else []
        found.append((metric, rows))
        if rows:
            write_savings(rows, sweep / f"bd_rate_{metric.name}.csv", metric)
    return found


def _test_images(
    series: Sequence[Series], console: Console
) -> tuple[dict[str, list[LabelledImage]], set[str], list[str]]:
    """Test images a domain that all runs were tested on, as far as they are still there.

    Returns:
        The images; domains some of whose images are gone; and what there is to say of that.
    """
    from lic_da.data.datamodule import LabelledImage
    from lic_da.data.domains import more_tests, prepare

    trained = list(dict.fromkeys(d for s in series for d in s.trained))
    images: dict[str, list[LabelledImage]] = {}
    incomplete: set[str] = set()
    notes = []
    for s in series:
        data_dir = Path(s.runs[0].config["data"]["data_dir"])
        for domain in s.domains:
            if domain in images:
                continue
            images[domain] = []
            try:
                prepared = prepare(domain, data_dir, console=console)
                if s.runs[0].config["data"].get("more_tests"):
                    prepared = more_tests(prepared, data_dir, console)
            except UserError as error:
                notes.append(f"{domain}: its images cannot be had, so nothing is shown. {error}")
                incomplete.add(domain)
                continue
            tested = {p.image for p in s.runs[0].points if p.domain == domain}
            label = trained.index(domain) if domain in trained else -1
            images[domain] = [
                LabelledImage(p, prepared.path(p), domain, label)
                for p in prepared.split("test")
                if p.name in tested
            ]
            if len(images[domain]) < len(tested):
                notes.append(
                    f"{domain}: {len(tested) - len(images[domain])} of {len(tested)} images are no "
                    "longer there; classical codecs were left out on it."
                )
                incomplete.add(domain)
    return images, incomplete, notes


def _anchors(
    codecs: Sequence[Anchor],
    images: dict[str, list[LabelledImage]],
    cache: Path,
    ms_ssim: bool,
    console: Console,
) -> tuple[list[Point], list[str]]:
    """Points of the anchors, and which of them cannot be had here."""
    flat = [entry for own in images.values() for entry in own]
    points: list[Point] = []
    notes = []
    for codec in codecs:
        try:
            points += codec.measured(flat, cache, console, ms_ssim=ms_ssim)
        except UserError as error:
            notes.append(f"Left out: {error}")
            console.print(notes[-1], highlight=False, soft_wrap=True)
    return points, notes


def _thumbnails(
    images: Mapping[str, Sequence[LabelledImage]], side: int
) -> dict[tuple[str, str], str]:
    """Small images for the report, by (domain, image); none where their side is 0."""
    from lic_da.io.images import read_rgb
    from lic_da.sweeps.report import thumbnail

    if not side:
        return {}
    return {
        (e.domain, e.info.name): thumbnail(read_rgb(e.path), side)
        for own in images.values()
        for e in own
    }


def _shown(
    series: Series,
    quality: int,
    images: dict[str, list[LabelledImage]],
    report: ReportSettings,
    console: Console,
) -> list[ReportImage]:
    """Some images of every domain and the worst ones, decoded again from the pack of a run."""
    from lic_da.evaluation.images import Examples
    from lic_da.evaluation.measure import measure
    from lic_da.methods.pack import load
    from lic_da.sweeps.report import gains, pick, report_image

    picks: list[Pick] = pick(gains(series, quality), report.examples, report.worst)
    entries = {(e.domain, e.info.name): e for own in images.values() for e in own}
    chosen = {(p.domain, p.image): entries[p.domain, p.image] for p in picks
              if (p.domain, p.image) in entries}  # fmt: skip
    run = next(r for r in series.runs if r.quality == quality)
    examples = Examples(per_domain=len(chosen))
    points = measure(
        load(run.folder / "pack", quality=quality),
        list(chosen.values()),
        run=run.folder.name,
        modes=["base", series.judged],
        metrics=["psnr"],
        effort=max(p.effort for p in run.points),
        decoded=examples,
        console=console,
    )
    by_name = dict(zip(chosen, examples.kept, strict=True))
    bpp = {(p.domain, p.image, p.blend): p.bpp for p in points}
    return [
        report_image(
            p,
            by_name[p.domain, p.image],
            bpp[p.domain, p.image, "base"],
            bpp[p.domain, p.image, series.judged],
        )
        for p in picks
        if (p.domain, p.image) in by_name
    ]


def _versions(series: Sequence[Series], commit: str) -> dict[str, str]:
    """Commits that the runs were made at and that they are summarised at, and packages as they are now."""
    made = sorted({r.summary.get("git_commit", "unknown") for s in series for r in s.runs})
    commits = {"lic_da commit": ", ".join(made)}
    if made != [commit]:
        commits["summarised at"] = commit
    installed = {name: importlib.metadata.version(name) for name in _VERSIONS}
    return {**commits, "Python": platform.python_version(), **installed}


def sweep_command(sweep: Path, series: Sequence[Series]) -> str:
    """The command line that makes the sweep: what was asked last, with all qualities asked or done."""
    stored = sweep / "multirun.yaml"
    if not stored.is_file():
        return "The sweep's own command was not kept."
    overrides = read_yaml(stored)["hydra"]["overrides"]["task"]
    qualities = {str(r.config["codec"]["quality"]) for s in series for r in s.runs}
    arguments = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if override.key_or_group != "codec.quality":
            arguments.append(str(override.input_line))
        elif override.is_sweep_override():
            qualities |= set(override.sweep_string_iterator())
        else:
            qualities.add(str(override.value()))
    arguments.append("codec.quality=" + ",".join(sorted(qualities, key=lambda q: (len(q), q))))
    return shlex.join(["python", "-m", "lic_da.train", "-m", *arguments])


def _summary(
    sweep: Path,
    states: Sequence[jobs.JobState],
    series: Sequence[Series],
    rows: Sequence[Saving],
    versions: dict[str, str],
) -> dict[str, Any]:
    """``summary.json``: jobs, series with gains, gate and Akima BD-rates a domain; nan is null."""
    return {
        "sweep": sweep.name,
        "jobs": [
            {"name": s.folder.name, "state": s.state, "reason": s.reason or None} for s in states
        ],
        "series": [
            {
                "label": s.label,
                "codec": s.codec,
                "method": s.method,
                "domains": list(s.trained),
                "qualities": [r.quality for r in s.runs],
                "tested": {d: _domain(s, d, rows) for d in s.domains},
            }
            for s in series
        ],
        "versions": versions,
    }


def _domain(series: Series, domain: str, rows: Sequence[Saving]) -> dict[str, Any]:
    own = [r for r in rows if (r.series, r.domain) == (series.label, domain)]
    akima = [r for r in own if r.interpolation == "akima"]
    deltas: dict[str, dict[str, Any]] = {}
    for r in akima:
        deltas.setdefault(r.blend, {})[r.anchor] = _against(r)
    return {
        "kind": series.kind(domain),
        "images": own[0].images if own else 0,
        "gain_db": {
            str(r.quality): r.summary["domains"][domain].get("gain", {}) for r in series.runs
        },
        "gate": series.gate(domain),
        "against": deltas,
    }


def _against(row: Saving) -> dict[str, Any]:
    """What a row says, for ``summary.json``; intervals where there are any."""
    own = ("bd_rate_percent", "bd_psnr_db", "bd_rate_of_images_percent", "bd_psnr_of_images_db")
    found: dict[str, Any] = {name: _or_null(getattr(row, name)) for name in own}
    found |= {"images_compared": row.images_compared, "images_left_out": row.images_left_out}
    for name in ("bd_rate", "bd_psnr"):
        bounds = [getattr(row, f"{name}_{end}") for end in ("low", "high")]
        if not any(map(math.isnan, bounds)):
            found[f"{name}_interval"] = bounds
    return found | ({"reason": row.reason} if row.reason else {})


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else value


def _spread(rows: Sequence[Saving]) -> Table:
    """How sure the BD-rates are, and what the other convention says, for the terminal."""
    from lic_da.evaluation.measure import JUDGED

    table = Table(
        title="The same: 95 % over images, mean of images' own",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    akima = [r for r in rows if (r.anchor, r.interpolation) == ("base", "akima")]
    akima = [r for r in akima if r.blend in JUDGED]
    several = len({r.series for r in akima}) > 1
    for name in (*(["series"] if several else []), "domain"):
        table.add_column(name)
    for name in ("95 %", "mean of images", "images", "left out"):
        table.add_column(name, justify="right", no_wrap=True)
    for r in akima:
        low, high, own = (
            "–" if math.isnan(value) else f"{value:+.2f}"
            for value in (r.bd_rate_low, r.bd_rate_high, r.bd_rate_of_images_percent)
        )
        counts = (str(r.images_compared), str(r.images_left_out))
        cells = (r.domain if r.seen else f"{r.domain}*", f"{low} … {high}", own, *counts)
        table.add_row(*([r.series] if several else []), *cells)
    return table


def _table(rows: Sequence[Saving], metric: str = "PSNR") -> Table:
    """BD-rates against the base codec, for the terminal."""
    table = Table(
        title=f"BD-rate in % (BD-{metric} in dB) against the base codec, Akima",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    akima = [r for r in rows if (r.anchor, r.interpolation) == ("base", "akima")]
    several = len({r.series for r in akima}) > 1
    modes = list(dict.fromkeys(r.blend for r in akima))
    for name in (*(["series"] if several else []), "domain"):
        table.add_column(name)
    for mode in modes:
        table.add_column(mode, justify="right", no_wrap=True)
    for series, domain in dict.fromkeys((r.series, r.domain) for r in akima):
        own = {r.blend: r for r in akima if (r.series, r.domain) == (series, domain)}
        seen = next(iter(own.values())).seen
        cells = [
            f"{own[b].bd_rate_percent:+.2f} ({own[b].bd_psnr_db:+.2f})" if b in own else "–"
            for b in modes
        ]
        table.add_row(*([series] if several else []), domain if seen else f"{domain}*", *cells)
    reasons = sorted({r.reason for r in akima if r.reason})
    table.caption = "\n".join(["* never trained on", *(f"nan: {reason}" for reason in reasons)])
    table.caption_justify = "left"
    return table
