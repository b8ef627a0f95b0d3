"""How the method ``adapters`` adapts a codec, as a frozen value; files call it ``how``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from lic_da.adapters.calibration import Calibration
from lic_da.adapters.gate import GateInput
from lic_da.adapters.points import Points
from lic_da.adapters.regions import WINDOW, Spatial, check_spatial
from lic_da.config import merged, plain
from lic_da.errors import UserError, unknown

_SITES = ("paper", "all")


@dataclass(frozen=True)
class AdapterSpec:
    """Where adapters act, of which kind they are, and how their gate works.

    Attributes:
        sites: ``paper`` (those of the codec's own settings), ``all`` (every convolution of ``g_s``), or a
            list, each as :data:`lic_da.registry.SITES` makes it.
        adapter: the kind, as :data:`lic_da.registry.ADAPTERS` makes it.
        gate_mid: channels of the gate; None: as the codec's own settings say.
        gate_input: ``latent`` or ``signalled``.
        threshold: a v below it, from 0 to below 1, counts as zero when decoding.
        calibration: ``none``, or ``learned``: v times a factor that is fitted after training.
        spatial: ``image``, or ``window``: when decoding, each region of an image has a v of its own.
        window: side of the windows in which regions are looked for, in positions of the latent.
        points: ``none``, or where the offsets come from that are added to ŷ.
        given: the settings that it was made from, for files.
    """

    sites: str | Sequence[Mapping[str, Any]] = "paper"
    adapter: Mapping[str, Any] = field(default_factory=lambda: {"kind": "residual"})
    gate_mid: int | None = None
    gate_input: GateInput = "latent"
    threshold: float = 0.0
    calibration: Calibration = "none"
    spatial: Spatial = "image"
    window: int = WINDOW
    points: Points = "none"
    given: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> AdapterSpec:
        """What ``sites``, ``adapter``, ``gate`` and ``points`` of settings say; else as published.

        Files say nothing of points where there are none.

        Raises:
            UserError: a value is none that there is; the message lists those there are.
        """
        given = plain(settings)
        given.setdefault("sites", "paper")
        given.setdefault("adapter", {"kind": "residual"})
        given.setdefault("gate", {}).setdefault("mid", None)
        given["gate"].setdefault("input", "latent")
        sites, gate = given["sites"], given["gate"]
        threshold = gate.get("threshold", 0.0)
        if not 0 <= threshold < 1:
            raise UserError(f"gate.threshold must be from 0 to below 1, not {threshold}.")
        if gate["input"] not in get_args(GateInput):
            raise unknown("gate.input", gate["input"], get_args(GateInput))
        calibration = gate.get("calibration", "none")
        if calibration not in get_args(Calibration):
            raise unknown("gate.calibration", calibration, get_args(Calibration))
        if calibration != "none" and gate["input"] == "signalled":
            raise UserError(
                "gate.calibration=learned is for a gate that reads the latent at the decoder: leave out "
                "gate.input=signalled."
            )
        spatial, window = gate.get("spatial", "image"), gate.get("window", WINDOW)
        check_spatial(spatial, window, signalled=gate["input"] == "signalled")
        points = given.get("points", "none")
        if points not in get_args(Points):
            raise unknown("points", points, get_args(Points))
        if points == "none":
            given.pop("points", None)
        if isinstance(sites, str) and sites not in _SITES:
            raise unknown("sites", sites, _SITES)
        made = (sites, given["adapter"], gate["mid"], gate["input"], threshold, calibration)
        return cls(*made, spatial, window, points, given)

    @classmethod
    def of(cls, adapters: AdapterSpec | Mapping[str, Any]) -> AdapterSpec:
        """The value itself, or the one that settings describe; see :meth:`from_settings`."""
        return adapters if isinstance(adapters, AdapterSpec) else cls.from_settings(adapters)

    def settings(self) -> dict[str, Any]:
        """The settings that it was made from, as files hold them: a copy of their own."""
        copy: dict[str, Any] = plain(self.given)
        return copy

    def with_gate(self, **changes: Any) -> AdapterSpec:
        """The same with other settings of the gate, such as ``mid=64``."""
        return self.from_settings(merged(self.given, {"gate": changes}))


PUBLISHED = AdapterSpec.from_settings(
    {
        "sites": "paper",
        "adapter": {"kind": "residual"},
        "gate": {"mid": None, "input": "latent", "threshold": 0.0, "calibration": "none"},
    }
)
"""How a codec is adapted in the paper: at the sites that its settings list, by full kernels."""
