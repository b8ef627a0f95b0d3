"""Damage to image files, the same for the same seed, and what the reader makes of it.

``python -m tests.damaged_images COUNT [FILE]`` reads so many damaged files in processes of their own and
prints what came of them as JSON. An image that is handed on must show what the file holds: an area
without any detail, where the undamaged image has some, may not be larger than what the file lacks.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lic_da.io.images import RGB, ImageProblem, read_rgb
from tests.image_files import png

SECONDS = 5.0
"""That reading a damaged file may take."""
BLANK = 0.1
"""Of the image's blocks, that may come out without detail though nothing is missing."""

_BLOCK = 16
_SIDE = (240, 320)


def original() -> RGB:
    """An image with detail in every block."""
    rng = np.random.default_rng(0)
    height, width = _SIDE
    ramp = np.add.outer(np.linspace(0, 90, height), np.linspace(0, 90, width))
    waves = 30 * np.sin(np.arange(width) / 3) + 30 * np.sin(np.arange(height) / 5)[:, None]
    grain = rng.normal(0, 12, (height, width, 3))
    return np.clip(40 + ramp[..., None] + waves[..., None] + grain, 0, 255).astype(np.uint8)


def files() -> dict[str, bytes]:
    """Undamaged files of that image, by kind; the suffix is what stands before ``-``."""
    whole = Image.fromarray(original())
    turned = Image.Exif()
    turned[0x0112] = 3
    deep = original().astype(np.uint16) * 257

    def saved(kind: str, image: Image.Image = whole, **options: object) -> bytes:
        file = io.BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    alpha = whole.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(whole.size))
    return {
        "png-rgb": saved("PNG"),
        "png-alpha": saved("PNG", alpha, exif=turned),
        "png-palette": saved("PNG", whole.quantize(64)),
        "png-16": png(deep, 16),
        "png-16-grey": png(deep[..., :1], 16),
        "jpg-baseline": saved("JPEG", quality=85, exif=turned),
        "jpg-progressive": saved("JPEG", quality=85, progressive=True),
        "jpg-restart": saved("JPEG", quality=85, restart_marker_rows=1),
        "webp-lossy": saved("WEBP", quality=80),
        "webp-lossless": saved("WEBP", lossless=True),
        "tif-raw": saved("TIFF"),
        "tif-lzw": saved("TIFF", compression="tiff_lzw"),
        "tif-deflate": saved("TIFF", compression="tiff_adobe_deflate"),
        "tif-jpeg": saved("TIFF", compression="jpeg"),
        "gif": saved("GIF"),
        "avif": saved("AVIF", quality=80),
    }


Kind = Callable[[bytearray, random.Random], bytes]


def _cut(data: bytearray, rng: random.Random) -> bytes:
    return bytes(data[: rng.randrange(len(data))])


def _cut_late(data: bytearray, rng: random.Random) -> bytes:
    return bytes(data[: len(data) - rng.randrange(1, 200)])


def _flipped(data: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _flipped_early(data: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 2, 8))):
        data[rng.randrange(min(700, len(data)))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _hole(data: bytearray, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    del data[at : at + rng.randrange(1, len(data) // 4)]
    return bytes(data)


def _zeros(data: bytearray, rng: random.Random) -> bytes:
    at, length = rng.randrange(len(data)), rng.randrange(1, len(data) // 4)
    data[at : at + length] = bytes(len(data[at : at + length]))
    return bytes(data)


def _moved(data: bytearray, rng: random.Random) -> bytes:
    """Two pieces change places, as chunks in a wrong order."""
    a, b, c = sorted(rng.randrange(len(data)) for _ in range(3))
    return bytes(data[:a] + data[b:c] + data[a:b] + data[c:])


def _length(data: bytearray, rng: random.Random) -> bytes:
    """Some number in the file is huge or nothing."""
    at = rng.randrange(max(1, min(600, len(data)) - 4))
    data[at : at + 4] = rng.choice(
        (b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff", b"\0\0\0\1")
    )
    return bytes(data)


KINDS: dict[str, Kind] = {
    kind.__name__.strip("_"): kind
    for kind in (*(_cut, _cut_late, _flipped, _flipped_early, _hole, _zeros, _moved, _length),)
}


@dataclass(frozen=True)
class Damaged:
    """A damaged file: of what kind, and how."""

    file: str
    damage: str
    data: bytes
    lacks: float  # share of the file's bytes


def damaged(count: int, seed: int = 0) -> Iterator[Damaged]:
    """So many damaged files; all kinds of files and damage take turns."""
    whole = files()
    for number in range(count):
        name = [*whole][number % len(whole)]
        damage = [*KINDS][number // len(whole) % len(KINDS)]
        data = KINDS[damage](bytearray(whole[name]), random.Random(f"{seed}-{number}"))
        lacks = 1 - len(data) / len(whole[name])
        if damage == "zeros":
            lacks = sum(a != b for a, b in zip(data, whole[name], strict=True)) / len(data)
        if name in _WITHOUT_REDUNDANCY:
            lacks = 1 - _first_difference(data, whole[name]) / len(whole[name])
        yield Damaged(name, damage, data, lacks)


_WITHOUT_REDUNDANCY = ("webp-lossy", "avif")
"""Arithmetic codes without checksums: a wrong byte is no error and takes all that follows along."""


def _first_difference(one: bytes, other: bytes) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


@dataclass(frozen=True)
class Attempt:
    """What became of a file: ``refused``, ``same``, ``other`` (pixels differ) or what must not be."""

    outcome: str
    seconds: float
    reason: str = ""


def attempt(damaged: Damaged, folder: Path) -> Attempt:
    """Read a damaged file."""
    path = folder / f"damaged.{damaged.file.split('-')[0]}"
    path.write_bytes(damaged.data)
    began = time.process_time()
    try:
        pixels = read_rgb(path)
    except ImageProblem as problem:
        seconds = time.process_time() - began
        return Attempt("refused" if seconds < SECONDS else "slow", seconds, problem.reason)
    seconds = time.process_time() - began
    if seconds >= SECONDS:
        return Attempt("slow", seconds)
    blank = blank_share(pixels)
    if blank > BLANK + max(0.0, damaged.lacks):
        return Attempt("blank", seconds, f"{blank:.0%} without detail, {damaged.lacks:.0%} missing")
    return Attempt("same" if pixels.shape == original().shape else "other", seconds)


def blank_share(pixels: RGB) -> float:
    """Share of an image's blocks that are of one colour."""
    height, width = (side // _BLOCK * _BLOCK for side in pixels.shape[:2])
    blocks = pixels[:height, :width].reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK, 3)
    return float((np.ptp(blocks, axis=(1, 3)).max(axis=-1) <= 1).mean())


def report(count: int, seed: int = 0) -> dict[str, object]:
    """Read so many damaged files, each where a crash would cost that file alone.

    Returns:
        Counts by kind of file and outcome, the slowest, and the first files of which something came that
        must not be.
    """
    outcomes: dict[str, Counter[str]] = {name: Counter() for name in files()}
    wrong: list[str] = []
    slowest = 0.0
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, spawn)
    with tempfile.TemporaryDirectory() as folder:
        for number, one in enumerate(damaged(count, seed)):
            try:
                result = pool.submit(attempt, one, Path(folder)).result(timeout=60)
            except BrokenProcessPool:
                result, pool = Attempt("crash", 0), ProcessPoolExecutor(1, spawn)
            except TimeoutError:
                result = Attempt("hang", 60)
                pool.shutdown(wait=False, cancel_futures=True)
                pool = ProcessPoolExecutor(1, spawn)
            outcomes[one.file][result.outcome] += 1
            slowest = max(slowest, result.seconds)
            if result.outcome not in ("refused", "same", "other"):
                wrong.append(f"{number} {one.file} {one.damage}: {result.outcome} {result.reason}")
    pool.shutdown()
    return {
        "files": count,
        "seed": seed,
        "outcomes": {name: dict(sorted(counts.items())) for name, counts in outcomes.items()},
        "slowest_s": round(slowest, 2),
        "wrong": wrong,
    }


if __name__ == "__main__":
    told = json.dumps(report(int(sys.argv[1])), indent=1) + "\n"
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(told, encoding="utf-8")
    print(told)
