"""Rate and distortion by real coding: every picture becomes a stream and is decoded from it."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure as ms_ssim_index,
)
from torchmetrics.functional.image import peak_signal_noise_ratio

from lic_da.adaptation.codec import AdaptedCodec, pad, to_8_bit
from lic_da.adaptation.synthesis import BLENDS
from lic_da.bitstream import Stream
from lic_da.codecs import zoo
from lic_da.data.datamodule import LabelledPicture, to_tensor
from lic_da.data.images import atomic_path, read_rgb
from lic_da.errors import UserError

_MS_SSIM_MIN_SIDE = 161  # five scales of an 11-tap window


@dataclass
class Point:
    """One picture coded at one quality and decoded with one blend: a row of ``rd_points.csv``.

    ``bpp`` counts the entropy-coded strings; ``file_bytes`` is the whole ``.lic`` file. Distortions
    are taken between 8-bit RGB pictures. ``ms_ssim`` is nan for sides of 160 pixels or less. Times
    are seconds; ``decode_s`` includes entropy decoding. ``gate`` is v, a number a seen domain.
    """

    run: str
    codec: str
    quality: int
    lmbda: float
    method: str
    blend: str
    domain: str
    seen: bool
    image: str
    width: int
    height: int
    string_bytes: int
    file_bytes: int
    bpp: float
    bpp_estimated: float
    psnr: float
    ms_ssim: float
    encode_s: float
    decode_s: float
    gate: dict[str, float]


Decoded = Callable[[LabelledPicture, Tensor, dict[str, Tensor]], None]
"""Called with a picture, its pixels and the decoded pixels of every blend, uint8 ``(3, H, W)``."""


def measure(
    adapted: AdaptedCodec,
    pictures: Sequence[LabelledPicture],
    *,
    run: str,
    method: str = "adapters",
    blends: Sequence[str] = BLENDS,
    ms_ssim: bool = True,
    decoded: Decoded | None = None,
    console: Console | None = None,
) -> list[Point]:
    """Code and decode pictures; pictures are read one at a time.

    Args:
        adapted: the codec.
        pictures: what to code. For those of domains that the codec does not know, ``oracle`` is
            left out.
        run: name of the run, for the rows.
        method: how the codec was adapted, for the rows.
        blends: which ways to decode.
        ms_ssim: compute MS-SSIM (it takes longer than decoding).
        decoded: called for every picture.
        console: where progress is shown.

    Returns:
        One point a picture and blend.

    Raises:
        RuntimeError: a stream does not hold the base codec's strings, or decodes to something else.
    """
    points = []
    adapted.codec.eval()
    for entry in track(
        pictures, "Coding test pictures", console=console or Console(quiet=True), transient=True
    ):
        original = to_tensor(read_rgb(entry.path))
        x = original[None].float().div(255)
        began = time.perf_counter()
        data = adapted.encode(x).to_bytes()
        encode_s = time.perf_counter() - began
        stream = Stream.from_bytes(data)
        pixels = stream.width * stream.height
        estimate = _estimated_bits(adapted, x) / pixels
        seen = entry.domain in adapted.domains
        images: dict[str, Tensor] = {}
        gate: dict[str, float] = {}
        scores: dict[bytes, tuple[float, float]] = {}
        for blend in sorted(blends, key=BLENDS.index):
            if blend == "oracle" and not seen:
                continue
            with adapted.synthesis.blending(blend, entry.domain if blend == "oracle" else None):
                began = time.perf_counter()
                x_hat = adapted.decode(stream)
                decode_s = time.perf_counter() - began
                v = adapted.synthesis.last_v
            image = to_8_bit(x_hat)[0].cpu()
            images[blend] = image
            gate = {} if v is None else dict(zip(adapted.domains, v[0].tolist(), strict=True))
            # top1 and oracle mostly give the same picture, which is scored once.
            key = image.numpy().tobytes()
            if key not in scores:
                scores[key] = score(image, original, ms_ssim=ms_ssim)
            points.append(
                Point(
                    run=run,
                    codec=adapted.config.name,
                    quality=adapted.config.quality,
                    lmbda=zoo.LAMBDAS[adapted.config.quality],
                    method=method,
                    blend=blend,
                    domain=entry.domain,
                    seen=seen,
                    image=entry.picture.name,
                    width=stream.width,
                    height=stream.height,
                    string_bytes=stream.string_bytes,
                    file_bytes=len(data),
                    # v is paid for where it is used
                    bpp=stream.bpp
                    if blend in ("weighted", "top1")
                    else 8 * stream.string_bytes / pixels,
                    bpp_estimated=estimate,
                    psnr=scores[key][0],
                    ms_ssim=scores[key][1],
                    encode_s=encode_s,
                    decode_s=decode_s,
                    gate=gate,
                )
            )
        if decoded is not None:
            decoded(entry, original, images)
    return points


@torch.inference_mode()
def _estimated_bits(adapted: AdaptedCodec, x: Tensor) -> float:
    """Σ −log2 of the likelihoods that the entropy model gives; nothing is decoded for it."""
    codec, g_s = adapted.codec, adapted.codec.g_s
    codec.g_s = nn.Identity()
    try:
        likelihoods = codec(pad(x, adapted.stride))["likelihoods"]
    finally:
        codec.g_s = g_s
    return float(sum(-p.double().log2().sum() for p in likelihoods.values()))


def score(image: Tensor, original: Tensor, *, ms_ssim: bool = True) -> tuple[float, float]:
    """PSNR in dB and MS-SSIM of two uint8 pictures ``(3, H, W)``."""
    a, b = image[None].float(), original[None].float()
    psnr = peak_signal_noise_ratio(a, b, data_range=255.0).item()
    if not ms_ssim or min(a.shape[2:]) < _MS_SSIM_MIN_SIDE:
        return psnr, math.nan
    index = ms_ssim_index(a, b, data_range=255.0)
    assert isinstance(index, Tensor)
    return psnr, index.item()


def write_points(points: Sequence[Point], path: Path, domains: Sequence[str]) -> None:
    """Write ``rd_points.csv``; the gate's v gets one column a domain, ``gate_<domain>``."""
    plain = [f.name for f in fields(Point) if f.name != "gate"]
    with atomic_path(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(
            file, plain + [f"gate_{d}" for d in domains], restval="", lineterminator="\n"
        )
        writer.writeheader()
        for point in points:
            row = asdict(point)
            row |= {f"gate_{d}": v for d, v in row.pop("gate").items()}
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})


_NUMBERS = {f.name: {"int": int, "float": float}.get(str(f.type)) for f in fields(Point)}


def read_points(path: Path) -> list[Point]:
    """Read ``rd_points.csv``.

    Raises:
        UserError: no such file, or it is not such a table.
    """
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        return [_point(row) for row in rows]
    except FileNotFoundError:
        raise UserError(f"There is no {path}.") from None
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not a table of rate-distortion points ({error}).") from error


def _point(row: dict[str, str]) -> Point:
    gate = {k.removeprefix("gate_"): float(v) for k, v in row.items() if k[:5] == "gate_" and v}
    values = {}
    for name, number in _NUMBERS.items():
        if name in ("gate", "seen"):
            continue
        values[name] = number(row[name]) if number else row[name]
    return Point(**values, seen=row["seen"] == "True", gate=gate)  # type: ignore[arg-type]


def mean(values: Iterable[float]) -> float:
    """Arithmetic mean; nan of nothing."""
    items = list(values)
    return sum(items) / len(items) if items else math.nan
