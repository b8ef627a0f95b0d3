"""An adapted codec: a CompressAI codec whose ``g_s`` was replaced by an ``AdaptedSynthesis``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compressai.models import CompressionModel
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from lic_da.adaptation.synthesis import AdaptedSynthesis, one_hot
from lic_da.bitstream import Stream, StreamError
from lic_da.codecs import entropy, known, tiles, zoo
from lic_da.codecs.symbols import symbol_checksum
from lic_da.data.images import MIN_SIDE, RGB
from lic_da.errors import UserError

_BASE = "g_s.base."
_ADDED = ("g_s.bank.", "g_s.gate.")


def adapt(codec: CompressionModel, config: DictConfig, domains: Sequence[str]) -> AdaptedSynthesis:
    """Freeze a codec and replace its ``g_s`` by an adapted one, in place.

    Encoder, entropy model and every bitstream stay what they are.

    Args:
        codec: any CompressAI codec.
        config: its configuration (``conf/codec``), which lists sites and the size of the gate.
        domains: names of all domains, the source first.

    Returns:
        The new ``g_s``, with adapters at zero.
    """
    codec.requires_grad_(False).eval()
    sites = [instantiate(site) for site in config.sites]
    codec.g_s = AdaptedSynthesis(codec.g_s, codec.M, sites, domains, config.gate.mid)
    return codec.g_s


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
        memory: bytes of activations; larger pictures are coded in tiles.
    """

    codec: CompressionModel
    config: DictConfig
    fingerprint: str
    memory: int = tiles.MEMORY

    @classmethod
    def build(
        cls, config: DictConfig, domains: Sequence[str], *, weights: bool = True
    ) -> AdaptedCodec:
        """A codec with untrained adapters, which decodes exactly as the base codec does.

        Args:
            config: the ``codec`` configuration.
            domains: names of all domains, the source first.
            weights: load the base weights; without them they are random.
        """
        codec = zoo.build(config, weights=weights)
        adapt(codec, config, domains)
        return cls(codec, config, zoo.fingerprint(base_state(codec)))

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
        tiled = tiles.tiled_analysis(self.codec, self._analysis, self.memory)
        with symbol_checksum(self.codec) as checksum, tiled:
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
        transform = partial(self.synthesis, v=v)
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
        if stream.v is None or self.synthesis.blend not in ("weighted", "top1"):
            return self.synthesis.blend_weights(y_hat)
        if len(stream.v) != len(self.domains):
            raise StreamError(
                f"The stream has weights for {len(stream.v)} domains, but this pack has "
                f"{len(self.domains)}: {', '.join(self.domains)}. Use the pack it was made with."
            )
        v = torch.tensor([list(stream.v)], dtype=torch.float32, device=y_hat.device)
        if self.synthesis.blend == "top1":
            return one_hot(v.argmax(dim=1), len(self.domains))
        return v / v.sum()

    @cached_property
    def _analysis(self) -> tiles.Geometry:
        return tiles.analysis_geometry(self.codec.g_a)

    @cached_property
    def _synthesis(self) -> tiles.Geometry:
        bank, sites = self.synthesis.bank, self.synthesis.sites
        adapters = {index: bank.at(site)[:1] for index, site in sites.items()}
        return tiles.synthesis_geometry(self.synthesis.base, self.codec.M, adapters)

    @property
    def _device(self) -> torch.device:
        return next(self.codec.parameters()).device
