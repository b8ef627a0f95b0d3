"""The contact sheet of a domain: all its images at a glance."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from lic_da.data.index import SPLITS, DomainImages
from lic_da.io.files import atomic_path

_SPLIT_COLOURS = {"train": "#d0d7de", "val": "#bf8700", "test": "#0969da"}


def write_contact_sheet(
    images: DomainImages,
    target: Path | None = None,
    *,
    split: str | None = None,
    cell: int = 104,
    columns: int = 16,
) -> None:
    """All images on one PNG, ordered by split and series; the frame's colour tells the split.

    Args:
        images: a prepared domain.
        target: the PNG file; None: ``contact_sheet.png`` in the domain's folder.
        split: ``train``, ``val`` or ``test`` alone; None: all three.
        cell: side of an image's place, in pixels.
        columns: images in a row.
    """
    order = {name: i for i, name in enumerate(SPLITS)}
    shown = images.entries if split is None else images.split(split)
    entries = sorted(shown, key=lambda p: (order[p.split], p.series, p.name))[:800]
    rows = -(-len(entries) // columns)
    sheet = Image.new("RGB", (columns * cell, rows * cell + 20), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text(
        (4, 4), images.summary() + "   frames: grey train, amber val, blue test", fill="black"
    )
    for i, image in enumerate(entries):
        with Image.open(images.path(image)) as opened:
            opened.draft("RGB", (cell, cell))
            thumbnail = opened.convert("RGBA")
        thumbnail.thumbnail((cell - 8, cell - 8))
        x, y = i % columns * cell, i // columns * cell + 20
        draw.rectangle(
            (x + 1, y + 1, x + cell - 2, y + cell - 2), outline=_SPLIT_COLOURS[image.split]
        )
        sheet.paste(thumbnail, (x + 4, y + 4), thumbnail)
    with atomic_path(target or images.folder / "contact_sheet.png") as temporary:
        sheet.save(temporary, format="PNG")
