"""Refined latents: an encoder that spends time on one image.

``g_a`` writes down y in one pass. Which integers are the best for an image shows only behind entropy
coder and decoder, so the encoder may look for better ones: stochastic Gumbel annealing (Yang, Bamler
and Mandt 2020, *Improving Inference for Neural Image Compression*, arXiv 2006.04240)::

                  ┌─ bits of ⌊s⌋ and ⌈s⌉ ──────────────────────────► R ─┐
    s = y − μ ──┬─┤                                                     ├──► R + λ·255²·MSE·pixels
                │ └─ ŷ = ⌊s⌋ + w + μ ──► decoder ──► x̂ ──► error ──► D ─┘
                └──► w = σ((logit ⌈s⌉ − logit ⌊s⌋ + logistic noise) / τ), τ falling

Each element draws between the integers below and above it, nearly always the nearer one when τ is
small, and Adam moves y. In the end the frozen codec's own ``compress`` rounds it and writes the
strings, with y exchanged where it is handed to the entropy coder. So z, means, tables and the form of
the strings are the codec's, and all of its decoders read them (:mod:`lic_da.codecs.coded`).

Where y is coded in slices, μ and the bits of a slice follow from the slices before it, and gradients go
through the nets that say how. z stays as it is.

Large images are refined tile after tile: the latent around a tile is kept, and the pixels around it
count too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from lic_da.codecs.coded import CodedLatent, Draw, rounded
from lic_da.codecs.spatial import tiling
from lic_da.errors import UserError
from lic_da.spans import Span, spans

STEPS = (0, 20, 60, 150)
"""Steps of Adam for each effort."""

_HOT, _COLD = 0.8, 0.25  # τ of the first step and of the last
_EDGE = 1e-5  # distance to an integer below which atanh is cut
_KEPT = 4  # activations kept for gradients, as multiples of what decoding takes
_ROOM = 2  # memory that a search may take, as a multiple of the decoder's
_SMALLEST = 8  # side of a tile

Transform = Callable[[Tensor, Tensor], Tensor]
Tile = tuple[Span, Span]
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
class Refinement:
    """The search for the y of one image.

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

    def y(self) -> Tensor:
        """A y whose R + λD is at most that of the one there is."""
        # Gradients are needed, also where the caller wants none.
        with torch.inference_mode(False), self.latent.searched():
            found = self.latent.y.clone()
            generator = torch.Generator(found.device).manual_seed(self.effort.seed)
            tiles = self._tiles()
            for number, tile in enumerate(tiles):
                self._refine(found, tile, generator, number * self.effort.steps, len(tiles))
            return found

    @property
    def reach(self) -> int:
        """Elements of the latent around a tile whose pixels count.

        All that it reaches, by the layers; where they look at windows that is far, and what lies behind the
        next windows hardly depends on the tile.
        """
        return self.geometry.grid if self.geometry.grid > 1 else self.geometry.halo or 0

    def _tiles(self) -> list[Tile]:
        """Parts of the latent, each with all around it that the pixels which count for it depend on."""
        rows, columns = self.latent.y.shape[2:]
        halo, grid = self.geometry.halo, self.geometry.grid
        around = (halo or 0) + self.reach
        side, each = None, self.geometry.bytes_each * _KEPT
        if halo is not None and rows * columns * each > _ROOM * self.memory:
            side = max(_SMALLEST, math.isqrt(_ROOM * self.memory // each) - 2 * around)
            side = max(1, side // grid) * grid
        return [
            (row, column)
            for row in spans(rows, side, around, grid)
            for column in spans(columns, side, around, grid)
        ]

    def _refine(
        self,
        found: Tensor,
        tile: Tile,
        generator: torch.Generator,
        before: int,
        tiles: int,
    ) -> None:
        """Refine one tile of y, in place."""
        objective = _Objective(self, found, tile)
        old = found[..., tile[0].wanted(), tile[1].wanted()].clone()
        y = old.clone().requires_grad_()
        optimizer = torch.optim.Adam([y], lr=self.latent.search_rate)
        steps = self.effort.steps
        for step in range(steps):
            temperature = _HOT * (_COLD / _HOT) ** (step / max(1, steps - 1))
            with torch.enable_grad():
                loss = objective.of(y, partial(self._drawn, temperature, generator))
                (y.grad,) = torch.autograd.grad(loss, y)
            optimizer.step()
            if self.effort.on_step is not None:
                self.effort.on_step(before + step + 1, tiles * steps)
        with torch.no_grad():
            if objective.of(y, rounded) < objective.of(old, rounded):
                found[..., tile[0].wanted(), tile[1].wanted()] = y

    @staticmethod
    def _drawn(temperature: float, generator: torch.Generator, t: Tensor) -> tuple[Tensor, Tensor]:
        """Integers below and shares of those above, drawn at a temperature."""
        below = t.detach().floor()
        share = t - below
        noise = torch.rand(t.shape, generator=generator, device=t.device).logit(_EDGE)
        down, up = (d.clamp(max=1 - _EDGE).atanh() for d in (share, 1 - share))
        return below, (((down - up) / temperature + noise) / temperature).sigmoid()


class _Objective:
    """R + λD, as far as it depends on one tile of y.

    Args:
        search: the search.
        found: the whole y.
        tile: the rows and columns that vary.
    """

    def __init__(self, search: Refinement, found: Tensor, tile: Tile) -> None:
        self.search = search
        self.inside = tile[0].inside(), tile[1].inside()
        self.computed = tile[0].computed(), tile[1].computed()
        scale, reach = search.geometry.scale, search.reach
        self.around = found[..., self.computed[0], self.computed[1]].clone()
        self.varies = self.around.new_zeros(self.around.shape[2:], dtype=torch.bool)
        self.varies[self.inside] = True
        reached = [
            (max(0, span.start - reach), min(length, span.stop + reach))
            for span, length in zip(tile, found.shape[2:], strict=True)
        ]
        rows, columns = (slice(a * scale, b * scale) for a, b in reached)
        self.original = tiling.unit(search.pixels[..., rows, columns])
        self.shown = tuple(
            slice((a - span.first) * scale, (a - span.first) * scale + length)
            for (a, _), span, length in zip(reached, tile, self.original.shape[2:], strict=True)
        )

    def of(self, y: Tensor, draw: Draw) -> Tensor:
        """Bits + λ·255²·MSE·pixels for the tile's y.

        Bits are those of the tile and of all that is computed around it; pixels are those of the tile and
        of what lies within its reach.
        """
        held = self.around.clone()
        held[..., self.inside[0], self.inside[1]] = y
        coded = self.search.latent.coded(held, self.computed, partial(self._round, draw))
        decoded = self.search.transform(coded.y_hat, coded.symbols)
        decoded = decoded[..., self.shown[0], self.shown[1]].clamp(0, 1)
        errors = (decoded - self.original).square().sum()
        return coded.bits + self.search.lmbda * 255**2 * errors / self.original.shape[1]

    def _round(self, draw: Draw, t: Tensor) -> tuple[Tensor, Tensor]:
        """Let the tile be rounded by a draw, and what lies around it to the nearest."""
        below, weight = draw(t)
        if self.varies.all():
            return below, weight
        below = below.where(self.varies, t.detach().round())
        return below, weight.where(self.varies, 0)
