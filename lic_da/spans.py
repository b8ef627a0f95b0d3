"""Axes of images and latents, cut into overlapping parts. No torch in here."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

_SMALLEST = 8  # side of a tile; below, convolutions take other ways and round differently


class Span(NamedTuple):
    """Part of an axis, in elements of the latent: start to stop from what is at first to last."""

    start: int
    stop: int
    first: int
    last: int

    def wanted(self, scale: int = 1) -> slice:
        """Where the tile lies in the whole."""
        return slice(self.start * scale, self.stop * scale)

    def computed(self, scale: int = 1) -> slice:
        """Where the tile with its halo lies in the whole."""
        return slice(self.first * scale, self.last * scale)

    def inside(self, scale: int = 1) -> slice:
        """Where the tile lies in the tile with its halo."""
        return slice((self.start - self.first) * scale, (self.stop - self.first) * scale)


def tile_side(
    rows: int, columns: int, halo: int | None, grid: int, bytes_each: int, memory: int
) -> int | None:
    """Side of the tiles that a latent is cut into, in its elements; None if it is better not cut.

    Args:
        rows: of the latent.
        columns: of the latent.
        halo: what is computed on each side of a tile; None: it cannot be cut.
        grid: tiles begin at multiples of this, and their side is one.
        bytes_each: of activations for an element.
        memory: bytes that activations may take.
    """
    if halo is None or rows * columns * bytes_each <= memory:
        return None
    side = max(_SMALLEST, math.isqrt(memory // bytes_each) - 2 * halo)
    return max(1, side // grid) * grid


def spans(length: int, side: int | None, halo: int, grid: int = 1) -> list[Span]:
    """An axis cut into parts of nearly equal length, at most ``side``; None: into one.

    Args:
        length: of the axis.
        side: of the parts, at least ``grid``.
        halo: what is computed on each side of a part; a multiple of ``grid``.
        grid: parts begin at multiples of this.
    """
    units = math.ceil(length / grid)
    count = 1 if side is None else math.ceil(units / (side // grid))
    cuts = [min(length, grid * (units * i // count)) for i in range(count + 1)]
    return [Span(a, b, max(0, a - halo), min(length, b + halo)) for a, b in pairwise(cuts)]
