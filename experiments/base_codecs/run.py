"""How good are the bundled base codecs? Rate-distortion on natural test images against JPEG and WebP.

``make experiments/base_codecs`` writes rd_points.csv, bd_rate.csv and rd_curves.png beside this file.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

import matplotlib.pyplot as plt
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track

from lic_da.adaptation.codec import AdaptedCodec
from lic_da.config import CONF
from lic_da.data.datamodule import LabelledPicture, to_tensor
from lic_da.data.domains import SOURCE_DOMAIN, prepare
from lic_da.data.images import atomic_path, read_rgb
from lic_da.evaluation.bd_rate import Curve, delta
from lic_da.evaluation.classical import JPEG, WEBP, ClassicalCodec
from lic_da.evaluation.rate_distortion import mean, measure, score

HERE = Path(__file__).parent
CODEC = "bmshj2018_factorized_n64"
Row = tuple[str, str, str, float, float]  # codec, setting, image, bpp, psnr


def learned(pictures: list[LabelledPicture], console: Console) -> list[Row]:
    """Points of the bundled codec at all its qualities."""
    config = OmegaConf.load(CONF / "codec" / f"{CODEC}.yaml")
    assert isinstance(config, DictConfig)
    rows = []
    for quality in config.qualities:
        config.quality = quality
        codec = AdaptedCodec.build(config, [SOURCE_DOMAIN])
        points = measure(
            codec, pictures, run="base", blends=["base"], ms_ssim=False, console=console
        )
        rows += [(CODEC, f"q{quality}", p.image, p.bpp, p.psnr) for p in points]
    return rows


def classical(codec: ClassicalCodec, pictures: list[LabelledPicture]) -> list[Row]:
    """Points of a classical codec; its bpp counts the whole file."""
    rows = []
    for entry in track(pictures, codec.name, transient=True):
        pixels = read_rgb(entry.path)
        for quality in codec.qualities:
            size, decoded = codec.code(pixels, quality)
            psnr = score(decoded, to_tensor(pixels), ms_ssim=False)[0]
            bpp = 8 * size / (pixels.shape[0] * pixels.shape[1])
            rows.append((codec.name, f"{quality}", entry.picture.name, bpp, psnr))
    return rows


def curves(rows: list[Row]) -> dict[str, Curve]:
    """Mean bpp and PSNR over the images, for every codec and setting."""
    result = {}
    for codec in dict.fromkeys(r[0] for r in rows):
        own = [r for r in rows if r[0] == codec]
        settings = dict.fromkeys(r[1] for r in own)
        result[codec] = Curve.of(
            [
                (mean(r[3] for r in own if r[1] == s), mean(r[4] for r in own if r[1] == s))
                for s in settings
            ]
        )
    return result


def main() -> None:
    """Measure, write tables and plot."""
    console = Console(stderr=True)
    images = prepare(SOURCE_DOMAIN, Path("data"), console=console)
    pictures = [LabelledPicture(p, images.path(p), SOURCE_DOMAIN, 0) for p in images.split("test")]
    rows = learned(pictures, console) + classical(JPEG, pictures) + classical(WEBP, pictures)
    with atomic_path(HERE / "rd_points.csv") as temporary, open(temporary, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("codec", "setting", "image", "bpp", "psnr"))
        writer.writerows((*r[:3], f"{r[3]:.6g}", f"{r[4]:.6g}") for r in rows)
    by_codec = curves(rows)
    with atomic_path(HERE / "bd_rate.csv") as temporary, open(temporary, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ("codec", "anchor", "interpolation", "bd_rate_percent", "bd_psnr_db", "reason")
        )
        for anchor in (JPEG.name, WEBP.name):
            for interpolation in ("akima", "pchip"):
                result = delta(by_codec[anchor], by_codec[CODEC], interpolation)
                figures = [
                    "nan" if math.isnan(v) else f"{v:.2f}"
                    for v in (result.bd_rate_percent, result.bd_psnr_db)
                ]
                writer.writerow((CODEC, anchor, interpolation, *figures, result.reason))
                console.print(f"{CODEC} against {anchor}: BD-rate {figures[0]} % ({interpolation})")
    with atomic_path(HERE / "means.csv") as temporary, open(temporary, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("codec", "bpp", "psnr"))
        for codec, curve in by_codec.items():
            points = zip(curve.bpp, curve.psnr, strict=True)
            writer.writerows((codec, f"{b:.4f}", f"{p:.3f}") for b, p in points)
    plot(by_codec, len(pictures))


def plot(by_codec: dict[str, Curve], images: int) -> None:
    """Rate-distortion curves as PNG."""
    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    for codec, curve in by_codec.items():
        axes.plot(curve.bpp, curve.psnr, marker="o", label=codec)
    axes.set(
        xlim=(0, 1.1),
        ylim=(24, 36),
        xlabel="rate, bits per pixel",
        ylabel="PSNR, dB",
        title=f"{images} natural test images, means over images",
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    with atomic_path(HERE / "rd_curves.png") as temporary:
        figure.savefig(temporary, dpi=120, format="png")


if __name__ == "__main__":
    main()
