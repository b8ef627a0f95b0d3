"""An adapted codec: a CompressAI codec whose ``g_s`` was replaced by an ``AdaptedSynthesis``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from compressai.models import CompressionModel
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from lic_da.adaptation.gate import GateInput
from lic_da.adaptation.sites import every_convolution
from lic_da.adaptation.synthesis import AdaptedSynthesis
from lic_da.bitstream import Stream, StreamError
from lic_da.codecs import zoo
from lic_da.codecs.symbols import symbol_checksum
from lic_da.data.images import MIN_SIDE, RGB
from lic_da.errors import UserError, unknown

_BASE = "g_s.base."
_ADDED = ("g_s.bank.", "g_s.gate.")


PAPER = OmegaConf.create(
    {
        "sites": "paper",
        "adapter": {"_target_": "lic_da.adaptation.adapters.Residual"},
        "gate": {"mid": None, "input": "latent"},
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
            of its own), ``adapter`` (the kind), ``gate.mid`` (null: that of ``config``) and ``gate.input``
            (``latent`` or ``signalled``).

    Returns:
        The new ``g_s``, with adapters at zero.
    """
    config = zoo.at_quality(config)
    codec.requires_grad_(False).eval()
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
    height, width = x.shape[2:]
    return F.pad(x, (0, -width % stride, 0, -height % stride), mode="replicate")


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
    """

    codec: CompressionModel
    config: DictConfig
    fingerprint: str
    how: DictConfig = field(default_factory=lambda: PAPER)

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
            x: ``(1, 3, H, W)`` in [0, 1].

        Returns:
            The stream; its strings are those of the base codec.
        """
        height, width = x.shape[2:]
        with symbol_checksum(self.codec, "encode") as checksum:
            coded = self.codec.compress(pad(x, self.stride))
        shape = tuple(int(side) for side in coded["shape"])
        assert len(shape) == 2
        return Stream(
            fingerprint=bytes.fromhex(self.fingerprint)[:8],
            width=width,
            height=height,
            shape=shape,
            strings=tuple(strings[0] for strings in coded["strings"]),
            latent_crc=checksum.value,
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
        if stream.fingerprint != bytes.fromhex(self.fingerprint)[:8]:
            raise StreamError(
                f"The stream was made with base weights {stream.fingerprint.hex()}…, but this is a codec "
                f"with base weights {self.fingerprint[:16]}…. Use the pack it was made with."
            )
        strings = [[string] for string in stream.strings]
        with symbol_checksum(self.codec, "decode") as checksum:
            x_hat: Tensor = self.codec.decompress(strings, stream.shape)["x_hat"]
        if checksum.value != stream.latent_crc:
            raise StreamError(
                "The latents decode to other values than were encoded, so the picture would be garbage. "
                "The stream was probably written by another version of the codec or other hardware."
            )
        if x_hat.shape[2] < stream.height or x_hat.shape[3] < stream.width:
            raise StreamError("The stream's latents are too small for the size it states.")
        return x_hat[..., : stream.height, : stream.width]

    def compress(self, image: Any) -> bytes:
        """Code a picture.

        Args:
            image: ``(H, W, 3)`` uint8 array, or a PIL image, which is converted to RGB.

        Returns:
            Contents of a ``.lic`` file.
        """
        if hasattr(image, "convert"):
            image = image.convert("RGB")
        pixels = np.array(image)
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise UserError("A picture must be an array of shape (H, W, 3) and type uint8.")
        if min(pixels.shape[:2]) < MIN_SIDE:
            raise UserError(f"A picture needs at least {MIN_SIDE} pixels a side.")
        x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float().div(255)
        return self.encode(x.to(self._device)).to_bytes()

    def decompress(self, data: bytes, blend: str = "weighted", domain: str | None = None) -> RGB:
        """Decode a picture.

        Args:
            data: contents of a ``.lic`` file.
            blend: ``weighted``, ``top1``, ``oracle`` or ``base``.
            domain: for ``oracle``, the domain whose adapters to use.

        Returns:
            ``(H, W, 3)`` uint8 array.
        """
        with self.synthesis.blending(blend, domain):
            x_hat = self.decode(Stream.from_bytes(data))
        return to_8_bit(x_hat)[0].permute(1, 2, 0).cpu().numpy()

    @property
    def _device(self) -> torch.device:
        return next(self.codec.parameters()).device
