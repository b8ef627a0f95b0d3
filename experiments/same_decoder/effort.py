"""What does an encoder gain that spends time on each image? ``python -m experiments.same_decoder.effort``.

Codes test images with each effort, and writes effort.csv, a row an image and effort, and
effort_table.csv, a row a domain and effort; over zou2022_n64 effort_zou2022_n64.csv and so on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer

from experiments.common import read_rows, write_table
from lic_da.codecs.refine import STEPS
from lic_da.data.domains import prepare
from lic_da.evaluation.measure import mean
from lic_da.io.bitstream import Stream
from lic_da.io.images import RGB, read_rgb
from lic_da.methods.adapters.codec import AdaptedCodec

HERE = Path(__file__).parent
DOMAINS = ("natural", "sketch", "comic", "clipart")
CODEC = "bmshj2018_factorized_n64"


@dataclass(frozen=True)
class Coded:
    """An image coded with an effort.

    Images are cut to their middle where they are larger than asked for. ``cost`` is 8·bytes of the file
    + λ·255²·MSE·pixels, in bits, by the adapted decoder with the gate's v; ``cost_base`` is that by the
    plain base decoder. PSNR in dB, seconds of encoding.
    """

    domain: str
    image: str
    width: int
    height: int
    effort: int
    bpp: float
    psnr: float
    psnr_base: float
    cost: float
    cost_base: float
    encode_s: float


def coded(codec: AdaptedCodec, pixels: RGB, domain: str, name: str, effort: int) -> Coded:
    """Code an image, and decode its file twice."""
    began = time.perf_counter()
    data = codec.compress(pixels, effort=effort)
    seconds = time.perf_counter() - began
    errors = [
        float(((codec.decompress(data, mode).astype(float) - pixels) ** 2).sum())
        for mode in ("weighted", "base")
    ]
    psnr, psnr_base = (10 * float(np.log10(255**2 * pixels.size / error)) for error in errors)
    cost, cost_base = (8 * len(data) + codec.config.lmbda() * error / 3 for error in errors)
    return Coded(
        *(domain, name, pixels.shape[1], pixels.shape[0], effort, Stream.from_bytes(data).bpp),
        *(psnr, psnr_base, cost, cost_base, seconds),
    )


def images(data: Path, per_domain: int, side: int) -> Iterator[tuple[str, str, RGB]]:
    """Domain, name and pixels of the first test images by name, of all domains in turn."""
    prepared = {domain: prepare(domain, data) for domain in DOMAINS}
    tests = {d: sorted(p.split("test"), key=lambda i: i.name) for d, p in prepared.items()}
    for number in range(per_domain):
        for domain in DOMAINS:
            image = tests[domain][number]
            pixels = read_rgb(prepared[domain].path(image))
            top, left = (max(0, length - side) // 2 for length in pixels.shape[:2])
            cut = pixels[top : top + side, left : left + side]
            yield domain, image.name, np.ascontiguousarray(cut)


def rows(found: Sequence[Coded]) -> list[dict[str, Any]]:
    """A row a domain and effort: mean changes against effort 0, and seconds as a ratio."""
    result: list[dict[str, Any]] = []
    for domain in dict.fromkeys(c.domain for c in found):
        plain = {c.image: c for c in found if c.domain == domain and not c.effort}
        for effort in range(1, len(STEPS)):
            own = [c for c in found if (c.domain, c.effort) == (domain, effort)]
            pairs = [(c, plain[c.image]) for c in own]
            ratios = [c.encode_s / p.encode_s for c, p in pairs]
            megapixels = sum(c.width * c.height for c in own) / 1e6
            result.append(
                {
                    "domain": domain,
                    "effort": effort,
                    "images": len(own),
                    "cost_percent": 100 * mean(c.cost / p.cost - 1 for c, p in pairs),
                    "worst_cost_percent": 100 * max(c.cost / p.cost - 1 for c, p in pairs),
                    "bpp_percent": 100 * mean(c.bpp / p.bpp - 1 for c, p in pairs),
                    "psnr_db": mean(c.psnr - p.psnr for c, p in pairs),
                    "cost_base_percent": 100
                    * mean(c.cost_base / p.cost_base - 1 for c, p in pairs),
                    "psnr_base_db": mean(c.psnr_base - p.psnr_base for c, p in pairs),
                    "encode_ratio": float(np.median(ratios)),
                    "encode_ratio_least": min(ratios),
                    "encode_ratio_most": max(ratios),
                    "encode_s_per_megapixel": sum(c.encode_s for c in own) / megapixels,
                }
            )
    return result


def main(pack: Path, data: Path = Path("data"), per_domain: int = 6, side: int = 256) -> None:
    """Code the images, write the tables.

    Args:
        pack: of adapters, trained with the default settings.
        data: folder of the prepared images.
        per_domain: test images of a domain.
        side: of the middle that larger images are cut to, in pixels.
    """
    codec = AdaptedCodec.load(pack)
    of_codec = "" if codec.config.name == CODEC else f"_{codec.config.name}"
    path = HERE / f"effort{of_codec}.csv"
    found: list[Coded] = []
    for domain, name, pixels in images(data, per_domain, side):
        found += [coded(codec, pixels, domain, name, effort) for effort in range(len(STEPS))]
        write_table(path, found, ".6g")
    write_table(HERE / f"effort{of_codec}_table.csv", rows(read_rows(path, Coded)), ".5g")


if __name__ == "__main__":
    typer.run(main)
