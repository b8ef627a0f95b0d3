"""Sites: the places in a synthesis transform where adapters act.

A site names a layer of ``g_s`` and says how the adapters' output joins it. With ``u`` a feature map,
``W`` a frozen convolution and ``A_k`` the adapter of domain k (Presta et al. 2024, section 3)::

    parallel                             serial

    x ──┬── W ─────────── + ──►          x ── layer ── u ──┬────────────────── + ──►
        └── Σ v_k A_k ───┘                                 └── Σ v_k A_k (3×3) ─┘

A codec's configuration lists its sites; a new kind of site is a new class here and nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from lic_da.adaptation.mixture import Conv, Mixture
from lic_da.errors import UserError


@dataclass(frozen=True)
class Site(ABC):
    """A place where adapters act.

    Args:
        at: index of the layer in ``g_s``.
    """

    at: int

    @abstractmethod
    def new_adapter(self, layer: nn.Module, channels: int) -> Conv:
        """An adapter for this site, not yet initialised.

        Args:
            layer: the frozen layer at this site.
            channels: of the layer's output.
        """

    @abstractmethod
    def __call__(self, layer: nn.Module, x: Tensor, mixture: Mixture) -> Tensor:
        """Output of the layer with the adapters' residual; ``x`` is the layer's input."""


@dataclass(frozen=True)
class Serial(Site):
    """``u + Σ_k v_k A_k(u)`` on the layer's output u; A_k a 3×3 convolution."""

    def new_adapter(self, layer: nn.Module, channels: int) -> Conv:
        return nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def __call__(self, layer: nn.Module, x: Tensor, mixture: Mixture) -> Tensor:
        u = layer(x)
        return u + mixture(u)


@dataclass(frozen=True)
class Parallel(Site):
    """``W(u) + Σ_k v_k A_k(u)``; A_k has the very shape of the convolution W."""

    def new_adapter(self, layer: nn.Module, channels: int) -> Conv:
        if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) or layer.groups != 1:
            raise UserError(
                f"A parallel site needs a convolution with one group, but g_s[{self.at}] is "
                f"{type(layer).__name__}."
            )
        kind = nn.ConvTranspose2d if isinstance(layer, nn.ConvTranspose2d) else nn.Conv2d
        extra = {"output_padding": layer.output_padding} if kind is nn.ConvTranspose2d else {}
        return kind(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]
            stride=layer.stride,  # type: ignore[arg-type]
            padding=layer.padding,  # type: ignore[arg-type]
            dilation=layer.dilation,  # type: ignore[arg-type]
            **extra,  # type: ignore[arg-type]
        )

    def __call__(self, layer: nn.Module, x: Tensor, mixture: Mixture) -> Tensor:
        assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
        return mixture.beside(layer, x)
