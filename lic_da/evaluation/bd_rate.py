"""Bjøntegaard deltas, by the bjontegaard package, on curves averaged over images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import bjontegaard

INTERPOLATIONS = ("akima", "pchip")
MIN_POINTS = 4
MIN_OVERLAP = 0.1
"""Share of the narrower curve's range that both curves must have; a delta over less says nothing."""


@dataclass(frozen=True)
class Curve:
    """A rate-distortion curve: bpp and PSNR in dB, a pair a quality.

    The curve of another metric has in the place of PSNR what :attr:`Scale.axis` of that metric says.
    """

    bpp: tuple[float, ...]
    psnr: tuple[float, ...]

    @classmethod
    def of(cls, points: Sequence[tuple[float, float]]) -> Curve:
        """Curve through (bpp, psnr) points, in order of their rate."""
        ordered = sorted(points)
        return cls(tuple(p[0] for p in ordered), tuple(p[1] for p in ordered))


@dataclass(frozen=True)
class Delta:
    """A Bjøntegaard delta; ``reason`` says why a number of it is nan, and is empty otherwise.

    ``bd_rate_percent``: change of rate at equal PSNR, negative is better. ``bd_psnr_db``: change of
    PSNR at equal rate, positive is better. Where curves share rates and no PSNR there is only the latter.
    """

    bd_rate_percent: float
    bd_psnr_db: float
    reason: str = ""


def delta(
    anchor: Curve, test: Curve, interpolation: str = "akima", quantity: str = "PSNR"
) -> Delta:
    """Bjøntegaard delta of ``test`` against ``anchor`` (Bjøntegaard 2001, VCEG-M33).

    Args:
        anchor: what is compared with.
        test: what is judged.
        interpolation: ``akima`` or ``pchip``.
        quantity: what the curves have over the rate, for reasons.

    Returns:
        nan with a reason where a curve has too few points or falls, or the curves hardly overlap: in
        PSNR for the BD-rate, in their rates for the BD-PSNR.
    """
    if min(len(anchor.bpp), len(test.bpp)) < MIN_POINTS:
        return Delta(math.nan, math.nan, f"fewer than {MIN_POINTS} points")
    if not all(map(math.isfinite, (*anchor.bpp, *anchor.psnr, *test.bpp, *test.psnr))):
        return Delta(
            math.nan, math.nan, f"an image is reproduced exactly: its {quantity} is infinite"
        )
    if not (_rises(anchor) and _rises(test)):
        return Delta(math.nan, math.nan, f"{quantity} does not rise with the rate")
    common = {"method": interpolation, "require_matching_points": False, "min_overlap": 0}
    curves = (anchor.bpp, anchor.psnr, test.bpp, test.psnr)
    rate = psnr = math.nan
    if not (reason := _apart(anchor.psnr, test.psnr, f"{quantity} ranges")):
        rate = float(bjontegaard.bd_rate(*curves, **common))
    if not (of_rates := _apart(anchor.bpp, test.bpp, "rates")):
        psnr = float(bjontegaard.bd_psnr(*curves, **common))
    return Delta(rate, psnr, "; ".join(filter(None, (reason, of_rates))))


def _rises(curve: Curve) -> bool:
    return all(b > a for values in (curve.bpp, curve.psnr) for a, b in pairwise(values))


def _apart(a: Sequence[float], b: Sequence[float], name: str) -> str:
    """Why two ranges are too far apart to be compared; empty if they are not."""
    common = min(max(a), max(b)) - max(min(a), min(b))
    if common <= 0:
        return f"the {name} do not overlap"
    share = common / min(max(a) - min(a), max(b) - min(b))
    return "" if share >= MIN_OVERLAP else f"the {name} overlap by {100 * share:.1f} % only"
