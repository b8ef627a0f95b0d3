"""Refined latents: an encoder that spends time on one image.

``g_a`` writes down y in one pass. Which integers are the best for an image shows only behind entropy
coder and decoder, so the encoder may look for better ones: stochastic Gumbel annealing (Yang, Bamler
and Mandt 2020, *Improving Inference for Neural Image Compression*, arXiv 2006.04240)::

                  ┌─ bits of ⌊s⌋ and ⌈s⌉ in the coder's own tables ──► R ─┐
    s = y − μ ──┬─┤                                                       ├──► R + λ·255²·MSE·pixels
                │ └─ ŷ = ⌊s⌋ + w + μ ──► decoder ──► x̂ ──► error ──► D ───┘
                └──► w = σ((logit ⌈s⌉ − logit ⌊s⌋ + logistic noise) / τ), τ falling

Each element draws between the integers below and above it, nearly always the nearer one when τ is
small, and Adam moves s. In the end s is rounded, and the frozen codec's own ``compress`` writes the
strings, with y exchanged where it is handed to the entropy coder. So z, means, tables and the form of
the strings are the codec's, and all of its decoders read them.

What is needed of a codec is that it codes y by one call of a CompressAI entropy model, so that
means and tables of all elements are known at once: factorized and (mean-)scale hyperpriors. Where
they depend on elements that were coded before, it is refused. z stays as it is.

Large images are refined tile after tile: the latent around a tile is kept, and all pixels count
that the tile reaches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from compressai.entropy_models import EntropyBottleneck, EntropyModel
from compressai.models import CompressionModel
from torch import Tensor

from lic_da.codecs.spatial import tiling
from lic_da.errors import UserError
from lic_da.spans import Span, spans

STEPS = (0, 20, 60, 150)
"""Steps of Adam for each effort."""

_RATE = 0.07  # of Adam, in symbols
_HOT, _COLD = 0.8, 0.25  # τ of the first step and of the last
_EDGE = 1e-5  # distance to an integer below which atanh is cut
_KEPT = 4  # activations kept for gradients, as multiples of what decoding takes
_SMALLEST = 8  # side of a tile
_NIBBLE = 4  # bits that an escaped symbol is written in at a time

Transform = Callable[[Tensor, Tensor], Tensor]
Tile = tuple[Span, Span]
Where = tuple[slice, slice]
OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Effort:
    """How much an encoder does for one image.

    Attributes:
        level: 0 (nothing, as the codec is) to 3; ``STEPS`` says how many steps that is.
        seed: of the noise; the same seed gives the same stream on one machine and number of threads.
        on_step: called with the number of steps done and of all.
    """

    level: int = 0
    seed: int = 0
    on_step: OnStep | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Raise a UserError unless the level is one."""
        if self.level not in range(len(STEPS)):
            raise UserError(f"effort must be 0 to {len(STEPS) - 1}, not {self.level}.")

    @property
    def steps(self) -> int:
        """Of Adam, for each part of the image."""
        return STEPS[self.level]


@dataclass(frozen=True)
class CodedLatent:
    """How an entropy model codes y, given all that is coded before it.

    Attributes:
        model: the entropy model, with its tables.
        y: what it was given, ``(1, M, h, w)``.
        means: of y, broadcast to it; symbols are the rounded differences.
        indexes: which of the model's tables codes each element, integers of the shape of y.
    """

    model: EntropyModel
    y: Tensor
    means: Tensor
    indexes: Tensor

    def symbols(self) -> Tensor:
        """The integers that are coded, as floats."""
        return (self.y - self.means).round()

    @cached_property
    def _bits(self) -> Tensor:
        """Bits of each entry of the tables, ``(tables, entries)``."""
        cdf = self.model._quantized_cdf.double()
        shares = cdf.diff(dim=1).clamp(min=1) / 2**self.model.entropy_coder_precision
        return -shares.log2().float()

    @staticmethod
    def part(whole: Tensor, where: Where) -> Tensor:
        """Some rows and columns of what has the shape of y."""
        return whole[..., where[0], where[1]]

    def bits(self, symbols: Tensor, where: Where) -> Tensor:
        """What the coder spends on symbols, in bits each.

        Args:
            symbols: whole numbers, ``(1, M, h', w')``.
            where: the rows and columns of the latent that they are for.
        """
        table = self.part(self.indexes, where).long()
        value = symbols.long() - self.model._offset.long()[table]
        escape = self.model._cdf_length.long()[table] - 2  # the entry for what has none of its own
        beyond = torch.where(value < 0, -2 * value - 1, 2 * (value - escape))
        outside = (value < 0) | (value >= escape)
        width = self._bits.shape[1]
        entry = torch.where(outside, escape, value)
        bits = self._bits.flatten()[(table * width + entry).flatten()].view_as(symbols)
        nibbles = beyond.clamp(min=0).float().add(1).log2().div(_NIBBLE).ceil()
        return torch.where(outside, bits + _NIBBLE * (1 + nibbles), bits)


@dataclass
class _Call:
    """A call of an entropy model's ``compress``."""

    model: EntropyModel
    inputs: Tensor
    others: tuple[Any, ...]
    named: dict[str, Any]

    def latent(self) -> CodedLatent:
        y = self.inputs
        if isinstance(self.model, EntropyBottleneck):
            channels = torch.arange(y.shape[1], device=y.device).view(1, -1, 1, 1)
            return CodedLatent(
                self.model, y, self.model._get_medians().view(1, -1, 1, 1), channels.expand_as(y)
            )
        arguments = dict(zip(("indexes", "means"), self.others, strict=False)) | self.named
        means = arguments.get("means")
        return CodedLatent(
            self.model, y, y.new_zeros(()) if means is None else means, arguments["indexes"]
        )


@contextmanager
def _instead_of_compress(
    codec: CompressionModel, make: Callable[[EntropyModel], Callable[..., Any]]
) -> Iterator[None]:
    models = [m for m in codec.modules() if isinstance(m, EntropyModel)]
    for model in models:
        model.compress = make(model)
    try:
        yield
    finally:
        for model in models:
            del model.compress  # the class's own shows again


@contextmanager
def observed(codec: CompressionModel) -> Iterator[list[_Call]]:
    """Inside the block, what is handed to the codec's entropy coders is appended to the list."""
    calls: list[_Call] = []

    def make(model: EntropyModel) -> Callable[..., Any]:
        method = model.compress

        def compress(inputs: Tensor, *others: Any, **named: Any) -> Any:
            calls.append(_Call(model, inputs, others, named))
            return method(inputs, *others, **named)

        return compress

    with _instead_of_compress(codec, make):
        yield calls


def coded_latent(calls: Sequence[_Call], y: Tensor, title: str) -> CodedLatent:
    """How y was coded.

    Args:
        calls: what :func:`observed` has seen while one image was coded.
        y: what ``g_a`` gave for it.
        title: of the codec, for the message.

    Raises:
        UserError: it was not coded by one call.
    """
    latent = coded_at_once(calls, y)
    if latent is None:
        raise UserError(
            f"Latents of {title} cannot be refined: it codes them part by part, each with tables that "
            "depend on the parts before. Codecs that code all of y at once can: factorized and "
            "hyperprior ones. Use effort 0."
        )
    return latent


def coded_at_once(calls: Sequence[_Call], y: Tensor) -> CodedLatent | None:
    """How y was coded, as :func:`coded_latent`; None: not by one call."""
    own = [c for c in calls if c.inputs.shape == y.shape and torch.equal(c.inputs, y)]
    return own[0].latent() if len(own) == 1 else None


def exchanged(
    codec: CompressionModel, latent: CodedLatent, symbols: Tensor
) -> AbstractContextManager[None]:
    """Inside the block, ``codec.compress`` writes other symbols for the image that ``latent`` is of.

    Args:
        codec: that has coded the image.
        latent: how it did.
        symbols: whole numbers of the shape of y.
    """

    def make(model: EntropyModel) -> Callable[..., Any]:
        method = model.compress

        def compress(inputs: Tensor, *others: Any, **named: Any) -> Any:
            own = model is latent.model and inputs.shape == symbols.shape
            return method(symbols + latent.means if own else inputs, *others, **named)

        return compress

    return _instead_of_compress(codec, make)


@dataclass(frozen=True)
class Refinement:
    """The search for the symbols of one image.

    Attributes:
        latent: how it is coded.
        transform: the decoder, ŷ ``(1, M, h, w)`` and its symbols to images, not clamped.
        geometry: of the decoder.
        memory: bytes that its activations may take.
        pixels: the image, uint8 ``(1, 3, H, W)``; what the decoder makes beyond it does not count.
        lmbda: λ of R + λ·255²·MSE.
        effort: how long to search.
    """

    latent: CodedLatent
    transform: Transform
    geometry: tiling.Geometry
    memory: int
    pixels: Tensor
    lmbda: float
    effort: Effort

    def symbols(self) -> Tensor:
        """Symbols whose R + λD, with R by the coder's tables, is at most that of those there are."""
        with torch.inference_mode(False):  # gradients are needed, also where the caller wants none
            found = self.latent.symbols().clone()
            generator = torch.Generator(found.device).manual_seed(self.effort.seed)
            tiles = self._tiles()
            for number, tile in enumerate(tiles):
                self._refine(found, tile, generator, number * self.effort.steps, len(tiles))
            return found

    def _tiles(self) -> list[Tile]:
        """Parts of the latent, each with all around it that the pixels which it reaches depend on."""
        rows, columns = self.latent.y.shape[2:]
        halo = self.geometry.halo
        side = None
        if halo is not None and rows * columns * self.geometry.bytes_each * _KEPT > self.memory:
            within = math.isqrt(self.memory // (self.geometry.bytes_each * _KEPT))
            side = max(_SMALLEST, within - 4 * halo)
        around = 2 * (halo or 0)
        return [
            (row, column)
            for row in spans(rows, side, around)
            for column in spans(columns, side, around)
        ]

    def _refine(
        self,
        found: Tensor,
        tile: Tile,
        generator: torch.Generator,
        before: int,
        tiles: int,
    ) -> None:
        """Refine one tile of the symbols, in place."""
        wanted = tile[0].wanted(), tile[1].wanted()
        objective = _Objective(self, found, tile)
        old = self.latent.part(found, wanted).clone()
        s = (self.latent.part(self.latent.y, wanted) - objective.means).requires_grad_()
        optimizer = torch.optim.Adam([s], lr=_RATE)
        steps = self.effort.steps
        for step in range(steps):
            temperature = _HOT * (_COLD / _HOT) ** (step / max(1, steps - 1))
            with torch.enable_grad():
                (s.grad,) = torch.autograd.grad(objective.relaxed(s, temperature, generator), s)
            optimizer.step()
            if self.effort.on_step is not None:
                self.effort.on_step(before + step + 1, tiles * steps)
        with torch.no_grad():
            new = s.round()
            if objective.of(new) < objective.of(old):
                found[..., wanted[0], wanted[1]] = new


class _Objective:
    """R + λD, as far as it depends on one tile of the symbols.

    Args:
        search: the search.
        found: symbols of the whole latent.
        tile: the rows and columns that vary.
    """

    def __init__(self, search: Refinement, found: Tensor, tile: Tile) -> None:
        self.search = search
        self.wanted = tile[0].wanted(), tile[1].wanted()
        self.inside = tile[0].inside(), tile[1].inside()
        computed = tile[0].computed(), tile[1].computed()
        latent, scale, halo = search.latent, search.geometry.scale, search.geometry.halo or 0
        means = latent.means.expand_as(found)
        self.around = latent.part(found, computed).clone()
        self.means_around = latent.part(means, computed).clone()
        self.means = latent.part(means, self.wanted).clone()
        lengths = found.shape[2:]
        reached = [
            (max(0, span.start - halo), min(length, span.stop + halo))
            for span, length in zip(tile, lengths, strict=True)
        ]
        rows, columns = (slice(a * scale, b * scale) for a, b in reached)
        self.original = tiling.unit(search.pixels[..., rows, columns])
        self.shown = tuple(
            slice((a - span.first) * scale, (a - span.first) * scale + length)
            for (a, _), span, length in zip(reached, tile, self.original.shape[2:], strict=True)
        )

    def relaxed(self, s: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
        """For the tile's symbols s, any numbers, at a temperature; a draw."""
        below = s.detach().floor()
        share = s - below
        noise = torch.rand(s.shape, generator=generator, device=s.device).logit(_EDGE)
        down, up = (d.clamp(max=1 - _EDGE).atanh() for d in (share, 1 - share))
        weight = (((down - up) / temperature + noise) / temperature).sigmoid()
        low, high = (self.search.latent.bits(b, self.wanted) for b in (below, below + 1))
        return (low + weight * (high - low)).sum() + self._distortion(below + weight)

    def of(self, symbols: Tensor) -> float:
        """For the tile's symbols, whole numbers."""
        bits = self.search.latent.bits(symbols, self.wanted).sum()
        return float(bits + self._distortion(symbols))

    def _distortion(self, symbols: Tensor) -> Tensor:
        """λ·255²·MSE·pixels of the pixels that the tile reaches."""
        held = self.around.clone()
        held[..., self.inside[0], self.inside[1]] = symbols
        decoded = self.search.transform(held + self.means_around, held)
        decoded = decoded[..., self.shown[0], self.shown[1]].clamp(0, 1)
        errors = (decoded - self.original).square().sum()
        return self.search.lmbda * 255**2 * errors / self.original.shape[1]
