"""What does a chosen v gain over the gate's? ``python -m experiments.same_decoder.chosen``.

Trains with the default settings at quality 3 (or takes a pack), codes test images with and without a search
for v, and writes chosen.csv, a row an image, and chosen_table.csv, a row a domain. What chosen.csv has of
the same pack is not coded again, so it may be stopped and started.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments import common
from lic_da.codecs import zoo
from lic_da.config import available
from lic_da.data.datamodule import LabelledImage
from lic_da.data.domains import prepare, prepared
from lic_da.evaluation.measure import Point, mean, measure
from lic_da.methods.adapters.codec import AdaptedCodec, adapter_state

HERE = Path(__file__).parent
DOMAINS = "natural,sketch,comic,clipart"
MODES = ("base", "weighted", "chosen")
LOSSES = (0.05, 0.005)  # dB below the base that are counted


@dataclass(frozen=True)
class Image:
    """One image: PSNR in dB of three decoders of the same strings, v, and what it cost.

    ``v_bytes`` is what the stream has grown by. Seconds are those of encoding, with and without the search,
    and of decoding. ``pack`` is what its adapters' fingerprint begins with.
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
    pack: str


def of_modes(points: Sequence[Point], pack: str) -> Image:
    """The points of one image, brought together."""
    own = {p.blend: p for p in points}
    gate, chosen = own["weighted"], own["chosen"]
    return Image(
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
        pack=pack,
    )


def rows(found: Sequence[Image]) -> list[dict[str, Any]]:
    """A row a domain, and one for all: gains over the base, losers, bytes of v and seconds a megapixel."""
    result: list[dict[str, Any]] = []
    groups = {
        d: [i for i in found if i.domain == d] for d in dict.fromkeys(i.domain for i in found)
    }
    groups |= {
        name: own for name, seen in (("all seen", True), ("all unseen", False))
        if (own := [i for i in found if i.seen == seen])
    }  # fmt: skip
    for name, own in (groups | {"all": list(found)}).items():
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


def train() -> Path:
    """A pack with the default settings."""
    name = f"experiment_same_decoder_{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}"
    common.start(
        *("train", common.QUICK_CODEC, "domains=[sketch,comic]", f"name={name}"),
        "evaluation.modes=[base,weighted]",
    )
    return common.OUTPUTS / name / "pack"


def tested(
    codec: AdaptedCodec, domains: Sequence[str], data: Path, per_domain: int
) -> list[LabelledImage]:
    """Test images, of all domains in turn."""
    entries: list[tuple[int, LabelledImage]] = []
    for domain in domains:
        images = prepare(domain, data)
        label = codec.domains.index(domain) if domain in codec.domains else -1
        test = sorted(images.split("test"), key=lambda p: p.name)[:per_domain]
        entries += enumerate(LabelledImage(p, images.path(p), domain, label) for p in test)
    return [image for _, image in sorted(entries, key=lambda numbered: numbered[0])]


def main(
    pack: Path | None = None,
    data: Path = Path("data"),
    domains: str = DOMAINS,
    per_domain: Annotated[int, typer.Option(min=1)] = 1000,
    output: Path = HERE,
) -> None:
    """Code the test images, write the tables.

    Args:
        pack: a pack that is there; else one is trained.
        data: folder of the prepared images.
        domains: whose test images are coded; ``all``: those of all that are prepared.
        per_domain: test images of a domain at most, the first by name.
        output: folder of the tables.
    """
    codec = AdaptedCodec.load(pack or train())
    fingerprint = zoo.fingerprint(adapter_state(codec.codec))[:12]
    path, known = output / "chosen.csv", dict[tuple[str, str], Image]()
    if path.is_file():
        rows_of_pack = (i for i in common.read_rows(path, Image) if i.pack == fingerprint)
        known = {(i.domain, i.image): i for i in rows_of_pack}
    there = available("domain") if domains == "all" else domains.split(",")
    names = [name for name in there if domains != "all" or prepared(name, data)]
    found: list[Image] = []
    for image in tested(codec, names, data, per_domain):
        of = image.domain, image.info.name
        if of not in known:
            points = measure(codec, [image], run="run", modes=MODES, metrics=["psnr"])
            known[of] = of_modes(points, fingerprint)
            common.write_table(path, [*known.values()], ".5g")
        found.append(known[of])
    common.write_table(path, found, ".5g")
    common.write_table(output / "chosen_table.csv", rows(found), ".5g")


if __name__ == "__main__":
    typer.run(main)
