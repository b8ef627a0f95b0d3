"""Results of runs and sweeps in the formats of other tools: ``lic-da results export``."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lic_da.errors import UserError, unknown
from lic_da.evaluation.compressai_json import content
from lic_da.evaluation.curves import Run, Series, series_of
from lic_da.evaluation.measure import ANCHORS, Point, read_points
from lic_da.io.files import write_json
from lic_da.surroundings import printable
from lic_da.sweeps import jobs

FORMATS = ("compressai",)


def read_series(folder: Path) -> list[Series]:
    """The series of a run or a sweep.

    Raises:
        UserError: it is neither, or nothing of it is finished.
    """
    if (folder / "config.yaml").is_file():
        return series_of(Run.read_all(folder))
    found = jobs.states(folder)
    runs = [r for s in found if s.state == "done" for r in Run.read_all(s.folder)]
    if not runs:
        raise UserError(f"No job of {folder} is done, so there is nothing to export.")
    for job in (job for job in found if job.state != "done"):
        print(printable(f"Left out: {job.folder.name}, {job.state}: {job.reason}"), file=sys.stderr)
    return series_of(runs)


def export(
    source: Path,
    target: Path,
    *,
    domains: Sequence[str] = (),
    mode: str | None = None,
    label: str | None = None,
    name: str | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write curves in the JSON of CompressAI's tools.

    Args:
        source: folder of a run or a sweep.
        target: a ``.json`` file: one curve, over all images of the domains together. Anything else is a
            folder: a file for each series, domain and mode, and for each anchor of a sweep.
        domains: whose test images; none: of a file the seen ones, of a folder all.
        mode: of a file, the way to decode; None: the one the method is judged by. Of a folder, None: all.
        label: of the series to export, where a sweep has several; None: of a folder all.
        name: of the curve, of a file; None: made of codec, method and domains.
        overwrite: replace files that exist.

    Returns:
        The files written.

    Raises:
        UserError: there is no such run, series, domain or mode, or a file is there already.
    """
    every, domains = read_series(source), tuple(dict.fromkeys(domains))
    series = [s for s in every if label in (None, s.label)]
    if not series:
        raise unknown("series", label, [s.label for s in every])
    for domain in domains:
        tested = list(dict.fromkeys(d for s in series for d in s.domains))
        if domain not in tested:
            raise unknown("domain", domain, tested)
    if target.suffix == ".json":
        if len(series) > 1:
            raise UserError(
                f"{source} has several series, and a file holds one curve: name one by --series, or a "
                f"folder instead of {target}. Series: {'; '.join(s.label for s in series)}."
            )
        files = {target: _curve(series[0], domains or series[0].trained, mode, name)}
    elif name is not None:
        raise UserError("A name is for one curve: let OUT end in .json.")
    else:
        named = _curves(series, source, domains, mode)
        files = {target / f"{file}.json": curve for file, curve in named}
    if not files:
        raise UserError(f"No domain of {source} was decoded in the mode {mode}.")
    if not overwrite and (there := [path for path in files if path.exists()]):
        raise UserError(f"{there[0]} exists; --overwrite replaces it.")
    for path, curve in files.items():
        write_json(path, curve)
    return list(files)


def _curves(
    series: Sequence[Series], source: Path, domains: Sequence[str], mode: str | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names of files and what goes into them."""
    for s in series:
        before = (s.label,) if len(series) > 1 else ()
        for domain in domains or s.domains:
            modes = s.modes(domain) if mode is None else (mode,)
            for own in modes:
                if not domains and own not in s.modes(domain):
                    continue  # of all domains, those that were decoded so: unseen ones have no oracle
                yield _slug(*before, domain, own), _curve(s, [domain], own, None)
    table = source / "rd_points.csv"
    if mode is None and table.is_file():
        anchors: dict[tuple[str, str], list[Point]] = {}
        for p in read_points(table):
            if p.method in ANCHORS and (not domains or p.domain in domains):
                anchors.setdefault((p.domain, p.codec), []).append(p)
        for (domain, codec), points in anchors.items():
            text = f"{codec}, test images of {domain}; rates of whole files"
            curve = content(points, f"{codec}, {domain}", text, {"dataset": domain})
            yield _slug(domain, codec), curve


def _slug(*parts: str) -> str:
    return re.sub(r"[^\w.=+-]+", "-", "_".join(parts))


def _curve(s: Series, domains: Sequence[str], mode: str | None, name: str | None) -> dict[str, Any]:
    chosen = mode or s.judged
    points = []
    for domain in domains:
        if chosen not in s.modes(domain):
            raise unknown("mode", chosen, s.modes(domain), f"for domain {domain} of {s.label}")
        points += s.points(domain, chosen)
    tested = "+".join(domains)
    meta = {
        "dataset": tested,
        "codec": s.codec,
        "method": s.method,
        "blend": chosen,
        "domains": list(s.trained),
        "series": s.label,
        "made_by": f"lic_da {importlib.metadata.version('lic-da')}",
    }
    how = "base decoder" if chosen == "base" else f"{s.method}, {chosen}"
    text = f"{s.codec}, {how}; test images of {tested}; rates of entropy-coded strings"
    return content(points, name or f"{s.codec}, {how}, {tested}", text, meta)
