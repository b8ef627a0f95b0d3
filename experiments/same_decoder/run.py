"""How much rate does one decoder save, step by step? ``make experiments/same_decoder``.

A cascade over bmshj2018_factorized_n64: the gate, its v per region, the calibrated gate, v chosen at the
encoder, reconstruction points, refined latents. Packs of all qualities are trained as far as they are
missing; then the middles of test images are coded by every step. Writes points.csv, a row an image, step
and quality; table.csv, a row a domain and step, with BD-rates against the base decoder; and bd_rate.png.
What points.csv has already of the same packs and images is not coded again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import matplotlib.pyplot as plt
import numpy as np
import typer

from experiments import common
from lic_da.adapters.regions import Spatial
from lic_da.codecs import zoo
from lic_da.data.domains import prepare
from lic_da.evaluation.bd_rate import Curve, delta
from lic_da.evaluation.measure import mean
from lic_da.io.images import RGB, read_rgb
from lic_da.methods.adapters.codec import AdaptedCodec, adapter_state

HERE = Path(__file__).parent
RUNS = common.OUTPUTS / "experiment_same_decoder"
BASE = "base"
LATER = ("gate.calibration=learned", "points=means")
"""Settings of packs that hold what is fitted after training; without it they decode as packs without."""


@dataclass(frozen=True)
class Step:
    """A way to code and to decode.

    Attributes:
        name: of the step, for tables.
        pack: settings that its packs are trained with; steps of the same settings share them.
        calibrated: use the gate's calibration of the pack.
        points: use the reconstruction points of the pack.
        mode: of the codec.
        effort: of the encoder.
        spatial: what the gate finds a v for, ``image`` or ``window``.
    """

    name: str
    pack: tuple[str, ...] = LATER
    calibrated: bool = False
    points: bool = False
    mode: str = "weighted"
    effort: int = 0
    spatial: Spatial = "image"


CASCADE = (
    Step(BASE, mode="base"),
    Step("gate"),
    Step(
        "gate, regions", spatial="window"
    ),  # alone: a v that is in the stream is for all of the image
    Step("+ calibrated gate", calibrated=True),
    Step("+ chosen v", calibrated=True, mode="chosen"),
    Step("+ points", calibrated=True, mode="chosen", points=True),
    *(
        Step(f"+ effort {effort}", calibrated=True, mode="chosen", points=True, effort=effort)
        for effort in (1, 2, 3)
    ),
)
"""Each step has what those before it have, but regions. BD-rates are against the first."""


@dataclass(frozen=True)
class Coded:
    """The middle of a test image, coded at a quality by a step.

    ``bpp`` counts all of the file, header included; ``pack`` begins the fingerprint of what the pack holds.
    PSNR in dB of 8-bit images, seconds of encoding, a search included, and decoding.
    """

    quality: int
    step: str
    domain: str
    seen: bool
    image: str
    width: int
    height: int
    pack: str
    file_bytes: int
    bpp: float
    psnr: float
    encode_s: float
    decode_s: float

    @property
    def at(self) -> tuple[str, str]:
        """Which image it is."""
        return self.domain, self.image

    @property
    def of(self) -> tuple[Any, ...]:
        """What was coded, and how."""
        size = (self.width, self.height)
        return self.quality, self.step, self.domain, self.image, *size, self.pack


@dataclass(frozen=True)
class Image:
    """The middle of a test image."""

    domain: str
    name: str
    number: int
    pixels: RGB


@dataclass(frozen=True)
class Row:
    """A domain and step: BD-rate and BD-PSNR against base over the same images, mean gain, and seconds.

    ``gain_db`` is the mean over images and qualities of the PSNR less that of base; ``worst_db`` the least
    of them. ``images_bd_rate_percent`` is the mean of the BD-rates of ``images_compared`` images, those
    whose own curves overlap. ``bits_at_least_percent`` is how much less rate than the base at its highest
    quality the step takes at its lowest, where that decodes better all the same: it says something of
    curves that do not overlap. Times are of all images and qualities together, over their megapixels.
    """

    domain: str
    seen: bool
    step: str
    images: int
    qualities: int
    bd_rate_percent: float
    bd_psnr_db: float
    images_bd_rate_percent: float
    images_compared: int
    bits_at_least_percent: float
    gain_db: float
    worst_db: float
    encode_s_per_megapixel: float
    decode_s_per_megapixel: float
    reason: str


def packs(settings: Sequence[str], number: int, data: Path, qualities: str) -> dict[int, Path]:
    """Packs of all qualities that are trained with these settings; quality -> folder.

    Args:
        settings: Hydra overrides.
        number: of the sweep, which is in a folder of its own.
        data: folder of the prepared images.
        qualities: such as ``1,2,3,4``.
    """
    folder = RUNS / f"packs_{number}"
    common.sweep(
        folder, common.QUICK_CODEC, "domains=[sketch,comic]", f"codec.quality={qualities}",
        *settings, *common.BRIEF,
        *common.NO_REPORT, "evaluation.modes=[base,weighted]", f"data.data_dir={data}",
    )  # fmt: skip
    asked = common.numbers(qualities)
    runs = common.finished(folder)
    return {run.quality: run.folder / "pack" for run in runs if run.quality in asked}


def images(data: Path, domains: Sequence[str], per_domain: int, side: int) -> Iterator[Image]:
    """The middles of the test images that come first by their hashes, of all domains in turn."""
    prepared = {domain: prepare(domain, data) for domain in domains}
    tests = {d: sorted(p.split("test"), key=lambda i: i.sha256) for d, p in prepared.items()}
    for number in range(per_domain):
        for domain in domains:
            for image in tests[domain][number : number + 1]:
                pixels = read_rgb(prepared[domain].path(image))
                top, left = (max(0, length - side) // 2 for length in pixels.shape[:2])
                cut = pixels[top : top + side, left : left + side]
                yield Image(domain, image.name, number, np.ascontiguousarray(cut))


@contextmanager
def taking(codec: AdaptedCodec, step: Step) -> Iterator[None]:
    """Inside the block, the codec has of its calibration and points what the step uses."""
    synthesis = codec.synthesis
    trust, points, spatial = synthesis.trust, synthesis.points, synthesis.spatial
    synthesis.trust = trust if step.calibrated else None
    synthesis.points = points if step.points else None
    synthesis.set_spatial(step.spatial, synthesis.window)
    try:
        with codec.in_mode(step.mode):
            yield
    finally:
        synthesis.trust, synthesis.points = trust, points
        synthesis.set_spatial(spatial, synthesis.window)


def coded(codec: AdaptedCodec, pack: str, step: Step, image: Image) -> Coded:
    """Code an image by a step, and decode its file."""
    height, width = image.pixels.shape[:2]
    with taking(codec, step):
        began = time.perf_counter()
        data = codec.compress(image.pixels, effort=step.effort)
        between = time.perf_counter()
        # A chosen v is in the file, and read by the mode weighted.
        decoded = codec.decompress(data, "base" if step.mode == "base" else "weighted")
        ended = time.perf_counter()
    error = float(np.mean((decoded.astype(float) - image.pixels) ** 2))
    return Coded(
        quality=codec.config.quality,
        step=step.name,
        domain=image.domain,
        seen=image.domain in codec.domains,
        image=image.name,
        width=width,
        height=height,
        pack=pack,
        file_bytes=len(data),
        bpp=8 * len(data) / (width * height),
        psnr=10 * float(np.log10(255**2 / max(error, 1e-3))),
        encode_s=between - began,
        decode_s=ended - between,
    )


def code_what_is_missing(
    folders: Mapping[tuple[str, ...], Mapping[int, Path]],
    entries: Sequence[Image],
    effort_images: int,
    path: Path,
) -> list[Coded]:
    """Code all images by all steps; points.csv grows with every image.

    Args:
        folders: of packs, by their settings and qualities.
        entries: the images.
        effort_images: of a domain, the first, that steps with an effort code.
        path: of points.csv.

    Returns:
        All rows of these packs and images.
    """
    kept = {c.of: c for c in common.read_rows(path, Coded)} if path.is_file() else {}
    found: dict[tuple[Any, ...], Coded] = {}
    for codec, pack, steps in codecs_of(folders):
        for image in entries:
            size = image.pixels.shape[1::-1]
            for step in steps:
                if step.effort and image.number >= effort_images:
                    continue
                of = (codec.config.quality, step.name, image.domain, image.name, *size, pack)
                found[of] = kept[of] if of in kept else coded(codec, pack, step, image)
            # Rows of other packs and images stay until all is done.
            common.write_table(path, [*(kept | found).values()])
    common.write_table(path, [*found.values()])
    return [*found.values()]


def codecs_of(
    folders: Mapping[tuple[str, ...], Mapping[int, Path]],
) -> Iterator[tuple[AdaptedCodec, str, list[Step]]]:
    """The packs with their steps; then the base codec at its further qualities, with the base alone.

    What adapters decode may be better at the lowest rate than what the base decodes at the highest that
    packs are for: only a longer curve of the base can be compared with it.

    Returns:
        Codecs, what their fingerprints begin with, and steps.
    """
    for settings, own in folders.items():
        for _, folder in sorted(own.items()):
            codec = AdaptedCodec.load(folder)
            pack = zoo.fingerprint(adapter_state(codec.codec))[:12]
            yield codec, pack, [step for step in CASCADE if step.pack == settings]
    trained = {quality for own in folders.values() for quality in own}
    for quality in codec.config.qualities:
        if quality > max(trained):
            base = AdaptedCodec.build(codec.config.at_quality(quality), codec.domains)
            yield base, base.fingerprint[:12], [step for step in CASCADE if step.name == BASE]


def rows(found: Sequence[Coded]) -> list[Row]:
    """A row a domain and step."""
    base = {(c.quality, c.domain, c.image): c for c in found if c.step == BASE}
    result = []
    for domain in dict.fromkeys(c.domain for c in found):
        for step in (s.name for s in CASCADE if s.name != BASE):
            own = [c for c in found if (c.domain, c.step) == (domain, step)]
            if own:
                result.append(_row(own, base))
    return result


def _row(own: Sequence[Coded], base: Mapping[tuple[int, str, str], Coded]) -> Row:
    images = list(dict.fromkeys(c.at for c in own))
    anchor = [c for of, c in base.items() if of[1:] in images]
    saved, least = delta(_curve(anchor), _curve(own)), _bits_at_least(_curve(anchor), _curve(own))
    each = [
        delta(
            _curve([c for c in anchor if c.at == image]), _curve([c for c in own if c.at == image])
        )
        for image in images
    ]
    compared = [d.bd_rate_percent for d in each if not math.isnan(d.bd_rate_percent)]
    gains = [c.psnr - base[c.quality, c.domain, c.image].psnr for c in own]
    megapixels = sum(c.width * c.height for c in own) / 1e6
    return Row(
        *(own[0].domain, own[0].seen, own[0].step),
        images=len({c.image for c in own}),
        qualities=len({c.quality for c in own}),
        bd_rate_percent=saved.bd_rate_percent,
        bd_psnr_db=saved.bd_psnr_db,
        images_bd_rate_percent=mean(compared) if compared else math.nan,
        images_compared=len(compared),
        bits_at_least_percent=least,
        gain_db=mean(gains),
        worst_db=min(gains),
        encode_s_per_megapixel=sum(c.encode_s for c in own) / megapixels,
        decode_s_per_megapixel=sum(c.decode_s for c in own) / megapixels,
        reason=saved.reason,
    )


def _bits_at_least(anchor: Curve, own: Curve) -> float:
    """Rate of a curve's worst point over that of the anchor's last, which is no better; else nan."""
    if own.psnr[0] < max(anchor.psnr):
        return math.nan
    return 100 * (own.bpp[0] / anchor.bpp[-1] - 1)


def _curve(own: Sequence[Coded]) -> Curve:
    """Mean rate and PSNR, a point a quality."""
    at = {q: [c for c in own if c.quality == q] for q in sorted({c.quality for c in own})}
    return Curve.of([(mean(c.bpp for c in cs), mean(c.psnr for c in cs)) for cs in at.values()])


def plot(table: Sequence[Row], path: Path) -> None:
    """BD-rates of the steps, a group of bars a domain; hatched: what is saved at least."""
    domains, steps = ([*dict.fromkeys(getattr(r, of) for r in table)] for of in ("domain", "step"))
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for number, step in enumerate(steps):
        own = [next((r for r in table if (r.domain, r.step) == (d, step)), None) for d in domains]
        exact = [math.nan if r is None else r.bd_rate_percent for r in own]
        least = [
            r.bits_at_least_percent if r is not None and math.isnan(x) else math.nan
            for r, x in zip(own, exact, strict=True)
        ]
        places = [i + 0.8 * (number / len(steps) - 0.5) for i in range(len(domains))]
        width, colour = 0.8 / len(steps), f"C{number}"
        axes.bar(places, exact, width, color=colour, label=step)
        axes.bar(places, least, width, color=colour, hatch="///", alpha=0.5)
    axes.set_xticks(range(len(domains)), domains)
    axes.set_ylabel("BD-rate against the base decoder, %;\nhatched: rate saved at least")
    axes.legend(fontsize="small", ncols=2)
    common.save_plot(figure, path)


def main(
    data: Path = Path("data"),
    qualities: str = "1,2,3,4",
    domains: str = "natural,sketch,comic,clipart",
    per_domain: Annotated[int, typer.Option(min=1)] = 25,
    effort_images: int = 6,
    side: Annotated[int, typer.Option(min=16)] = 256,
    output: Path = HERE,
) -> None:
    """Train packs, code the images, write tables and plot.

    Args:
        data: folder of the prepared images.
        qualities: of the codec; BD-rates need four.
        domains: whose test images are coded; those that no pack was trained on are unseen.
        per_domain: test images of a domain at most, the first by their hashes.
        effort_images: how many of them steps with an effort code.
        side: of the middle of an image that is coded, in pixels.
        output: folder of the tables.
    """
    kinds = dict.fromkeys(step.pack for step in CASCADE)
    folders = {kind: packs(kind, number, data, qualities) for number, kind in enumerate(kinds)}
    entries = [*images(data, domains.split(","), per_domain, side)]
    found = code_what_is_missing(folders, entries, effort_images, output / "points.csv")
    table = rows(found)
    common.write_table(output / "table.csv", table, ".5g")
    plot(table, output / "bd_rate.png")


if __name__ == "__main__":
    typer.run(main)
