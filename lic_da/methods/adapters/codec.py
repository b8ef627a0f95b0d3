"""An adapted codec: a CompressAI codec whose ``g_s`` was replaced by an ``AdaptedSynthesis``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

import torch
from compressai.models import CompressionModel
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from lic_da.adapters.gate import GateInput, from_bytes, to_bytes
from lic_da.adapters.sites import every_convolution
from lic_da.adapters.synthesis import BLENDS, AdaptedSynthesis, check_blend
from lic_da.codecs import zoo
from lic_da.codecs.image_codec import (
    ModelCodec,
    PictureCodec,
    pad,
    to_8_bit,
)
from lic_da.codecs.spatial import tiling
from lic_da.config import plain
from lic_da.errors import UserError, unknown
from lic_da.io.bitstream import Stream, StreamError
from lic_da.methods import pack
from lic_da.registry import ADAPTERS, SITES

__all__ = [
    "PAPER",
    "AdaptedCodec",
    "adapt",
    "adapter_state",
    "base_state",
    "how_adapted",
    "pad",
    "to_8_bit",
]

_BASE = "g_s.base."
_ADDED = ("g_s.bank.", "g_s.gate.")


PAPER = OmegaConf.create(
    {
        "sites": "paper",
        "adapter": {"kind": "residual"},
        "gate": {"mid": None, "input": "latent", "threshold": 0.0},
    }
)
"""How a codec is adapted in the paper: at the sites its configuration lists, by full kernels."""


def how_adapted(config: DictConfig) -> DictConfig:
    """The part of a command's configuration that says how a codec is adapted, by itself."""
    return OmegaConf.masked_copy(config, list(PAPER))


def adapt(
    codec: CompressionModel,
    config: DictConfig,
    domains: Sequence[str],
    how: DictConfig = PAPER,
) -> AdaptedSynthesis:
    """Freeze a codec and replace its ``g_s`` by an adapted one, in place.

    Encoder, entropy model and every bitstream stay what they are.

    Args:
        codec: any CompressAI codec.
        config: its configuration (``conf/codec``), which lists sites and the size of the gate.
        domains: names of all domains, the source first.
        how: ``sites`` (``paper``: those of ``config``; ``all``: every convolution of ``g_s``; or a list
            of its own), ``adapter`` (the kind), ``gate.mid`` (null: that of ``config``), ``gate.input``
            (``latent`` or ``signalled``) and ``gate.threshold`` (v below it counts as zero when decoding).

    Returns:
        The new ``g_s``, with adapters at zero.
    """
    config = zoo.at_quality(config)
    codec.requires_grad_(False).eval()
    threshold = how.gate.get("threshold", 0.0)
    if not 0 <= threshold < 1:
        raise UserError(f"gate.threshold must be from 0 to below 1, not {threshold}.")
    if how.gate.input not in get_args(GateInput):
        raise unknown("gate.input", how.gate.input, get_args(GateInput))
    if how.sites == "all":
        sites = every_convolution(codec.g_s)
    elif isinstance(how.sites, str) and how.sites != "paper":
        raise unknown("sites", how.sites, ("paper", "all"))
    else:
        listed = config.sites if how.sites == "paper" else how.sites
        sites = [SITES.make(plain(site)) for site in listed]
    codec.g_s = AdaptedSynthesis(
        codec.g_s,
        latent_channels(codec),
        sites,
        domains,
        kind=ADAPTERS.make(plain(how.adapter)),
        gate_mid=how.gate.mid or config.gate.mid,
        gate_input=how.gate.input,
        threshold=threshold,
    )
    return codec.g_s


def latent_channels(codec: CompressionModel) -> int:
    """M, channels of the latent.

    Raises:
        UserError: the codec does not say.
    """
    if not isinstance(getattr(codec, "M", None), int):
        raise UserError(
            f"{type(codec).__name__} needs an attribute M, the number of channels of its latent."
        )
    return int(codec.M)


def base_state(codec: CompressionModel) -> dict[str, Tensor]:
    """State dict of the codec as it was before ``adapt``, by CompressAI's names."""
    return {
        key.replace(_BASE, "g_s.", 1): value
        for key, value in codec.state_dict().items()
        if not key.startswith(_ADDED)
    }


def adapter_state(codec: CompressionModel) -> dict[str, Tensor]:
    """Tensors of bank and gate, named ``bank.…`` and ``gate.…``."""
    return {
        key.removeprefix("g_s."): value
        for key, value in codec.state_dict().items()
        if key.startswith(_ADDED)
    }


@dataclass
class AdaptedCodec(ModelCodec, PictureCodec):
    """A codec with adapters for several domains, ready to code pictures.

    Example:
        >>> codec = AdaptedCodec.load("outputs/run/pack")
        >>> data = codec.compress(image)
        >>> picture = codec.decompress(data)

    Attributes:
        codec: the CompressAI codec with its adapted ``g_s``.
        config: the ``codec`` configuration it was built from.
        fingerprint: SHA-256 of the base weights.
        memory: bytes of activations; larger pictures are coded in tiles.
        how: it is adapted; see :func:`adapt`.
    """

    how: DictConfig = field(default_factory=lambda: PAPER)

    method = "adapters"
    blends: ClassVar[tuple[str, ...]] = BLENDS
    weights_file: ClassVar[str] = pack.ADAPTERS_FILE
    stored_under: ClassVar[str] = "g_s."

    @classmethod
    def build(
        cls,
        config: DictConfig,
        domains: Sequence[str],
        how: DictConfig = PAPER,
        *,
        weights: bool = True,
    ) -> Self:
        """A codec with untrained adapters, which decodes exactly as the base codec does.

        Args:
            config: the ``codec`` configuration.
            domains: names of all domains, the source first.
            how: see :func:`adapt`.
            weights: load the base weights; without them they are random.
        """
        codec = zoo.build(config, weights=weights)
        adapt(codec, config, domains, how)
        return cls(codec, config, zoo.fingerprint(base_state(codec)), how=how)

    @classmethod
    def new(cls, config: DictConfig, domains: Sequence[str], *, weights: bool = True) -> Self:
        return cls.build(config.codec, domains, how_adapted(config), weights=weights)

    @classmethod
    def load(cls, folder: Path | str, *, trust: Sequence[str] = ()) -> Self:
        """Load an adapter pack; see :func:`lic_da.methods.pack.load`.

        Raises:
            UserError: also if it is a pack of another method.
        """
        codec = pack.load(Path(folder), trust=trust)
        if not isinstance(codec, cls):
            raise UserError(f"{folder} is a pack of method {codec.method}: use lic_da.load for it.")
        return codec

    @classmethod
    def rebuild(cls, config: DictConfig) -> Self:
        adapted = cls.build(config.codec, list(config.domains), config.get("how", PAPER))
        adapted.synthesis.blend = config.blend
        return adapted

    def settings(self) -> dict[str, Any]:
        return {"how": self.how, "blend": self.synthesis.blend}

    @property
    def synthesis(self) -> AdaptedSynthesis:
        """The adapted synthesis transform."""
        synthesis = self.codec.g_s
        assert isinstance(synthesis, AdaptedSynthesis)
        return synthesis

    @property
    def domains(self) -> tuple[str, ...]:
        return self.synthesis.domains

    def added_parameters(self) -> dict[str, Any]:
        adapters = zoo.count_parameters(self.synthesis.bank)
        return {
            "adapters": {"per_domain": adapters // len(self.domains), "total": adapters},
            "gate": zoo.count_parameters(self.synthesis.gate),
        }

    @property
    def model(self) -> CompressionModel:
        return self.codec

    def is_trained(self, name: str) -> bool:
        return name.startswith(_ADDED)

    def base_weights(self) -> Mapping[str, Tensor]:
        return base_state(self.codec)

    def blending(self, blend: str, domain: str | None = None) -> AbstractContextManager[None]:
        return self.synthesis.blending(blend, domain)

    def check_blend(self, blend: str, domain: str | None = None) -> None:
        check_blend(blend, domain, self.domains)

    def string_weights(self, blend: str) -> str:
        return self.fingerprint

    @torch.inference_mode()
    def encode(self, x: Tensor) -> Stream:
        """Code one image; the strings of the stream are those of the base codec.

        With the blend ``base`` all of the stream is, also where v is signalled.
        """
        stream, y = self._encode(x)
        if self.synthesis.gate_input != "signalled" or self.synthesis.blend == "base":
            return stream
        return replace(stream, v=to_bytes(self.synthesis.gate(y).softmax(dim=1)))

    def pieces(self, stream: Stream) -> Iterator[tiling.Piece]:
        y_hat = self.latent(stream)
        with self.synthesis.mixed_by(self._v(stream, y_hat)) as transform:
            yield from self._shown(transform, y_hat)

    @torch.inference_mode()
    def gate_weights(self, stream: Stream) -> dict[str, float]:
        """V of the blend ``weighted`` for a stream, by domain: signalled in it, or the gate's.

        Raises:
            StreamError: as :meth:`decode`.
        """
        with self.synthesis.blending("weighted"):
            v = self._v(stream, self.latent(stream))
        assert v is not None
        return dict(zip(self.domains, v[0].tolist(), strict=True))

    def _v(self, stream: Stream, y_hat: Tensor) -> Tensor | None:
        """Weights of the adapters for the current blend, ``(1, K+1)``; None: no adapters."""
        if stream.v is None:
            if self.synthesis.gate_input == "signalled" and self.synthesis.needs_gate:
                raise StreamError(
                    "The stream carries no weights of the adapters, and the gate of this pack cannot find "
                    "them at the decoder. Use the pack it was made with, or the blend oracle or base."
                )
            return self.synthesis.blend_weights(y_hat)
        if len(stream.v) != len(self.domains):
            raise StreamError(
                f"The stream has weights for {len(stream.v)} domains, but this pack has "
                f"{len(self.domains)}: {', '.join(self.domains)}. Use the pack it was made with."
            )
        return self.synthesis.blend_weights(y_hat, from_bytes(stream.v, y_hat.device))

    @property
    def synthesis_parts(self) -> tuple[nn.Module, Sequence[tiling.Beside]]:
        synthesis = self.synthesis
        return synthesis.base, [
            tiling.Beside(site.at, synthesis.bank.at(site)[0], site.on_input)
            for site in synthesis.sites
        ]

    @cached_property
    def _synthesis(self) -> tiling.Geometry:
        base, adapters = self.synthesis_parts
        return tiling.synthesis_geometry(base, self.codec.M, adapters)
