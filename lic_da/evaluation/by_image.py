"""What images say one by one: deltas of their own curves, and intervals by drawing them again.

The field knows two conventions of a BD-rate over several images::

    of the mean curve        rates and scores are averaged over images, then one curve is compared
    mean of the images' own  each image's curve is compared with its own, then the deltas are averaged

The first one weighs images by their rate and always exists where the mean curves overlap; the second one
weighs them alike and leaves out images whose curves have too little in common.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lic_da.evaluation.bd_rate import Curve, Delta, delta
from lic_da.evaluation.measure import Point, mean
from lic_da.evaluation.metrics import Scale

CONFIDENCE = 0.95
"""Share of what an interval holds."""


@dataclass(frozen=True)
class ImageCurves:
    """Rates and scores of the same images at every quality.

    Attributes:
        names: of the images.
        bpp: bits per pixel, ``(qualities, images)``.
        score: of the metric, of the same shape.
        metric: what the score is.
    """

    names: tuple[str, ...]
    bpp: NDArray[np.float64]
    score: NDArray[np.float64]
    metric: Scale

    @classmethod
    def of(cls, points: Iterable[Point], metric: Scale) -> ImageCurves:
        """Curves of one domain, codec and mode: of the images that have a score at every quality."""
        found = {
            (p.quality, p.image): (p.bpp, p.score(metric.name))
            for p in points
            if not math.isnan(p.score(metric.name))
        }
        qualities = sorted({quality for quality, _ in found})
        names = tuple(
            name
            for name in dict.fromkeys(name for _, name in found)
            if all((quality, name) in found for quality in qualities)
        )
        values = np.array([[found[q, name] for name in names] for q in qualities])
        values = values.reshape(len(qualities), len(names), 2)
        return cls(names, values[..., 0], values[..., 1], metric)

    def only(self, names: Sequence[str]) -> ImageCurves:
        """The curves of some of the images, in this order."""
        at = [self.names.index(name) for name in names]
        return ImageCurves(tuple(names), self.bpp[:, at], self.score[:, at], self.metric)

    def mean(self, chosen: NDArray[np.intp] | slice = slice(None)) -> Curve:
        """Mean curve of all images or of chosen ones, which may be chosen several times."""
        means = (values[:, chosen].mean(axis=1).tolist() for values in (self.bpp, self.score))
        return Curve.of([(b, self.metric.on_axis(s)) for b, s in zip(*means, strict=True)])


def common(*curves: ImageCurves) -> tuple[ImageCurves, ...]:
    """The same curves of the images that all of them have."""
    names = [n for n in curves[0].names if all(n in other.names for other in curves[1:])]
    return tuple(own.only(names) for own in curves)


@dataclass(frozen=True)
class OwnDeltas:
    """Mean of the images' own Bjøntegaard deltas.

    Attributes:
        bd_rate_percent: mean over the images that could be compared; nan: none of them.
        bd_psnr_db: likewise.
        compared: how many images have a BD-rate of their own.
        left_out: how many have none: their curves hardly overlap, or do not rise.
    """

    bd_rate_percent: float
    bd_psnr_db: float
    compared: int
    left_out: int


def own_deltas(anchor: ImageCurves, test: ImageCurves, interpolation: str = "akima") -> OwnDeltas:
    """Compare each image's curve with its own of the anchor; images that one of them lacks do not count."""
    a, t = common(anchor, test)
    pairs = ((a.mean(at), t.mean(at)) for at in (np.array([n]) for n in range(len(a.names))))
    deltas = [delta(*pair, interpolation, test.metric.title) for pair in pairs]
    rates = _numbers(d.bd_rate_percent for d in deltas)
    psnr = _numbers(d.bd_psnr_db for d in deltas)
    return OwnDeltas(mean(rates), mean(psnr), len(rates), len(deltas) - len(rates))


def _numbers(values: Iterable[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


@dataclass(frozen=True)
class Interval:
    """Bounds of what holds 95 % of what is found; nan where there is no telling."""

    low: float = math.nan
    high: float = math.nan

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """The central 95 % of values; nan if more than one in twenty of them is."""
        numbers = _numbers(values)
        if not numbers or len(numbers) < CONFIDENCE * len(values):
            return cls()
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(numbers, (tail, 1 - tail)).tolist()
        return cls(low, high)


Statistic = Callable[[NDArray[np.intp]], tuple[float, ...]]
"""Numbers that chosen images give; an image may be chosen several times."""


def bootstrap(
    statistic: Statistic, images: int, *, resamples: int = 1000, seed: int = 0
) -> list[Interval]:
    """95 % intervals over images by the percentile bootstrap (Efron 1979).

    Args:
        statistic: what is computed of chosen images, given their numbers.
        images: how many there are; as many are drawn, with replacement.
        resamples: how often; 0: there are no intervals.
        seed: of the draws, so that the same images give the same interval.

    Returns:
        One interval for each number of the statistic; nan with fewer than two images.
    """
    rng = np.random.default_rng(seed)
    count = len(statistic(np.arange(images)))
    if images < 2 or not resamples:
        return [Interval()] * count
    drawn = [statistic(rng.integers(images, size=images)) for _ in range(resamples)]
    return [Interval.of([values[n] for values in drawn]) for n in range(count)]


@dataclass(frozen=True)
class DeltaIntervals:
    """95 % intervals of both Bjøntegaard deltas of the mean curve."""

    bd_rate: Interval = Interval()
    bd_psnr: Interval = Interval()


def delta_intervals(
    pairs: Sequence[tuple[ImageCurves, ImageCurves]],
    interpolation: str = "akima",
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> DeltaIntervals:
    """Intervals over images of the delta of the mean curve: images are drawn, their means compared anew.

    Args:
        pairs: (anchor, test) of each training; with several seeds the mean of their deltas is judged.
            Each draw takes the same images of all of them.
        interpolation: ``akima`` or ``pchip``.
        resamples: see :func:`bootstrap`.
        seed: of the draws.
    """
    same = common(*(own for pair in pairs for own in pair))
    if not same[0].names:
        return DeltaIntervals()

    def statistic(chosen: NDArray[np.intp]) -> tuple[float, float]:
        deltas = [
            delta(anchor.mean(chosen), test.mean(chosen), interpolation, test.metric.title)
            for anchor, test in zip(same[::2], same[1::2], strict=True)
        ]
        return mean_delta(deltas)

    rate, psnr = bootstrap(statistic, len(same[0].names), resamples=resamples, seed=seed)
    return DeltaIntervals(rate, psnr)


def mean_delta(deltas: Sequence[Delta]) -> tuple[float, float]:
    """Mean BD-rate in percent and mean BD-PSNR in dB; nan if one of them is."""
    return mean(d.bd_rate_percent for d in deltas), mean(d.bd_psnr_db for d in deltas)
