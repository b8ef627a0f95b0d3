"""What does a v per region gain on pages that mix kinds of images? ``make experiments/regions``.

Trains with the default settings at quality 3 (or takes a pack), decodes pages composed of test images
(:mod:`experiments.regions.pages`) and the test images themselves with the base decoder, with one v per
image and with one per region, and writes pages.csv and images.csv, a row an image, table.csv, and page.png.
``ARGS="--codec zou2022_n64"`` does so over another codec, and writes to a folder of its name.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
import typer
from torch import Tensor

from experiments import common
from experiments.regions.pages import Page, pages
from lic_da.adapters.regions import RegionWeights, Weights
from lic_da.codecs.image_codec import to_8_bit
from lic_da.data.datamodule import to_tensor
from lic_da.data.domains import prepare
from lic_da.evaluation.measure import mean
from lic_da.io.images import RGB, read_rgb
from lic_da.methods.adapters.codec import AdaptedCodec

HERE = Path(__file__).parent
PURE = ("natural", "sketch", "comic", "clipart")
ROUNDS = 7  # of each timing
SHOWN = 2  # the page that is drawn


@dataclass(frozen=True)
class Image:
    """One image: PSNR of the base decoder, and gains over it with one v and with one per region, in dB.

    ``step_…`` are in 8-bit levels, those of :class:`Steps`. ``cost`` is the processor time of decoding the
    latent with v per region, the search for regions included, over that with one v, each with its gate;
    nan: not measured.
    """

    domain: str
    image: str
    width: int
    height: int
    regions: int
    base: float
    one: float
    regional: float
    step_border: float
    step_beside: float
    step_border_most: float
    step_inside_most: float
    cost: float


class Steps(NamedTuple):
    """Steps between neighbouring pixels of what regions change in an image; nan where there is one region.

    A seam would be a larger step across the line between two regions (``border``) than between other pixels
    of the fade around it (``beside``); ``inside`` is all but the line.
    """

    border: float
    beside: float
    border_most: float
    inside_most: float


@dataclass(frozen=True)
class Decoded:
    """An image as three decoders of one stream make it, ``(1, 3, H, W)`` in [0, 1], and its regions."""

    base: Tensor
    one: Tensor
    regional: Tensor
    weights: Weights
    y_hat: Tensor


@torch.inference_mode()
def decoded(codec: AdaptedCodec, pixels: RGB) -> Decoded:
    """What three decoders make of an image."""
    codec.set_spatial("window")
    stream = codec.encode(to_tensor(pixels)[None])
    y_hat = codec.latent(stream)
    weights = codec.synthesis.mode_weights(y_hat)
    assert weights is not None
    with codec.in_mode("base"):
        base = codec.decode(stream)
    regional = codec.decode(stream)
    codec.set_spatial("image")
    return Decoded(base, codec.decode(stream), regional, weights, y_hat)


@torch.inference_mode()
def cost(codec: AdaptedCodec, found: Decoded) -> float:
    """Median ratio of processor times in rounds of both, see :class:`Image`."""
    ratios = []
    for _ in range(ROUNDS):
        times = []
        for spatial in ("image", "window"):
            codec.set_spatial(spatial)
            began = time.process_time()
            codec.synthesis(found.y_hat)
            times.append(time.process_time() - began)
        ratios.append(times[1] / times[0])
    return statistics.median(ratios)


def steps(found: Decoded, scale: int) -> Steps:
    """Steps between neighbouring pixels of the difference between the two adapted images."""
    if not isinstance(found.weights, RegionWeights):
        return Steps(*[math.nan] * 4)
    shares = found.weights.shares.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    apart = 255 * (found.regional - found.one)
    height, width = apart.shape[2:]
    labels = shares.argmax(dim=1)[:, :height, :width].float()
    across, beside, rest = [], [], []
    for axis in (1, 2):
        size = apart.diff(dim=axis + 1).abs().amax(dim=1)
        border = labels.diff(dim=axis) != 0
        # A fade is one position wide: half of it lies on each side of a border.
        fade = F.max_pool2d(border.float(), scale + 1, 1, scale // 2) > 0
        across.append(size[border])
        beside.append(size[fade & ~border])
        rest.append(size[~border])
    line, near, others = (torch.cat(sizes) for sizes in (across, beside, rest))
    return Steps(line.mean().item(), near.mean().item(), line.max().item(), others.max().item())


def measured(codec: AdaptedCodec, domain: str, name: str, pixels: RGB) -> tuple[Image, Decoded]:
    """One image in numbers."""
    found = decoded(codec, pixels)
    original = to_tensor(pixels)[None].double()

    def psnr(x_hat: Tensor) -> float:
        error = (to_8_bit(x_hat).double() - original).square().mean().item()
        return 10 * math.log10(255**2 / max(error, 1e-3))

    base = psnr(found.base)
    count = len(found.weights.v) if isinstance(found.weights, RegionWeights) else 1
    image = Image(
        *(domain, name, pixels.shape[1], pixels.shape[0], count),
        base=base,
        one=psnr(found.one) - base,
        regional=psnr(found.regional) - base,
        **{
            f"step_{k}": v
            for k, v in steps(found, codec.synthesis_geometry.scale)._asdict().items()
        },
        cost=cost(codec, found) if domain == "page" else math.nan,
    )
    return image, found


def pure_images(data: Path, split: str, per_domain: int) -> Iterator[tuple[str, str, RGB]]:
    """Domain, name and pixels of images of one kind, the first by their hashes."""
    for domain in PURE:
        images = prepare(domain, data)
        ordered = sorted(images.split(split), key=lambda image: image.sha256)
        for image in ordered[:per_domain]:
            yield domain, image.name, read_rgb(images.path(image))


def rows(found: Sequence[Image]) -> list[dict[str, Any]]:
    """A row a kind of image: means of gains over the base decoder and what regions change."""
    result = []
    for name in dict.fromkeys(image.domain for image in found):
        own = [image for image in found if image.domain == name]
        several = [image for image in own if image.regions > 1]
        changes = [image.regional - image.one for image in own]
        result.append(
            {
                "domain": name,
                "images": len(own),
                "several_regions": len(several),
                "one": mean(image.one for image in own),
                "regional": mean(image.regional for image in own),
                "change": mean(changes),
                "worst_change": min(changes),
                "cost": statistics.median([i.cost for i in several] or [math.nan]),
                "step_border": mean(i.step_border for i in several),
                "step_beside": mean(i.step_beside for i in several),
                "step_border_most": max((i.step_border_most for i in several), default=math.nan),
                "step_inside_most": max((i.step_inside_most for i in several), default=math.nan),
            }
        )
    return result


def draw(page: Page, found: Decoded, path: Path) -> None:
    """The page, its regions, and where the error became smaller than with one v."""
    figure, axes = plt.subplots(1, 4, figsize=(16, 3), layout="constrained")
    original = to_tensor(page.pixels).float() / 255
    errors = [(x[0] - original).square().mean(dim=0) for x in (found.one, found.regional)]
    assert isinstance(found.weights, RegionWeights)
    maps = found.weights.shares[0].argmax(dim=0)
    axes[0].imshow(page.pixels)
    axes[1].imshow(found.regional[0].permute(1, 2, 0).clamp(0, 1))
    axes[2].imshow(maps, cmap="tab10", vmin=0, vmax=9)
    change = (errors[0].sqrt() - errors[1].sqrt()) * 255
    axes[3].imshow(change, cmap="PiYG", vmin=-20, vmax=20)
    titles = ("page", "one v per region", "regions", "error: less (green), more")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize="medium")
        axis.axis("off")
    common.save_plot(figure, path)


def main(
    codec: str = common.QUICK,
    pack: Path | None = None,
    data: Path = Path("data"),
    split: str = "test",
    per_domain: int = 1000,
    count: int = 1000,
    output: Path | None = None,
) -> None:
    """Decode pages and images, write the tables.

    Args:
        codec: the base codec of the pack that is trained.
        pack: a pack that is there; else one is trained, as far as it is missing.
        data: folder of the prepared images.
        split: whose images; settings were chosen on ``val``.
        per_domain: images of one kind, at most of each domain.
        count: pages at most.
        output: where the tables go; None: where those over the codec belong.
    """
    output = output or common.over(codec, HERE)
    if pack is None:
        pack = common.trained(
            common.over(codec, common.OUTPUTS / "experiment_regions"),
            *common.BRIEF,
            f"codec={codec}",
            "domains=[sketch,comic]",
            f"data.data_dir={data}",
        )
    adapted = AdaptedCodec.load(pack)
    adapted.eval()
    found: list[Image] = []
    for number, page in enumerate(pages(data, split, count)):
        image, images = measured(adapted, "page", page.name, page.pixels)
        found.append(image)
        print(image, flush=True)
        if number == min(SHOWN, count - 1):
            draw(page, images, output / "page.png")
    common.write_table(output / "pages.csv", found, ".4f")
    for domain, name, pixels in pure_images(data, split, per_domain):
        found.append(measured(adapted, domain, name, pixels)[0])
        print(found[-1], flush=True)
    common.write_table(output / "images.csv", [i for i in found if i.domain != "page"], ".4f")
    common.write_table(output / "table.csv", rows(found), ".4f")


if __name__ == "__main__":
    typer.run(main)
