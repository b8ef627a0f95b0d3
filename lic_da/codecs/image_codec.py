"""Images to streams and back by a CompressAI codec, and what every such codec has in common.

``ImageCodec`` is what commands, measurements and packs work with. How a codec was adapted is its
subclass's business: it lists its *modes*, the ways in which it can code, the one that it is judged by
first. ``ModelCodec`` codes with one CompressAI model.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, ClassVar, Self

import numpy as np
import torch
from compressai.models import CompressionModel
from torch import Tensor, nn

from lic_da.codecs import fingerprints, zoo
from lic_da.codecs.checkpoints import is_table, load_partial
from lic_da.codecs.entropy import decode
from lic_da.codecs.entropy.checksum import symbol_checksum
from lic_da.codecs.entropy.chunks import Integers
from lic_da.codecs.latents import encoder_latent
from lic_da.codecs.refine import Effort
from lic_da.codecs.spatial import tiling
from lic_da.codecs.spec import CodecSpec, MethodSpec
from lic_da.errors import UserError, check_domain, unknown
from lic_da.io.bitstream import Stream, StreamError, check_fits
from lic_da.io.shown import RGB, as_rgb


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
    return x_hat.mul(255).round_().clamp_(0, 255).to(torch.uint8)


class ImageCodec(ABC):
    """A codec as a method has adapted it, ready to code images.

    Attributes:
        method: name of the method, for tables and packs.
        modes: ways to code, the one that the method is judged by first; ``base`` is the unadapted codec.
        modes_on_request: more of them, which take long and are measured only where they are asked for.
        weights_file: of a pack, its tensors.
        stored_under: part of the codec whose tensors a pack holds, which their names there leave out.
        codec: the CompressAI model that is trained.
        config: what it was built from.
        fingerprint: SHA-256 of the base weights.
        all_rates: whether there are such codecs for all qualities of a base codec of variable rate.
    """

    method: str
    modes: ClassVar[tuple[str, ...]]
    modes_on_request: ClassVar[tuple[str, ...]] = ()
    weights_file: ClassVar[str] = "weights.safetensors"
    stored_under: ClassVar[str] = ""
    all_rates: ClassVar[bool] = False
    codec: CompressionModel
    config: CodecSpec
    fingerprint: str

    @classmethod
    @abstractmethod
    def new(
        cls, config: CodecSpec, method: MethodSpec, domains: Sequence[str], *, weights: bool = True
    ) -> Self:
        """The untrained codec of a command's settings.

        Args:
            config: the base codec.
            method: how it is to be adapted.
            domains: names of all domains, the source first.
            weights: load the base weights; without them they are random.
        """

    @classmethod
    @abstractmethod
    def rebuild(
        cls, config: CodecSpec, method: str, domains: Sequence[str], settings: Mapping[str, Any]
    ) -> Self:
        """The untrained codec that ``config.yaml`` of a pack describes.

        Args:
            config: the base codec.
            method: name of the method.
            domains: names of all domains, the source first.
            settings: as :meth:`settings` has given them, plain values; and maybe ``tensors``, the open
                file of the pack's tensors (:class:`lic_da.io.tensors.TensorFile`), which may stay there.
        """

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What :meth:`rebuild` needs beside codec, method and domains: plain values, for files."""

    @property
    @abstractmethod
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, the source first."""

    @abstractmethod
    def is_trained(self, name: str) -> bool:
        """Whether training changes the tensor of ``codec`` that has this name."""

    @abstractmethod
    def base_weights(self) -> Mapping[str, Tensor]:
        """State dict of the base codec as it is now, by CompressAI's names."""

    @abstractmethod
    def in_mode(self, mode: str, domain: str | None = None) -> AbstractContextManager[None]:
        """Use another mode inside the block.

        Raises:
            UserError: as :meth:`check_mode`.
        """

    @abstractmethod
    def string_weights(self, mode: str) -> str:
        """Fingerprint of the weights that write the strings with a mode."""

    @property
    @abstractmethod
    def model(self) -> CompressionModel:
        """The CompressAI model that codes with the current mode."""

    @abstractmethod
    def encode(self, x: Tensor) -> Stream:
        """Code one image with the current mode.

        Args:
            x: ``(1, 3, H, W)`` in [0, 1], or uint8.
        """

    @abstractmethod
    def pieces(self, stream: Stream) -> Iterator[tiling.Piece]:
        """Parts of the image, ``(1, 3, h, w)`` in [0, 1]; they go on where it was padded.

        Raises:
            StreamError: the stream was made with other weights, or its latents decode to other values
                than were encoded.
        """

    @cached_property
    def _one_at_a_time(self) -> threading.RLock:
        """Held while an image is coded: the mode, and what is taken from inside the model, are its own."""
        return threading.RLock()

    @property
    def fingerprints(self) -> Mapping[int, str]:
        """Quality -> SHA-256 of the base weights, of each quality that it is for."""
        return {self.config.quality: self.fingerprint}

    def select_quality(self, quality: int) -> None:
        """Code at another of its qualities from now on.

        Raises:
            UserError: it is not for this one.
        """
        self.config.coding_at(quality)

    @contextmanager
    def at_quality(self, quality: int) -> Iterator[None]:
        """Code at another of its qualities inside the block.

        Raises:
            UserError: as :meth:`select_quality`.
        """
        before = self.config.quality
        self.select_quality(quality)
        try:
            yield
        finally:
            self.select_quality(before)

    def refining(self, effort: Effort) -> AbstractContextManager[None]:
        """Spend an effort on each image that is coded inside the block (:mod:`lic_da.codecs.refine`).

        Raises:
            UserError: it is not 0, and the method has no such encoder.
        """
        if effort.level:
            raise UserError(
                f"effort is for codecs with adapters, or without; this is {self.method}."
            )
        return nullcontext()

    def set_spatial(self, spatial: str) -> None:
        """Find one v per ``image``, or with ``window`` one for each region of it, from now on.

        Raises:
            UserError: there is no such way, or the method has no gate that could do so.
        """
        raise UserError(
            f"spatial is for packs of adapters, which have a gate; this is {self.method}."
        )

    def sharing_latents(self) -> AbstractContextManager[decode.SharedLatent]:
        """Inside the block, a stream that is decoded in several modes has its latent decoded once.

        The object tells the seconds that were saved by it. Codecs with adapters do so; of others every mode
        decodes for itself.
        """
        return nullcontext(decode.SharedLatent())

    def finish(self) -> None:  # noqa: B027
        """Called when training has ended and before images are coded: tables are made here."""

    def added_parameters(self) -> dict[str, Any]:
        """Numbers of parameters that the method puts beside those of the base codec, by their names."""
        return {"adapters": {"per_domain": 0, "total": 0}, "gate": 0}

    def check_mode(self, mode: str, domain: str | None = None) -> None:
        """Raise a UserError unless there is such a mode, and such a domain if one is named."""
        if mode not in self.modes:
            raise unknown("mode", mode, self.modes)
        check_domain(mode, domain, self.domains)

    @property
    def stride(self) -> int:
        """Sides of coded images are padded to multiples of this."""
        return self.config.stride

    @property
    def modules(self) -> tuple[CompressionModel, ...]:
        """All CompressAI models it consists of."""
        return (self.codec,)

    @property
    def synthesis_parts(self) -> tuple[nn.Module, Sequence[tiling.SideBranch]]:
        """The synthesis transform that is trained, and what acts in it beside its layers."""
        return self.codec.g_s, ()

    def to(self, device: torch.device | str) -> None:
        """Move all weights to a device."""
        for module in self.modules:
            module.to(device)

    def eval(self) -> None:
        """Put all models into eval mode, without which rounding is noise."""
        for module in self.modules:
            module.eval()

    def check_base_unchanged(self) -> None:
        """Raise a RuntimeError if the base weights are not those the codec was built with."""
        now = zoo.fingerprint(self.base_weights())
        if now != self.fingerprint:
            raise RuntimeError(f"The base weights have changed: {self.fingerprint} became {now}.")

    def state(self) -> Mapping[str, Tensor]:
        """All tensors of ``codec`` by their names; those that stay in a file are read one by one."""
        return self.codec.state_dict()

    def trained_state(self) -> dict[str, Tensor]:
        """Tensors that training changes, entropy-coding tables included, by their names in a pack."""
        return self._trained_of(self.state())

    def _trained_of(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name.removeprefix(self.stored_under): value
            for name, value in state.items()
            if self.is_trained(name)
        }

    def load_trained(self, tensors: Mapping[str, Tensor], origin: str) -> None:
        """Copy trained tensors into the codec; tables may be missing.

        Args:
            tensors: by their names in a pack.
            origin: where they come from, for the message.

        Raises:
            UserError: names or shapes differ; the message says which.
        """
        trained = self._trained_of(self.codec.state_dict())
        own = {k: v for k, v in trained.items() if not is_table(k)}
        given = {k: v for k, v in tensors.items() if not is_table(k)}
        wrong = sorted(
            key
            for key in own.keys() | given.keys()
            if key not in own or key not in given or own[key].shape != given[key].shape
        )
        if wrong:
            raise UserError(
                f"{origin} does not fit this codec and these domains; first differences: "
                f"{', '.join(wrong[:4])}."
            )
        load_partial(
            self.codec, {f"{self.stored_under}{key}": value for key, value in tensors.items()}
        )

    @torch.inference_mode()
    def decode(self, stream: Stream) -> Tensor:
        """Decode one image with the current mode.

        Returns:
            ``(1, 3, H, W)`` in [0, 1].

        Raises:
            StreamError: as :meth:`pieces`.
        """
        x_hat: Tensor | None = None
        for rows, columns, piece in self.pieces(stream):
            if x_hat is None:
                x_hat = piece.new_empty(*piece.shape[:2], stream.height, stream.width)
            part = x_hat[..., rows, columns]
            part.copy_(piece[..., : part.shape[2], : part.shape[3]])
        assert x_hat is not None
        return x_hat

    def compress(self, image: Any) -> bytes:
        """Code an image. Threads may call it, and :meth:`decompress`: one image is coded at a time.

        Args:
            image: ``(H, W, 3)`` uint8 array, or a PIL image, which is taken as a viewer shows it:
                upright, on white, in sRGB.

        Returns:
            Contents of a ``.lic`` file.

        Raises:
            UserError: it is no such image, or too small.
        """
        x = self._batch(image)
        with self._one_at_a_time:
            return self.encode(x).to_bytes()

    def compress_with_v(self, image: Any) -> tuple[bytes, dict[str, float] | None]:
        """As :meth:`compress`, with the weights that the decoder will mix adapters by.

        Returns:
            Contents of a ``.lic`` file, and v by domain; None: the method has no gate.
        """
        return self.compress(image), None

    def _batch(self, image: Any) -> Tensor:
        """An array or a PIL image as ``(1, 3, H, W)``, uint8, on the codec's device."""
        pixels = np.require(as_rgb(image), requirements=["C", "W"])
        x = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        return x.to(next(self.codec.parameters()).device)

    @torch.inference_mode()
    def decompress(
        self,
        data: bytes | Stream,
        mode: str | None = None,
        domain: str | None = None,
        *,
        blend: str | None = None,
    ) -> RGB:
        """Decode an image.

        Args:
            data: contents of a ``.lic`` file, or a stream that was read from it.
            mode: one of ``modes``; None: the first of them.
            domain: for ``oracle``, the domain whose adapters to use.
            blend: earlier name of ``mode``.

        Returns:
            ``(H, W, 3)`` uint8 array.

        Raises:
            StreamError: as :meth:`pieces`, or the bytes are no stream or a damaged one.
        """
        stream = data if isinstance(data, Stream) else Stream.from_bytes(data)
        pixels = np.empty((stream.height, stream.width, 3), np.uint8)
        with self._one_at_a_time, self.in_mode(mode or blend or self.modes[0], domain):
            for rows, columns, piece in self.pieces(stream):
                part = pixels[rows, columns]
                eight = to_8_bit(piece)[0].permute(1, 2, 0).cpu().numpy()
                part[:] = eight[: part.shape[0], : part.shape[1]]
        return pixels


@dataclass
class ModelCodec:
    """One CompressAI model that codes images.

    Attributes:
        codec: the model.
        config: what it was built from.
        fingerprint: SHA-256 that its streams carry.
        memory: bytes of activations; larger images are coded in tiles.
        shared: the latest decoded latent, inside :meth:`sharing_latents`.
    """

    codec: CompressionModel
    config: CodecSpec
    fingerprint: str
    memory: int = tiling.MEMORY
    shared: decode.SharedLatent | None = field(default=None, init=False, repr=False)

    @property
    def stride(self) -> int:
        """Sides of coded images are padded to multiples of this."""
        return self.config.stride

    @property
    def title(self) -> str:
        """The codec in words."""
        return f"{self.config.name}, quality {self.config.quality}"

    @torch.inference_mode()
    def encode(self, x: Tensor) -> Stream:
        """Code one image.

        Args:
            x: ``(1, 3, H, W)`` in [0, 1], or uint8.

        Returns:
            The stream; its strings are those of the model.
        """
        return self._encode(x)[0]

    def _encode(self, x: Tensor) -> tuple[Stream, Tensor]:
        """The stream of one image, and y."""
        height, width = x.shape[2:]
        check_fits(width, height, self.stride)
        with ExitStack() as stack:
            stack.enter_context(
                tiling.tiled_analysis(self.codec, self.analysis_geometry, self.memory)
            )
            checksum = stack.enter_context(symbol_checksum(self.codec, "encode"))
            y = stack.enter_context(encoder_latent(self.codec))
            coded = self.codec.compress(pad(x, self.stride))
        shape = tuple(int(side) for side in coded["shape"])
        assert len(shape) == 2
        stream = Stream(
            fingerprint=bytes.fromhex(self.fingerprint)[:8],
            width=width,
            height=height,
            shape=shape,
            strings=tuple(strings[0] for strings in coded["strings"]),
            latent_crc=checksum.value,
        )
        return stream, y[0]

    @contextmanager
    def sharing_latents(self) -> Iterator[decode.SharedLatent]:
        """See :meth:`ImageCodec.sharing_latents`."""
        before, self.shared = self.shared, decode.SharedLatent()
        try:
            yield self.shared
        finally:
            self.shared = before

    def pieces(self, stream: Stream) -> Iterator[tiling.Piece]:
        """See :meth:`ImageCodec.pieces`."""
        y_hat = self.latent(stream)
        yield from self._shown(self.codec.g_s, y_hat)

    def latent(self, stream: Stream, kept: list[Integers] | None = None) -> Tensor:
        """ŷ of a stream that is one of this codec, and decodes to what was encoded.

        Args:
            stream: of one image.
            kept: where the symbols that it holds are appended, in their order.
        """
        if stream.fingerprint != bytes.fromhex(self.fingerprint)[:8]:
            here = f"but this is {self.title} ({self.fingerprint[:16]}…)"
            if fingerprints.find(stream.fingerprint) is None:
                raise StreamError(
                    f"The stream was made with weights {stream.fingerprint.hex()}…, which are no base "
                    f"codec of this package, {here}. Use the pack or the codec that wrote it."
                )
            raise StreamError(
                "The stream was made with the base codec "
                f"{fingerprints.describe(stream.fingerprint)}, {here}. "
                "Use a pack of that codec, or the codec alone."
            )
        padded = [-(-side // self.stride) for side in (stream.height, stream.width)]
        if list(stream.shape) != padded:
            raise StreamError("The stream's latent does not have the size that its image needs.")
        elements = math.prod(padded) * (self.stride // self.synthesis_geometry.scale) ** 2
        symbols = self.codec.M * elements
        decoded = partial(decode.decode_latent, self.codec, stream.strings, stream.shape, symbols)
        if self.shared is None:
            y_hat, checksum = decoded(kept)
        else:
            key = stream.fingerprint, stream.shape, stream.strings
            y_hat, checksum = self.shared.of(key, decoded, kept)
        if checksum != stream.latent_crc:
            raise StreamError(
                "The latents decode to other values than were encoded, so the image would be garbage. "
                "The stream was probably written by another version of the codec or other hardware."
            )
        return y_hat

    def _shown(self, transform: Any, y_hat: Tensor) -> Iterator[tiling.Piece]:
        """Parts of the image that a transform makes of a latent, clamped to [0, 1]."""
        for rows, columns, piece in tiling.synthesise(
            transform, y_hat, self.synthesis_geometry, self.memory
        ):
            yield rows, columns, piece.clamp_(0, 1)

    @cached_property
    def analysis_geometry(self) -> tiling.Geometry:
        """What ``g_a`` sees around a place, for tiles of the image."""
        return tiling.analysis_geometry(self.codec.g_a)

    @cached_property
    def synthesis_geometry(self) -> tiling.Geometry:
        """What ``g_s`` sees around a place of the latent, for tiles of the latent."""
        return tiling.synthesis_geometry(self.codec.g_s, self.codec.M)
