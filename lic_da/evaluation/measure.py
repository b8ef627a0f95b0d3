"""Rate and distortion by real coding: every image becomes a stream and is decoded from it."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from lic_da.codecs.entropy.decode import SharedLatent
from lic_da.codecs.image_codec import ImageCodec, pad, to_8_bit
from lic_da.codecs.latents import encoder_latent
from lic_da.codecs.refine import Effort
from lic_da.codecs.spec import CodecSpec
from lic_da.data.datamodule import LabelledImage, to_tensor
from lic_da.errors import UserError, unknown
from lic_da.evaluation import metrics as scoring
from lic_da.evaluation.metrics import METRICS, Metric
from lic_da.io.bitstream import Stream
from lic_da.io.files import atomic_path
from lic_da.io.images import read_rgb


@dataclass
class Point:
    """One image coded at one quality and decoded with one mode: a row of ``rd_points.csv``.

    ``bpp`` counts the entropy-coded strings; ``file_bytes`` is the whole ``.lic`` file. Distortions
    are taken between 8-bit RGB images. ``ms_ssim`` is nan for sides of fewer than 176 pixels, and where
    it was not asked for. Times are seconds; ``decode_s`` includes entropy decoding, which is timed once
    for modes that share a stream. ``gate`` is v, a number a seen domain; ``more`` are the scores of all
    other metrics by their names. ``effort`` is what the encoder spent on the stream
    (:mod:`lic_da.codecs.refine`); with one there is no ``bpp_estimated``, and ``psnr_base`` is the PSNR
    of what the plain base decoder makes of this stream, nan without.
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
    more: dict[str, float] = field(default_factory=dict)
    effort: int = 0
    psnr_base: float = math.nan

    def score(self, metric: str) -> float:
        """The score by a metric's name; nan if it was not measured."""
        own = {"psnr": self.psnr, "ms_ssim": self.ms_ssim}
        return own[metric] if metric in own else self.more.get(metric, math.nan)


CLASSICAL, PUBLISHED = ANCHORS = ("classical", "published")
"""``method`` of what is only compared with: classical codecs, and curves read from files."""

JUDGED = ("weighted", "adapted")
"""The mode that a method is judged by: adapters as the gate weighs them, or the trained codec."""


def judged(modes: Iterable[str]) -> str | None:
    """The one of ``JUDGED`` that is there; None: neither."""
    there = set(modes)
    return next((b for b in JUDGED if b in there), None)


def check_modes(
    modes: Sequence[str] | None, known: Sequence[str], on_request: Sequence[str] = ()
) -> None:
    """Raise a UserError unless these are ways to decode from which gains can be told.

    Args:
        modes: what the user wants to measure; None: all.
        known: those of the method, the one it is judged by first.
        on_request: more of them.
    """
    for mode in modes or ():
        if mode not in (*known, *on_request):
            raise unknown("mode", mode, (*known, *on_request))
    if modes is not None and not {"base", known[0]} <= set(modes):
        raise UserError(f"evaluation.modes must hold base and {known[0]}: gains are theirs.")


def check_qualities(asked: Sequence[int] | None, key: str, codec: CodecSpec) -> None:
    """Raise a UserError unless what is to be measured are qualities that a codec is for, each once.

    Args:
        asked: by the user; None: nothing in particular.
        key: the setting, for messages.
        codec: the base codec.
    """
    if asked is None:
        return
    if isinstance(asked, str) or not isinstance(asked, Sequence) or not asked:
        raise UserError(f"{key} must be a list of qualities, such as [1, 2, 3], not {asked!r}.")
    for quality in asked:
        if quality not in codec.served:
            raise unknown(f"quality in {key}", quality, codec.served, f"for codec {codec.name}")
    if len(set(asked)) < len(asked):
        raise UserError(f"{key} names a quality twice: {list(asked)}.")


Decoded = Callable[[LabelledImage, Tensor, dict[str, Tensor]], None]
"""Called with an image, its pixels and the decoded pixels of every mode, uint8 ``(3, H, W)``."""


def measure(
    adapted: ImageCodec,
    images: Sequence[LabelledImage],
    *,
    run: str,
    modes: Sequence[str] | None = None,
    metrics: Sequence[str] = ("psnr", "ms_ssim"),
    effort: int = 0,
    decoded: Decoded | None = None,
    console: Console | None = None,
) -> list[Point]:
    """Code and decode images; images are read one at a time.

    Args:
        adapted: the codec.
        images: what to code. For those of domains that the codec does not know, ``oracle`` is
            left out.
        run: name of the run, for the rows.
        modes: which ways to decode; None: all that the codec has, but for those on request.
        metrics: names for :data:`~lic_da.evaluation.metrics.METRICS`; PSNR is always measured.
        effort: what the encoder spends on each stream. ``base`` is coded without, so that all is compared
            with the codec as it was; modes that share a stream have it refined for the first of them.
        decoded: called for every image.
        console: where progress is shown.

    Returns:
        One point an image and mode.

    Raises:
        StreamError: a stream decodes to something else than was encoded.
        UserError: there is no such metric, or something that it needs is not installed.
    """
    chosen = METRICS.chosen(metrics)
    points: list[Point] = []
    adapted.eval()
    known = (*adapted.modes, *adapted.modes_on_request)
    for entry in track(
        images, "Coding test images", console=console or Console(quiet=True), transient=True
    ):
        with adapted.sharing_latents() as latent:
            image = _Image(adapted, entry, run, chosen, effort, latent)
            for mode in sorted(modes or adapted.modes, key=known.index):
                if mode != "oracle" or image.seen:
                    points.append(image.point(mode))
        if decoded is not None:
            decoded(entry, image.original, image.decoded)
    return points


class _Image:
    """A test image, coded, decoded and scored by one mode after the other.

    What modes share is computed once: mostly their streams and the latents decoded from these.
    """

    def __init__(
        self,
        adapted: ImageCodec,
        entry: LabelledImage,
        run: str,
        metrics: Sequence[Metric],
        effort: int,
        latent: SharedLatent,
    ) -> None:
        self.adapted, self.entry, self.run, self.effort = adapted, entry, run, effort
        self.metrics, self.latent = metrics, latent
        self.original = to_tensor(read_rgb(entry.path))
        self.seen = entry.domain in adapted.domains
        self.decoded: dict[str, Tensor] = {}
        self._coded: dict[tuple[str, str | None, int], _Coded] = {}
        self._scores: dict[bytes, dict[str, float]] = {}

    def point(self, mode: str) -> Point:
        """The row of a mode."""
        adapted, entry = self.adapted, self.entry
        effort = 0 if mode == "base" else self.effort
        with adapted.in_mode(mode, entry.domain if mode == "oracle" else None):
            own = self._code(mode, effort)
            began = self._clock()
            x_hat = adapted.decode(own.stream)
            decode_s = self._clock() - began
            v = getattr(adapted.model.g_s, "last_v", None)
        if v is None and mode == "chosen":  # the encoder has chosen that no adapter has weight
            v = torch.zeros(1, len(adapted.domains))
        self.decoded[mode] = to_8_bit(x_hat)[0].cpu()
        scores = self._score(self.decoded[mode])
        stream = own.stream
        pixels = stream.width * stream.height
        return Point(
            run=self.run,
            codec=adapted.config.name,
            quality=adapted.config.quality,
            lmbda=adapted.config.lmbda(),
            method=adapted.method,
            blend=mode,
            domain=entry.domain,
            seen=self.seen,
            image=entry.info.name,
            width=stream.width,
            height=stream.height,
            string_bytes=stream.string_bytes,
            file_bytes=own.file_bytes,
            # v is paid for where it is used
            bpp=stream.bpp
            if mode in ("weighted", "top1", "chosen")
            else 8 * stream.string_bytes / pixels,
            bpp_estimated=own.estimated_bits / pixels,
            psnr=scores["psnr"],
            ms_ssim=scores.get("ms_ssim", math.nan),
            encode_s=own.seconds,
            decode_s=decode_s,
            gate={} if v is None else dict(zip(adapted.domains, v[0].tolist(), strict=True)),
            more={k: s for k, s in scores.items() if k not in ("psnr", "ms_ssim")},
            effort=effort,
            psnr_base=own.psnr_base,
        )

    def _code(self, mode: str, effort: int) -> _Coded:
        adapted = self.adapted
        own_stream = mode if mode in adapted.modes_on_request else None
        key = adapted.string_weights(mode), own_stream, effort
        if key not in self._coded:
            x = self.original[None].float().div(255)
            self._coded[key] = _code(adapted, x, self.original, effort, self._clock)
        return self._coded[key]

    def _clock(self) -> float:
        """Seconds, as if nothing that modes share were there already."""
        return time.perf_counter() + self.latent.saved_s

    def _score(self, image: Tensor) -> dict[str, float]:
        key = image.numpy().tobytes()
        if key not in self._scores:
            self._scores[key] = {m.scale.name: m.score(image, self.original) for m in self.metrics}
        return self._scores[key]


@dataclass(frozen=True)
class _Coded:
    """An image as coded with the current mode."""

    stream: Stream
    file_bytes: int
    seconds: float
    estimated_bits: float
    psnr_base: float = math.nan


def _code(
    adapted: ImageCodec, x: Tensor, original: Tensor, effort: int, clock: Callable[[], float]
) -> _Coded:
    with encoder_latent(adapted.model) as seen, adapted.refining(Effort(effort)):
        began = clock()
        data = adapted.encode(x).to_bytes()
        seconds = clock() - began
    stream = Stream.from_bytes(data)
    if effort:
        with adapted.in_mode("base"):
            by_base = to_8_bit(adapted.decode(stream))[0].cpu()
        return _Coded(stream, len(data), seconds, math.nan, scoring.psnr(by_base, original))
    y = seen[0] if len(seen) == 1 else None  # of large images there are parts
    return _Coded(stream, len(data), seconds, estimated_bits(adapted, x, y))


class _Computed(nn.Module):
    """Takes the place of a transform whose output is there already."""

    def __init__(self, out: Tensor) -> None:
        super().__init__()
        self.out = out

    def forward(self, x: Tensor) -> Tensor:
        return self.out


@torch.inference_mode()
def estimated_bits(adapted: ImageCodec, x: Tensor, y: Tensor | None = None) -> float:
    """Σ −log2 of the likelihoods that the entropy model gives; nothing is decoded for it.

    Args:
        adapted: the codec.
        x: one image in [0, 1], ``(1, 3, H, W)``.
        y: its latent before quantisation, of a codec that calls g_a once; None: it is computed.
    """
    codec = adapted.model
    g_a, g_s = codec.g_a, codec.g_s
    codec.g_s = nn.Identity()
    if y is not None:
        codec.g_a = _Computed(y)
    try:
        likelihoods = codec(pad(x, adapted.stride))["likelihoods"]
    finally:
        codec.g_a, codec.g_s = g_a, g_s
    return float(sum(-p.double().log2().sum() for p in likelihoods.values()))


def score(image: Tensor, original: Tensor, *, ms_ssim: bool = True) -> tuple[float, float]:
    """PSNR in dB and MS-SSIM of two uint8 images ``(3, H, W)``."""
    return (
        scoring.psnr(image, original),
        scoring.ms_ssim(image, original) if ms_ssim else math.nan,
    )


def write_points(points: Sequence[Point], path: Path, domains: Sequence[str]) -> None:
    """Write ``rd_points.csv``.

    The gate's v gets one column a domain, ``gate_<domain>``; further metrics get one each after MS-SSIM.
    """
    more = list(dict.fromkeys(name for point in points for name in point.more))
    gates = dict.fromkeys((*domains, *(name for point in points for name in point.gate)))
    plain = [f.name for f in fields(Point) if f.name not in ("gate", "more")]
    plain[plain.index("encode_s") : plain.index("encode_s")] = more
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.DictWriter(
            file, plain + [f"gate_{d}" for d in gates], restval="", lineterminator="\n"
        )
        writer.writeheader()
        for point in points:
            row = asdict(point)
            row |= {f"gate_{d}": v for d, v in row.pop("gate").items()} | row.pop("more")
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})


_LATER = ("effort", "psnr_base")  # older tables have no such columns
_NUMBERS = {f.name: {"int": int, "float": float}.get(str(f.type)) for f in fields(Point)}


def read_points(path: Path) -> list[Point]:
    """Read ``rd_points.csv``, also one of before there were further metrics.

    Raises:
        UserError: no such file, or it is not such a table.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = list(csv.DictReader(file))
        if not rows:
            raise ValueError("it has no rows")
        return [_point(row) for row in rows]
    except FileNotFoundError:
        raise UserError(f"There is no {path}.") from None
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not a table of rate-distortion points ({error}).") from error


def _point(row: dict[str, str]) -> Point:
    gate = {k.removeprefix("gate_"): float(v) for k, v in row.items() if k[:5] == "gate_" and v}
    values = {}
    for name, number in _NUMBERS.items():
        if name in ("gate", "more", "seen") or (name in _LATER and row.get(name, "nan") == "nan"):
            continue
        values[name] = number(row[name]) if number else row[name]
    # Every other column is a metric, also one that is not known here.
    others = row.keys() - _NUMBERS.keys()
    more = {k: float(row[k]) for k in row if k in others and k[:5] != "gate_" and row[k]}
    return Point(**values, seen=row["seen"] == "True", gate=gate, more=more)  # type: ignore[arg-type]


def mean(values: Iterable[float]) -> float:
    """Arithmetic mean; nan of nothing."""
    items = list(values)
    return sum(items) / len(items) if items else math.nan
