"""Does a calibrated gate leave unseen images alone? ``make experiments/unseen``.

Trains with the default settings and gate.calibration=learned (or takes a pack), decodes test images of
sixteen domains with the base decoder, the gate as it is and the calibrated gate, and writes images.csv, a
row an image, and table.csv, a row a domain. ``ARGS="--codec zou2022_n64"`` does so over another codec, and
writes to a folder of its name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor

from experiments import common
from lic_da.codecs.image_codec import to_8_bit
from lic_da.data.datamodule import DomainsDataModule, LabelledImage, to_tensor
from lic_da.data.domains import prepare
from lic_da.evaluation.measure import mean
from lic_da.io.images import read_rgb
from lic_da.methods.adapters.calibrating import fitted_trust
from lic_da.methods.adapters.codec import AdaptedCodec
from lic_da.methods.encoder import FrozenEncoder

HERE = Path(__file__).parent
SEEN = ("natural", "sketch", "comic")
CHOSEN_ON = ("quickdraw", "chart", "emoji", "painting")
REPORTED = (
    *("clipart", "clipart_more", "natural_more", "comic_more", "sketch_more"),
    *("screenshot", "document", "map", "astronomy"),
)
"""Unseen domains: constants of the calibration were chosen on those above, the answer is about these."""
LOSS = 0.05  # dB below the base decoder


@dataclass(frozen=True)
class Image:
    """One image: PSNR of the base decoder and the gains of the gate as it is and calibrated, in dB."""

    domain: str
    image: str
    width: int
    height: int
    base: float
    gate: float
    calibrated: float
    factor: float


def test_entries(data: Path, per_domain: int) -> Iterator[LabelledImage]:
    """The test images that come first by their hashes, of one domain after the other in turn."""
    columns = []
    for domain in (*SEEN, *CHOSEN_ON, *REPORTED):
        images = prepare(domain, data)
        first = sorted(images.split("test"), key=lambda p: p.sha256)[:per_domain]
        columns.append([LabelledImage(p, images.path(p), domain, -1) for p in first])
    return (image for row in zip_longest(*columns) for image in row if image)


def centre(pixels: Tensor, side: int) -> Tensor:
    """The central part of an image ``(3, H, W)``, at most ``side`` pixels wide and high."""
    height, width = (min(side, length) for length in pixels.shape[1:])
    top, left = (pixels.shape[1] - height) // 2, (pixels.shape[2] - width) // 2
    return pixels[:, top : top + height, left : left + width]


@torch.inference_mode()
def measured(codec: AdaptedCodec, entry: LabelledImage, side: int) -> Image:
    """What three decoders make of an image's stream."""
    pixels = centre(to_tensor(read_rgb(entry.path)), side)
    height, width = pixels.shape[1:]
    synthesis, trust = codec.synthesis, codec.synthesis.trust
    y_hat = codec.latent(codec.encode(pixels[None].float().div(255)))
    assert trust is not None

    def psnr(x_hat: Tensor) -> float:
        decoded = to_8_bit(x_hat)[0, :, :height, :width]
        error = (decoded.double() - pixels.double()).square().mean().item()
        return 10 * math.log10(255**2 / max(error, 1e-3))

    with synthesis.in_mode("base"):
        base = psnr(synthesis(y_hat))
    calibrated = psnr(synthesis(y_hat))
    synthesis.trust = None
    gate = psnr(synthesis(y_hat))
    synthesis.trust = trust
    return Image(
        *(entry.domain, entry.info.name, width, height),
        base=base,
        gate=gate - base,
        calibrated=calibrated - base,
        factor=trust(synthesis.gate.features(y_hat)).item(),
    )


def rows(found: Sequence[Image]) -> list[dict[str, Any]]:
    """A row a domain and one for each kind of domain."""
    kinds = {"seen": SEEN, "chosen on": CHOSEN_ON, "reported": REPORTED}
    of = {name: kind for kind, names in kinds.items() for name in names}
    groups = [(of[n], n, (n,)) for n in of] + [(k, f"all {k}", names) for k, names in kinds.items()]
    groups.append(("", "all unseen", (*CHOSEN_ON, *REPORTED)))
    result = []
    for kind, name, names in groups:
        own = [i for i in found if i.domain in names]
        if not own:
            continue
        row: dict[str, Any] = {"kind": kind, "domain": name, "images": len(own)}
        for mode in ("gate", "calibrated"):
            gains = [getattr(i, mode) for i in own]
            row[f"{mode}_gain"] = mean(gains)
            row[f"{mode}_loses_percent"] = 100 * mean(float(g < -LOSS) for g in gains)
            row[f"{mode}_worst"] = min(gains)
        row["kept_percent"] = 100 * row["calibrated_gain"] / row["gate_gain"]
        row["factor"] = mean(i.factor for i in own)
        result.append(row)
    return result


def calibrate(codec: AdaptedCodec, data: Path) -> None:
    """Fit the trust of a pack that was trained without, as the end of a training does."""
    images = DomainsDataModule(codec.domains[1:], data_dir=data, crop=codec.config.training["crop"])
    images.setup()
    codec.eval()
    codec.synthesis.trust = fitted_trust(
        codec.synthesis, FrozenEncoder(codec), images.train_dataset(), torch.device("cpu")
    )


def main(
    codec: str = common.QUICK,
    pack: Path | None = None,
    data: Path = Path("data"),
    per_domain: int = 25,
    side: int = 512,
) -> None:
    """Decode the test images, write the tables.

    Args:
        codec: the base codec of the pack that is trained.
        pack: a pack that is there; else one is trained, as far as it is missing.
        data: folder of the prepared images.
        per_domain: test images of a domain at most, the first by their hashes.
        side: of the central part of an image that is coded, in pixels.
    """
    if pack is None:
        pack = common.trained(
            common.over(codec, common.OUTPUTS / "experiment_unseen"),
            *common.BRIEF,
            f"codec={codec}",
            "domains=[sketch,comic]",
            "gate.calibration=learned",
            f"data.data_dir={data}",
        )
    adapted, folder = AdaptedCodec.load(pack), common.over(codec, HERE)
    adapted.eval()
    if adapted.synthesis.trust is None:
        calibrate(adapted, data)
    found: list[Image] = []
    for image in test_entries(data, per_domain):
        found.append(measured(adapted, image, side))
        print(found[-1], flush=True)
        common.write_table(folder / "images.csv", found, ".4f")
    common.write_table(folder / "table.csv", rows(found), ".4f")


if __name__ == "__main__":
    typer.run(main)
