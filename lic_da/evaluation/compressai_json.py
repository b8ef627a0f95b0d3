"""Curves in the JSON of CompressAI's tools: ``eval_model`` and ``bench`` write it, ``plot`` reads it.

::

    {"name": …, "description": …, "meta": {…}, "results": {
        "bpp": […], "psnr-rgb": […], "ms-ssim-rgb": […], "encoding_time": […], "decoding_time": […]}}

The lists have an entry a quality, each a mean over images; MS-SSIM is linear, times are seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from lic_da.data.datamodule import LabelledImage
from lic_da.errors import UserError, unknown
from lic_da.evaluation.measure import PUBLISHED, Point, mean
from lic_da.io.files import read_json, user_path

_KEYS = {"psnr": "psnr-rgb", "ms_ssim": "ms-ssim-rgb"}
_OLDER = {"psnr-rgb": "psnr", "ms-ssim-rgb": "ms-ssim"}


def content(
    points: Sequence[Point], name: str, description: str, meta: Mapping[str, Any]
) -> dict[str, Any]:
    """What such a file holds of one curve.

    Args:
        points: of one codec and way to decode, of any qualities; each is a mean over its images.
        name: for the legend of a plot.
        description: one line.
        meta: whatever else is to be known; the qualities and the number of images are added.

    Returns:
        Plain values. A metric that some image has no score by is left out and named in
        ``meta["left_out"]``, because its curve is over other images than the rate.
    """
    by_quality: dict[int, list[Point]] = {}
    for p in sorted(points, key=lambda p: p.quality):
        by_quality.setdefault(p.quality, []).append(p)
    groups = list(by_quality.values())
    results = {"bpp": [mean(p.bpp for p in group) for group in groups]}
    left_out = []
    for metric in ("psnr", "ms_ssim", *dict.fromkeys(name for p in points for name in p.more)):
        scores = [mean(p.score(metric) for p in group) for group in groups]
        if all(map(math.isfinite, scores)):
            results[_KEYS.get(metric, metric.replace("_", "-"))] = scores
        elif any(math.isfinite(p.score(metric)) for p in points):
            left_out.append(metric)
    for key, column in (("encoding_time", "encode_s"), ("decoding_time", "decode_s")):
        seconds = [mean(getattr(p, column) for p in group) for group in groups]
        if all(map(math.isfinite, seconds)):
            results[key] = seconds
    images = len({(p.domain, p.image) for p in points})
    own = {"qualities": list(by_quality), "images": images}
    return {
        "name": name,
        "description": description,
        "meta": {**meta, **own, **({"left_out": left_out} if left_out else {})},
        "results": results,
    }


@dataclass(frozen=True)
class PublishedCurve:
    """A curve to compare with, out of a file in CompressAI's format.

    The file says nothing of its images, so the user does: they have to be those that the runs are tested
    on, or the comparison means nothing.

    Args:
        label: short name, for curves.
        file: it is of.
        domain: name of the domain whose test images the file was measured on.
        results: its lists by :class:`Point`'s names, such as ``bpp``, ``psnr`` and ``ms_ssim``.
    """

    label: str
    file: Path
    domain: str
    results: Mapping[str, tuple[float, ...]]

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> PublishedCurve:
        """The curve that an entry of ``report.anchors`` names.

        Args:
            entry: ``path``, ``domain`` and maybe ``label``; without it the file's own name counts.

        Raises:
            UserError: the entry says something else, there is no such file, or it is of another format.
        """
        values = {k: v for k, v in entry.items() if k != "kind"}
        if not {"path", "domain"} <= values.keys() <= {"path", "domain", "label"}:
            raise UserError(
                "report.anchors: {kind: compressai_json} needs path, domain (whose test images the file "
                "was measured on) and maybe label, but has "
                f"{', '.join(map(str, values)) or 'none of them'}."
            )
        file = user_path(str(values["path"]))
        try:
            data = read_json(file)
        except FileNotFoundError:
            raise UserError(f"report.anchors: there is no {file}.") from None
        results = _results(data, file)
        label = values.get("label") or (data.get("name") if "results" in data else None)
        return cls(str(label or file.stem), file, str(values["domain"]), results)

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.label} (published curve, {self.file.name})"

    def measured(
        self,
        images: Sequence[LabelledImage],
        cache: Path,
        console: Console | None = None,
        *,
        ms_ssim: bool = False,
    ) -> list[Point]:
        """One point a quality, a mean over images: nothing is coded.

        Args:
            images: test images of the domains that are compared on.
            cache: not used.
            console: not used.
            ms_ssim: not used; it is there if the file has it.

        Raises:
            UserError: the curve's domain is not among them.
        """
        labels = {entry.domain: entry.label for entry in images}
        if self.domain not in labels:
            raise unknown("domain", self.domain, labels, f"of {self.file}")
        return [
            self._point(number, labels[self.domain] >= 0)
            for number in range(len(self.results["bpp"]))
        ]

    def _point(self, number: int, seen: bool) -> Point:
        values = {key: own[number] for key, own in self.results.items()}
        return Point(
            run="anchor",
            codec=self.label,
            quality=number + 1,
            lmbda=math.nan,
            method=PUBLISHED,
            blend="none",
            domain=self.domain,
            seen=seen,
            image=self.file.name,
            width=0,
            height=0,
            string_bytes=0,
            file_bytes=0,
            bpp=values["bpp"],
            bpp_estimated=math.nan,
            psnr=values["psnr"],
            ms_ssim=values.get("ms_ssim", math.nan),
            encode_s=values.get("encode_s", math.nan),
            decode_s=values.get("decode_s", math.nan),
            gate={},
        )


def _results(data: Any, file: Path) -> dict[str, tuple[float, ...]]:
    """The lists of a file, by the names that they have here.

    Raises:
        UserError: it has none, or they are of different lengths, or no numbers.
    """
    raw = data.get("results", data) if isinstance(data, dict) else None
    if not isinstance(raw, dict):
        raise UserError(f"{file} holds no results of CompressAI's format.")
    names = {"bpp": "bpp", "encoding_time": "encode_s", "decoding_time": "decode_s"}
    names |= {key: metric for metric, key in _KEYS.items()}
    found = {}
    for key, name in names.items():
        values = raw.get(key, raw.get(_OLDER.get(key, key)))
        if values is None:
            continue
        if not isinstance(values, list) or not all(
            type(v) in (int, float) and math.isfinite(v) for v in values
        ):
            raise UserError(f"{file}: {key} is not a list of numbers.")
        found[name] = tuple(float(v) for v in values)
    for key, name in (("bpp", "bpp"), ("psnr-rgb", "psnr")):
        if not found.get(name):
            raise UserError(f"{file} has no {key}, which a curve needs.")
    if len({len(values) for values in found.values()}) > 1:
        raise UserError(f"{file}: its lists are of different lengths.")
    if any(v > 1 for v in found.get("ms_ssim", ())):
        raise UserError(f"{file}: ms-ssim-rgb must be linear, at most 1, and not in decibels.")
    return found
