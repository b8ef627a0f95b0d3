"""What the blocks of an image look like: features that tell kinds of images apart, without labels.

An image is a bag of small blocks, each described by a few numbers: how bright, how coloured, how much
structure, and whether that is ink on paper, flat colour or texture. Clusters of the blocks of all images
are *visual words*, and an image is described by how often each word is in it (J. Sivic, A. Zisserman,
*Video Google: a text retrieval approach to object matching in videos*, ICCV 2003).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lic_da.io.images import RGB, ImageProblem, read_rgb

Described = NDArray[np.float32]

SIDE = 16
"""Of a block, in pixels."""

REGION = 512
"""Of the central square of an image that is looked at, in pixels."""

_INK = 0.15  # of a block's range: pixels as near to its darkest or lightest one are ink or paper
_CONTRAST = 12  # grey levels between darkest and lightest, below which there is neither
_FLAT = 3  # grey levels between neighbours
_PAPER = 235, 245  # mean and maximum of a block that is on white


def described(path: Path) -> Described | str:
    """The blocks of an image's file, ``(N, 11)``; or why it cannot be read."""
    try:
        return describe(read_rgb(path))
    except ImageProblem as problem:
        return problem.reason


def describe(pixels: RGB) -> Described:
    """The blocks of an image.

    Args:
        pixels: ``(H, W, 3)`` uint8; sides of at least 16.

    Returns:
        ``(N, 11)``: of each block brightness, its spread, saturation, its spread, mean, 90th percentile and
        median of the differences between neighbours, share of ink and paper, share of flat places, whether
        structure is upright or level, and whether it is white.
    """
    height, width = pixels.shape[:2]
    top, left = max(0, (height - REGION) // 2), max(0, (width - REGION) // 2)
    x = pixels[top : top + REGION, left : left + REGION].astype(np.float32)
    grey = x.mean(axis=2)
    across = np.abs(np.diff(grey, axis=1, append=grey[:, -1:]))
    down = np.abs(np.diff(grey, axis=0, append=grey[-1:]))
    g, h, v = _blocks(grey), _blocks(across), _blocks(down)
    colour, change = _blocks(x.max(axis=2) - x.min(axis=2)), h + v
    low, high = g.min(axis=1), g.max(axis=1)
    place = (g - low[:, None]) / (high - low + 1e-3)[:, None]
    ends = ((place < _INK) | (place > 1 - _INK)).mean(axis=1) * (high - low > _CONTRAST)
    columns = (
        g.mean(axis=1) / 64,
        np.log1p(g.std(axis=1)),
        np.log1p(colour.mean(axis=1)),
        np.log1p(colour.std(axis=1)),
        np.log1p(change.mean(axis=1)),
        np.log1p(np.percentile(change, 90, axis=1)),
        np.log1p(np.median(change, axis=1)),
        ends,
        (change < _FLAT).mean(axis=1),
        np.log((h.mean(axis=1) + 1) / (v.mean(axis=1) + 1)),
        (high > _PAPER[1]) & (g.mean(axis=1) > _PAPER[0]),
    )
    return np.stack(columns, axis=1).astype(np.float32)


def _blocks(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(H, W)`` -> ``(N, 256)``; what is left over at right and bottom is left out."""
    rows, columns = plane.shape[0] // SIDE, plane.shape[1] // SIDE
    whole = plane[: rows * SIDE, : columns * SIDE].reshape(rows, SIDE, columns, SIDE)
    return whole.transpose(0, 2, 1, 3).reshape(rows * columns, SIDE * SIDE)
