"""A folder of images by a classical codec of Pillow, and back, as its users would do it, without torch.

``python -m benchmarks.classical_files encode IN OUT --format AVIF --quality 40 --jobs 2`` writes a file for
every PNG file of a folder, and ``decode`` PNG files of those.
"""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

PNG_LEVEL = 4  # as lic-da writes PNG
_SUFFIX = ".coded"

app = typer.Typer(add_completion=False, help=__doc__)
Source = Annotated[Path, typer.Argument(metavar="IN")]
Target = Annotated[Path, typer.Argument(metavar="OUT")]
Format = Annotated[str, typer.Option(help="Pillow's name of the format.")]
Plugin = Annotated[str, typer.Option(help="Module that adds the format to Pillow.")]
Jobs = Annotated[int, typer.Option(min=1, help="Processes.")]


def _through(
    source: Path, target: Path, suffix: str, work: Callable[[tuple[Path, Path]], None], jobs: int
) -> None:
    """Do the work for all files of a folder, in processes; names stay, but for what they end in."""
    pairs = [
        (path, target / path.relative_to(source).with_suffix(suffix))
        for path in sorted(source.rglob("*.*"))
    ]
    for folder in {written.parent for _, written in pairs}:
        folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(jobs) as pool:
        for _ in pool.map(work, pairs, chunksize=max(1, len(pairs) // (8 * jobs))):
            pass


def _encode(
    format: str, quality: int, settings: dict[str, object], plugin: str, pair: tuple[Path, Path]
) -> None:
    if plugin:
        importlib.import_module(plugin)
    with Image.open(pair[0]) as image:
        image.convert("RGB").save(pair[1], format=format, quality=quality, **settings)


def _decode(plugin: str, pair: tuple[Path, Path]) -> None:
    if plugin:
        importlib.import_module(plugin)
    with Image.open(pair[0]) as image:
        image.convert("RGB").save(pair[1], compress_level=PNG_LEVEL)


@app.command()
def encode(
    source: Source,
    target: Target,
    format: Format,
    quality: Annotated[int, typer.Option()],
    settings: Annotated[str, typer.Option(help="Other arguments of Image.save, as JSON.")] = "{}",
    plugin: Plugin = "",
    jobs: Jobs = 1,
) -> None:
    """Code all PNG files of a folder."""
    work = functools.partial(_encode, format, quality, json.loads(settings), plugin)
    _through(source, target, _SUFFIX, work, jobs)


@app.command()
def decode(source: Source, target: Target, plugin: Plugin = "", jobs: Jobs = 1) -> None:
    """Decode what ``encode`` wrote, to PNG files."""
    _through(source, target, ".png", functools.partial(_decode, plugin), jobs)


if __name__ == "__main__":
    app()
