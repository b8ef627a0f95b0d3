"""The bank of adapters: one set of residual layers a domain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from lic_da.adaptation.mixture import Conv
from lic_da.adaptation.sites import Site
from lic_da.errors import UserError


class AdapterBank(nn.Module):
    """Adapters of all domains at all sites; they start at zero, so at first they change nothing.

    Args:
        g_s: the frozen synthesis transform.
        latent_channels: M, channels of the latent.
        sites: where adapters act.
        domains: names of the domains, the source first.
    """

    def __init__(
        self,
        g_s: nn.Sequential,
        latent_channels: int,
        sites: Sequence[Site],
        domains: Sequence[str],
    ) -> None:
        super().__init__()
        channels = _output_channels(g_s, latent_channels)
        for site in sites:
            if not 0 <= site.at < len(g_s):
                raise UserError(f"There is no site {site.at}: g_s has layers 0 to {len(g_s) - 1}.")
        for domain in domains:
            if hasattr(nn.ModuleDict, domain):  # such as "train": torch could not hold it
                raise UserError(f"'{domain}' cannot be the name of a domain; choose another one.")
        self.adapters = nn.ModuleDict(
            {
                domain: nn.ModuleDict(
                    {str(s.at): zeroed(s.new_adapter(g_s[s.at], channels[s.at])) for s in sites}
                )
                for domain in domains
            }
        )

    def at(self, site: Site) -> list[Conv]:
        """A_0 … A_K of one site, in the order of the domains."""
        key = str(site.at)
        return [cast(Conv, cast(nn.ModuleDict, own)[key]) for own in self.adapters.values()]


def zeroed(conv: Conv) -> Conv:
    """The convolution with weight and bias set to zero."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


@torch.no_grad()
def _output_channels(g_s: nn.Sequential, latent_channels: int) -> list[int]:
    """Channels of every layer's output, found by passing a small latent through."""
    parameter = next(g_s.parameters())
    x = torch.zeros(1, latent_channels, 4, 4, device=parameter.device, dtype=parameter.dtype)
    channels = []
    for layer in g_s:
        x = layer(x)
        channels.append(x.shape[1])
    return channels
