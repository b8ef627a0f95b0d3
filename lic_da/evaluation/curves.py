"""Rate-distortion curves out of the runs of a sweep, and what they save against base and anchors.

A series is what remains of runs when only the quality differs: one method, codec, set of domains and
seed, with a point a quality. Scores are averaged over images first; Bjøntegaard deltas are taken
between the mean curves. The mean of the images' own deltas, which some publish, stands beside them, and
how far they go when other images are drawn (:mod:`lic_da.evaluation.by_image`).
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lic_da.errors import UserError
from lic_da.evaluation.bd_rate import INTERPOLATIONS, Curve, delta
from lic_da.evaluation.by_image import DeltaIntervals, ImageCurves, delta_intervals, own_deltas
from lic_da.evaluation.measure import (
    ANCHORS,
    Point,
    judged,
    mean,
    read_points,
)
from lic_da.evaluation.metrics import METRICS, Scale, scales
from lic_da.io.files import atomic_path, read_json
from lic_da.io.yaml_files import read_yaml
from lic_da.migrations import run_settings
from lic_da.same_settings import CURVE

BD_COLUMNS = (
    "domain", "seen", "codec", "method", "blend", "anchor", "bd_rate_percent", "bd_psnr_db",
    "interpolation", "points", "images", "series", "reason",
    "bd_rate_low", "bd_rate_high", "bd_psnr_low", "bd_psnr_high",
    "bd_rate_of_images_percent", "bd_psnr_of_images_db", "images_compared", "images_left_out",
)  # fmt: skip
PSNR = METRICS["psnr"].scale
_LABELLED = (
    "domains", "unseen", "data.domains", "data.unseen", "data.seed", "method.name",
    "method.training.seed", "codec.qualities",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A finished run, at one of its qualities.

    Attributes:
        folder: of the run.
        config: its ``config.yaml``, in today's words.
        summary: what its ``summary.json`` says of the quality.
        points: of the quality in its ``rd_points.csv``.
        quality: of the codec.
    """

    folder: Path
    config: Mapping[str, Any]
    summary: dict[str, Any]
    points: tuple[Point, ...]
    quality: int

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Read a run; of one for all qualities that which its summary begins with.

        Raises:
            UserError: files of it are missing or damaged.
        """
        every = cls.read_all(folder)
        own = read_json(folder / "summary.json").get("quality")
        return next((run for run in every if run.quality == own), every[0])

    @classmethod
    def read_all(cls, folder: Path) -> list[Run]:
        """Read a run at each quality that was measured, the lowest first.

        Raises:
            UserError: as :meth:`read`.
        """
        try:
            config = run_settings(read_yaml(folder / "config.yaml"))
            summary = read_json(folder / "summary.json")
            if not isinstance(summary, dict) or "base_fingerprint" not in summary:
                raise ValueError(f"{folder / 'summary.json'} is no summary of a run")
        except (OSError, UserError, ValueError) as error:
            raise UserError(f"{folder} does not hold a finished run ({error}).") from error
        points = read_points(folder / "rd_points.csv")
        rates = summary.pop("rates", None)
        if rates is None:
            return [cls(folder, config, summary, tuple(points), int(config["codec"]["quality"]))]
        found = []
        for quality, of_quality in rates.items():
            own = tuple(p for p in points if p.quality == int(quality))
            found.append(cls(folder, config, {**summary, **of_quality}, own, int(quality)))
        return found

    def validated(self) -> dict[str, float]:
        """PSNR in dB of the validation images at the end, mixed by the gate, of each domain.

        Raises:
            UserError: the run has no log, or is of another method.
        """
        prefix = "val/psnr_weighted/"
        found: dict[str, float] = {}
        for log in self._logs():
            with open(log, encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file):
                    values = ((k, v) for k, v in row.items() if k.startswith(prefix) and v)
                    found |= {key.removeprefix(prefix): float(value) for key, value in values}
        if not found:
            raise UserError(f"{self.folder} has no log of validations by the gate.")
        return found

    def logged(self, name: str) -> list[tuple[int, float]]:
        """Steps and values of what was logged under a name, the last session's where a step has two."""
        found: dict[int, float] = {}
        for path in self._logs():
            with open(path, encoding="utf-8", newline="") as file:
                found |= {
                    int(r["step"]): float(r[name]) for r in csv.DictReader(file) if r.get(name)
                }
        return sorted(found.items())

    def _logs(self) -> list[Path]:
        """The logs of all sessions, the first one first."""
        logs = self.folder.glob("logs/version_*/metrics.csv")
        return sorted(logs, key=lambda path: int(path.parent.name.removeprefix("version_")))

    @property
    def settings(self) -> dict[str, Any]:
        """All that tells its series from another, as dotted key and value."""
        return CURVE.counts(self.config)


@dataclass(frozen=True)
class Series:
    """Runs that differ in quality alone, the lowest quality first.

    Attributes:
        label: short and unique in its sweep: domains, and whatever else tells it from the others.
        runs: at least one.
    """

    label: str
    runs: tuple[Run, ...]

    @property
    def codec(self) -> str:
        """Name of the codec."""
        return str(self.runs[0].config["codec"]["name"])

    @property
    def method(self) -> str:
        """How the codec was adapted."""
        return self.runs[0].points[0].method

    @property
    def source(self) -> str:
        """Name of the source domain."""
        return str(self.runs[0].config["data"]["source"])

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the domains it was made for, the source first, whether that was trained on or not."""
        return tuple(dict.fromkeys(p.domain for p in self.runs[0].points if p.seen))

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains it was tested on, the seen ones first."""
        return tuple(dict.fromkeys(p.domain for p in self.runs[0].points))

    def modes(self, domain: str) -> tuple[str, ...]:
        """Modes that were measured on a domain."""
        return tuple(dict.fromkeys(p.blend for p in self.runs[0].points if p.domain == domain))

    def points(self, domain: str, mode: str) -> list[Point]:
        """Points of a domain and mode, of all qualities."""
        return [p for r in self.runs for p in r.points if (p.domain, p.blend) == (domain, mode)]

    @property
    def judged(self) -> str:
        """The mode that the method is judged by."""
        return judged(p.blend for p in self.runs[0].points) or "base"

    @property
    def same_rates(self) -> bool:
        """Whether it codes images by the base codec's strings, so that its gains are at equal rates."""
        rows = (row for r in self.runs for row in r.summary["domains"].values())
        return not any("bpp_base" in row for row in rows)

    @property
    def metrics(self) -> tuple[Scale, ...]:
        """Metrics beside PSNR that there are scores of."""
        known = {scale.name: scale for run in self.runs for scale in scales(run.summary)}
        return tuple(
            scale
            for name, scale in known.items()
            if name != "psnr" and any(not math.isnan(p.score(name)) for p in self.runs[0].points)
        )

    def kind(self, domain: str) -> str:
        """``source``, ``seen`` or ``unseen``."""
        if domain == self.source:
            return "source"
        return "seen" if domain in self.trained else "unseen"

    @property
    def effort(self) -> int:
        """What the encoder spent on streams but the base's, at most."""
        return max(p.effort for r in self.runs for p in r.points)

    def gate(self, domain: str, mode: str = "weighted") -> dict[str, float]:
        """Mean v over a domain's images and all qualities; empty if there is none of that mode."""
        gates = [p.gate for p in self.points(domain, mode) if p.gate]
        return {d: mean(g[d] for g in gates) for d in gates[0]} if gates else {}


def series_of(runs: Iterable[Run]) -> list[Series]:
    """Sort runs into series.

    Raises:
        UserError: runs that should be comparable are not: other base weights or other test images.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:  # what is null is as if it was not there, as in runs from before it was
        said = {name: value for name, value in run.settings.items() if value is not None}
        groups.setdefault(json.dumps(said, sort_keys=True), []).append(run)
    ordered = [tuple(sorted(runs, key=lambda r: r.quality)) for runs in groups.values()]
    labels = _labels([runs[0] for runs in ordered])
    series = [Series(label, runs) for label, runs in zip(labels, ordered, strict=True)]
    _check_comparable(series)
    return sorted(series, key=lambda s: (-len(s.trained), s.label))


def _labels(runs: Sequence[Run]) -> list[str]:
    """A label for each series, given a run of each: its domains, and what else tells it apart."""
    settings = [run.settings for run in runs]
    keys = sorted({key for s in settings for key in s})
    methods = [run.points[0].method for run in runs]
    differ = [k for k in keys if _differs(k, settings, methods)]
    # The codec's name stands for all that comes with it, as the domains do.
    codecs = len({s["codec.name"] for s in settings}) > 1
    hidden = (*_LABELLED, *(("codec.", "data.", "method.") if codecs else ()))
    labels: list[str] = []
    for run, values in zip(runs, settings, strict=True):
        parts = ["+".join(values["domains"]) or f"pile {values.get('pile')}"]
        if codecs:
            parts.append(values["codec.name"])
        if len(set(methods)) > 1:
            parts.append(run.points[0].method)
        told = [k for k in differ if k in values and not k.startswith(hidden)]
        parts += [f"{k.split('.')[-1]}={values[k]}" for k in told]
        label = ", ".join(dict.fromkeys(parts))
        labels.append(f"{label} ({len(labels) + 1})" if label in labels else label)
    return labels


def _differs(key: str, settings: Sequence[dict[str, Any]], methods: Sequence[str]) -> bool:
    """Whether a setting differs between series; one of a method, between series of that method."""
    groups: dict[str, set[str]] = {}
    for values, method in zip(settings, methods, strict=True):
        group = method if key.startswith("method.") else ""
        groups.setdefault(group, set()).add(json.dumps(values.get(key)))
    return any(len(values) > 1 for values in groups.values())


def _check_comparable(series: Sequence[Series]) -> None:
    images: dict[str, tuple[frozenset[str], Path]] = {}
    weights: dict[tuple[str, int], tuple[str, Path]] = {}
    for run in (r for s in series for r in s.runs):
        for domain in {p.domain for p in run.points}:
            names = frozenset(p.image for p in run.points if p.domain == domain)
            known, where = images.setdefault(domain, (names, run.folder))
            if known != names:
                raise UserError(
                    f"{run.folder.name} and {where.name} were tested on different images of domain "
                    f"'{domain}'. Remove the older one and run the sweep again."
                )
        own = run.summary["base_fingerprint"]
        base, where = weights.setdefault(
            (run.config["codec"]["name"], run.quality), (own, run.folder)
        )
        if base != own:
            raise UserError(
                f"{run.folder.name} and {where.name} have different base weights. Remove the older one "
                "and run the sweep again."
            )


def curve(points: Iterable[Point], metric: Scale = PSNR) -> Curve:
    """Mean curve: bpp and scores averaged over the images of each quality that have a score.

    A metric that is told in decibels is averaged first, as :meth:`Scale.on_axis` says.
    """
    by_quality: dict[int, list[Point]] = {}
    for p in points:
        if not math.isnan(p.score(metric.name)):
            by_quality.setdefault(p.quality, []).append(p)
    return Curve.of(
        [
            (mean(p.bpp for p in ps), metric.on_axis(mean(p.score(metric.name) for p in ps)))
            for ps in by_quality.values()
        ]
    )


def anchor_curves(anchors: Iterable[Point], metric: Scale = PSNR) -> dict[tuple[str, str], Curve]:
    """Mean curves of the anchors that have scores, by (label of the anchor, domain)."""
    groups: dict[tuple[str, str], list[Point]] = {}
    for p in anchors:
        assert p.method in ANCHORS
        groups.setdefault((p.codec, p.domain), []).append(p)
    curves = {key: curve(points, metric) for key, points in groups.items()}
    return {key: c for key, c in curves.items() if c.bpp}


@dataclass(frozen=True)
class Saving:
    """A row of ``bd_rate.csv``: what a mode of a series saves on a domain against an anchor.

    ``anchor`` is ``base`` or the label of a classical codec; ``points`` is the number of points of the
    series' curve, ``images`` how many images each is a mean of. ``reason`` says why a delta is nan. Of
    another metric than PSNR ``bd_psnr_db`` is the difference of that metric, in decibels too.

    ``…_low`` and ``…_high`` bound 95 % of what the delta is when images are drawn again; they are there
    against ``base`` by Akima, and nan elsewhere. ``…_of_images…`` are means of the images' own deltas:
    over ``images_compared``, without ``images_left_out``, whose own curves cannot be compared.
    """

    domain: str
    seen: bool
    codec: str
    method: str
    blend: str
    anchor: str
    bd_rate_percent: float
    bd_psnr_db: float
    interpolation: str
    points: int
    images: int
    series: str
    reason: str
    bd_rate_low: float = math.nan
    bd_rate_high: float = math.nan
    bd_psnr_low: float = math.nan
    bd_psnr_high: float = math.nan
    bd_rate_of_images_percent: float = math.nan
    bd_psnr_of_images_db: float = math.nan
    images_compared: int = 0
    images_left_out: int = 0


def savings(
    series: Iterable[Series],
    anchors: Iterable[Point] = (),
    metric: Scale = PSNR,
    resamples: int = 0,
) -> list[Saving]:
    """Bjøntegaard deltas of every domain, series and mode, against the base codec and all anchors.

    Args:
        series: what is judged.
        anchors: points of classical codecs and of published curves.
        metric: at equal scores of which rates are compared; one that is ``compared``. Domains without
            scores are left out.
        resamples: how often images are drawn for the intervals; 0: there are none.
    """
    others: dict[tuple[str, str], list[Point]] = {}
    for p in anchors:
        if not math.isnan(p.score(metric.name)):
            others.setdefault((p.domain, p.codec), []).append(p)
    rows = []
    for s in series:
        for domain in s.domains:
            base = _scored(s.points(domain, "base"), metric)
            if not base:
                continue
            classical = {label: own for (d, label), own in others.items() if d == domain}
            for mode in s.modes(domain):
                test = _scored(s.points(domain, mode), metric)
                against = classical if mode == "base" else {"base": base, **classical}
                for anchor, points in against.items():
                    pair = _Compared(points, test, metric)
                    for interpolation in INTERPOLATIONS:
                        draws = resamples if (anchor, interpolation) == ("base", "akima") else 0
                        rows.append(_saving(s, domain, mode, anchor, pair, interpolation, draws))
    return rows


def _scored(points: Iterable[Point], metric: Scale) -> list[Point]:
    """The points that have a score."""
    return [p for p in points if not math.isnan(p.score(metric.name))]


@dataclass(frozen=True)
class _Compared:
    """Points of an anchor and of what is judged, on one domain."""

    anchor: list[Point]
    test: list[Point]
    metric: Scale

    @cached_property
    def curves(self) -> tuple[Curve, Curve]:
        """The mean curves."""
        return curve(self.anchor, self.metric), curve(self.test, self.metric)

    @cached_property
    def images(self) -> tuple[ImageCurves, ImageCurves]:
        """The images' own curves."""
        return ImageCurves.of(self.anchor, self.metric), ImageCurves.of(self.test, self.metric)


def _saving(
    series: Series,
    domain: str,
    mode: str,
    anchor: str,
    pair: _Compared,
    interpolation: str,
    resamples: int,
) -> Saving:
    """One row of the table."""
    result = delta(*pair.curves, interpolation, pair.metric.title)
    own = own_deltas(*pair.images, interpolation)
    far = (
        delta_intervals([pair.images], interpolation, resamples=resamples)
        if resamples
        else DeltaIntervals()
    )
    return Saving(
        domain=domain,
        seen=domain in series.trained,
        codec=series.codec,
        method=series.method,
        blend=mode,
        anchor=anchor,
        bd_rate_percent=result.bd_rate_percent,
        bd_psnr_db=result.bd_psnr_db,
        interpolation=interpolation,
        points=len(pair.curves[1].bpp),
        images=len(pair.test) // len(series.runs),
        series=series.label,
        reason=result.reason,
        bd_rate_low=far.bd_rate.low,
        bd_rate_high=far.bd_rate.high,
        bd_psnr_low=far.bd_psnr.low,
        bd_psnr_high=far.bd_psnr.high,
        bd_rate_of_images_percent=own.bd_rate_percent,
        bd_psnr_of_images_db=own.bd_psnr_db,
        images_compared=own.compared,
        images_left_out=own.left_out,
    )


def write_savings(rows: Iterable[Saving], path: Path, metric: Scale = PSNR) -> None:
    """Write ``bd_rate.csv``, or of another metric ``bd_rate_<metric>.csv``, with ``bd_<metric>_db``.

    Percentages and decibels get four decimals.
    """
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(c.replace("psnr", metric.name) for c in BD_COLUMNS)
        for row in rows:
            values = (getattr(row, column) for column in BD_COLUMNS)
            writer.writerow(
                ("nan" if math.isnan(v) else f"{v:.4f}") if isinstance(v, float) else v
                for v in values
            )
