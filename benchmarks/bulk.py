"""``lic-da bulk`` against ``lic-da compress --jobs``: ``python -m benchmarks.bulk``.

Crops of real images are coded by both commands, with the same number of workers and the same codec:

* ``killed``: all of them by ``bulk``, of which a worker is killed twice, and all of them by ``compress``.
  Every stream must be there once and be the same bytes;
* ``throughput``: some of them by both, in turn, nothing killed. The ratio is the median of the rounds'.

Seconds are of the whole commands, start included. Memory is the sum over all processes of a command of what
each holds (PSS: what is shared is shared out), looked at every half second. Results are in ``results/``.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer

from benchmarks.fixtures import RESULTS
from experiments import common
from lic_da.config import CONF
from lic_da.data.domains import prepare
from lic_da.errors import UserError
from lic_da.io.images import read_rgb
from lic_da.io.listing import files_of
from lic_da.io.lossless import save_png

_WATCHED_S = 0.5


@dataclass(frozen=True)
class Row:
    """What one measurement found.

    Attributes:
        measurement: ``killed`` or ``throughput``.
        images: how many were coded by each command.
        side: of the crops, in pixels.
        workers: of each command.
        kills: workers of ``bulk`` that were killed.
        identical: streams of ``bulk`` that are those of ``compress``.
        missing: streams of ``compress`` that ``bulk`` does not have.
        doubled: streams that ``bulk`` has more than once.
        compress_s: seconds of ``compress``; of several rounds the median.
        bulk_s: seconds of ``bulk``.
        ratio: bulk's time over compress's; of several rounds the median.
        compress_mib: the most memory that ``compress`` held.
        bulk_mib: the most memory that ``bulk`` held, Ray included.
        rounds: how often both were timed.
    """

    measurement: str
    images: int
    side: int
    workers: int
    kills: int
    identical: int
    missing: int
    doubled: int
    compress_s: float
    bulk_s: float
    ratio: float
    compress_mib: float
    bulk_mib: float
    rounds: int


@dataclass
class Command:
    """A command that runs, and what is seen of it from outside.

    Attributes:
        process: its process.
        peak_mib: the most memory that it and what it started held together.
    """

    process: subprocess.Popen[bytes]
    peak_mib: float = 0
    _began: float = field(default_factory=time.perf_counter)

    @classmethod
    def start(cls, *arguments: object) -> Command:
        """Start ``lic-da …`` in a session of its own."""
        command = [sys.executable, "-m", "lic_da.cli", *map(str, arguments)]
        return cls(subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True))

    def finish(self) -> float:
        """Wait for its end and watch its memory; the seconds that it took.

        Raises:
            UserError: it did not end well.
        """
        while self.process.poll() is None:
            self.peak_mib = max(self.peak_mib, self._held())
            time.sleep(_WATCHED_S)
        if self.process.returncode:
            raise UserError(f"A command ended with {self.process.returncode}; see above.")
        return time.perf_counter() - self._began

    def _held(self) -> float:
        total = 0
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.process.pid or self._started(process):
                    total += process.memory_full_info().pss
            except (psutil.Error, OSError):
                continue
        return total / 2**20

    def _started(self, process: psutil.Process) -> bool:
        return self.process.pid in {parent.pid for parent in process.parents()}


def crops(folder: Path, sources: Path | None, count: int, side: int) -> None:
    """Write PNG files, each another crop of an image.

    Args:
        folder: where to.
        sources: a folder of images; None: the test images of ``natural``.
        count: of the crops.
        side: in pixels.

    Raises:
        UserError: no image is large enough.
    """
    rng = random.Random(0)
    paths = _images(sources)
    rng.shuffle(paths)
    images = [image for path in paths[:64] if min((image := read_rgb(path)).shape[:2]) >= side]
    if not images:
        raise UserError(f"No image has {side} pixels a side.")
    for number in range(count):
        image = images[number % len(images)]
        top, left = (rng.randrange(size - side + 1) for size in image.shape[:2])
        crop = np.ascontiguousarray(image[top : top + side, left : left + side])
        save_png(folder / f"{number // 1000:03d}" / f"{number:06d}.png", crop)


def _images(sources: Path | None) -> list[Path]:
    if sources is not None:
        return [sources / name for name in files_of(sources).names]
    domain = prepare("natural", CONF.parent / "data")
    return [domain.path(info) for info in domain.split("test")]


def streams(out: Path) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of all streams in the tar shards of an output."""
    for path in sorted((out / "shards").glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                content = archive.extractfile(member)
                assert content is not None
                yield member.name, content.read()


def compared(serial: Path, out: Path) -> tuple[int, int, int]:
    """How many streams are the same, are missing, and are there more than once."""
    expected = {p.relative_to(serial).as_posix() for p in serial.rglob("*.lic")}
    seen: set[str] = set()
    same = doubled = 0
    for name, data in streams(out):
        doubled += name in seen
        seen.add(name)
        same += name in expected and data == (serial / name).read_bytes()
    return same, len(expected - seen), doubled


def kill_workers(out: Path, times: int, parts: int, killed: list[int]) -> None:
    """Kill a worker whenever a share of the parts is done; ends when it has done so often enough."""
    for turn in range(1, times + 1):
        while _lines(out / "manifest.jsonl") < parts * turn // (times + 1):
            time.sleep(0.05)
        working = max((out / ".work").glob("[0-9]*.log"), key=lambda path: path.stat().st_mtime)
        pid = int(working.read_text().split("start ")[-1].split()[1])
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def pair(
    source: Path, folder: Path, options: Sequence[object], shard: int, kills: int, first: bool
) -> tuple[float, float, float, float, int]:
    """Seconds and MiB of ``compress`` and of ``bulk``, one after the other, and workers killed."""
    shutil.rmtree(folder, ignore_errors=True)
    found: dict[str, tuple[float, float]] = {}
    killed: list[int] = []
    parts = -(-len(files_of(source).names) // shard)
    for name in ("compress", "bulk") if first else ("bulk", "compress"):
        more = ("--shard", shard) if name == "bulk" else ()
        command = Command.start(name, source, folder / name, *options, *more)
        if name == "bulk" and kills:
            arguments = (folder / name, kills, parts, killed)
            threading.Thread(target=kill_workers, args=arguments, daemon=True).start()
        found[name] = command.finish(), command.peak_mib
    return (*found["compress"], *found["bulk"], len(killed))


app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def measure(
    images: Annotated[int, typer.Option(help="Of the run whose workers are killed.")] = 10_000,
    side: Annotated[int, typer.Option(help="Of a crop, in pixels.")] = 192,
    kills: Annotated[int, typer.Option(help="Workers that are killed.")] = 2,
    some: Annotated[int, typer.Option(help="Images of a round of throughput.")] = 2000,
    rounds: Annotated[int, typer.Option(help="Of throughput; 0: none.")] = 3,
    workers: Annotated[int, typer.Option(help="Of each command.")] = 2,
    shard: Annotated[int, typer.Option(help="Images of a shard.")] = 64,
    codec: str = "bmshj2018_factorized_n64",
    pack: Annotated[
        Path | None, typer.Option(help="Instead of a codec alone; then v is computed.")
    ] = None,
    sources: Annotated[
        Path | None, typer.Option(help="Folder of images to cut. Default: test images of natural.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="To work in. Default: a temporary one.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The table.")] = RESULTS / "bulk.csv",
) -> None:
    """Measure both; writes results/bulk.csv."""
    options = (*(("--pack", pack) if pack else ("--codec", codec)), "--jobs", workers)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        work = Path(temporary)
        crops(work / "all", sources, images, side)
        seconds, held, bulk_s, bulk_held, killed = pair(
            work / "all", work / "killed", options, shard, kills, True
        )
        same = compared(work / "killed" / "compress", work / "killed" / "bulk")
        rows = [
            Row(
                *("killed", images, side, workers, killed, *same),
                *(seconds, bulk_s, bulk_s / seconds, held, bulk_held, 1),
            )
        ]
        print(rows[0], flush=True)
        if rounds:
            crops(work / "some", sources, some, side)
            rows.append(throughput(work, options, some, side, workers, shard, rounds))
            print(rows[1])
    common.write_table(out, rows, ".6g")


def throughput(
    work: Path,
    options: Sequence[object],
    some: int,
    side: int,
    workers: int,
    shard: int,
    rounds: int,
) -> Row:
    """Time both commands on the same images, in changing order."""
    timed = [
        pair(work / "some", work / "timed", options, shard, 0, turn % 2 == 0)
        for turn in range(rounds)
    ]
    same = compared(work / "timed" / "compress", work / "timed" / "bulk")
    compress_s, compress_mib, bulk_s, bulk_mib, _ = zip(*timed, strict=True)
    ratio = statistics.median(b / c for b, c in zip(bulk_s, compress_s, strict=True))
    return Row(
        *("throughput", some, side, workers, 0, *same),
        *(statistics.median(compress_s), statistics.median(bulk_s), ratio),
        *(max(compress_mib), max(bulk_mib), rounds),
    )


if __name__ == "__main__":
    app()
