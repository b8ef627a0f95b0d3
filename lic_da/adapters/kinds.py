"""Kinds of adapters: how the residual convolution of a site is parametrised. All are linear.

An adapter is a convolution with a weight and a bias; where the weight comes from is its own affair.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from lic_da.adapters.merge import AddsItself
from lic_da.codecs.models.convolutions import Convolution
from lic_da.errors import UserError


class AdapterKind(Protocol):
    """Makes the adapter of a site out of a convolution of the right shape; its output is zero at first."""

    def __call__(self, conv: Convolution) -> Convolution: ...


@dataclass(frozen=True)
class Residual:
    """A full kernel, as published (Presta et al. 2024)."""

    def __call__(self, conv: Convolution) -> Convolution:
        nn.init.zeros_(conv.weight)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        return conv


@dataclass(frozen=True)
class LowRank:
    """A kernel of low rank: k×k from the input to ``rank`` channels, then 1×1 to the output.

    Where the rank would not be lower than that of a full kernel, the adapter is a full one.

    Args:
        rank: r, at least 1.
    """

    rank: int

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"adapter.rank must be at least 1, not {self.rank}.")

    def __call__(self, conv: Convolution) -> Convolution:
        area = math.prod(conv.kernel_size)
        if self.rank >= min(conv.out_channels, conv.in_channels * area):
            return Residual()(conv)
        conv.__class__ = (
            _LowRankConvTranspose2d if isinstance(conv, nn.ConvTranspose2d) else _LowRankConv2d
        )
        assert isinstance(conv, _LowRank)
        conv.factorise(self.rank)
        return conv


class _LowRank(nn.Module, AddsItself):
    """Replaces the parameter ``weight`` by the product of two factors."""

    down: nn.Parameter
    up: nn.Parameter

    def factorise(self, rank: int) -> None:
        weight = self._parameters.pop("weight")
        assert weight is not None
        outputs, inputs = self._matrix(weight).shape
        self.down = nn.Parameter(torch.randn(rank, inputs) / math.sqrt(inputs))
        self.up = nn.Parameter(torch.zeros(outputs, rank))
        bias = self._parameters["bias"]
        if bias is not None:
            nn.init.zeros_(bias)

    @property
    def weight(self) -> Tensor:
        return self._kernel(self.up @ self.down)

    @abstractmethod
    def _matrix(self, weight: Tensor) -> Tensor:
        """The kernel as ``(C_out, C_in·k·k)``."""

    @abstractmethod
    def _kernel(self, matrix: Tensor) -> Tensor:
        """The inverse of ``_matrix``."""


class _LowRankConv2d(_LowRank, nn.Conv2d):  # type: ignore[misc, override]
    def add_to(self, kernel: Tensor, share: float) -> None:
        kernel.flatten(1).addmm_(self.up, self.down, alpha=share)

    def _matrix(self, weight: Tensor) -> Tensor:
        return weight.flatten(1)

    def _kernel(self, matrix: Tensor) -> Tensor:
        return matrix.view(self.out_channels, self.in_channels, *self.kernel_size)


class _LowRankConvTranspose2d(_LowRank, nn.ConvTranspose2d):  # type: ignore[misc, override]
    def add_to(self, kernel: Tensor, share: float) -> None:
        rank, inputs = len(self.down), self.in_channels
        up = self.up.expand(inputs, -1, -1)
        down = self.down.view(rank, inputs, -1).transpose(0, 1)
        kernel.flatten(2).baddbmm_(up, down, alpha=share)

    def _matrix(self, weight: Tensor) -> Tensor:
        return weight.transpose(0, 1).flatten(1)

    def _kernel(self, matrix: Tensor) -> Tensor:
        shape = (self.out_channels, self.in_channels, *self.kernel_size)
        return matrix.view(shape).transpose(0, 1)
