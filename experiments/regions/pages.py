"""Pages composed of a photograph, a comic panel, a drawing and text: the recipe, without any choice left.

A page is 768 × 512 pixels, white, with four panels around a cut from top to bottom and a cut across each
half. The n-th page takes the n-th image of each domain by its hash, and from the comic's hash the order of
the panels and where the cuts are, to the pixel. Images are scaled to cover their panel and cut to it.
"""

from __future__ import annotations

import random
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from lic_da.data.domains import prepare
from lic_da.io.images import RGB, read_rgb

WIDTH, HEIGHT = 768, 512
GUTTER = 8  # pixels between panels
DOMAINS = ("natural", "comic", "sketch")
TEXT = Path(__file__).parents[2] / "LICENSE"
_CUTS = (0.4, 0.6)  # of a side, from the first to the last possible cut
_SIZE = 16  # of letters, in pixels


@dataclass(frozen=True)
class Panel:
    """Part of a page.

    Attributes:
        kind: a domain, or ``text``.
        rows: of the page that it takes.
        columns: likewise.
    """

    kind: str
    rows: slice
    columns: slice


@dataclass(frozen=True)
class Page:
    """A page: its name, its pixels ``(512, 768, 3)``, and where on it is what."""

    name: str
    pixels: RGB
    panels: Sequence[Panel]


def pages(data: Path, split: str, count: int) -> Iterator[Page]:
    """The pages that can be made of the images of a split, no image on two of them.

    Args:
        data: folder of the prepared images.
        split: ``val`` or ``test``.
        count: pages at most.
    """
    columns = []
    for domain in DOMAINS:
        images = prepare(domain, data)
        ordered = sorted(images.split(split), key=lambda image: image.sha256)
        columns.append([(image.sha256, images.path(image)) for image in ordered])
    for number, own in enumerate(zip(*columns, strict=False)):
        if number == count:
            return
        seed = own[DOMAINS.index("comic")][0]
        files = {domain: path for domain, (_, path) in zip(DOMAINS, own, strict=True)}
        yield composed(f"{split}{number:02d}", seed, {d: read_rgb(p) for d, p in files.items()})


def composed(name: str, seed: str, images: dict[str, RGB]) -> Page:
    """A page of images by their domains, and text.

    Args:
        name: of the page.
        seed: decides on cuts, order and where the text begins.
        images: of ``DOMAINS``.
    """
    rng = random.Random(seed)
    kinds = [*DOMAINS, "text"]
    rng.shuffle(kinds)
    middle = round(WIDTH * rng.uniform(*_CUTS))
    panels = []
    for left, right in ((0, middle), (middle + GUTTER, WIDTH)):
        cut = round(HEIGHT * rng.uniform(*_CUTS))
        for top, bottom in ((0, cut), (cut + GUTTER, HEIGHT)):
            panels.append(Panel(kinds.pop(), slice(top, bottom), slice(left, right)))
    page = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    for panel in panels:
        size = panel.columns.stop - panel.columns.start, panel.rows.stop - panel.rows.start
        if panel.kind == "text":
            own = _text(size, rng)
        else:
            own = ImageOps.fit(Image.fromarray(images[panel.kind]), size, Image.Resampling.LANCZOS)
        page[panel.rows, panel.columns] = np.asarray(own)
    return Page(name, page, panels)


def _text(size: tuple[int, int], rng: random.Random) -> Image.Image:
    """Black letters on white: the licence of this project, from a word on, again and again."""
    words = TEXT.read_text().split()
    start = rng.randrange(len(words))
    text = " ".join((words[start:] + words) * 3)
    panel = Image.new("RGB", size, "white")
    lines = textwrap.wrap(text, round(size[0] / _SIZE * 1.5))
    font = ImageFont.load_default(_SIZE)
    ImageDraw.Draw(panel).multiline_text((_SIZE, _SIZE), "\n".join(lines), "black", font, spacing=6)
    return panel
