"""The bank of adapters: one set of residual layers a domain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from lic_da.adapters.kinds import AdapterKind
from lic_da.adapters.sites import Site, submodule
from lic_da.codecs.models.convolutions import Convolution
from lic_da.errors import UserError


class AdapterBank(nn.Module):
    """Adapters of all domains at all sites; their output is zero at first.

    Args:
        g_s: the frozen synthesis transform.
        latent_channels: M, channels of the latent.
        sites: where adapters act.
        kind: makes an adapter out of a convolution of the right shape.
        domains: names of the domains, the source first.
    """

    def __init__(
        self,
        g_s: nn.Module,
        latent_channels: int,
        sites: Sequence[Site],
        kind: AdapterKind,
        domains: Sequence[str],
    ) -> None:
        super().__init__()
        check_names(domains)
        make = new_adapters(g_s, latent_channels, sites, kind)
        self.adapters = nn.ModuleDict({domain: nn.ModuleDict(make()) for domain in domains})

    def at(self, site: Site) -> list[Convolution]:
        """A_0 … A_K of one site, in the order of the domains."""
        return [
            cast(Convolution, cast(nn.ModuleDict, own)[key_of(site)])
            for own in self.adapters.values()
        ]


def check_names(domains: Sequence[str]) -> None:
    """Raise a UserError if a domain has a name that adapters cannot be kept under."""
    for domain in domains:
        if hasattr(nn.ModuleDict, domain):  # such as "train": torch could not hold it
            raise UserError(f"'{domain}' cannot be the name of a domain; choose another one.")


def new_adapters(
    g_s: nn.Module, latent_channels: int, sites: Sequence[Site], kind: AdapterKind
) -> Callable[[], dict[str, Convolution]]:
    """What makes the adapters of one domain, by the names of their sites; see :class:`AdapterBank`.

    Raises:
        UserError: g_s has no such sites.
    """
    modules = {site.at: submodule(g_s, site.at, "g_s") for site in sites}
    if len(modules) < len(sites):
        raise UserError("Two sites have the same place in g_s.")
    channels = _output_channels(g_s, latent_channels, modules)
    return lambda: {key_of(s): kind(s.new_adapter(modules[s.at], channels[s.at])) for s in sites}


def key_of(site: Site) -> str:
    """Name of a site in the bank."""
    return site.at.replace(".", "_")  # names of modules hold no dots


@torch.no_grad()
def _output_channels(
    g_s: nn.Module, latent_channels: int, modules: dict[str, nn.Module]
) -> dict[str, int]:
    """Channels of every module's output, found by passing a small latent through."""
    channels: dict[str, int] = {}

    def note(path: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            channels[path] = output.shape[1]

        return hook

    hooks = [m.register_forward_hook(note(path)) for path, m in modules.items()]
    parameter = next(g_s.parameters())
    try:
        g_s(torch.zeros(1, latent_channels, 4, 4, device=parameter.device, dtype=parameter.dtype))
    finally:
        for hook in hooks:
            hook.remove()
    unused = modules.keys() - channels.keys()
    if unused:
        raise UserError(f"g_s does not use its module {min(unused)}: no site can be there.")
    return channels
