"""What does a chosen v gain over the gate's? ``python -m experiments.same_decoder.chosen``.

Trains with the default settings at quality 3 (or takes a pack), codes test images with and without a search
for v, and writes chosen.csv, a row an image, and chosen_table.csv, a row a domain.
"""

from __future__ import annotations

import csv
import datetime
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer

from lic_da.data.datamodule import LabelledImage
from lic_da.data.domains import prepare
from lic_da.evaluation.measure import Point, mean, measure
from lic_da.io.files import atomic_path
from lic_da.methods.adapters.codec import AdaptedCodec

HERE = Path(__file__).parent
DOMAINS = ("natural", "sketch", "comic", "clipart")
MODES = ("base", "weighted", "chosen")
LOSSES = (0.05, 0.005)  # dB below the base that are counted


@dataclass(frozen=True)
class Image:
    """One image: PSNR in dB of three decoders of the same strings, v, and what it cost.

    ``v_bytes`` is what the stream has grown by. Seconds are those of encoding, with and without the search,
    and of decoding.
    """

    domain: str
    seen: bool
    image: str
    width: int
    height: int
    bpp: float
    v_bytes: int
    base: float
    gate: float
    chosen: float
    v_gate: str
    v_chosen: str
    encode_s: float
    encode_chosen_s: float
    decode_s: float


def images(points: Sequence[Point]) -> list[Image]:
    """The points of one image after the other, brought together."""
    found = []
    for key in dict.fromkeys((p.domain, p.image) for p in points):
        own = {p.blend: p for p in points if (p.domain, p.image) == key}
        gate, chosen = own["weighted"], own["chosen"]
        found.append(
            Image(
                *(gate.domain, gate.seen, gate.image, gate.width, gate.height, gate.bpp),
                v_bytes=chosen.file_bytes - gate.file_bytes,
                base=own["base"].psnr,
                gate=gate.psnr,
                chosen=chosen.psnr,
                v_gate=" ".join(f"{v:.3f}" for v in gate.gate.values()),
                v_chosen=" ".join(f"{v:.5g}" for v in chosen.gate.values()),
                encode_s=gate.encode_s,
                encode_chosen_s=chosen.encode_s,
                decode_s=gate.decode_s,
            )
        )
    return found


def rows(found: Sequence[Image]) -> list[dict[str, Any]]:
    """A row a domain, and one for all: gains over the base, losers, bytes of v and seconds a megapixel."""
    result: list[dict[str, Any]] = []
    for name in (*dict.fromkeys(i.domain for i in found), "all"):
        own = [i for i in found if name in (i.domain, "all")]
        megapixels = sum(i.width * i.height for i in own) / 1e6
        row: dict[str, Any] = {"domain": name, "images": len(own)}
        for mode in ("gate", "chosen"):
            gains = [getattr(i, mode) - i.base for i in own]
            row[f"{mode}_gain"] = mean(gains)
            row[f"{mode}_worst"] = min(gains)
            for loss in LOSSES:
                row[f"{mode}_loses_{loss:g}"] = mean(float(g < -loss) for g in gains)
        below = [i.chosen - max(i.gate, i.base) for i in own]
        row["chosen_below_best_of_both"] = min(below)
        row["v_bytes"] = mean(i.v_bytes for i in own)
        row["rate_percent"] = 100 * mean(8 * i.v_bytes / (i.bpp * i.width * i.height) for i in own)
        row["search_s_per_megapixel"] = (
            sum(i.encode_chosen_s - i.encode_s for i in own) / megapixels
        )
        row["decode_s_per_megapixel"] = sum(i.decode_s for i in own) / megapixels
        result.append(row)
    return result


def write(name: str, table: Sequence[dict[str, Any]]) -> None:
    """A table beside this file."""
    with atomic_path(HERE / name) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
        writer.writeheader()
        for row in table:
            writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})


def train() -> Path:
    """A pack with the default settings."""
    name = f"experiment_same_decoder_{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}"
    command = [sys.executable, "-m", "lic_da.train", "domains=[sketch,comic]", f"name={name}"]
    subprocess.run([*command, "evaluation.modes=[base,weighted]"], check=True)
    return Path("outputs") / name / "pack"


def main(pack: Path | None = None, data: Path = Path("data"), per_domain: int = 1000) -> None:
    """Code the test images, write the tables.

    Args:
        pack: a pack that is there; else one is trained.
        data: folder of the prepared images.
        per_domain: test images of a domain at most, the first by name.
    """
    codec = AdaptedCodec.load(pack or train())
    entries: list[tuple[int, LabelledImage]] = []
    for domain in DOMAINS:
        prepared = prepare(domain, data)
        label = codec.domains.index(domain) if domain in codec.domains else -1
        test = sorted(prepared.split("test"), key=lambda p: p.name)[:per_domain]
        own = (LabelledImage(p, prepared.path(p), domain, label) for p in test)
        entries += enumerate(own)
    found: list[Image] = []
    for _, image in sorted(entries, key=lambda numbered: numbered[0]):  # of all domains in turn
        found += images(measure(codec, [image], run="run", modes=MODES, metrics=["psnr"]))
        print(found[-1], flush=True)
        write("chosen.csv", [asdict(i) for i in found])
    write("chosen_table.csv", rows(found))


if __name__ == "__main__":
    typer.run(main)
