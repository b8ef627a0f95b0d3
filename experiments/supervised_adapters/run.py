"""What do supervised adapters save over three codecs? ``make experiments/supervised_adapters``.

Trains adapters and gate on sketches and comics over each codec at all its qualities, over one of them
with three seeds, and tests on these domains, on photographs and on all other prepared domains, which were
never trained on. Runs that are finished are not done again, so that it may be done in parts:
``ARGS="--codec zou2022_n64 --qualities 1,2"``; with ``--no-train`` tables are only written anew.

Writes what there is, beside this file: parts.csv (which runs the tables hold), rd_curves.csv, bd_rate.csv,
gate.csv, costs.csv, rd_curves.png and results.md, the tables for people.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import typer

from experiments import common
from lic_da.codecs import zoo
from lic_da.codecs.spec import CodecSpec
from lic_da.config import CONF, available, read_settings
from lic_da.data.domains import SOURCE_DOMAIN, load_domain, prepared
from lic_da.errors import unknown
from lic_da.evaluation.bd_rate import delta
from lic_da.evaluation.by_image import ImageCurves, delta_intervals, mean_delta, own_deltas
from lic_da.evaluation.curves import PSNR, Run, Series, curve, series_of
from lic_da.evaluation.measure import Point, mean
from lic_da.evaluation.operations import kmacs_per_pixel
from lic_da.io.files import write_text
from lic_da.methods.adapters.codec import AdaptedCodec

HERE = Path(__file__).parent
RUNS = common.OUTPUTS / "experiment_supervised_adapters"
WITH_SEEDS = "bmshj2018_factorized_n64"
CODECS = ("zou2022_n64", "mbt2018_mean_n64", WITH_SEEDS)
TARGETS = ("sketch", "comic")
MODES = ("weighted", "top1", "oracle")
SETTINGS = (
    *("logger=none", "evaluation.ms_ssim=false", "evaluation.examples=0"),
    *("data.unseen_images=20", "evaluation.compatibility=1", *common.NO_REPORT),
)
RESAMPLES = 1000
_SIDE = 256  # of the image whose operations are counted


@dataclass(frozen=True)
class Part:
    """Which of a codec's runs the tables hold."""

    codec: str
    seed: int
    done: str
    missing: str


@dataclass(frozen=True)
class Mean:
    """A point of a curve: means over a domain's test images, of one seed; medians of seconds."""

    codec: str
    seed: int
    domain: str
    kind: str
    mode: str
    quality: int
    images: int
    bpp: float
    psnr: float
    encode_s: float
    decode_s: float


@dataclass(frozen=True)
class Saved:
    """BD-rate (%) and BD-PSNR (dB) against the base decoder, Akima; means over seeds.

    ``…_low`` and ``…_high`` bound 95 % over images drawn again; ``…_least`` and ``…_most`` are the seeds'
    own. ``…_of_images…`` are means of the images' own deltas, over ``images_compared`` of all seeds.
    """

    codec: str
    domain: str
    kind: str
    mode: str
    seeds: int
    qualities: int
    images: int
    bd_rate_percent: float
    bd_rate_low: float
    bd_rate_high: float
    bd_rate_least: float
    bd_rate_most: float
    bd_psnr_db: float
    bd_psnr_low: float
    bd_psnr_high: float
    bd_rate_of_images_percent: float
    bd_psnr_of_images_db: float
    images_compared: int
    images_left_out: int
    reason: str


@dataclass(frozen=True)
class Cost:
    """Parameters, thousands of multiplications a pixel, and medians of seconds of the test images.

    ``kmac_adapted`` is the base decoder with merged kernels and the gate; ``decode_ratio`` the median over
    images of the adapted decoder's time, entropy decoding included, over the base decoder's.
    """

    codec: str
    parameters_base: int
    parameters_adapter: int
    parameters_gate: int
    kmac_encoder: float
    kmac_decoder: float
    kmac_adapted: float
    encode_s: float
    decode_base_s: float
    decode_adapted_s: float
    decode_ratio: float


def spec_of(codec: str) -> CodecSpec:
    """A codec of ``conf/codec``."""
    return CodecSpec.from_settings(read_settings(CONF / "codec" / f"{codec}.yaml"))


def seeds_of(codec: str) -> list[int]:
    """Seeds that a codec is to be trained with."""
    return [0, 1, 2] if codec == WITH_SEEDS else [0]


def unseen_domains(folder: Path, data: Path) -> list[str]:
    """Domains to test on that are not trained on: those of the runs in a folder, or all that are prepared.

    More test images of a trained domain are none.
    """
    for config in sorted(folder.glob("*/config.yaml")):
        return list(read_settings(config)["data"]["unseen"])
    trained = {SOURCE_DOMAIN, *TARGETS}
    return [
        name
        for name in available("domain")
        if name not in trained
        and load_domain(name).more_of not in trained
        and prepared(name, data) is not None
    ]


def train(codec: str, qualities: Sequence[int], seeds: Sequence[int], jobs: int = 1) -> None:
    """Train what is missing of a codec."""
    folder = RUNS / codec
    common.sweep(
        folder,
        *(f"codec={codec}", f"domains=[{','.join(TARGETS)}]"),
        f"unseen=[{','.join(unseen_domains(folder, Path('data')))}]",
        f"codec.quality={','.join(map(str, qualities))}",
        f"seed={','.join(map(str, seeds))}",
        *SETTINGS,
        jobs=jobs,
    )


def seed_of(runs: Sequence[Run]) -> int:
    """Seed of a series' runs."""
    return int(runs[0].config["seed"])


def finished(codec: str) -> list[Series]:
    """Finished runs of a codec, a series a seed."""
    found = series_of(common.finished(RUNS / codec))
    return sorted(found, key=lambda s: seed_of(s.runs))


def parts(codec: str, found: Sequence[Series]) -> Iterator[Part]:
    """What is done of a codec and what is missing, a row a seed."""
    done = {seed_of(s.runs): [r.quality for r in s.runs] for s in found}
    for seed in sorted({*seeds_of(codec), *done}):
        own = done.get(seed, [])
        missing = [q for q in spec_of(codec).qualities if q not in own]
        yield Part(codec, seed, " ".join(map(str, own)), " ".join(map(str, missing)))


def means(series: Series) -> Iterator[Mean]:
    """Points of all curves of a seed."""
    for domain in series.domains:
        for mode in ("base", *MODES):
            for run in series.runs:
                own = [p for p in run.points if (p.domain, p.blend) == (domain, mode)]
                if own:
                    yield Mean(
                        *(series.codec, seed_of(series.runs), domain, series.kind(domain)),
                        *(mode, run.quality, len(own)),
                        *(mean(p.bpp for p in own), mean(p.psnr for p in own)),
                        encode_s=statistics.median(p.encode_s for p in own),
                        decode_s=statistics.median(p.decode_s for p in own),
                    )


def comparable(found: Sequence[Series]) -> list[Series]:
    """The seeds that were trained at as many qualities as the one with the most."""
    most = max((len(s.runs) for s in found), default=0)
    return [s for s in found if len(s.runs) == most]


def saved(found: Sequence[Series], domain: str, mode: str) -> Saved:
    """What a mode saves on a domain, over all seeds."""
    pairs = [(s.points(domain, "base"), s.points(domain, mode)) for s in found]
    deltas = [delta(curve(base), curve(test)) for base, test in pairs]
    rates = [d.bd_rate_percent for d in deltas]
    images = [(ImageCurves.of(b, PSNR), ImageCurves.of(t, PSNR)) for b, t in pairs]
    own = [own_deltas(*pair) for pair in images]
    far = delta_intervals(images, resamples=RESAMPLES)
    rate, psnr = mean_delta(deltas)
    return Saved(
        *(found[0].codec, domain, found[0].kind(domain), mode),
        seeds=len(found),
        qualities=len(found[0].runs),
        images=len(images[0][1].names),
        bd_rate_percent=rate,
        bd_rate_low=far.bd_rate.low,
        bd_rate_high=far.bd_rate.high,
        bd_rate_least=min(rates),
        bd_rate_most=max(rates),
        bd_psnr_db=psnr,
        bd_psnr_low=far.bd_psnr.low,
        bd_psnr_high=far.bd_psnr.high,
        bd_rate_of_images_percent=mean(o.bd_rate_percent for o in own),
        bd_psnr_of_images_db=mean(o.bd_psnr_db for o in own),
        images_compared=sum(o.compared for o in own),
        images_left_out=sum(o.left_out for o in own),
        reason="; ".join(sorted({d.reason for d in deltas if d.reason})),
    )


def gates(found: Sequence[Series]) -> Iterator[dict[str, object]]:
    """Mean v of the gate, a row a domain of images: over its images, all qualities and seeds."""
    for domain in found[0].domains:
        of_seeds = [s.gate(domain) for s in found]
        row = {"codec": found[0].codec, "domain": domain, "kind": found[0].kind(domain)}
        yield row | {d: mean(v[d] for v in of_seeds) for d in found[0].trained}


@torch.no_grad()
def cost(codec: str, found: Sequence[Series]) -> Cost:
    """What a codec and its adapters cost."""
    adapted = AdaptedCodec.build(spec_of(codec), [SOURCE_DOMAIN, *TARGETS])
    model, synthesis = adapted.model, adapted.synthesis
    x = torch.rand(1, 3, _SIDE, _SIDE, generator=torch.Generator().manual_seed(0))
    y = model.g_a(x)
    base: dict[tuple[str, str, str], Point] = {}
    pairs: list[tuple[Point, Point]] = []
    for run in (run for s in found for run in s.runs):
        base |= {(p.run, p.domain, p.image): p for p in run.points if p.blend == "base"}
        weighted = (p for p in run.points if p.blend == "weighted")
        pairs += [(base[p.run, p.domain, p.image], p) for p in weighted]
    added = adapted.added_parameters()
    return Cost(
        codec,
        parameters_base=zoo.parameters_by_part(model)["total"]
        - added["adapters"]["total"]
        - added["gate"],
        parameters_adapter=added["adapters"]["per_domain"],
        parameters_gate=added["gate"],
        kmac_encoder=kmacs_per_pixel(model.g_a, x, _SIDE**2),
        kmac_decoder=kmacs_per_pixel(synthesis.base, y, _SIDE**2),
        kmac_adapted=kmacs_per_pixel(synthesis, y, _SIDE**2),
        encode_s=statistics.median(b.encode_s for b, _ in pairs),
        decode_base_s=statistics.median(b.decode_s for b, _ in pairs),
        decode_adapted_s=statistics.median(p.decode_s for _, p in pairs),
        decode_ratio=statistics.median(p.decode_s / b.decode_s for b, p in pairs),
    )


def plot(points: Sequence[Mean], path: Path) -> None:
    """Curves of the first seed of each codec, a row a codec, on source and targets."""
    codecs = list(dict.fromkeys(p.codec for p in points))
    domains = (SOURCE_DOMAIN, *TARGETS)
    size = (4.2 * len(domains), 3.6 * len(codecs))
    figure, panels = plt.subplots(
        len(codecs), len(domains), figsize=size, layout="constrained", squeeze=False
    )
    for row, codec in zip(panels, codecs, strict=True):
        own = [p for p in points if p.codec == codec]
        first = min(p.seed for p in own)
        for axis, domain in zip(row, domains, strict=True):
            for mode in ("base", *MODES):
                shown = sorted(
                    (p.bpp, p.psnr)
                    for p in own
                    if (p.seed, p.domain, p.mode) == (first, domain, mode)
                )
                if shown:
                    axis.plot(*zip(*shown, strict=True), marker=".", label=mode)
            axis.set(title=f"{codec}: {domain}", xlabel="bits per pixel", ylabel="PSNR, dB")
            axis.grid(alpha=0.3)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels) or 1)
    common.save_plot(figure, path)


def plot_rates(rows: Sequence[Saved], path: Path) -> None:
    """BD-rate by the gate's weights with 95 % over images, a row a domain, a colour a codec."""
    own = [r for r in rows if r.mode == MODES[0]]
    codecs = list(dict.fromkeys(r.codec for r in own))
    names = {r.domain: r.domain + (" (unseen)" if r.kind == "unseen" else "") for r in own}
    height = 0.45 * len(names) + 1.3
    figure, axis = plt.subplots(figsize=(8.5, height), layout="constrained")
    for number, codec in enumerate(codecs):
        shift = 0.22 * (number - (len(codecs) - 1) / 2)
        of = [r for r in own if r.codec == codec]
        at = [list(names).index(r.domain) + shift for r in of]
        low, high = [r.bd_rate_low for r in of], [r.bd_rate_high for r in of]
        axis.hlines(at, low, high, color=f"C{number}", linewidth=2, alpha=0.5)
        axis.plot([r.bd_rate_percent for r in of], at, "o", color=f"C{number}", label=codec)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set(xlabel="BD-rate against the base decoder, % (less is better); lines: 95 % over images")
    axis.set_yticks(range(len(names)), list(names.values()))
    axis.invert_yaxis()
    axis.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=len(codecs))
    common.save_plot(figure, path)


def page(rows: Sequence[Saved], costs: Sequence[Cost], there: Sequence[Part]) -> str:
    """The tables for people."""
    rates = [
        {
            "codec": r.codec,
            "domain": r.domain if r.kind != "unseen" else f"{r.domain} (unseen)",
            "mode": r.mode,
            "BD-rate": f"{common.signed(r.bd_rate_percent)} %",
            "95 % over images": " … ".join(map(common.signed, (r.bd_rate_low, r.bd_rate_high))),
            "seeds' own": " … ".join(map(common.signed, (r.bd_rate_least, r.bd_rate_most))),
            "BD-PSNR": f"{common.signed(r.bd_psnr_db)} dB",
            "mean of images": f"{common.signed(r.bd_rate_of_images_percent)} %",
            "left out": f"{r.images_left_out} of {r.images_compared + r.images_left_out}",
        }
        for r in rows
    ]
    prices = [
        {
            "codec": c.codec,
            "parameters": f"{c.parameters_base:,}",
            "one adapter": f"{c.parameters_adapter:,}",
            "gate": f"{c.parameters_gate:,}",
            "kMAC/pixel: encoder, decoder, adapted": f"{c.kmac_encoder:.2f}, {c.kmac_decoder:.2f}, "
            f"{c.kmac_adapted:.2f}",
            "decode time over the base's": f"{c.decode_ratio:.2f}",
        }
        for c in costs
    ]
    runs = [
        {
            "codec": p.codec,
            "seed": str(p.seed),
            "qualities in the tables": p.done or "none",
            "not done yet": p.missing or "none",
        }
        for p in there
    ]
    tables = map(common.markdown, (runs, rates, prices))
    return "\n".join(["Written by `make experiments/supervised_adapters`.\n", *tables])


def write(found: dict[str, list[Series]], folder: Path) -> list[Saved]:
    """All tables and the plot of what there is, in a folder; the rows of ``bd_rate.csv``."""
    there = [part for codec in CODECS for part in parts(codec, found.get(codec, []))]
    common.write_table(folder / "parts.csv", there)
    points = [point for own in found.values() for s in own for point in means(s)]
    whole = {codec: comparable(own) for codec, own in found.items()}
    rows = [
        saved(own, domain, mode)
        for own in whole.values()
        for domain in own[0].domains
        for mode in MODES
        if mode in own[0].modes(domain)
    ]
    costs = [cost(codec, own) for codec, own in whole.items()]
    common.write_table(folder / "rd_curves.csv", points, ".6g")
    common.write_table(folder / "bd_rate.csv", rows, ".4f")
    common.write_table(
        folder / "gate.csv", (r for own in whole.values() for r in gates(own)), ".4f"
    )
    common.write_table(folder / "costs.csv", costs, ".4g")
    plot(points, folder / "rd_curves.png")
    plot_rates(rows, folder / "bd_rate.png")
    write_text(folder / "results.md", page(rows, costs, there))
    return rows


def main(
    codec: str = ",".join(CODECS),
    qualities: str = "",
    seeds: str = "",
    jobs: common.Jobs = 1,
    train_missing: bool = typer.Option(True, "--train/--no-train", help="Train what is missing."),
) -> None:
    """Train what is missing of codecs, qualities and seeds (with commas; none: all), write the tables."""
    chosen = codec.split(",")
    for name in chosen:
        if name not in CODECS:
            raise SystemExit(str(unknown("codec", name, CODECS)))
        wanted = common.numbers(qualities) or spec_of(name).qualities
        for quality in wanted:
            if quality not in spec_of(name).qualities:
                raise SystemExit(
                    str(unknown("quality", quality, spec_of(name).qualities, f"of {name}"))
                )
        if train_missing:
            train(name, wanted, common.numbers(seeds) or seeds_of(name), jobs)
    found = {name: own for name in CODECS if (own := finished(name))}
    if not found:
        raise SystemExit("No run is finished, so there is nothing to write: leave out --no-train.")
    for row in write(found, HERE):
        if row.mode == "weighted":
            print(f"{row.codec}, {row.domain}: BD-rate {common.signed(row.bd_rate_percent)} %")


if __name__ == "__main__":
    typer.run(main)
