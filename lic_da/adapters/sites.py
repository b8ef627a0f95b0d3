"""Sites: the places in a synthesis transform where adapters act.

A site names a module of ``g_s`` by its path and says how the adapters' output joins it. With ``u`` a
feature map, ``W`` a frozen convolution and ``A_k`` the adapter of domain k (Presta et al. 2024,
section 3)::

    parallel                             serial

    x ──┬── W ─────────── + ──►          x ── module ── u ──┬────────────────── + ──►
        └── Σ v_k A_k ───┘                                  └── Σ v_k A_k (3×3) ─┘

    inside
                 ┌─────── block ─────────┐
    x ───────────┤ … ── u ── inner ── …  ├── + ──►
                 └────── │ ──────────────┘   │
                         └─ Σ v_k A_k (3×3) ─ LeakyReLU

A codec's configuration lists its sites; a new kind of site is a new class here and nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from lic_da.adapters.formula import AdapterSum
from lic_da.codecs.models.convolutions import Convolution, convolution_like
from lic_da.errors import UserError


@dataclass(frozen=True)
class Site(ABC):
    """A place where adapters act.

    Attributes:
        on_input: whether adapters act on the input of a convolution of their shape; else on an output.

    Args:
        at: path of a module in ``g_s``, such as ``3`` or ``9.0``.
    """

    on_input: ClassVar[bool] = False

    at: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", str(self.at))

    @abstractmethod
    def new_adapter(self, module: nn.Module, channels: int) -> Convolution:
        """An adapter for this site, not yet initialised.

        Args:
            module: the frozen module at this site.
            channels: of its output.
        """

    @abstractmethod
    def adapted(
        self, module: nn.Module, forward: Callable[..., Any], adapters: AdapterSum, x: Tensor
    ) -> Tensor:
        """Output of the module with the adapters' residual.

        Args:
            module: the frozen module at this site.
            forward: what it computes by itself.
            adapters: those of this site, weighted by v.
            x: its input.
        """


@dataclass(frozen=True)
class Serial(Site):
    """``u + Σ_k v_k A_k(u)`` on the module's output u; A_k a 3×3 convolution."""

    def new_adapter(self, module: nn.Module, channels: int) -> Convolution:
        return _conv3x3(channels)

    def adapted(
        self, module: nn.Module, forward: Callable[..., Any], adapters: AdapterSum, x: Tensor
    ) -> Tensor:
        return adapters.serial(forward(x))


@dataclass(frozen=True)
class Parallel(Site):
    """``W(u) + Σ_k v_k A_k(u)``; A_k has the very shape of the convolution W."""

    on_input: ClassVar[bool] = True

    def new_adapter(self, module: nn.Module, channels: int) -> Convolution:
        if not _is_plain_convolution(module):
            raise UserError(
                f"A parallel site needs a plain convolution with one group, but g_s.{self.at} is "
                f"{type(module).__name__}."
            )
        assert isinstance(module, Convolution)
        return convolution_like(module, module.in_channels, module.out_channels)

    def adapted(
        self, module: nn.Module, forward: Callable[..., Any], adapters: AdapterSum, x: Tensor
    ) -> Tensor:
        assert isinstance(module, Convolution)
        return adapters.parallel(module, forward, x)


@dataclass(frozen=True)
class Inside(Site):
    """``block(x) + LeakyReLU(Σ_k v_k A_k(u))``, u the input of a convolution inside the block.

    Args:
        at: path of the block.
        before: path, inside the block, of the convolution whose input is u.
        slope: of the LeakyReLU.
    """

    before: str
    slope: float = 0.01

    def new_adapter(self, module: nn.Module, channels: int) -> Convolution:
        inner = submodule(module, self.before, f"g_s.{self.at}")
        if not isinstance(inner, nn.Conv2d) or inner.in_channels != channels:
            raise UserError(
                f"The site inside g_s.{self.at} needs a convolution at '{self.before}' whose input has "
                f"as many channels as the block's output ({channels})."
            )
        return _conv3x3(channels)

    def adapted(
        self, module: nn.Module, forward: Callable[..., Any], adapters: AdapterSum, x: Tensor
    ) -> Tensor:
        seen: list[Tensor] = []
        hook = module.get_submodule(self.before).register_forward_pre_hook(
            lambda _, inputs: seen.append(inputs[0])
        )
        try:
            out: Tensor = forward(x)
        finally:
            hook.remove()
        return adapters.inside(out, seen[0], self.slope)


def every_convolution(g_s: nn.Module) -> list[Site]:
    """A parallel site at every convolution of a synthesis transform."""
    return [Parallel(path) for path, m in g_s.named_modules() if _is_plain_convolution(m)]


def submodule(module: nn.Module, path: str, name: str) -> nn.Module:
    """The module at ``path``.

    Raises:
        UserError: there is none; ``name`` says in what.
    """
    try:
        return module.get_submodule(path)
    except AttributeError:
        inside = ", ".join(key for key, _ in module.named_children())
        raise UserError(f"{name} has no module at '{path}'; it consists of {inside}.") from None


def _conv3x3(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel_size=3, padding=1)


def _is_plain_convolution(module: nn.Module) -> bool:
    return isinstance(module, Convolution) and module.groups == 1 and module.padding_mode == "zeros"
