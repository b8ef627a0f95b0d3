"""What does coding take, as people meet it? ``make bench``: starting, an image, a folder, very many images.

Four parts, each beside AVIF, WebP and JPEG XL of Pillow in the same run:

* ``start``: wall time of a process, over that of ``python -c "import torch"``;
* ``image``: a photograph of 512×768 in a process that runs already, over AVIF of speed 6;
* ``folder``: 24 of 512×512 by whole commands with as many processes as there are processors, over AVIF;
* ``many``: 10,000 crops of 64×64 the same way, and by ``lic-da bulk``.

Classical codecs take the quality whose rate over the photograph comes next to the learned codec's, and one
thread a process. Ways are timed in turn, round by round and in changing order; ratios are medians of the
ratios within a round, with quartiles. The first round fills caches and does not count. Results are in
``results/``: everyday.csv and everyday.png.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import numpy as np
import typer
from matplotlib.ticker import NullFormatter
from PIL import Image

from benchmarks.bulk import crops
from benchmarks.fixtures import HEIGHT, RESULTS, WIDTH, Rounds, adapted, quartiles
from experiments import common
from lic_da.config import CONF
from lic_da.data.domains import prepare
from lic_da.errors import UserError, unknown
from lic_da.evaluation.classical import AVIF, JPEG_XL, WEBP
from lic_da.io.images import RGB, read_rgb
from lic_da.io.lossless import save_png
from lic_da.methods import pack
from lic_da.methods.adapters.codec import AdaptedCodec
from lic_da.methods.adapters.export import export
from lic_da.surroundings import granted_cpus

PARTS = ("start", "image", "folder", "many")
LEARNED = ("bmshj2018_factorized_n64", "mbt2018_mean_n64", "zou2022_n64")
DOMAINS = 3
CLASSICAL = {
    "avif6": AVIF,
    "avif8": replace(AVIF, name="AVIF, speed 8", settings={**AVIF.settings, "speed": 8}),
    "webp": WEBP,
    "jpegxl": JPEG_XL,
}
Way = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One way to do one thing: seconds, and ratios to another way in the same rounds.

    Attributes:
        part: one of ``PARTS``.
        what: is done, such as ``decode``.
        way: who does it.
        seconds: median of the rounds.
        against: the way whose time ratios are over.
        ratio: median of the rounds, with quartiles.
        bpp: bits of the files for a pixel; None: nothing is coded.
        rounds: that counted.
    """

    part: str
    what: str
    way: str
    seconds: float
    against: str
    ratio: float
    ratio_lower_quartile: float
    ratio_upper_quartile: float
    bpp: float | None
    rounds: int


def timed(
    part: str, what: str, ways: Mapping[str, Way], against: str, rounds: int
) -> Iterator[Row]:
    """Do all ways in turn; rates are None."""
    shuffle, order = random.Random(0), list(ways)
    took: list[dict[str, float]] = []
    for _ in range(rounds + 1):
        shuffle.shuffle(order)
        seconds = {}
        for way in order:
            began = time.perf_counter()
            ways[way]()
            seconds[way] = time.perf_counter() - began
        took.append(seconds)
    for way in ways:
        ratio = quartiles([one[way] / one[against] for one in took[1:]])
        median = quartiles([one[way] for one in took[1:]])[0]
        yield Row(part, what, way, median, against, *ratio, None, rounds)


def command(*arguments: object) -> None:
    """Run a Python program to its end, without its output.

    Raises:
        UserError: it failed.
    """
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{' '.join(map(str, arguments))} failed: {done.stderr.strip()[-500:]}")


def lic_da(*arguments: object) -> None:
    """Run ``lic-da``."""
    command("-m", "lic_da.cli", *arguments)


def photograph(data: Path) -> RGB:
    """The middle of the first test photograph that is large enough, ``(HEIGHT, WIDTH, 3)``.

    Raises:
        UserError: none is.
    """
    domain = prepare("natural", data)
    for info in domain.split("test"):
        if info.height >= HEIGHT and info.width >= WIDTH:
            pixels = read_rgb(domain.path(info))
            top, left = (info.height - HEIGHT) // 2, (info.width - WIDTH) // 2
            return np.ascontiguousarray(pixels[top : top + HEIGHT, left : left + WIDTH])
    raise UserError(f"No test photograph has {WIDTH}×{HEIGHT} pixels.")


def at_rate(name: str, pixels: RGB, bpp: float) -> int:
    """The quality of a classical codec whose rate comes next to this one."""
    samples = pixels.shape[0] * pixels.shape[1]
    rates = {q: 8 * len(file(name, pixels, q)) / samples for q in range(1, 96, 3)}
    return min(rates, key=lambda q: abs(rates[q] - bpp))


def file(name: str, pixels: RGB, quality: int) -> bytes:
    """An image by a classical codec."""
    codec, out = CLASSICAL[name], io.BytesIO()
    Image.fromarray(pixels).save(out, format=codec.format, quality=quality, **codec.settings)
    return out.getvalue()


def pixels_of(data: bytes) -> RGB:
    """What a classical codec's file shows."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def start(work: Path, pixels: RGB, codec: AdaptedCodec, rounds: int) -> Iterator[Row]:
    """Processes, from their start to their end."""
    pack.save(codec, work / "pack", {})
    export(codec, work / "exported")
    image, stream, out = work / "one.png", work / "one.lic", work / "decoded.png"
    save_png(image, pixels)
    stream.write_bytes(codec.compress(pixels))
    decompress = ("decompress", stream, out, "--overwrite", "--pack")
    ways: dict[str, Way] = {
        "import torch": partial(command, "-c", "import torch"),
        "lic-da --help": partial(lic_da, "--help"),
        "lic-da info": partial(lic_da, "info", stream),
        "lic-da compress": partial(
            lic_da, "compress", image, work / "new.lic", "--overwrite", "--pack", work / "pack"
        ),
        "lic-da decompress": partial(lic_da, *decompress, work / "pack"),
        "lic-da decompress --runtime onnx": partial(
            lic_da, *decompress, work / "exported", "--runtime", "onnx"
        ),
        "python -m lic_da.runtime": partial(
            command, "-m", "lic_da.runtime", stream, out, "--overwrite", "--pack", work / "exported"
        ),
    }
    yield from timed("start", "process", ways, "import torch", rounds)


def image(
    pixels: RGB, codecs: Mapping[str, AdaptedCodec], qualities: Mapping[str, int], rounds: int
) -> Iterator[Row]:
    """One photograph, in this process."""
    streams = {name: codec.compress(pixels) for name, codec in codecs.items()}
    files = {name: file(name, pixels, quality) for name, quality in qualities.items()}
    encode: dict[str, Way] = {n: partial(c.compress, pixels) for n, c in codecs.items()}
    encode |= {n: partial(file, n, pixels, quality) for n, quality in qualities.items()}
    decode: dict[str, Way] = {n: partial(c.decompress, streams[n]) for n, c in codecs.items()}
    decode |= {n: partial(pixels_of, data) for n, data in files.items()}
    samples = pixels.shape[0] * pixels.shape[1]
    bits = {n: 8 * len(data) / samples for n, data in (streams | files).items()}
    for what, ways in (("encode", encode), ("decode", decode)):
        for row in timed("image", what, ways, "avif6", rounds):
            yield Row(**(vars(row) | {"bpp": bits[row.way]}))


def files(
    part: str, source: Path, work: Path, side: int, qualities: Mapping[str, int], rounds: int
) -> Iterator[Row]:
    """All PNG files of a folder, by whole commands."""
    jobs, name = granted_cpus(), LEARNED[0]

    def fresh(coded: str, program: Callable[..., None], *arguments: object) -> None:
        shutil.rmtree(work / coded, ignore_errors=True)
        (work / coded).mkdir(parents=True)
        program(*arguments)

    def by_lic_da(what: str, at: str, to: str) -> Way:
        asked = (what, work / at if at else source, work / to, "--codec", name, "--jobs", jobs)
        return partial(fresh, to, lic_da, *asked)

    def by_pillow(what: str, codec: str, at: str, to: str) -> Way:
        own = CLASSICAL[codec]
        settings = ("--settings", json.dumps(dict(own.settings)))
        more = ("--format", own.format, "--quality", qualities[codec], *settings)
        folders = (work / at if at else source, work / to)
        program = ("-m", "benchmarks.classical_files", what, *folders, "--plugin", own.plugin)
        encodes = more if what == "encode" else ()
        return partial(fresh, to, command, *program, "--jobs", jobs, *encodes)

    encode = {"lic-da compress": by_lic_da("compress", "", "lic")}
    decode = {"lic-da decompress": by_lic_da("decompress", "lic", "lic_png")}
    if part == "many":
        encode["lic-da bulk"] = by_lic_da("bulk", "", "bulk")
        decode["lic-da bulk"] = by_lic_da("bulk", "bulk", "bulk_png")
    for codec in qualities:
        encode[codec] = by_pillow("encode", codec, "", codec)
        decode[codec] = by_pillow("decode", codec, codec, f"{codec}_png")
    count = sum(1 for _ in source.rglob("*.png"))
    folders = {"lic-da compress": "lic", "lic-da bulk": "bulk"} | {
        codec: codec for codec in qualities
    }
    for row in timed(part, "encode", encode, "avif6", rounds):
        size = sum(p.stat().st_size for p in (work / folders[row.way]).rglob("*.*") if p.is_file())
        yield Row(**(vars(row) | {"bpp": 8 * size / (count * side**2)}))
    yield from timed(part, "decode", decode, "avif6", rounds)


def plot(rows: list[Row], path: Path) -> None:
    """Ratios as bars, a chart for each part and what is done."""
    kinds = list(dict.fromkeys((row.part, row.what) for row in rows))
    figure, axes = plt.subplots(
        -(-len(kinds) // 2), 2, figsize=(11, 2.2 * len(kinds)), layout="constrained", squeeze=False
    )
    for axis, kind in zip(axes.flat, kinds, strict=False):
        own = [row for row in rows if (row.part, row.what) == kind][::-1]
        beyond = [
            [row.ratio - row.ratio_lower_quartile for row in own],
            [row.ratio_upper_quartile - row.ratio for row in own],
        ]
        axis.barh([row.way for row in own], [row.ratio for row in own], xerr=beyond)
        axis.axvline(1, color="grey", linewidth=0.8)
        axis.set(title=", ".join(kind), xlabel=f"time over {own[0].against}", xscale="log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
    for axis in list(axes.flat)[len(kinds) :]:
        axis.axis("off")
    common.save_plot(figure, path)


app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def measure(
    parts: Annotated[str, typer.Option(help="Which, with commas.")] = ",".join(PARTS),
    rounds: Rounds = 7,
    few_rounds: Annotated[int, typer.Option(min=2, help="Of the part many.")] = 2,
    images: Annotated[int, typer.Option(min=2, help="Of the part folder.")] = 24,
    many: Annotated[int, typer.Option(min=2, help="Images of the part many.")] = 10_000,
    data: Annotated[Path, typer.Option(help="Folder of make data.")] = CONF.parent / "data",
    out: Annotated[Path, typer.Option(help="Folder of table and plot.")] = RESULTS,
) -> None:
    """Measure the parts; writes everyday.csv and everyday.png."""
    for part in (asked := parts.split(",")):
        if part not in PARTS:
            raise unknown("part", part, PARTS)
    pixels = photograph(data)
    codecs = {name: adapted(name, DOMAINS) for name in LEARNED}
    bpp = 8 * len(codecs[LEARNED[0]].compress(pixels)) / (HEIGHT * WIDTH)
    for codec in CLASSICAL.values():
        codec.check()
    qualities = {name: at_rate(name, pixels, bpp) for name in CLASSICAL}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        ways: dict[str, Callable[[], Iterator[Row]]] = {
            "start": lambda: start(work, pixels, codecs[LEARNED[0]], rounds),
            "image": lambda: image(pixels, codecs, qualities, rounds),
            "folder": lambda: _of_crops("folder", work, images, 512, qualities, rounds),
            "many": lambda: _of_crops("many", work, many, 64, qualities, few_rounds),
        }
        for part in asked:
            for row in ways[part]():
                print(
                    f"{row.part}, {row.what}, {row.way}: {row.seconds:.3f} s, {row.ratio:.2f}",
                    flush=True,
                )
                rows.append(row)
            common.write_table(out / "everyday.csv", rows, ".5g")
    plot(rows, out / "everyday.png")


def _of_crops(
    part: str, work: Path, count: int, side: int, qualities: Mapping[str, int], rounds: int
) -> Iterator[Row]:
    crops(work / part / "images", None, count, side)
    yield from files(part, work / part / "images", work / part, side, qualities, rounds)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", str(granted_cpus()))
    app()
