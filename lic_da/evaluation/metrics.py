"""Metrics: each is one entry of ``METRICS``, and tables, reports and dashboards follow from it.

An entry is a function of two images and how to read what it returns::

    @METRICS.register("mae", title="MAE", unit="levels", better="lower", digits=2)
    def mean_absolute_error(image: Tensor, original: Tensor) -> float:
        return (image.float() - original.float()).abs().mean().item()

A configuration names it, ``evaluation.metrics: [psnr, mae]``, or gives the import path of the function,
``mine.metrics.mean_absolute_error``, where nothing else has imported it.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from compressai.transforms.functional import rgb2ycbcr
from torch import Tensor, nn
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure as ms_ssim_index,
)
from torchmetrics.functional.image import peak_signal_noise_ratio

from lic_da.errors import UserError, unknown
from lic_da.registry import located

Score = Callable[[Tensor, Tensor], float]
"""Of a decoded image and its original, both uint8 RGB ``(3, H, W)``; nan where it is not defined."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_TAKEN = frozenset(
    {
        *(
            "run",
            "codec",
            "quality",
            "lmbda",
            "method",
            "blend",
            "domain",
            "seen",
            "image",
            "width",
        ),
        *("height", "string_bytes", "file_bytes", "bpp", "bpp_estimated", "encode_s", "decode_s"),
        *("effort", "psnr_base"),
        *("gate", "more", "images", "bpp_base", "gain", "gate_accuracy", "predicted"),
    }
)
"""Columns of ``rd_points.csv`` and keys of ``summary.json`` that are no metrics."""
_MS_SSIM_MIN_SIDE = 176  # at the least of five scales an 11-tap window has to fit
_DEEP_MIN_SIDE = 32  # what the networks' strides leave something of


@dataclass(frozen=True)
class Scale:
    """How to read the numbers of a metric; plain values, so that a run's ``summary.json`` holds it.

    Attributes:
        name: column of ``rd_points.csv``.
        title: for people.
        unit: such as ``dB``; empty: none.
        better: which scores are better.
        digits: after the point, in tables.
        in_decibels: how a score of another unit becomes decibels that rise with fidelity, for curves and
            BD-rates: ``1 - x`` is −10·log10(1 − x), for similarities; ``x`` is −10·log10(x), for
            distances; None: not at all, and there is no BD-rate.
    """

    name: str
    title: str
    unit: str = ""
    better: Literal["higher", "lower"] = "higher"
    digits: int = 3
    in_decibels: Literal["1 - x", "x"] | None = None

    @property
    def compared(self) -> bool:
        """Whether curves of it can be compared by a BD-rate."""
        return self.in_decibels is not None or (self.unit == "dB" and self.better == "higher")

    @property
    def axis(self) -> str:
        """What the vertical axis of a curve shows."""
        if self.in_decibels:
            return f"−10·log10({self.in_decibels.replace('-', '−').replace('x', self.title)}), dB"
        return f"{self.title}, {self.unit}" if self.unit else self.title

    def on_axis(self, score: float) -> float:
        """A score, or a mean of scores, as a curve shows it: in decibels if it can be.

        Infinite where a score says that images are the same.
        """
        if self.in_decibels is None:
            return score
        rest = 1 - score if self.in_decibels == "1 - x" else score
        return -10 * math.log10(rest) if rest > 0 else (math.inf if rest == 0 else math.nan)

    def shown(self, score: float, *, signed: bool = False) -> str:
        """A score as tables show it."""
        return "–" if math.isnan(score) else f"{score:{'+' if signed else ''}.{self.digits}f}"


@dataclass(frozen=True)
class Metric:
    """An entry of :data:`METRICS`.

    Attributes:
        scale: how to read it.
        score: what computes it.
        check: raises a UserError where something that it needs is not installed.
    """

    scale: Scale
    score: Score
    check: Callable[[], None]


class Metrics(Mapping[str, Metric]):
    """Metrics by their names."""

    def __init__(self) -> None:
        self._entries: dict[str, Metric] = {}

    def __getitem__(self, name: str) -> Metric:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def register(
        self,
        name: str,
        *,
        title: str = "",
        unit: str = "",
        better: Literal["higher", "lower"] = "higher",
        digits: int = 3,
        in_decibels: Literal["1 - x", "x"] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> Callable[[Score], Score]:
        """Decorator: make a function of two images a metric.

        Args:
            name: small letters, digits and ``_``; the column of ``rd_points.csv``.
            title: for people; empty: the name.
            unit: see :class:`Scale`, as the next three.
            better: which scores are.
            digits: in tables.
            in_decibels: for curves and BD-rates.
            check: raises a UserError where the metric cannot be had; it is called before a run begins.

        Raises:
            UserError: there is another metric or column of this name, or a value is none of those above.
        """
        if not _NAME.fullmatch(name) or name in _TAKEN or name.startswith("gate_"):
            raise UserError(
                f"'{name}' cannot be the name of a metric: it needs small letters, digits and _, and must "
                "not be another column of rd_points.csv."
            )
        scale = _checked(
            Scale(name, title or name, unit, better, digits, in_decibels), f"The metric '{name}'"
        )

        def decorate(score: Score) -> Score:
            known = self._entries.get(name)
            if known is not None and _path(known.score) != _path(score):
                raise UserError(f"There is a metric '{name}' already.")
            self._entries[name] = Metric(scale, score, check)
            return score

        return decorate

    def remove(self, name: str) -> None:
        """Forget a metric, such as one that a notebook wants to define anew."""
        del self._entries[name]

    def find(self, name: str) -> Metric:
        """The metric of a registered name, or of the import path of its function.

        Raises:
            UserError: there is none.
        """
        if name in self._entries:
            return self._entries[name]
        if not isinstance(name, str) or "." not in name:
            raise unknown("metric", name, self)
        function = located(name, "metric")
        for entry in self._entries.values():
            if entry.score is function:
                return entry
        raise UserError(f"{name} is no metric: register it by @METRICS.register(…).")

    def chosen(self, names: Iterable[str]) -> list[Metric]:
        """The metrics of these names, ready to be computed; PSNR is always there, and first.

        Raises:
            UserError: there is none of such a name, or something it needs is not installed.
        """
        found = {m.scale.name: m for m in (self.find(name) for name in ("psnr", *names))}
        for metric in found.values():
            metric.check()
        return list(found.values())


def _path(function: Callable[..., Any]) -> tuple[str, str]:
    return function.__module__, getattr(function, "__qualname__", "")


def _checked(scale: Scale, where: str) -> Scale:
    allowed = {"better": ("higher", "lower"), "in_decibels": (None, "1 - x", "x")}
    for key, values in allowed.items():
        if getattr(scale, key) not in values:
            raise unknown(f"{key} of a metric", getattr(scale, key), values, f"({where})")
    if type(scale.digits) is not int or not 0 <= scale.digits <= 12:
        raise UserError(f"{where}: digits must be a whole number from 0 to 12.")
    if not all(isinstance(text, str) for text in (scale.name, scale.title, scale.unit)):
        raise UserError(f"{where}: name, title and unit must be texts.")
    return scale


METRICS = Metrics()
"""All metrics, for ``evaluation.metrics``."""


def written(metrics: Iterable[Metric]) -> list[dict[str, Any]]:
    """Scales as plain values, for ``summary.json``."""
    return [asdict(metric.scale) for metric in metrics]


def scales(summary: Mapping[str, Any]) -> list[Scale]:
    """Scales of the metrics that a run was measured by; a run of before there were others has two.

    Args:
        summary: contents of its ``summary.json``. Nothing is imported for what stands there.

    Raises:
        UserError: it does not describe metrics.
    """
    rows = summary.get("metrics")
    if rows is None:
        return [METRICS[name].scale for name in ("psnr", "ms_ssim")]
    try:
        found = [Scale(**row) for row in rows]
    except TypeError as error:
        raise UserError(f"A run's summary does not describe its metrics ({error}).") from error
    return [_checked(scale, "A run's summary") for scale in found]


@METRICS.register("psnr", title="PSNR", unit="dB", digits=2)
def psnr(image: Tensor, original: Tensor) -> float:
    """10·log10(255² / MSE) over all channels, in dB."""
    return peak_signal_noise_ratio(
        image[None].float(), original[None].float(), data_range=255.0
    ).item()


@METRICS.register("ms_ssim", title="MS-SSIM", digits=4, in_decibels="1 - x")
def ms_ssim(image: Tensor, original: Tensor) -> float:
    """MS-SSIM (Wang, Simoncelli, Bovik 2003), at most 1; nan for sides of fewer than 176 pixels."""
    if min(image.shape[1:]) < _MS_SSIM_MIN_SIDE:
        return math.nan
    index = ms_ssim_index(image[None].float(), original[None].float(), data_range=255.0)
    assert isinstance(index, Tensor)
    return index.item()


@METRICS.register("psnr_ycbcr", title="PSNR YCbCr 6:1:1", unit="dB", digits=2)
def psnr_ycbcr(image: Tensor, original: Tensor) -> float:
    """(6·PSNR(Y) + PSNR(Cb) + PSNR(Cr)) / 8 in dB (Ohm et al. 2012); BT.709, 4:4:4, not rounded."""
    planes = [rgb2ycbcr(x[None].double().div(255))[0] for x in (image, original)]
    y, cb, cr = (
        peak_signal_noise_ratio(a, b, data_range=1.0).item() for a, b in zip(*planes, strict=True)
    )
    return (6 * y + cb + cr) / 8


def _needs_weights(metric: str, network: str) -> Callable[[], None]:
    """A check that torchvision's weights of a network are installed: nothing is downloaded here."""

    def check() -> None:
        import torchvision

        weights = torchvision.models.get_model_weights(network).DEFAULT
        file = Path(torch.hub.get_dir(), "checkpoints", weights.url.rpartition("/")[2])
        if not file.is_file():
            raise UserError(
                f"{metric} needs torchvision's weights of {network}, and there is no {file}. Nothing is "
                f"downloaded while measuring: put the file there ({weights.url}), or let $TORCH_HOME name "
                f"the folder that has it, or leave {metric.lower()} out of evaluation.metrics."
            )

    return check


_needs_alexnet = _needs_weights("LPIPS", "alexnet")
_needs_vgg = _needs_weights("DISTS", "vgg16")


@functools.cache
def _lpips_network() -> Any:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    _needs_alexnet()
    return LearnedPerceptualImagePatchSimilarity("alex", normalize=True).eval()


@functools.cache
def _dists_network() -> nn.Module:
    from torchmetrics.functional.image.dists import DISTSNetwork

    _needs_vgg()
    return DISTSNetwork().eval()


@METRICS.register(
    "lpips", title="LPIPS", better="lower", digits=4, in_decibels="x", check=_needs_alexnet
)
@torch.inference_mode()
def lpips(image: Tensor, original: Tensor) -> float:
    """LPIPS with AlexNet (Zhang et al. 2018, version 0.1), by torchmetrics; nan for sides below 32."""
    if min(image.shape[1:]) < _DEEP_MIN_SIDE:
        return math.nan
    network = _lpips_network()
    distance = network(*(x[None].float().div(255) for x in (image, original))).item()
    network.reset()
    return float(distance)


@METRICS.register(
    "dists", title="DISTS", better="lower", digits=4, in_decibels="x", check=_needs_vgg
)
@torch.inference_mode()
def dists(image: Tensor, original: Tensor) -> float:
    """DISTS (Ding et al. 2020), by torchmetrics; nan for sides below 32."""
    if min(image.shape[1:]) < _DEEP_MIN_SIDE:
        return math.nan
    distance: Tensor = _dists_network()(*(x[None].float().div(255) for x in (image, original)))
    return distance.item()
