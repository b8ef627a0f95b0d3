"""Classical codecs as anchors: real files written by Pillow."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from lic_da.data.datamodule import to_tensor
from lic_da.data.images import RGB


@dataclass(frozen=True)
class ClassicalCodec:
    """An encoder of Pillow with its settings.

    Args:
        name: for tables.
        format: Pillow's name of the format.
        qualities: values of its ``quality``.
        settings: other arguments of ``Image.save``.
    """

    name: str
    format: str
    qualities: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def code(self, pixels: RGB, quality: int) -> tuple[int, Tensor]:
        """Encode and decode ``(H, W, 3)`` uint8 pixels.

        Returns:
            Size of the file in bytes, and the decoded pixels, uint8 ``(3, H, W)``.
        """
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format=self.format, quality=quality, **self.settings)
        with Image.open(file) as image:
            return len(file.getvalue()), to_tensor(np.asarray(image.convert("RGB")))


JPEG = ClassicalCodec(
    "JPEG (Pillow, 4:2:0, optimised)",
    "JPEG",
    (5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90),
    {"optimize": True, "subsampling": "4:2:0"},
)
WEBP = ClassicalCodec(
    "WebP (Pillow, method 6)", "WEBP", (0, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90), {"method": 6}
)
