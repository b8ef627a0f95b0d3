"""What the frozen parts of a codec give a training: latents of crops and images, each computed once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from lic_da.codecs.image_codec import ImageCodec, pad
from lic_da.codecs.latents import LatentFormat, decoder_latent, encoder_latent
from lic_da.codecs.spatial import tiling
from lic_da.codecs.spatial.cropping import CannotBeCut, CropSynthesis
from lic_da.data.latents.cache import Latent, LatentCache
from lic_da.data.latents.crops import LatentCrops

_TILE = 1 << 26
"""Bytes of activations of a large image's tile: what fits into a processor's caches is encoded faster."""


class FrozenEncoder:
    """The frozen encoder of a codec whose decoder is trained, and what is known of its latents.

    Args:
        adapted: the codec.
        reads_y: whether the gate reads y, and not ŷ.
    """

    def __init__(self, adapted: ImageCodec, *, reads_y: bool = False) -> None:
        self.adapted = adapted
        self.reads_y = reads_y
        self._places = {quality: place for place, quality in enumerate(adapted.config.qualities)}
        self._crops: CropSynthesis | None = None
        self._images: dict[str, tuple[Tensor, Tensor]] = {}

    def cached(
        self, folder: Path, crop: int, *, pixels: int, console: Console | None = None
    ) -> LatentCrops:
        """Let crops come from the cache; :meth:`decode` then knows of their margin.

        Args:
            folder: of all caches.
            crop: side of the crops in pixels.
            pixels: of an image that are coded, about.
            console: where is said what goes on.
        """
        codec = self.adapted.codec
        transform, beside = self.adapted.synthesis_parts
        try:
            self._crops = CropSynthesis(transform, codec.M, crop, beside)
        except CannotBeCut:
            self._crops = None
        geometry = tiling.analysis_geometry(codec.g_a)
        kept = LatentFormat.of(codec)
        side = geometry.side(1 << 12, 1 << 12, _TILE)
        halo = geometry.halo or 0
        worth_it = side is not None and (side + 2 * halo) ** 2 < 2 * side**2
        memory = _TILE if worth_it else tiling.MEMORY

        @torch.inference_mode()
        def encode(pixels: Tensor) -> Latent:
            x = pixels[None].to(next(codec.parameters()).device)
            with tiling.tiled_analysis(codec, geometry, memory if x.is_cpu else tiling.MEMORY):
                return kept.stored(decoder_latent(codec, x)[0])

        return LatentCrops(
            LatentCache(folder, self.adapted.fingerprint, encode, console),
            kept.restored,
            crop=crop,
            stride=self.adapted.stride,
            scale=geometry.scale,
            margin=None if self._crops is None else self._crops.margin,
            pixels=pixels,
        )

    def of_crops(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """ŷ of a batch of crops, with the margin where there is one; and what the gate reads.

        Args:
            batch: ``image``, with ``quality`` of each where it is drawn; and ``latent`` where that is kept.
        """
        if "latent" not in batch:
            return self._encoded(batch["image"], batch.get("quality"))
        y_hat: Tensor = batch["latent"]
        if self._crops is None:
            return y_hat, y_hat
        under = slice(self._crops.margin, self._crops.margin + self._crops.side)
        return y_hat, y_hat[..., under, under]

    def of_image(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The same of a validation image, which is encoded only the first time."""
        file = batch["file"]
        if file not in self._images:
            padded = pad(batch["image"], self.adapted.stride)
            self._images[file] = self._encoded(padded, batch.get("quality"))
        return self._images[file]

    def decode(
        self, transform: Callable[[Tensor], Tensor], y_hat: Tensor, batch: dict[str, Any]
    ) -> Tensor:
        """Decode a batch of crops.

        Args:
            transform: the synthesis transform.
            y_hat: as :meth:`of_crops` gives it.
            batch: that it was given for.
        """
        if "latent" in batch and self._crops is not None:
            assert isinstance(transform, nn.Sequential)
            return self._crops(transform, y_hat, batch["inside"])
        return transform(y_hat)

    @torch.no_grad()
    def _encoded(self, x: Tensor, qualities: Tensor | None) -> tuple[Tensor, Tensor]:
        rates = None
        if qualities is not None:
            rates = torch.tensor([self._places[q] for q in qualities.tolist()], device=x.device)
        with encoder_latent(self.adapted.codec) as y:
            y_hat = decoder_latent(self.adapted.codec, x, rates)
        return y_hat, y[0] if self.reads_y else y_hat
