"""What do reconstruction points gain on streams that exist? ``make experiments/points``.

Trains with the default settings (or takes a pack), finds conditional means of y − ŷ on training crops, and
decodes test images with shares of them as offsets. Writes images.csv, a row an image and share; table.csv,
a row a domain and share; and shares.csv, the share that training crops choose for each domain.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer

from experiments import common
from lic_da.adapters.points import ReconstructionPoints
from lic_da.codecs.image_codec import to_8_bit
from lic_da.data.datamodule import DomainsDataModule, LabelledImage, to_tensor
from lic_da.data.domains import prepare
from lic_da.evaluation.measure import mean
from lic_da.io.images import read_rgb
from lic_da.methods.adapters.codec import AdaptedCodec
from lic_da.methods.adapters.placing import SHARES, Found, found_means

HERE = Path(__file__).parent
DOMAINS = ("natural", "sketch", "comic", "clipart")


@dataclass(frozen=True)
class Image:
    """An image decoded with a share of the conditional means, by the gate's v.

    PSNR in dB of 8-bit images without offsets, and what they gain; ``latent_percent`` is the change of the
    mean squared y − ŷ.
    """

    domain: str
    image: str
    width: int
    height: int
    share: float
    psnr: float
    gain: float
    latent_percent: float


def means_of(codec: AdaptedCodec, data: Path) -> Found:
    """What the end of a training with points=means finds for a codec, which gets points for it."""
    images = DomainsDataModule(codec.domains[1:], data_dir=data, crop=codec.config.training["crop"])
    images.setup()
    codec.eval()
    codec.synthesis.points = ReconstructionPoints(len(codec.domains), codec.codec.M)
    return found_means(codec, images.train_dataset(), torch.device("cpu"))


def entries(data: Path, per_domain: int) -> Iterator[LabelledImage]:
    """The test images that come first by their hashes, of all domains in turn."""
    columns = []
    for domain in DOMAINS:
        images = prepare(domain, data)
        first = sorted(images.split("test"), key=lambda p: p.sha256)[:per_domain]
        columns.append([LabelledImage(p, images.path(p), domain, -1) for p in first])
    return (image for row in zip_longest(*columns) for image in row if image)


@torch.inference_mode()
def decoded(
    codec: AdaptedCodec, means: torch.Tensor, entry: LabelledImage, side: int
) -> list[Image]:
    """The middle of an image, decoded with each share of the means."""
    pixels = to_tensor(read_rgb(entry.path))
    top, left = (max(0, length - side) // 2 for length in pixels.shape[1:])
    pixels = pixels[:, top : top + side, left : left + side]
    height, width = pixels.shape[1:]
    latent = codec.coded_at_once(pixels[None].float().div(255))
    symbols = latent.symbols()
    y_hat = symbols + latent.means
    synthesis, points = codec.synthesis, codec.synthesis.points
    assert points is not None
    v = synthesis.mode_weights(y_hat)
    found: dict[float, tuple[float, float]] = {}
    for share in SHARES:
        points.offsets.copy_(share * means)
        moved = synthesis.moved(y_hat, symbols, v)
        image = to_8_bit(synthesis(moved, v))[0, :, :height, :width]
        error = (image.double() - pixels.double()).square().mean().item()
        psnr = 10 * math.log10(255**2 / max(error, 1e-3))
        found[share] = psnr, (latent.y - moved).square().mean().item()
    psnr, apart = found[0.0]
    return [
        Image(
            *(entry.domain, entry.info.name, width, height, share, psnr, own - psnr),
            latent_percent=100 * (off / apart - 1),
        )
        for share, (own, off) in found.items()
    ]


def rows(images: Sequence[Image]) -> list[dict[str, Any]]:
    """A row a domain and share."""
    result = []
    for domain in dict.fromkeys(i.domain for i in images):
        for share in sorted({i.share for i in images}):
            own = [i for i in images if (i.domain, i.share) == (domain, share)]
            gains = [i.gain for i in own]
            result.append(
                {
                    **{"domain": domain, "share": share, "images": len(own)},
                    **{"psnr": mean(i.psnr for i in own), "gain_db": mean(gains)},
                    **{"worst_db": min(gains), "best_db": max(gains)},
                    "latent_percent": mean(i.latent_percent for i in own),
                }
            )
    return result


def main(
    pack: Path | None = None, data: Path = Path("data"), per_domain: int = 25, side: int = 512
) -> None:
    """Find the means, decode test images, write the tables.

    Args:
        pack: a pack that is there; else one is trained, as far as it is missing.
        data: folder of the prepared images.
        per_domain: test images of a domain at most, the first by their hashes.
        side: of the middle of an image that is coded, in pixels.
    """
    if pack is None:
        pack = common.trained(
            common.OUTPUTS / "experiment_points",
            *common.BRIEF,
            common.QUICK_CODEC,
            "domains=[sketch,comic]",
            f"data.data_dir={data}",
        )
    codec = AdaptedCodec.load(pack)
    found = means_of(codec, data)
    shares = zip(codec.domains, found.shares.tolist(), strict=True)
    common.write_table(
        HERE / "shares.csv",
        [
            {"domain": d, "share": s, "offset_rms": float(np.sqrt(np.mean(np.square(o))))}
            for (d, s), o in zip(shares, found.means.cpu().numpy(), strict=True)
        ],
        ".4g",
    )
    images: list[Image] = []
    for entry in entries(data, per_domain):
        images += decoded(codec, found.means, entry, side)
        print(images[-1], flush=True)
        common.write_table(HERE / "images.csv", images, ".4f")
    common.write_table(HERE / "table.csv", rows(images), ".4f")


if __name__ == "__main__":
    typer.run(main)
