"""v chosen at the encoder: the weights of the adapters that decode one image best.

The gate guesses v from ŷ. The encoder has the image and can do better: it searches the v whose decoded
image is nearest to the original, with entries of any sign and size that the stream can hold, and
writes it into the stream where that pays. Strings, gate and decoder stay what they are.

**Search.** Adapters are linear in v, the decoder behind them is not, so v is found by damped Gauss-Newton
steps on the decoded image, from the better of the gate's v and no adapters. The
columns of the Jacobian are differences of images as the real decoder makes them, clamped to [0, 1] as
they are shown; so there is nothing that a codec must provide for it. With many domains a first step on
part of the image selects those that matter.

**Decision.** All candidates, the gate's v and the base decoder among them, decode the whole image.
One that is written must not be worse than the gate's v or the base by more than ``TOLERANCE_DB``; of those
the one with the least ``8·bytes + λ·255²·MSE·pixels`` is taken, where the gate's v takes no bytes (or those
of a signalled v). λ is that of the codec's quality, so v costs what the encoder pays for any other bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lic_da.adapters.regions import Weights, of_image, with_shares
from lic_da.adapters.synthesis import AdaptedSynthesis
from lic_da.codecs.image_codec import to_8_bit
from lic_da.codecs.spatial import tiling
from lic_da.io.bitstream import (
    CHOSEN_UNITS,
    MAX_ENTRIES,
    MAX_IN_A_ROW,
    chosen_bytes,
)
from lic_da.spans import Span, spans

TOLERANCE_DB = 0.005
"""PSNR that is rounding: what an image may lose with v to save bits."""

_SAMPLE = 1 << 19  # pixels on which v is searched; larger images are sampled
_WINDOWS = 3  # a side of the image, where it is sampled
_BLIND_HALO = 4  # elements around a window of a transform that looks at all of the image
_STEPS = 3
_DAMPING = 1e-3  # of the diagonal
_DIFFERENCE = 1 / 16  # of v, for the columns of the Jacobian
_SHARES = (1.0, 0.5, 0.25)  # of a step that are tried
_ENOUGH = 1e-3  # share of the error that a step must remove for another one to follow


def weights(chosen: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """V ``(1, K+1)`` of what a stream says in 32nds."""
    return torch.tensor([list(chosen)], dtype=torch.float32, device=device) / CHOSEN_UNITS


def quantised(v: Tensor) -> tuple[int, ...]:
    """V ``(K+1,)`` in 32nds, within what a stream can hold."""
    return tuple(v.mul(CHOSEN_UNITS).round().clamp(-128, 127).int().tolist())


@dataclass(frozen=True)
class _Window:
    """Part of an image: latent with its surroundings, where it lies in what that decodes to, original."""

    y_hat: Tensor
    symbols: Tensor | None
    rows: slice
    columns: slice
    original: Tensor


@dataclass(frozen=True)
class _Tried:
    """A v ``(K+1,)`` and the errors it leaves in some windows."""

    v: Tensor
    residuals: list[Tensor]

    @cached_property
    def error(self) -> float:
        """Sum of squared errors."""
        return sum(residual.square().sum().item() for residual in self.residuals)


@dataclass(frozen=True)
class CodedImage:
    """An image and its latent, for which v is chosen.

    Attributes:
        synthesis: the adapted decoder.
        geometry: of it.
        memory: bytes that activations may take.
        y_hat: the latent as the decoder has it, ``(1, M, H/s, W/s)``.
        pixels: the original, uint8 ``(1, 3, H, W)``.
        lmbda: λ of R + λ·255²·MSE.
        symbols: that the latent was made of; None: the decoder has no use for them.
    """

    synthesis: AdaptedSynthesis
    geometry: tiling.Geometry
    memory: int
    y_hat: Tensor
    pixels: Tensor
    lmbda: float
    symbols: Tensor | None = None

    @torch.inference_mode()
    def best(self, gate: Weights | None, gate_bytes: int = 0) -> dict[str, Any]:
        """What changes in the stream for the best v.

        Args:
            gate: v that the decoder uses for the stream as it is, ``(1, K+1)`` or of regions; None: no
                adapters.
            gate_bytes: what the stream spends on it.

        Returns:
            Fields of :class:`lic_da.io.bitstream.Stream`; none where the stream is best as it is.
        """
        nothing = (0,) * len(self.synthesis.domains)
        start = None if gate is None else of_image(gate)
        found = dict.fromkeys([nothing, quantised(self._search(start))])
        errors = {c: self.squared_error(weights(c, self.y_hat.device)) for c in found}
        by_gate = self.squared_error(gate)
        limit = min(by_gate, errors[nothing]) * 10 ** (TOLERANCE_DB / 10)
        costs = {
            c: 8 * chosen_bytes(c) + self.worth(error)
            for c, error in errors.items()
            if error <= limit
        }
        if by_gate <= limit and 8 * gate_bytes + self.worth(by_gate) <= min(costs.values()):
            return {}
        return {"v": None, "chosen": min(costs, key=lambda c: costs[c])}

    def worth(self, squared_error: float) -> float:
        """Bits that a sum of squared 8-bit errors is worth: λ·255²·MSE·pixels, MSE that of [0, 1]."""
        return self.lmbda * squared_error / self.pixels.shape[1]

    def squared_error(self, v: Weights | None) -> float:
        """Sum of the squared differences between the 8-bit image that v decodes to and the original.

        Args:
            v: ``(1, K+1)``, or of regions; None: no adapters.
        """
        total = 0.0
        placed = self.synthesis.moved(self.y_hat, self.symbols, v)
        with self.synthesis.mixed_by(v) as transform:
            for rows, columns, piece in tiling.synthesise(
                transform, with_shares(placed, v), self.geometry, self.memory
            ):
                original = self.pixels[..., rows, columns]
                height, width = original.shape[2:]
                error = to_8_bit(piece)[..., :height, :width].float() - original.float()
                total += error.square().sum(dtype=torch.float64).item()
        return total

    def _search(self, gate: Tensor | None) -> Tensor:
        """The v ``(K+1,)`` that the better of the gate's v and no adapters leads to."""
        count = len(self.synthesis.domains)
        nothing = self.y_hat.new_zeros(count)
        own = nothing if gate is None else gate[0]
        free = torch.arange(count, device=self.y_hat.device)
        if count > MAX_IN_A_ROW:
            few = self._windows[:: _WINDOWS + 1]
            normal, gradient = self._normal_equations(self._tried(nothing, few), free, few)
            free = selected(normal, -gradient, MAX_ENTRIES, first=int(own.argmax()))
        mask = torch.zeros_like(nothing).index_fill_(0, free, 1)
        starts = [self._tried(v, self._windows) for v in (own * mask, nothing)]
        return self._descended(min(starts, key=lambda tried: tried.error), free)

    def _descended(self, best: _Tried, free: Tensor) -> Tensor:
        """V after Gauss-Newton steps in its free entries."""
        for _ in range(_STEPS):
            normal, gradient = self._normal_equations(best, free, self._windows)
            step = torch.zeros_like(best.v)
            step[free] = _solved(normal, -gradient).to(step)
            for share in _SHARES:
                v = (best.v + share * step).clamp(-128 / CHOSEN_UNITS, 127 / CHOSEN_UNITS)
                there = self._tried(v, self._windows)
                if there.error < best.error:
                    break
            else:
                return best.v
            little = best.error - there.error < _ENOUGH * best.error
            best = there
            if little:
                break
        return best.v

    def _normal_equations(
        self, here: _Tried, free: Tensor, windows: Sequence[_Window]
    ) -> tuple[Tensor, Tensor]:
        """JᵀJ and Jᵀr, with J the image's derivatives by the free entries of v and r its error."""
        normal = torch.zeros(len(free), len(free), dtype=torch.float64, device=free.device)
        gradient = normal.new_zeros(len(free))
        for window, residual in zip(windows, here.residuals, strict=True):
            columns = []
            for place in free.tolist():
                v = here.v.clone()
                v[place] += _DIFFERENCE
                columns.append((self._residual(window, v) - residual) / _DIFFERENCE)
            jacobian = torch.stack(columns)
            normal += jacobian @ jacobian.T
            gradient += jacobian @ residual
        return normal, gradient

    def _tried(self, v: Tensor, windows: Sequence[_Window]) -> _Tried:
        return _Tried(v, [self._residual(window, v) for window in windows])

    def _residual(self, window: _Window, v: Tensor) -> Tensor:
        """Differences of the decoded window, clamped to [0, 1], from the original, in one row."""
        placed = self.synthesis.moved(window.y_hat, window.symbols, v[None])
        with self.synthesis.mixed_by(v[None]) as transform:
            decoded: Tensor = transform(placed)[..., window.rows, window.columns]
        height, width = window.original.shape[2:]
        return (decoded[..., :height, :width].clamp(0, 1) - window.original).flatten()

    @cached_property
    def _windows(self) -> list[_Window]:
        """The image as one window, or windows spread over it where it is large or domains are many."""
        rows, columns = self.y_hat.shape[2:]
        scale, halo, grid = self.geometry.scale, self.geometry.halo, self.geometry.grid
        many = len(self.synthesis.domains) > MAX_IN_A_ROW
        if rows * columns * scale**2 <= _SAMPLE and not many:
            cuts = [spans(length, None, 0) for length in (rows, columns)]
        else:
            side = max(1, round((_SAMPLE / _WINDOWS**2) ** 0.5 / scale))
            around = _BLIND_HALO if halo is None else halo
            cuts = [_spread(length, side, around, grid) for length in (rows, columns)]
        return [
            _Window(
                self.y_hat[..., row.computed(), column.computed()],
                self.symbols
                if self.symbols is None
                else self.symbols[..., row.computed(), column.computed()],
                row.inside(scale),
                column.inside(scale),
                self.pixels[..., row.wanted(scale), column.wanted(scale)].float().div(255),
            )
            for row in cuts[0]
            for column in cuts[1]
        ]


def _spread(length: int, side: int, halo: int, grid: int) -> list[Span]:
    """Parts of an axis, one in the middle of each of at most ``_WINDOWS`` equal pieces of it.

    They begin and end on a grid, as pieces and halo do.
    """
    side = max(grid, side // grid * grid)
    count = min(_WINDOWS, -(-length // side))
    found = []
    for piece in spans(length, grid * -(-length // (count * grid)), 0, grid):
        start = max(piece.start, (piece.start + piece.stop - side) // 2 // grid * grid)
        stop = min(piece.stop, start + side)
        found.append(Span(start, stop, max(0, start - halo), min(length, stop + halo)))
    return found


def selected(normal: Tensor, target: Tensor, count: int, first: int) -> Tensor:
    """Places of the entries that lower xᵀAx − 2xᵀb most, taken one after the other.

    Args:
        normal: A, ``(n, n)``.
        target: b, ``(n,)``.
        count: how many.
        first: the place that is taken first.

    Returns:
        The places, ``(count,)`` integers, rising.
    """
    places = [first]
    while len(places) < count:
        taken = torch.tensor(places, device=normal.device)
        x = _solved(normal[taken][:, taken], target[taken])
        left = target - normal[:, taken] @ x
        gain = left.square() / normal.diagonal().clamp(min=1e-12)
        gain[taken] = -1
        places.append(int(gain.argmax()))
    return torch.tensor(sorted(places), device=normal.device)


def _solved(normal: Tensor, target: Tensor) -> Tensor:
    """The damped solution of A x = b."""
    diagonal = normal.diagonal()
    ridge = torch.diag(_DAMPING * diagonal + 1e-9 * diagonal.mean() + 1e-12)
    return torch.linalg.solve(normal + ridge, target)
