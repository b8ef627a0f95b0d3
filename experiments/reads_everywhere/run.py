"""Does a stream open on every machine? ``make experiments/reads_everywhere``.

Codes crops of test images with each bundled codec in nine surroundings: instruction sets that PyTorch and
oneDNN may use (default, AVX2, AVX-512) times 1, 2 and 4 threads. Then each of the surroundings decodes all
streams, whole and in tiles. A stream whose latents come out differently is
an error by its checksum, and is counted. Writes decodings.csv, a row a codec, surroundings and way. What an
earlier call has left is removed.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from benchmarks.fixtures import adapted
from experiments.common import OUTPUTS, read_rows, write_table
from lic_da.data.domains import prepare
from lic_da.io.bitstream import StreamError
from lic_da.io.images import RGB, read_rgb
from lic_da.methods.adapters.codec import AdaptedCodec

HERE = Path(__file__).parent
RUNS = OUTPUTS / "experiment_reads_everywhere"
CODECS = ("bmshj2018_factorized_n64", "mbt2018_mean_n64", "zou2022_n64")
"""Bundled codecs, at their default quality."""
DOMAINS = {"natural": 2, "sketch": 1, "comic": 1, "clipart": 1}
HEIGHT, WIDTH = 192, 256
INSTRUCTIONS = {"default": "SSE41", "avx2": "AVX2", "avx512": "AVX512_CORE"}
"""What ATEN_CPU_CAPABILITY says, and what oneDNN may use then."""
THREADS = (1, 2, 4)
SURROUNDINGS = tuple(f"{name}_{threads}" for name in INSTRUCTIONS for threads in THREADS)
TILE_MEMORY = 9 << 20
"""Bytes of activations that cut these crops, of 12×16 elements of the latent, into four tiles."""


@dataclasses.dataclass(frozen=True)
class Decodings:
    """Streams of all surroundings, decoded in one of them.

    ``failed`` streams had other latents, could not be opened, or have no image to compare with, since the
    first surroundings failed at them. Images of the rest are compared with what the first surroundings
    decode as a whole: share of samples that differ, and by how many 8-bit levels at most.
    """

    codec: str
    decoded_in: str
    way: str
    decodings: int
    failed: int
    samples_differing: float
    largest_difference: int


def crops(data: Path) -> list[RGB]:
    """The middle of some test images of each domain."""
    found = []
    for domain, count in DOMAINS.items():
        prepared = prepare(domain, data)
        large = (
            p
            for p in sorted(prepared.split("test"), key=lambda p: p.name)
            if p.width >= WIDTH and p.height >= HEIGHT
        )
        for image in [*large][:count]:
            pixels = read_rgb(prepared.path(image))
            top, left = (pixels.shape[0] - HEIGHT) // 2, (pixels.shape[1] - WIDTH) // 2
            found.append(pixels[top : top + HEIGHT, left : left + WIDTH])
    return found


def encode(here: str, data: Path) -> None:
    """Write the streams of one of the surroundings."""
    images = crops(data)
    for name in CODECS:
        codec = adapted(name, domains=2)  # strings are those of the base codec
        folder = RUNS / name / here
        folder.mkdir(parents=True, exist_ok=True)
        for number, pixels in enumerate(images):
            (folder / f"{number}.lic").write_bytes(codec.compress(pixels))


def decode(here: str) -> None:
    """Decode the streams of all surroundings in one of them, and note what came out."""
    rows = []
    for name in CODECS:
        whole = adapted(name, domains=2)
        ways = {"whole": whole, "tiles": dataclasses.replace(whole, memory=TILE_MEMORY)}
        rows += [decoded(name, here, way, codec) for way, codec in ways.items()]
    write_table(RUNS / f"{here}.csv", rows)


def decoded(name: str, here: str, way: str, codec: AdaptedCodec) -> Decodings:
    """All streams of a codec in one way; the very first surroundings keep their images for comparison."""
    count = failed = differing = samples = largest = 0
    for surroundings in SURROUNDINGS:
        for file in sorted((RUNS / name / surroundings).glob("*.lic")):
            count += 1
            try:
                pixels = codec.decompress(file.read_bytes(), "base")
            except StreamError as error:
                failed += 1
                print(f"{here}, {way}: {file}: {error}", file=sys.stderr)
                continue
            reference = file.with_suffix(".png")
            if (here, way) == (SURROUNDINGS[0], "whole"):
                Image.fromarray(pixels).save(reference)
            if not reference.is_file():
                failed += 1
                print(f"{here}, {way}: {file}: no image to compare with", file=sys.stderr)
                continue
            off = np.abs(pixels.astype(int) - read_rgb(reference).astype(int))
            differing += int((off > 0).sum())
            samples += off.size
            largest = max(largest, int(off.max()))
    return Decodings(name, here, way, count, failed, differing / max(samples, 1), largest)


def in_surroundings(here: str, work: str, data: Path) -> None:
    """Do a part of the work in a process that has only these instructions and threads.

    Raises:
        SystemExit: it failed.
    """
    name, _, threads = here.rpartition("_")
    there = {
        "ATEN_CPU_CAPABILITY": name,
        "ONEDNN_MAX_CPU_ISA": INSTRUCTIONS[name],
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
    }
    done = subprocess.run(
        [
            *(sys.executable, "-m", "experiments.reads_everywhere.run"),
            *(f"--{work}", here, "--data", str(data)),
        ],
        env={**os.environ, **there},
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.returncode)


def main(
    data: Path = Path("data"),
    encode_in: Annotated[str, typer.Option("--encode", hidden=True)] = "",
    decode_in: Annotated[str, typer.Option("--decode", hidden=True)] = "",
) -> None:
    """Code in all surroundings, decode in all, write the table.

    Args:
        data: folder of the prepared domains.
        encode_in: only code, in this process.
        decode_in: only decode, in this process.
    """
    if encode_in:
        return encode(encode_in, data)
    if decode_in:
        return decode(decode_in)
    if RUNS.exists():
        shutil.rmtree(RUNS)
    for work in ("encode", "decode"):
        for here in SURROUNDINGS:
            in_surroundings(here, work, data)
            print(f"{work}d in {here}", flush=True)
    rows = [row for here in SURROUNDINGS for row in read_rows(RUNS / f"{here}.csv", Decodings)]
    write_table(HERE / "decodings.csv", rows, floats=".2e")
    print(f"{sum(r.decodings for r in rows)} decodings, {sum(r.failed for r in rows)} failed")
    return None


if __name__ == "__main__":
    typer.run(main)
