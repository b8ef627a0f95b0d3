"""What benchmarks share: codecs with random adapters, an image, quartiles, and where results go."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated
from unittest import mock

import torch
import torch.nn.functional as F
import typer
from torch import Tensor

from lic_da.adapters import synthesis
from lic_da.adapters.formula import AdapterSum
from lic_da.config import CONF, available, read_settings
from lic_da.errors import UserError, unknown
from lic_da.methods.adapters.codec import AdaptedCodec

RESULTS = Path(__file__).parent / "results"
HEIGHT, WIDTH = 512, 768
Rounds = Annotated[int, typer.Option(min=2, help="How often each is timed.")]


@contextmanager
def by_formula() -> Iterator[None]:
    """Adapters as they are written in the paper: K+1 convolutions, then a weighted sum."""
    with mock.patch.object(synthesis, "MergedSum", lambda adapters, v, _: AdapterSum(adapters, v)):
        yield


def adapted(name: str, domains: int) -> AdaptedCodec:
    """A codec with random adapters; its base weights are the configured ones, random if there are none.

    Raises:
        UserError: unknown codec.
    """
    if name not in available("codec"):
        raise unknown("codec", name, available("codec"))
    config = read_settings(CONF / "codec" / f"{name}.yaml")
    names = ["natural", *(f"domain{k}" for k in range(1, domains))]
    torch.manual_seed(0)
    try:
        codec = AdaptedCodec.build(config, names)
    except UserError:
        codec = AdaptedCodec.build(config, names, weights=False)
    with torch.no_grad():
        for parameter in codec.synthesis.bank.parameters():
            parameter.normal_(std=0.01)
    return codec


def smooth_image() -> Tensor:
    """An image of coloured clouds, ``(1, 3, HEIGHT, WIDTH)`` in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 3, HEIGHT // 16, WIDTH // 16, generator=generator)
    return F.interpolate(noise, (HEIGHT, WIDTH), mode="bicubic").clamp(0, 1)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, lower and upper quartile of two values or more, as the tables have them."""
    low, middle, high = statistics.quantiles(values, n=4)
    return middle, low, high
