"""What memory does a very large image take? ``python benchmarks/large_image.py`` codes 100 megapixels.

The image is a mosaic of natural test images (``make data``). ``lic-da`` compresses and decompresses
it, each time in a process of its own, whose largest resident memory is read. Results are written
beside this file, in ``results/large_image.csv``, where those of other codecs stay; the mosaic and its
stream go to a temporary folder.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.fixtures import RESULTS
from experiments import common
from lic_da.config import CONF, read_settings
from lic_da.data.domains import prepare
from lic_da.io.bitstream import Stream
from lic_da.io.images import RGB, read_rgb
from lic_da.io.lossless import save_png


def mosaic(width: int, height: int) -> RGB:
    """Natural test images side by side, again and again."""
    images = prepare("natural", CONF.parent / "data")
    tiles = [read_rgb(images.path(p)) for p in images.split("test")]
    side = min(min(tile.shape[:2]) for tile in tiles)
    canvas = np.empty((height, width, 3), np.uint8)
    number = 0
    for top in range(0, height, side):
        for left in range(0, width, side):
            part = canvas[top : top + side, left : left + side]
            part[:] = tiles[number % len(tiles)][: part.shape[0], : part.shape[1]]
            number += 1
    return canvas


def lic_da(*arguments: object) -> tuple[float, float]:
    """Run the command; seconds and the largest resident memory of its process, in MiB."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "lic_da.cli", *map(str, arguments)]
    pid = os.spawnv(os.P_NOWAIT, sys.executable, command)
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f"lic-da {arguments[0]} failed.")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """PSNR in dB, strip by strip."""
    strips = range(0, len(a), 256)
    squares = sum(
        float(((a[i : i + 256].astype(np.float32) - b[i : i + 256]) ** 2).sum(dtype=np.float64))
        for i in strips
    )
    return float(10 * np.log10(255**2 * a.size / squares))


def main(
    pack: Annotated[Path, typer.Option(help="Folder of an adapter pack.")],
    width: int = 12_500,
    height: int = 8_000,
    output: Path = RESULTS / "large_image.csv",
) -> None:
    """Code the mosaic and write what it took."""
    console = Console()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        image = mosaic(width, height)
        save_png(folder / "mosaic.png", image)
        with console.status(f"Compressing {width}×{height}"):
            took = [lic_da("compress", folder / "mosaic.png", folder / "a.lic", "--pack", pack)]
        with console.status("Decompressing"):
            took.append(lic_da("decompress", folder / "a.lic", folder / "a.png", "--pack", pack))
        stream = Stream.read(folder / "a.lic")
        quality = psnr(image, read_rgb(folder / "a.png"))
    codec = read_settings(pack / "config.yaml")["codec"]["name"]
    others = common.read_table(output) if output.is_file() else []
    rows = [row for row in others if row["codec"] != codec]
    rows += [
        {
            "codec": codec,
            "command": command,
            "width": str(width),
            "height": str(height),
            "megapixels": f"{width * height / 1e6:.1f}",
            "bpp": f"{stream.bpp:.4f}",
            "psnr": f"{quality:.2f}",
            "seconds": f"{seconds:.0f}",
            "peak_mib": f"{peak:.0f}",
        }
        for command, (seconds, peak) in zip(("compress", "decompress"), took, strict=True)
    ]
    common.write_table(output, rows)
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*row.values())
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
