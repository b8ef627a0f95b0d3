"""Small worlds for the tests: real codecs, real images from installed packages, folder domains."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from compressai.models import CompressionModel

import lic_da.config
import lic_da.data.domains
from lic_da.adapters import synthesis
from lic_da.adapters.formula import AdapterSum
from lic_da.codecs import zoo
from lic_da.codecs.spec import CodecSpec
from lic_da.io.images import RGB, read_rgb
from lic_da.io.lossless import save_png
from lic_da.methods.adapters.codec import AdaptedCodec

CODEC = "bmshj2018_factorized_n64"
MEAN_SCALE = "mbt2018_mean_n64"
QUALITIES = {CODEC: (1, 2, 3, 4, 5, 6), MEAN_SCALE: (1, 2, 3, 4)}
BUNDLED = [(name, quality) for name, qualities in QUALITIES.items() for quality in qualities]
DOMAINS = ("natural", "sketch", "comic")


if "PYTEST_XDIST_WORKER" in os.environ:
    # Commands that tests start share the cores too; threads that wait for a core spin.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def few_threads() -> None:
    """Two threads, or one where two processes share the tests."""
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


FOUR_STEPS = (
    f"codec={CODEC}",
    "domains=[lines]",
    "unseen=[other]",
    "codec.training.steps=4",
    "codec.training.batch_size=4",
    "codec.training.crop=64",
    "data.batches_per_epoch=2",
    "data.val_images=1",
    "data.val_crop=64",
    "data.source=photos",
    "data.latent_cache=true",
    "data.latent_pixels=30000",
    "evaluation.ms_ssim=false",
    "evaluation.examples=1",
)
"""Overrides of a training of two epochs on the small domains ``photos`` (the source) and ``lines``."""


@pytest.fixture(autouse=True)
def no_wandb_service_of_other_tests() -> Iterator[None]:
    """Commands that a test starts begin a W&B service of their own, as a user's do."""
    os.environ.pop("WANDB_SERVICE", None)
    yield
    os.environ.pop("WANDB_SERVICE", None)


def codec_config(quality: int = 3, name: str = CODEC, **changes: Any) -> CodecSpec:
    """A codec of ``conf/codec``, with changes to its settings."""
    settings = lic_da.config.read_settings(lic_da.config.CONF / "codec" / f"{name}.yaml")
    return CodecSpec.from_settings(lic_da.config.merged(settings, {"quality": quality, **changes}))


def hyperprior_config() -> CodecSpec:
    """A small scale hyperprior with random weights."""
    small = {"weights": "random", "model": {"N": 16, "M": 24}}
    return codec_config(3, "bmshj2018_hyperprior", **small)


@pytest.fixture(scope="session")
def photographs() -> list[RGB]:
    """Real photographs of several sizes, from scikit-image and scikit-learn."""
    import skimage
    import sklearn

    files = [
        Path(skimage.__file__).parent / "data" / "astronaut.png",
        Path(skimage.__file__).parent / "data" / "chelsea.png",
        Path(sklearn.__file__).parent / "datasets" / "images" / "china.jpg",
    ]
    return [read_rgb(f)[:301, :395] for f in files]


@pytest.fixture
def base() -> CompressionModel:
    """The bundled codec, untouched."""
    return zoo.build(codec_config())


@pytest.fixture
def adapted() -> AdaptedCodec:
    """The bundled codec with untrained adapters for three domains."""
    return AdaptedCodec.build(codec_config(), DOMAINS)


def disturb(codec: AdaptedCodec, scale: float = 0.02) -> AdaptedCodec:
    """Give all adapters values, as training would."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in codec.synthesis.bank.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return codec


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of conf/ that a test may add domains to."""
    copy = tmp_path / "conf"
    shutil.copytree(lic_da.config.CONF, copy)
    for module in (lic_da.config, lic_da.data.domains):
        monkeypatch.setattr(module, "CONF", copy)
    return copy


@pytest.fixture
def folder_domain(conf: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes a domain of a new folder: ``folder_domain("mine", count=12, kind=...)``."""

    def make(name: str, images: list[RGB] | None = None) -> Path:
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        for number, pixels in enumerate(images or []):
            save_png(folder / f"{number:03d}.png", pixels)
        domain = conf / "domain" / f"{name}.yaml"
        domain.parent.mkdir(exist_ok=True)
        domain.write_text(f"sources:\n  - kind: folder\n    path: {folder}\n")
        return folder

    return make


def scribbles(count: int, side: int = 160, seed: int = 0) -> list[RGB]:
    """Black random curves on white, each different."""
    from PIL import Image, ImageDraw

    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        image = Image.new("RGB", (side, side), "white")
        draw = ImageDraw.Draw(image)
        for _ in range(12):
            points = [tuple(p) for p in rng.integers(0, side, (4, 2)).tolist()]
            draw.line(points, fill="black", width=int(rng.integers(1, 4)))
        images.append(np.array(image))
    return images


def photo_crops(photographs: list[RGB], count: int, side: int = 160, seed: int = 0) -> list[RGB]:
    """Crops of photographs, each different."""
    rng = np.random.default_rng(seed)
    crops = []
    for i in range(count):
        image = photographs[i % len(photographs)]
        y = int(rng.integers(image.shape[0] - side + 1))
        x = int(rng.integers(image.shape[1] - side + 1))
        crops.append(np.ascontiguousarray(image[y : y + side, x : x + side]))
    return crops


@contextmanager
def by_formula() -> Iterator[None]:
    """Adapters computed as they are defined, one by one, and not merged."""
    with mock.patch.object(synthesis, "MergedSum", lambda adapters, v, _: AdapterSum(adapters, v)):
        yield
