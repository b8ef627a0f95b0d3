"""The adapted synthesis transform, which takes the place of a codec's ``g_s``.

::

              ┌──────┐ logits            v
    ŷ ──┬────►│ gate ├────────► mode ────────┐
        │     └──────┘                       ▼
        │     ┌───────┐   ┌────────┐   ┌────────┐
        └────►│ g_s 0 ├ … ┤ site 3 ├ … ┤ site 6 ├──► x̂
              └───────┘   └────────┘   └────────┘
                             v mixes the adapters of all domains, the same v at every site
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lic_da.adapters.bank import AdapterBank
from lic_da.adapters.calibration import Calibration, Trust
from lic_da.adapters.formula import AdapterSum
from lic_da.adapters.gate import Gate, GateInput
from lic_da.adapters.kinds import AdapterKind
from lic_da.adapters.merge import MergedSum, MergedWeights
from lic_da.adapters.mosaic import RegionSum, ShareMap
from lic_da.adapters.points import Points, ReconstructionPoints
from lic_da.adapters.regions import (
    WINDOW,
    RegionWeights,
    Spatial,
    Weights,
    check_spatial,
    find,
    of_image,
    with_shares,
)
from lic_da.adapters.sites import Site
from lic_da.adapters.stored import StoredBank
from lic_da.codecs.models.gdn import freeze_gdn
from lic_da.errors import check_domain, unknown
from lic_da.io.tensors import TensorFile

MODES = ("weighted", "top1", "oracle", "base")
"""v as the gate says; one-hot of its argmax; one-hot of a given domain; no adapters."""

CHOSEN = "chosen"
"""The mode of an encoder that searches the v of each image; to a decoder it is ``weighted``."""


class AdaptedSynthesis(nn.Module):
    """A frozen ``g_s`` with a bank of adapters and a gate.

    Args:
        g_s: the synthesis transform; it is frozen and kept in eval mode.
        latent_channels: M, channels of the latent.
        sites: where adapters act.
        domains: names of the domains, the source first.
        kind: of the adapters.
        gate_mid: channels inside the gate.
        gate_input: what it reads.
        threshold: the mode ``weighted`` leaves out adapters whose v is below it; the largest stays.
        calibration: ``learned``: ``weighted`` takes v times a factor, which is 1 until it is fitted.
        file: of a pack, in which the adapters stay; None: they are new, and in memory.
        spatial: ``window``: ``weighted`` finds a v for each region of an image.
        window: side of the windows in which regions are looked for, in positions of the latent.
        points: ``none``, or where the offsets come from that are added to ŷ; they are 0 at first.

    Attributes:
        trust: gives that factor; None: there is none.
        points: those offsets; None: there are none.
    """

    def __init__(
        self,
        g_s: nn.Module,
        latent_channels: int,
        sites: Sequence[Site],
        domains: Sequence[str],
        *,
        kind: AdapterKind,
        gate_mid: int,
        gate_input: GateInput = "latent",
        threshold: float = 0.0,
        calibration: Calibration = "none",
        file: TensorFile | None = None,
        spatial: Spatial = "image",
        window: int = WINDOW,
        points: Points = "none",
    ) -> None:
        super().__init__()
        self.base = g_s.requires_grad_(False).eval()
        self.sites = tuple(sites)
        self.domains = tuple(domains)
        self._channels = latent_channels
        adapters = g_s, latent_channels, sites, kind, domains
        self.bank = AdapterBank(*adapters) if file is None else StoredBank(*adapters, file)
        freeze_gdn(self.base)
        self.gate = Gate(latent_channels, gate_mid, len(domains))
        self.gate_input = gate_input
        self.threshold = threshold
        self.trust = Trust(gate_mid) if calibration == "learned" else None
        self.set_spatial(spatial, window)
        self.points = (
            None if points == "none" else ReconstructionPoints(len(domains), latent_channels)
        )
        self.mode = "weighted"
        self.domain: str | None = None
        self.last_v: Tensor | None = None
        self._merged: list[MergedWeights | None] = [MergedWeights() for _ in sites]

    def train(self, mode: bool = True) -> AdaptedSynthesis:
        """Adapters and gate follow ``mode``; the frozen base stays in eval mode."""
        super().train(mode)
        self.base.eval()
        return self

    @contextmanager
    def in_mode(self, mode: str, domain: str | None = None) -> Iterator[None]:
        """Use another mode inside the block.

        Args:
            mode: one of ``MODES``, or ``CHOSEN``.
            domain: name of the domain, for ``oracle``.

        Raises:
            UserError: unknown mode or domain, or ``oracle`` without a domain.
        """
        check_mode(mode, domain, self.domains)
        before = self.mode, self.domain
        self.mode, self.domain = mode, domain
        try:
            yield
        finally:
            self.mode, self.domain = before

    def set_spatial(self, spatial: Spatial, window: int = WINDOW) -> None:
        """Find a v for each region of an image in the mode ``weighted`` from now on, or one for all of it.

        Raises:
            UserError: there is no such way, or not for a gate that reads y.
        """
        check_spatial(spatial, window, signalled=self.gate_input == "signalled")
        self.spatial, self.window = spatial, window

    @property
    def needs_gate(self) -> bool:
        """Whether the current mode is made of the gate's v."""
        return self.mode in ("weighted", "top1", CHOSEN)

    def mode_weights(self, y_hat: Tensor, signalled: Tensor | None = None) -> Weights | None:
        """V of shape ``(B, K+1)`` for the current mode, or that of the regions; None for ``base``.

        With ``spatial=window`` the mode ``weighted`` looks for regions in the latent of one image.

        Args:
            y_hat: decoded latents, ``(B, M, H, W)``.
            signalled: v as the encoder has sent it, for a gate that reads y.
        """
        if self.mode == "base":
            return None
        if self.mode == "oracle":
            assert self.domain is not None
            label = self.domains.index(self.domain)
            return one_hot(torch.full((len(y_hat),), label, device=y_hat.device), len(self.domains))
        if self.spatial == "window" and self.mode != "top1" and len(y_hat) == 1:
            features, shares = find(self.gate, y_hat, self.window)
            weights = self._weights_of(features)
            return weights if shares is None else RegionWeights(weights, shares)
        return self._image_weights(y_hat, signalled)

    def _weights_of(self, features: Tensor) -> Tensor:
        """V ``(R, K+1)`` of the mode ``weighted`` for features ``(R, F)`` of the gate."""
        v = self.gate.classify(features).float().softmax(dim=1)
        v = without_tiny(v, self.threshold) if self.threshold else v
        return v if self.trust is None else self.trust(features) * v

    def _image_weights(self, y_hat: Tensor, signalled: Tensor | None) -> Tensor:
        """V ``(B, K+1)`` of the modes that are made of the gate's v, one v an image."""
        trusted: Tensor | None = None
        if signalled is not None:
            v = signalled
        elif self.gate_input == "signalled":
            raise RuntimeError("The gate reads y: its v must be given.")
        elif self.trust is not None and self.mode != "top1":
            features = self.gate.features(y_hat)
            v = self.gate.classify(features).float().softmax(dim=1)
            trusted = self.trust(features)
        else:
            v = self.gate(y_hat).float().softmax(dim=1)
        if self.mode == "top1":
            return one_hot(v.argmax(dim=1), len(self.domains))
        v = without_tiny(v, self.threshold) if self.threshold else v
        return v if trusted is None else trusted * v

    def moved(self, y_hat: Tensor, symbols: Tensor | None, v: Weights | None) -> Tensor:
        """ŷ as ``g_s`` is to have it: each element at its reconstruction point, where there are points.

        Args:
            y_hat: decoded latents, ``(B, M, H, W)``.
            symbols: that they were made of, of the same shape; None: not known, nothing is moved.
            v: weights of the adapters, of regions in the mean; None: no adapters, nothing is moved.
        """
        if self.points is None or symbols is None or v is None:
            return y_hat
        moved: Tensor = self.points(y_hat, symbols, of_image(v))
        return moved

    def forward(self, y_hat: Tensor, v: Tensor | None = None) -> Tensor:
        """Decode latents as they are; for reconstruction points see :meth:`moved`.

        Args:
            y_hat: decoded latents, ``(B, M, H, W)``.
            v: weights of the adapters, ``(B, K+1)``; None: as the mode says.

        Returns:
            Images ``(B, 3, H', W')``, not clamped.
        """
        weights: Weights | None = self.mode_weights(y_hat) if v is None else v
        with self.mixed_by(weights) as transform:
            return transform(with_shares(y_hat, weights))

    def merge_in_graph(self) -> None:
        """Add kernels up by operations on tensors from now on, so that v can be the input of a graph."""
        self._merged = [None for _ in self.sites]

    @contextmanager
    def mixed_by(self, v: Weights | None) -> Iterator[Callable[[Tensor], Tensor]]:
        """The transform with adapters mixed by one v, for as many latents as there are; merged once.

        Args:
            v: weights of the adapters, ``(B, K+1)``, or ``(1, K+1)`` for latents of any number, or those
                of the regions of an image; None: no adapters.

        Yields:
            ŷ ``(B, M, H, W)`` to images ``(B, 3, H', W')``, not clamped; it holds inside the block. Of
            regions, ŷ goes with their shares (:func:`lic_da.adapters.regions.with_shares`).
        """
        self.last_v = None if v is None else of_image(v).detach()
        modules = [self.base.get_submodule(site.at) for site in self.sites]
        place = ShareMap()
        try:
            if v is not None:
                for site, module, merged in zip(self.sites, modules, self._merged, strict=True):
                    adapters = self._mixture(site, v, merged, place)
                    module.forward = partial(site.adapted, module, module.forward, adapters)
            yield partial(self._by_shares, place) if isinstance(v, RegionWeights) else self.base
        finally:
            for module in modules:
                module.__dict__.pop("forward", None)  # its class's own shows again

    def _mixture(
        self, site: Site, v: Weights, merged: MergedWeights | None, place: ShareMap
    ) -> AdapterSum:
        """The adapters of a site, mixed by one v or by that of each region."""
        adapters = self.bank.at(site)
        if not isinstance(v, RegionWeights):
            return MergedSum(adapters, v, merged)
        return RegionSum([MergedSum(adapters, own, MergedWeights()) for own in v.v.split(1)], place)

    def _by_shares(self, place: ShareMap, latent: Tensor) -> Tensor:
        """Decode a latent, or a tile of one, that has the shares of its regions beside it."""
        place.set(latent[:, self._channels :])
        decoded: Tensor = self.base(latent[:, : self._channels])
        return decoded


def one_hot(labels: Tensor, domains: int) -> Tensor:
    """``(B,)`` labels -> ``(B, K+1)`` float32."""
    return F.one_hot(labels, domains).float()


def without_tiny(v: Tensor, threshold: float) -> Tensor:
    """V ``(B, K+1)`` with entries below the threshold at zero, but never the largest; rows add up to 1."""
    kept = v.where((v >= threshold) | (v == v.amax(dim=1, keepdim=True)), 0)
    return kept / kept.sum(dim=1, keepdim=True)


def check_mode(mode: str, domain: str | None, domains: Sequence[str]) -> None:
    """Raise a UserError unless mode and domain go together."""
    if mode not in (*MODES, CHOSEN):
        raise unknown("mode", mode, (*MODES, CHOSEN))
    check_domain(mode, domain, domains)
