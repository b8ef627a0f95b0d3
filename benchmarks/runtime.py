"""Does the runtime without torch decode the same images? ``python benchmarks/runtime.py PACK …``.

An environment is made that holds the runtime's distribution (``packaging/runtime``) and what it needs, and
nothing else. Every pack is exported, test images of all domains are encoded by torch, and both decode
them: the runtime in its own environment. Results, in ``results/``:

    runtime.csv              a row a pack: have the symbols the checksum that the encoder wrote, is ŷ the
                             same to the last bit, and by how much do images differ?
    runtime_environment.csv  what is installed beside the runtime, and how large it is
    runtime_startup.csv      wall time of a process that decodes one 768x512 image, in turn, round by round
"""

from __future__ import annotations

import csv
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from lic_da.io.bitstream import Stream
from lic_da.io.files import atomic_path
from lic_da.io.images import read_rgb
from lic_da.methods import pack
from lic_da.methods.adapters.codec import AdaptedCodec
from lic_da.methods.adapters.export import export

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"
DECODE = """
import sys
from pathlib import Path
import numpy as np
from lic_da.io.bitstream import Stream
from lic_da.runtime import Decoder
decoder = Decoder(sys.argv[1])
for file in sorted(Path(sys.argv[2]).glob("*.lic")):
    stream = Stream.read(file)
    # Raises an error unless the symbols have the checksum that the encoder wrote.
    np.savez(file.with_suffix(".npz"), latent=decoder.latent(stream), image=decoder.decompress(stream))
heavy = {"torch", "compressai"} & set(sys.modules)
assert not heavy, heavy
"""
SIZES = """
import importlib.metadata as metadata, json
for found in metadata.distributions():
    size = sum(file.locate().stat().st_size for file in found.files or [] if file.locate().is_file())
    print(json.dumps([found.name, found.version, size]))
"""


def environment(folder: Path) -> Path:
    """Python of a new environment with the runtime."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*command, str(ROOT / "packaging" / "runtime")], check=True)
    return python


def sizes(python: Path) -> list[list[Any]]:
    """Name, version and megabytes of what is installed, as it was unpacked, the largest first."""
    done = subprocess.run(
        [python, "-c", SIZES], capture_output=True, text=True, check=True, cwd="/"
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    rows = [[name, version, f"{size / 1e6:.1f}"] for name, version, size in found]
    rows.sort(key=lambda row: -float(row[2]))
    without = sum(size for name, _, size in found if name not in ("pip", "setuptools"))
    return [*rows, ["all but pip and setuptools", "", f"{without / 1e6:.1f}"]]


def test_images(data: Path, count: int) -> Iterator[Path]:
    """Test images, of each domain in turn."""
    domains = []
    for index in sorted((data / "domains").glob("*/index.csv")):
        with index.open(newline="", encoding="utf-8") as file:
            rows = [row["file"] for row in csv.DictReader(file) if row["split"] == "test"]
        folders = (data, index.parent)
        domains.append([next(f / r for f in folders if (f / r).is_file()) for r in rows])
    turns = (files[i] for i in range(max(map(len, domains))) for files in domains if i < len(files))
    yield from (file for file, _ in zip(turns, range(count), strict=False))


def compared(
    codec: AdaptedCodec, python: Path, files: Sequence[Path], side: int, folder: Path
) -> list[Any]:
    """A row of ``runtime.csv``."""
    export(codec, folder / "exported")
    streams = folder / "streams"
    streams.mkdir()
    for number, file in enumerate(files):
        image = np.ascontiguousarray(read_rgb(file)[:side, :side])
        (streams / f"{number:03}.lic").write_bytes(codec.compress(image))
    subprocess.run([python, "-c", DECODE, folder / "exported", streams], check=True, cwd=folder)
    same, within, most, differing, samples, unlike = 0, 0, 0, 0, 0, 0.0
    for file in sorted(streams.glob("*.lic")):
        stream = Stream.read(file)
        with np.load(file.with_suffix(".npz")) as decoded:
            apart = np.abs(decoded["latent"] - codec.latent(stream)[0].numpy())
            difference = np.abs(decoded["image"].astype(int) - codec.decompress(stream))
        same += not apart.any()
        unlike = max(unlike, float(apart.max()))
        within += difference.max() <= 1
        most = max(most, int(difference.max()))
        differing += int(np.count_nonzero(difference))
        samples += difference.size
    config = codec.config
    share = f"{differing / samples:.3g}"
    decoded_all = len(list(streams.glob("*.npz")))
    counts = [len(files), decoded_all, same, f"{unlike:.1e}", within, most, samples, differing]
    return [config.name, config.quality, *counts, share]


def started(python: Path, pack_folder: Path, folder: Path, rounds: int) -> list[list[Any]]:
    """Rows of ``runtime_startup.csv``: seconds, and the ratio to importing torch in the same round."""
    stream, out = folder / "one.lic", folder / "one.png"
    codec = pack.load(pack_folder)
    image = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    stream.write_bytes(codec.compress(np.kron(image, np.ones((64, 64, 1), np.uint8))))
    cli: list[str | Path] = [
        sys.executable,
        "-m",
        "lic_da.cli",
        "decompress",
        stream,
        out,
        "--overwrite",
        "--pack",
    ]
    ways: dict[str, list[str | Path]] = {
        "import torch": [sys.executable, "-c", "import torch"],
        "lic-da decompress": [*cli, pack_folder],
        "lic-da decompress --runtime onnx": [*cli, folder / "exported", "--runtime", "onnx"],
        "python -m lic_da.runtime, alone": [
            *(python, "-m", "lic_da.runtime", stream, out, "--overwrite", "--pack", folder / "exported"),
        ],
    }  # fmt: skip
    took: list[dict[str, float]] = []
    shuffle, order = random.Random(0), list(ways)
    for _ in range(rounds + 1):  # the first fills the caches
        shuffle.shuffle(order)
        seconds = {}
        for way in order:
            began = time.perf_counter()
            alone = way.endswith("alone")
            own = {k: v for k, v in os.environ.items() if not (alone and k == "PYTHONPATH")}
            place = folder if alone else ROOT
            subprocess.run(ways[way], check=True, capture_output=True, cwd=place, env=own)
            seconds[way] = time.perf_counter() - began
        took.append(seconds)
    rows = []
    for way in ways:
        ratios = [one[way] / one["import torch"] for one in took[1:]]
        median = statistics.median(one[way] for one in took[1:])
        ratio = f"{statistics.median(ratios):.2f}"
        rows.append([codec.config.name, way, f"{median:.2f}", ratio, rounds])
    return rows


def write(name: str, header: str, rows: Sequence[Sequence[Any]]) -> None:
    with atomic_path(RESULTS / name) as temporary, temporary.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header.split(","), *rows])


def main(
    packs: list[Path],
    data: Annotated[Path, typer.Option(help="Folder of make data.")] = Path("data"),
    images: Annotated[int, typer.Option(help="Test images for each pack.")] = 100,
    side: Annotated[int, typer.Option(help="Images are cut to so many pixels a side.")] = 512,
    rounds: Annotated[int, typer.Option(help="Of starting processes.")] = 7,
) -> None:
    """Compare the decoders and measure what the runtime needs."""
    files = list(test_images(data, images))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = environment(folder / "environment")
        write("runtime_environment.csv", "package,version,megabytes", sizes(python))
        rows = []
        for number, path in enumerate(packs):
            codec = AdaptedCodec.load(path)
            (own := folder / str(number)).mkdir()
            rows.append(compared(codec, python, files, side, own))
            print(*rows[-1], flush=True)
            write(
                "runtime.csv",
                "codec,quality,images,symbols_identical,y_hat_identical,y_hat_difference,within_one_level,"
                "largest_difference,samples,"
                "differing_samples,share",
                rows,
            )
        startup = []
        for number, path in enumerate(packs):
            startup += started(python, path, folder / str(number), rounds)
        write("runtime_startup.csv", "codec,process,median_s,ratio_to_import_torch,rounds", startup)
        print(*startup, sep="\n")


if __name__ == "__main__":
    typer.run(main)
