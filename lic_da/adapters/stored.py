"""A bank whose adapters stay in the file of their pack, for decoding with many domains.

Merging adds one adapter after the other to a kernel (:mod:`lic_da.adapters.merge`), and those without
weight are not touched. So no more than one of them needs to be in memory::

    file   A_0 │ A_1 │ A_2 │ … │ A_K
                  │
                  ▼  read, where v_1 is not 0
               v_1 A_1 ──► + ──► kernel of the image
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from lic_da.adapters.bank import check_names, key_of, new_adapters
from lic_da.adapters.kinds import AdapterKind
from lic_da.adapters.sites import Site
from lic_da.codecs.models.convolutions import Convolution
from lic_da.errors import UserError
from lic_da.io.tensors import Lazy, TensorFile

PREFIX = "bank."
"""Of the names that a pack's file has for the tensors of its bank."""


class StoredBank(nn.Module):
    """Adapters of all domains at all sites, whose tensors are read whenever they are asked for.

    It computes what an :class:`~lic_da.adapters.bank.AdapterBank` of the same tensors does, bit for bit. It
    has no parameters, so it cannot be trained, and its tensors are no part of a state dict.

    Args:
        g_s: the frozen synthesis transform.
        latent_channels: M, channels of the latent.
        sites: where adapters act.
        kind: of the adapters.
        domains: names of the domains, the source first.
        file: of a pack.

    Raises:
        UserError: the file lacks tensors of these adapters, or holds others.
    """

    def __init__(
        self,
        g_s: nn.Module,
        latent_channels: int,
        sites: Sequence[Site],
        kind: AdapterKind,
        domains: Sequence[str],
        file: TensorFile,
    ) -> None:
        super().__init__()
        check_names(domains)
        self.file = file
        self._like = torch.empty(0)
        make = new_adapters(g_s, latent_channels, sites, kind)
        with torch.device("meta"):  # shapes without memory
            adapters = make()
        names = {
            f"{PREFIX}adapters.{domain}.{key}.{name}": parameter.shape
            for domain in domains
            for key, adapter in adapters.items()
            for name, parameter in adapter.named_parameters()
        }
        self._check(names)
        self._names = tuple(names)
        self._adapters = {
            key: [self._stored(adapter, f"{PREFIX}adapters.{d}.{key}") for d in domains]
            for key, adapter in adapters.items()
        }

    def at(self, site: Site) -> list[Convolution]:
        """A_0 … A_K of one site, in the order of the domains; their parameters are read when looked at."""
        return self._adapters[key_of(site)]

    def readers(self, prefix: str = "") -> dict[str, Callable[[], Tensor]]:
        """What reads each tensor of the bank, by its name in a pack behind a prefix."""
        return {f"{prefix}{name}": partial(self._read, name) for name in self._names}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Note where tensors are to be and of which kind: ``to``, ``half`` and the like come here."""
        self._like = fn(self._like)
        return self

    def _read(self, name: str) -> Tensor:
        return self.file[name].to(self._like)

    def _stored(self, adapter: Convolution, name: str) -> Convolution:
        """The same adapter with the parameters that the file has under a name."""
        stored = copy.copy(adapter)
        makers: dict[str, Any] = {
            parameter: _nothing if value is None else partial(self._read, f"{name}.{parameter}")
            for parameter, value in adapter._parameters.items()
        }
        stored._parameters = Lazy(makers)  # type: ignore[assignment]
        return stored

    def _check(self, names: dict[str, torch.Size]) -> None:
        held = {name for name in self.file if name.startswith(PREFIX)}
        wrong = sorted(
            name
            for name in names.keys() | held
            if name not in names or name not in held or self.file.shape(name) != names[name]
        )
        if wrong:
            raise UserError(
                f"{self.file.path} does not fit this codec and these domains; first differences: "
                f"{', '.join(wrong[:4])}."
            )


def _nothing() -> None:
    """A parameter that a convolution does not have, such as a bias."""
