"""An adapted codec: a CompressAI codec whose ``g_s`` was replaced by an ``AdaptedSynthesis``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from compressai.models import CompressionModel
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from lic_da.adaptation.gate import GateInput, from_bytes, to_bytes
from lic_da.adaptation.sites import every_convolution
from lic_da.adaptation.synthesis import AdaptedSynthesis
from lic_da.bitstream import Stream, StreamError
from lic_da.codecs import entropy, known, tiles, zoo
from lic_da.codecs.latents import encoder_latent
from lic_da.codecs.symbols import symbol_checksum
from lic_da.data.images import MIN_SIDE, RGB
from lic_da.errors import UserError, unknown

_BASE = "g_s.base."
_ADDED = ("g_s.bank.", "g_s.gate.")


PAPER = OmegaConf.create(
    {
        "sites": "paper",
        "adapter": {"_target_": "lic_da.adaptation.adapters.Residual"},
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
        sites = [instantiate(s) for s in (config.sites if how.sites == "paper" else how.sites)]
    codec.g_s = AdaptedSynthesis(
        codec.g_s,
        latent_channels(codec),
        sites,
        domains,
        kind=instantiate(how.adapter),
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


def pad(x: Tensor, stride: int) -> Tensor:
    """Continue images ``(B, 3, H, W)`` at right and bottom to multiples of ``stride``."""
    bottom, right = (-side % stride for side in x.shape[2:])
    if not (bottom or right):
        return x
    below = x[..., -1:, :].expand(*x.shape[:2], bottom, -1)
    x = torch.cat([x, below], dim=2)
    return torch.cat([x, x[..., -1:].expand(*x.shape[:3], right)], dim=3)


def to_8_bit(x_hat: Tensor) -> Tensor:
    """Images in [0, 1] -> uint8, rounded."""
    return x_hat.mul(255).round().clamp(0, 255).to(torch.uint8)


@dataclass
class AdaptedCodec:
    """A codec with adapters for several domains, ready to code pictures.

    Example:
        >>> codec = AdaptedCodec.load("outputs/run/pack")
        >>> data = codec.compress(image)
        >>> picture = codec.decompress(data)

    Attributes:
        codec: the CompressAI codec with its adapted ``g_s``.
        config: the ``codec`` configuration it was built from.
        fingerprint: SHA-256 of the base weights.
        how: it is adapted; see :func:`adapt`.
        memory: bytes of activations; larger pictures are coded in tiles.
        extended: of a codec that has learned further domains, what it has taken over unchanged; see
            :mod:`lic_da.adaptation.extension`.
    """

    codec: CompressionModel
    config: DictConfig
    fingerprint: str
    how: DictConfig = field(default_factory=lambda: PAPER)
    memory: int = tiles.MEMORY
    extended: DictConfig | None = None

    @classmethod
    def build(
        cls,
        config: DictConfig,
        domains: Sequence[str],
        how: DictConfig = PAPER,
        *,
        weights: bool = True,
    ) -> AdaptedCodec:
        """A codec with untrained adapters, which decodes exactly as the base codec does.

        Args:
            config: the ``codec`` configuration.
            domains: names of all domains, the source first.
            how: see :func:`adapt`.
            weights: load the base weights; without them they are random.
        """
        codec = zoo.build(config, weights=weights)
        adapt(codec, config, domains, how)
        return cls(codec, config, zoo.fingerprint(base_state(codec)), how)

    @classmethod
    def load(cls, folder: Path | str) -> AdaptedCodec:
        """Load an adapter pack; see :func:`lic_da.adaptation.pack.load`."""
        from lic_da.adaptation.pack import load

        return load(Path(folder))

    @property
    def synthesis(self) -> AdaptedSynthesis:
        """The adapted synthesis transform."""
        synthesis = self.codec.g_s
        assert isinstance(synthesis, AdaptedSynthesis)
        return synthesis

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, the source first."""
        return self.synthesis.domains

    @property
    def stride(self) -> int:
        """Sides of coded images are padded to multiples of this."""
        return int(self.config.stride)

    def check_base_unchanged(self) -> None:
        """Raise a RuntimeError if the base weights are not those the codec was built with."""
        now = zoo.fingerprint(base_state(self.codec))
        if now != self.fingerprint:
            raise RuntimeError(f"The base weights have changed: {self.fingerprint} became {now}.")

    @torch.inference_mode()
    def encode(self, x: Tensor) -> Stream:
        """Code one image.

        Args:
            x: ``(1, 3, H, W)`` in [0, 1], or uint8.

        Returns:
            The stream; its strings are those of the base codec.
        """
        height, width = x.shape[2:]
        with ExitStack() as stack:
            stack.enter_context(tiles.tiled_analysis(self.codec, self._analysis, self.memory))
            checksum = stack.enter_context(symbol_checksum(self.codec, "encode"))
            y = stack.enter_context(encoder_latent(self.codec))
            coded = self.codec.compress(pad(x, self.stride))
        signalled = self.synthesis.gate_input == "signalled"
        shape = tuple(int(side) for side in coded["shape"])
        assert len(shape) == 2
        return Stream(
            fingerprint=bytes.fromhex(self.fingerprint)[:8],
            width=width,
            height=height,
            shape=shape,
            strings=tuple(strings[0] for strings in coded["strings"]),
            latent_crc=checksum.value,
            v=to_bytes(self.synthesis.gate(y[0]).softmax(dim=1)) if signalled else None,
        )

    @torch.inference_mode()
    def decode(self, stream: Stream) -> Tensor:
        """Decode one image with the current blend.

        Returns:
            ``(1, 3, H, W)`` in [0, 1].

        Raises:
            StreamError: the stream was made with other base weights, or its latents decode to other
                values than were encoded.
        """
        x_hat: Tensor | None = None
        for rows, columns, piece in self._pieces(stream):
            if x_hat is None:
                x_hat = piece.new_empty(*piece.shape[:2], stream.height, stream.width)
            part = x_hat[..., rows, columns]
            part.copy_(piece[..., : part.shape[2], : part.shape[3]])
        assert x_hat is not None
        return x_hat

    def compress(self, image: Any) -> bytes:
        """Code a picture.

        Args:
            image: ``(H, W, 3)`` uint8 array, or a PIL image, which is converted to RGB.

        Returns:
            Contents of a ``.lic`` file.
        """
        if hasattr(image, "convert"):
            image = np.array(image.convert("RGB"))
        pixels = np.asarray(image)
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise UserError("A picture must be an array of shape (H, W, 3) and type uint8.")
        if min(pixels.shape[:2]) < MIN_SIDE:
            raise UserError(f"A picture needs at least {MIN_SIDE} pixels a side.")
        x = torch.from_numpy(np.require(pixels, requirements="W")).permute(2, 0, 1)[None]
        return self.encode(x.to(self._device)).to_bytes()

    @torch.inference_mode()
    def decompress(
        self, data: bytes | Stream, blend: str = "weighted", domain: str | None = None
    ) -> RGB:
        """Decode a picture.

        Args:
            data: contents of a ``.lic`` file, or a stream that was read from it.
            blend: ``weighted``, ``top1``, ``oracle`` or ``base``.
            domain: for ``oracle``, the domain whose adapters to use.

        Returns:
            ``(H, W, 3)`` uint8 array.

        Raises:
            StreamError: as :meth:`decode`, or the bytes are no stream or a damaged one.
        """
        stream = data if isinstance(data, Stream) else Stream.from_bytes(data)
        pixels = np.empty((stream.height, stream.width, 3), np.uint8)
        with self.synthesis.blending(blend, domain):
            for rows, columns, piece in self._pieces(stream):
                part = pixels[rows, columns]
                eight = to_8_bit(piece)[0].permute(1, 2, 0).cpu().numpy()
                part[:] = eight[: part.shape[0], : part.shape[1]]
        return pixels

    @torch.inference_mode()
    def gate_weights(self, stream: Stream) -> dict[str, float]:
        """V of the blend ``weighted`` for a stream, by domain: signalled in it, or the gate's.

        Raises:
            StreamError: as :meth:`decode`.
        """
        with self.synthesis.blending("weighted"):
            v = self._v(stream, self._latent(stream))
        assert v is not None
        return dict(zip(self.domains, v[0].tolist(), strict=True))

    def _pieces(self, stream: Stream) -> Iterator[tiles.Piece]:
        """Parts of the picture, ``(1, 3, h, w)`` in [0, 1]; they go on where it was padded."""
        y_hat = self._latent(stream)
        v = self._v(stream, y_hat)
        with self.synthesis.mixed_by(v) as transform:
            for rows, columns, piece in tiles.synthesise(
                transform, y_hat, self._synthesis, self.memory
            ):
                yield rows, columns, piece.clamp_(0, 1)

    def _latent(self, stream: Stream) -> Tensor:
        """ŷ of a stream that is one of this codec, and decodes to what was encoded."""
        if stream.fingerprint != bytes.fromhex(self.fingerprint)[:8]:
            raise StreamError(
                f"The stream was made with the base codec {known.describe(stream.fingerprint)}, but this "
                f"is {self.config.name}, quality {self.config.quality} ({self.fingerprint[:16]}…). "
                "Use a pack of that codec, or the codec alone."
            )
        padded = [-(-side // self.stride) for side in (stream.height, stream.width)]
        if list(stream.shape) != padded:
            raise StreamError("The stream's latent does not have the size that its picture needs.")
        elements = math.prod(padded) * (self.stride // self._synthesis.scale) ** 2
        y_hat, checksum = entropy.decode_latent(
            self.codec, stream.strings, stream.shape, self.codec.M * elements
        )
        if checksum != stream.latent_crc:
            raise StreamError(
                "The latents decode to other values than were encoded, so the picture would be garbage. "
                "The stream was probably written by another version of the codec or other hardware."
            )
        return y_hat

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

    @cached_property
    def _analysis(self) -> tiles.Geometry:
        return tiles.analysis_geometry(self.codec.g_a)

    @cached_property
    def _synthesis(self) -> tiles.Geometry:
        synthesis = self.synthesis
        adapters = [(site.at, synthesis.bank.at(site)[0]) for site in synthesis.sites]
        return tiles.synthesis_geometry(synthesis.base, self.codec.M, adapters)

    @property
    def _device(self) -> torch.device:
        return next(self.codec.parameters()).device
