"""Domains added to an adapted codec; what was trained before stays as it is, bit for bit.

While new adapters are trained, the gate is in two parts::

         ┌───────────────┐ f  ┌──────────────┐
    ŷ ─┬►│ features      ├─┬─►│ classify     ├──────────► logits of the earlier domains   (frozen)
       │ └───────────────┘ │  └──────────────┘
       │                   │  ┌──────────────┐
       │                   └─►│ rows         ├──► + ────► logits of the new domains      (trained)
       │ ┌───────────────┐    └──────────────┘    ▲
       └►│ own           ├────────────────────────┘
         └───────────────┘

``own`` is a small gate with features of its own, or missing. Put together again, the parts are an
ordinary gate, whose features are those of both, so that an extended pack is a pack like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

from lic_da.adapters.gate import Gate
from lic_da.codecs.spec import CodecSpec
from lic_da.codecs.zoo import fingerprint
from lic_da.config import plain
from lic_da.errors import UserError
from lic_da.methods.adapters.codec import AdaptedCodec, adapter_state


class GrowingGate(nn.Module):
    """A frozen gate and what is trained beside it for new domains.

    Args:
        known: the gate of the earlier domains; it is frozen.
        domains: number of new domains.
        own: channels of the features that only the new domains use; 0: they use the frozen ones alone.
    """

    def __init__(self, known: Gate, domains: int, own: int) -> None:
        super().__init__()
        self.known = known.requires_grad_(False)
        self.rows = nn.Linear(known.classify.in_features, domains)
        self.own = Gate(_convolution(known).in_channels, own, domains) if own else None

    def forward(self, y_hat: Tensor) -> Tensor:
        """Logits of the earlier and then the new domains, for latents ``(B, M, H, W)``."""
        features = self.known.features(y_hat)
        new = self.rows(features)
        if self.own is not None:
            new = new + self.own(y_hat)
        return torch.cat([self.known.classify(features), new], dim=1)

    @torch.no_grad()
    def in_one(self) -> Gate:
        """The same as an ordinary gate; earlier domains do not use the new domains' features."""
        conv, parts = _convolution(self.known), [self.known]
        if self.own is not None:
            parts.append(self.own)
        old, mid = self.known.classify.out_features, self.known.classify.in_features
        width = sum(part.classify.in_features for part in parts)
        gate = Gate(conv.in_channels, width, old + self.rows.out_features).to(conv.weight.device)
        whole = _convolution(gate)
        assert whole.bias is not None
        whole.weight.copy_(torch.cat([_convolution(part).weight for part in parts]))
        whole.bias.copy_(torch.cat([_bias(_convolution(part)) for part in parts]))
        weight, bias = gate.classify.weight, gate.classify.bias
        weight.zero_()
        weight[:old, :mid] = self.known.classify.weight
        weight[old:, :mid] = self.rows.weight
        bias[:old] = self.known.classify.bias
        bias[old:] = self.rows.bias
        if self.own is not None:
            weight[old:, mid:] = self.own.classify.weight
            bias[old:] += self.own.classify.bias
        return gate


def _convolution(gate: Gate) -> nn.Conv2d:
    conv = gate.features[0]
    assert isinstance(conv, nn.Conv2d)
    return conv


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


@dataclass
class ExtendedCodec(AdaptedCodec):
    """A codec that has learned further domains; what it had learned before is what it was.

    While it is trained, its gate is in two parts; :meth:`finish` makes an ordinary codec of it.

    Attributes:
        extended: what it has taken over: ``from``, fingerprint of the pack that was extended; its
            ``domains`` and ``gate_features``; and ``frozen``, a fingerprint for each part of it.
    """

    extended: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def rebuild(
        cls, config: CodecSpec, method: str, domains: Sequence[str], settings: Mapping[str, Any]
    ) -> Self:
        extended = super().rebuild(config, method, domains, settings)
        extended.extended = settings["extended"]
        return extended

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "extended": plain(self.extended)}

    def load_trained(self, tensors: Mapping[str, Tensor], origin: str) -> None:
        """Copy trained tensors into the codec.

        Raises:
            UserError: they do not fit, or the earlier domains' are not what they were.
        """
        super().load_trained(tensors, origin)
        if not isinstance(self.synthesis.gate, GrowingGate):
            self._check_frozen(origin)

    def finish(self) -> None:
        """Make an ordinary gate of one in two parts, and check what was frozen.

        Raises:
            UserError: something that was frozen has changed.
        """
        gate = self.synthesis.gate
        if not isinstance(gate, GrowingGate):
            return
        self.synthesis.gate = gate.in_one()
        if gate.own is not None:
            mid = self.synthesis.gate.classify.in_features
            self.adapter_config = self.adapter_config.with_gate(mid=mid)
        self._check_frozen("The codec that was trained")

    def _check_frozen(self, origin: str) -> None:
        """Compare what was taken over with what was noted of it."""
        record, tensors = self.extended, adapter_state(self.codec)
        domains, features = record["domains"], record["gate_features"]
        now = _fingerprints(tensors, domains, features)
        changed = [part for part, value in record["frozen"].items() if now.get(part) != value]
        if tensors["gate.classify.weight"][: len(domains), features:].any():
            changed.append("gate.classify")
        if changed:
            raise UserError(
                f"{origin} is not what it says: {', '.join(changed)} should be those of the pack that was "
                "extended, but they differ."
            )


def extend(earlier: AdaptedCodec, domains: Sequence[str], own_features: int = 0) -> ExtendedCodec:
    """A codec with all that another has learned, frozen, and untrained adapters for more domains.

    Args:
        earlier: the codec to extend; it is not changed, and shares no tensors with the new one.
        domains: names of the new domains.
        own_features: of the gate, see :class:`GrowingGate`.

    Returns:
        A codec whose gate is in two parts, for training.

    Raises:
        UserError: the adapters of the codec stay in a file.
    """
    known = earlier.bank_in_memory("extended")
    adapted = ExtendedCodec.build(
        earlier.config, (*earlier.domains, *domains), earlier.adapter_config
    )
    bank, gate = adapted.bank_in_memory("extended"), Gate(*_size(earlier.synthesis.gate))
    for name, adapters in known.adapters.items():
        bank.adapters[name].load_state_dict(adapters.state_dict())
        bank.adapters[name].requires_grad_(False)
    gate.load_state_dict(earlier.synthesis.gate.state_dict())
    if adapted.synthesis.points is not None and earlier.synthesis.points is not None:
        offsets = earlier.synthesis.points.offsets
        adapted.synthesis.points.offsets[: len(offsets)] = offsets
    adapted.synthesis.gate = GrowingGate(gate, len(domains), own_features)  # type: ignore[assignment]
    adapted.synthesis.mode = earlier.synthesis.mode
    tensors = adapter_state(earlier.codec)
    adapted.extended = {
        "from": fingerprint(tensors),
        "domains": list(earlier.domains),
        "gate_features": gate.classify.in_features,
        "frozen": _fingerprints(tensors, earlier.domains, gate.classify.in_features),
    }
    return adapted


def _size(gate: Gate) -> tuple[int, int, int]:
    return _convolution(gate).in_channels, gate.classify.in_features, gate.classify.out_features


def _fingerprints(
    tensors: Mapping[str, Tensor], domains: Sequence[str], gate_features: int
) -> dict[str, str]:
    """SHA-256 of each adapter, of the gate's features and of its rows, and of reconstruction points.

    Args:
        tensors: of a bank, an ordinary gate, and points if there are any.
        domains: whose adapters; the first rows of the gate are theirs.
        gate_features: that many of the gate's features.
    """
    rows = len(domains)
    parts: dict[str, str] = {}
    for name in domains:  # one after the other, as they may stay in a file
        prefix = f"bank.adapters.{name}."
        own = {k: tensors[k] for k in tensors if k.startswith(prefix)}
        parts[f"bank.{name}"] = fingerprint(own)
    features = {k: tensors[k][:gate_features] for k in tensors if k.startswith("gate.features.")}
    parts["gate.features"] = fingerprint(features)
    parts["gate.classify"] = fingerprint(
        {
            "weight": tensors["gate.classify.weight"][:rows, :gate_features],
            "bias": tensors["gate.classify.bias"][:rows],
        }
    )
    if "points.offsets" in tensors:
        parts["points"] = fingerprint({"offsets": tensors["points.offsets"][:rows]})
    return parts
