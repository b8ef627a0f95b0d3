"""Writing images without loss, as PNG or WebP.

What reads images is in ``images.py``, and takes longer to import.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image

from lic_da.errors import UserError
from lic_da.io.files import output_path
from lic_da.io.shown import RGB as RGB

_WEBP_SIDE = 16383
LEVEL = 4
"""Of zlib in PNG files: half the time of its own default, 6, and files at most a tenth larger."""


def save_png(path: Path | str, pixels: RGB, level: int = LEVEL) -> None:
    """As :func:`save_lossless`, as PNG."""
    save_lossless(path, pixels, "png", level)


def save_lossless(path: Path | str, pixels: RGB, format: str = "png", level: int = LEVEL) -> None:
    """Write ``(H, W, 3)`` uint8 pixels as PNG or lossless WebP; the file appears whole or not at all.

    Args:
        path: the file.
        pixels: the image.
        format: ``png`` or ``webp``.
        level: of zlib, 0 to 9, in a PNG file.

    Raises:
        UserError: the image is too large for WebP.
    """
    if format == "webp" and max(pixels.shape[:2]) > _WEBP_SIDE:
        raise UserError(f"{path}: WebP holds at most {_WEBP_SIDE} pixels a side; use PNG.")
    with output_path(Path(path)) as temporary:
        _save(pixels, temporary, format, level)


def lossless_bytes(pixels: RGB, format: str = "png") -> bytes:
    """The bytes of the file that :func:`save_lossless` writes.

    Raises:
        UserError: as there.
    """
    if format == "webp" and max(pixels.shape[:2]) > _WEBP_SIDE:
        raise UserError(f"WebP holds at most {_WEBP_SIDE} pixels a side; use PNG.")
    buffer = io.BytesIO()
    _save(pixels, buffer, format, LEVEL)
    return buffer.getvalue()


def _save(pixels: RGB, target: Path | io.BytesIO, format: str, level: int) -> None:
    options: dict[str, Any] = (
        {"lossless": True, "exact": True} if format == "webp" else {"compress_level": level}
    )
    Image.fromarray(pixels).save(target, format=format.upper(), **options)
