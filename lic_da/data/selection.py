"""Rules that pick the images of a domain by their content.

A rule looks at a drawing 256 pixels large on white and says whether it belongs. The thresholds
separate ink drawings from coloured ones in collections of mixed clip art.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lic_da.io.images import RGB

SIZE = 256


def is_ink_drawing(pixels: RGB) -> bool:
    """Black lines on white: no colour, some ink but not a silhouette, many edges.

    Args:
        pixels: ``(H, W, 3)`` uint8, about 256 pixels large.
    """
    values = pixels.astype(np.int16)
    dark = (values.mean(axis=2) < 128).mean()
    return bool(_colourfulness(values) < 3 and 0.02 <= dark <= 0.4 and _edges(values) > 0.05)


def is_colour_drawing(pixels: RGB) -> bool:
    """A drawing with colour in it; ``pixels`` as for :func:`is_ink_drawing`."""
    return _colourfulness(pixels.astype(np.int16)) >= 6


def is_not_grey(pixels: RGB) -> bool:
    """An image that is not a grey one stored as RGB; ``pixels`` as for :func:`is_ink_drawing`."""
    return _colourfulness(pixels.astype(np.int16)) > 1


def _colourfulness(values: np.ndarray) -> float:
    return float((values.max(axis=2) - values.min(axis=2)).mean())


def _edges(values: np.ndarray) -> float:
    """Share of steps of more than 60 grey levels between neighbours, both directions summed."""
    grey = values.mean(axis=2)
    across = (np.abs(np.diff(grey, axis=1)) > 60).mean()
    down = (np.abs(np.diff(grey, axis=0)) > 60).mean()
    return float(across + down)


RULES: dict[str, Callable[[RGB], bool]] = {
    "ink": is_ink_drawing,
    "colour": is_colour_drawing,
    "not_grey": is_not_grey,
}
