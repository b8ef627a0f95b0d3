"""Images for people who would rather look: original, base, adapted and what changed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lic_da.data.datamodule import LabelledImage
from lic_da.evaluation.measure import judged, score

_GAP = 6
_CAPTION = 22


@dataclass
class Example:
    """One test image as decoded by base and adapted codec; uint8 ``(3, H, W)``."""

    domain: str
    name: str
    original: Tensor
    base: Tensor
    adapted: Tensor

    @property
    def psnr(self) -> tuple[float, float]:
        """PSNR of base and adapted image, in dB."""
        base = score(self.base, self.original, ms_ssim=False)[0]
        return base, score(self.adapted, self.original, ms_ssim=False)[0]

    def error_map(self) -> Tensor:
        """By how much the adapted decoder is closer (green) or farther (red), uint8 ``(3, H, W)``."""
        before = (self.base.float() - self.original.float()).abs().mean(dim=0)
        after = (self.adapted.float() - self.original.float()).abs().mean(dim=0)
        gain = ((before - after) * 8).clamp(-255, 255)
        white = Tensor([255.0, 255.0, 255.0])[:, None, None].expand(3, *gain.shape).clone()
        white[0] -= gain.clamp(min=0)
        white[2] -= gain.abs()
        white[1] -= (-gain).clamp(min=0)
        return white.clamp(0, 255).byte()


@dataclass
class Examples:
    """Keeps the first images of each domain; give it to ``measure`` as ``decoded``."""

    per_domain: int = 4
    kept: list[Example] = field(default_factory=list)

    def __call__(self, entry: LabelledImage, original: Tensor, images: dict[str, Tensor]) -> None:
        adapted = judged(images)
        if adapted is None or "base" not in images:
            return
        if sum(e.domain == entry.domain for e in self.kept) < self.per_domain:
            name = entry.info.name.rsplit("/", 1)[-1]
            self.kept.append(Example(entry.domain, name, original, images["base"], images[adapted]))


def comparison(example: Example, crop: int = 240, zoom: int = 1) -> Image.Image:
    """Original, base, adapted and error map of the crop that changed most, side by side.

    Args:
        example: what to show.
        crop: side of the crop in pixels.
        zoom: factor to enlarge it by.
    """
    y, x, side = most_changed(example, crop)
    psnr = example.psnr
    panels = (
        (example.original, f"original ({example.domain})"),
        (example.base, f"base decoder, {psnr[0]:.2f} dB"),
        (example.adapted, f"adapted, {psnr[1]:.2f} dB"),
        (example.error_map(), "closer (green), farther (red)"),
    )
    cell = side * zoom
    sheet = Image.new("RGB", (len(panels) * (cell + _GAP) - _GAP, cell + _CAPTION), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    for i, (pixels, caption) in enumerate(panels):
        part = pixels[:, y : y + side, x : x + side].permute(1, 2, 0).numpy()
        image = Image.fromarray(np.ascontiguousarray(part)).resize(
            (cell, cell), Image.Resampling.NEAREST
        )
        sheet.paste(image, (i * (cell + _GAP), _CAPTION))
        draw.text((i * (cell + _GAP) + 2, 3), caption, fill="black", font=font)
    return sheet


def most_changed(example: Example, crop: int) -> tuple[int, int, int]:
    """Top, left and side of the square in which base and adapted image differ most, in pixels."""
    change = (example.base.float() - example.adapted.float()).abs().mean(dim=0).numpy()
    side = min(crop, *change.shape)
    total = np.pad(change.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    y, x = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(y), int(x), side
