"""An adapted codec: a CompressAI codec whose ``g_s`` was replaced by an ``AdaptedSynthesis``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from compressai.models import CompressionModel
from torch import Tensor, nn

from lic_da.adapters.bank import AdapterBank
from lic_da.adapters.gate import from_bytes, to_bytes
from lic_da.adapters.regions import Weights, of_image, with_shares
from lic_da.adapters.stored import PREFIX, StoredBank
from lic_da.adapters.synthesis import (
    CHOSEN,
    MODES,
    AdaptedSynthesis,
    check_mode,
)
from lic_da.codecs import coded, refine, zoo
from lic_da.codecs.entropy.chunks import Integers
from lic_da.codecs.image_codec import (
    ImageCodec,
    ModelCodec,
    pad,
    to_8_bit,
)
from lic_da.codecs.spatial import tiling
from lic_da.codecs.spec import CodecSpec, MethodSpec
from lic_da.errors import UserError, unknown
from lic_da.io.bitstream import MAX_DOMAINS, Stream, StreamError, no_weights
from lic_da.io.tensors import TensorFile
from lic_da.methods import pack
from lic_da.methods.adapters import chosen
from lic_da.methods.adapters.adapting import (
    ADDED,
    adapt,
    adapter_state,
    base_fingerprints,
    base_state,
    with_stored,
)
from lic_da.methods.adapters.spec import PUBLISHED, AdapterSpec

__all__ = [
    "PUBLISHED",
    "AdaptedCodec",
    "AdapterSpec",
    "adapt",
    "adapter_state",
    "base_state",
    "pad",
    "to_8_bit",
]

_PART_BY_PART = (
    "codes its latents part by part: reconstruction points are for factorized and hyperprior codecs. "
    "Leave out points."
)


@dataclass
class AdaptedCodec(ModelCodec, ImageCodec):
    """A codec with adapters for several domains, ready to code images.

    Example:
        >>> codec = AdaptedCodec.load("outputs/run/pack")
        >>> data = codec.compress(image)
        >>> image = codec.decompress(data)

    Attributes:
        codec: the CompressAI codec with its adapted ``g_s``.
        config: what it was built from.
        fingerprint: SHA-256 of the base weights.
        memory: bytes of activations; larger images are coded in tiles.
        adapter_config: where and how it is adapted.
        rates: of one for all qualities, SHA-256 of the base weights by quality; empty: for its own alone.
        effort: what is done for each image that is coded.
    """

    adapter_config: AdapterSpec = PUBLISHED
    rates: Mapping[int, str] = field(default_factory=dict)
    effort: refine.Effort = field(default_factory=refine.Effort)

    method = "adapters"
    modes: ClassVar[tuple[str, ...]] = MODES
    modes_on_request: ClassVar[tuple[str, ...]] = (CHOSEN,)
    weights_file: ClassVar[str] = pack.ADAPTERS_FILE
    stored_under: ClassVar[str] = "g_s."
    all_rates: ClassVar[bool] = True

    @classmethod
    def build(
        cls,
        config: CodecSpec | Mapping[str, Any],
        domains: Sequence[str],
        adapter_config: AdapterSpec | Mapping[str, Any] = PUBLISHED,
        *,
        weights: bool = True,
        file: TensorFile | None = None,
    ) -> Self:
        """A codec with untrained adapters, which decodes exactly as the base codec does.

        Args:
            config: the base codec, or its settings as a plain mapping.
            domains: names of all domains, the source first.
            adapter_config: where and how it is adapted, or a mapping of ``sites``, ``adapter`` and
                ``gate``; what that leaves out is as published.
            weights: load the base weights; without them they are random.
            file: of a pack, in which its trained adapters stay; None: untrained ones.

        Raises:
            UserError: these adapters cannot be, or not of so many domains.
        """
        spec, adapters = CodecSpec.of(config), AdapterSpec.of(adapter_config)
        if adapters.gate_input == "signalled" and len(domains) > MAX_DOMAINS:
            raise UserError(
                f"A stream has room for the weights of {MAX_DOMAINS} domains, and these are "
                f"{len(domains)}: leave out gate.input=signalled."
            )
        codec = zoo.build(spec, weights=weights)
        adapt(codec, spec, domains, adapters, file)
        fingerprint = zoo.fingerprint(base_state(codec))
        rates = base_fingerprints(codec, spec) if spec.all_rates else {}
        return cls(codec, spec, fingerprint, adapter_config=adapters, rates=rates)

    @classmethod
    def new(
        cls, config: CodecSpec, method: MethodSpec, domains: Sequence[str], *, weights: bool = True
    ) -> Self:
        return cls.build(config, domains, method.adapters, weights=weights)

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        trust: Sequence[str] = (),
        quality: int | None = None,
        spatial: str | None = None,
        in_memory: bool | None = None,
    ) -> Self:
        """Load an adapter pack; see :func:`lic_da.methods.pack.load`.

        Raises:
            UserError: also if it is a pack of another method.
        """
        codec = pack.load(
            Path(folder), trust=trust, quality=quality, spatial=spatial, in_memory=in_memory
        )
        if not isinstance(codec, cls):
            raise UserError(f"{folder} is a pack of method {codec.method}: use lic_da.load for it.")
        return codec

    @classmethod
    def rebuild(
        cls, config: CodecSpec, method: str, domains: Sequence[str], settings: Mapping[str, Any]
    ) -> Self:
        how, file = settings.get("how", PUBLISHED), settings.get("tensors")
        adapted = cls.build(config, domains, how, file=file)
        adapted.synthesis.mode = settings["blend"]
        return adapted

    def settings(self) -> dict[str, Any]:
        return {"how": self.adapter_config.settings(), "blend": self.synthesis.mode}

    @property
    def synthesis(self) -> AdaptedSynthesis:
        """The adapted synthesis transform."""
        synthesis = self.codec.g_s
        assert isinstance(synthesis, AdaptedSynthesis)
        return synthesis

    def bank_in_memory(self, purpose: str) -> AdapterBank:
        """The adapters, to be changed or copied.

        Args:
            purpose: a participle for the message, such as ``trained``.

        Raises:
            UserError: they stay in a file.
        """
        bank = self.synthesis.bank
        if isinstance(bank, StoredBank):
            raise UserError(
                f"The adapters of this codec stay in {bank.file.path} and cannot be {purpose}: open the "
                "pack by lic_da.load(…, in_memory=True)."
            )
        return bank

    @property
    def domains(self) -> tuple[str, ...]:
        return self.synthesis.domains

    @property
    def title(self) -> str:
        """The codec in words."""
        if not self.rates:
            return super().title
        return f"{self.config.name}, qualities {', '.join(map(str, self.rates))}"

    @property
    def fingerprints(self) -> Mapping[int, str]:
        return self.rates or super().fingerprints

    def select_quality(self, quality: int) -> None:
        if quality != self.config.quality:
            self.config = self.config.coding_at(quality)
            self.fingerprint = self.rates[quality]
            zoo.select_rate(self.codec, self.config)

    def latent(self, stream: Stream, kept: list[Integers] | None = None) -> Tensor:
        """ŷ of a stream of any of its qualities, which the stream's fingerprint tells."""
        named = (q for q, f in self.rates.items() if bytes.fromhex(f)[:8] == stream.fingerprint)
        with self.at_quality(next(named, self.config.quality)):
            return super().latent(stream, kept)

    def added_parameters(self) -> dict[str, Any]:
        synthesis = self.synthesis
        each = sum(zoo.count_parameters(synthesis.bank.at(site)[0]) for site in synthesis.sites)
        return {
            "adapters": {"per_domain": each, "total": each * len(self.domains)},
            "gate": zoo.count_parameters(self.synthesis.gate),
        }

    @property
    def model(self) -> CompressionModel:
        return self.codec

    def is_trained(self, name: str) -> bool:
        return name.startswith(ADDED)

    def state(self) -> Mapping[str, Tensor]:
        return with_stored(self.codec.state_dict(), self.codec, "g_s.")

    def load_trained(self, tensors: Mapping[str, Tensor], origin: str) -> None:
        """Copy trained tensors into the codec; adapters that stay in a file are there already.

        Raises:
            UserError: names or shapes differ, or they are not of the file that the adapters stay in.
        """
        bank = self.synthesis.bank
        if isinstance(bank, StoredBank):
            if tensors is not bank.file:
                self.bank_in_memory("given others")
            tensors = {name: tensors[name] for name in tensors if not name.startswith(PREFIX)}
        super().load_trained(tensors, origin)

    def base_weights(self) -> Mapping[str, Tensor]:
        return base_state(self.codec)

    def in_mode(self, mode: str, domain: str | None = None) -> AbstractContextManager[None]:
        return self.synthesis.in_mode(mode, domain)

    def check_mode(self, mode: str, domain: str | None = None) -> None:
        check_mode(mode, domain, self.domains)

    def set_spatial(self, spatial: str) -> None:
        window = self.adapter_config.window
        self.adapter_config = self.adapter_config.with_gate(spatial=spatial, window=window)
        self.synthesis.set_spatial(self.adapter_config.spatial, window)

    def string_weights(self, mode: str) -> str:
        return self.fingerprint

    @torch.inference_mode()
    def encode(self, x: Tensor) -> Stream:
        """Code one image; the strings of the stream are those of the base codec.

        With the mode ``base`` all of the stream is, also where v is signalled. With ``chosen`` the v that
        decodes this image best is searched for, and written where that pays
        (:mod:`lic_da.methods.adapters.chosen`). With an effort other symbols are searched for, through the
        decoder as it decodes the stream so far (:mod:`lic_da.codecs.refine`), and taken where the
        R + λ·255²·MSE of the whole stream fell.
        """
        with coded.observed(self.codec) as seen:
            stream, y = self._encode(x)
        if self.synthesis.gate_input == "signalled" and self.synthesis.mode != "base":
            stream = replace(stream, v=to_bytes(self.synthesis.gate(y).softmax(dim=1)))
        plain = self._with_v(stream, x)
        if not self.effort.level:
            return plain
        latent = seen.latent(y, self.title)
        with latent.exchanged(self._refined(plain, latent, x)):
            other = self._encode(x)[0]
        refined = self._with_v(replace(other, v=stream.v), x)
        return min(plain, refined, key=lambda s: self._cost(s, x))

    @contextmanager
    def refining(self, effort: refine.Effort) -> Iterator[None]:
        """Spend an effort on each image that is coded inside the block.

        Raises:
            UserError: it is not 0, and the latents of this codec cannot be refined.
        """
        if effort.level:
            self._check_refinable()
        before, self.effort = self.effort, effort
        try:
            yield
        finally:
            self.effort = before

    def _check_refinable(self) -> None:
        """Code a small image to see how the codec does it."""
        x = next(self.codec.parameters()).new_zeros(1, 3, self.stride, self.stride)
        seen, y = self._observed(x)
        seen.latent(y, self.title)

    @torch.inference_mode()
    def _observed(self, x: Tensor) -> tuple[coded.Observed, Tensor]:
        """What is handed to the entropy coders while one image is coded, and y."""
        with coded.observed(self.codec) as seen:
            _, y = self._encode(x)
        return seen, y

    def check_points(self) -> None:
        """Raise a UserError if there are reconstruction points, and the codec cannot have them."""
        if self.synthesis.points is not None:
            self.coded_at_once(
                next(self.codec.parameters()).new_zeros(1, 3, self.stride, self.stride)
            )

    def coded_at_once(self, x: Tensor) -> coded.CodedAtOnce:
        """How y of one image is coded, ``(1, 3, H, W)`` in [0, 1].

        Raises:
            UserError: in parts that depend on each other.
        """
        seen, y = self._observed(x)
        latent = seen.at_once(y)
        if latent is None:
            raise UserError(f"{self.title} {_PART_BY_PART}")
        return latent

    def _refined(self, stream: Stream, latent: coded.CodedLatent, x: Tensor) -> Tensor:
        """A better y for the decoder as it decodes this stream of x."""
        image = self._image(x, latent.decoded(), None)
        with torch.inference_mode(False):  # what gradients go through
            v = self._v(stream, image.y_hat.clone())
            # One v for all of the image, also where regions have their own: _cost decides by theirs.
            v = v if v is None else of_image(v).clone()
            with self.synthesis.mixed_by(v) as transform:
                return refine.Refinement(
                    latent,
                    lambda y_hat, symbols: transform(self.synthesis.moved(y_hat, symbols, v)),
                    self.synthesis_geometry,
                    self.memory,
                    image.pixels,
                    image.lmbda,
                    self.effort,
                ).y()

    def _cost(self, stream: Stream, x: Tensor) -> float:
        """8·bytes + λ·255²·MSE·pixels of a stream and the 8-bit image that it decodes to."""
        image = self._image(x, *self._placed(stream))
        error = image.squared_error(self._v(stream, image.y_hat))
        return 8 * len(stream.to_bytes()) + image.worth(error)

    def compress(
        self,
        image: Any,
        v: Literal["gate", "best"] = "gate",
        effort: int = 0,
        *,
        seed: int = 0,
        on_step: refine.OnStep | None = None,
    ) -> bytes:
        """Code an image.

        Args:
            image: as of :meth:`ImageCodec.compress`.
            v: where the weights of the adapters come from. ``gate``: the decoder's gate finds them, and
                the stream is the base codec's. ``best``: the v that decodes this image best is searched
                for, which takes some ten times as long as decoding, and written where that pays.
            effort: 0 to 3, how long the encoder searches for better latents; the result is deterministic.
            seed: of the search.
            on_step: called with the steps that are done, and all.

        Returns:
            Contents of a ``.lic`` file.

        Raises:
            UserError: the image, ``v`` or ``effort`` is none of these, or the codec's latents cannot be
                refined.
        """
        if v not in ("gate", "best"):
            raise unknown("v", v, ("gate", "best"))
        with self._one_at_a_time, ExitStack() as stack:
            if v == "best":
                stack.enter_context(self.in_mode(CHOSEN))
            if effort:
                stack.enter_context(self.refining(refine.Effort(effort, seed, on_step)))
            return super().compress(image)

    def compress_with_v(self, image: Any) -> tuple[bytes, dict[str, float]]:
        """As :meth:`compress` with the current mode and effort, and as :meth:`gate_weights` of the stream.

        The latent is not decoded for it where the encoder knows what it decodes to.
        """
        x = self._batch(image)
        with self._one_at_a_time:
            return self._with_its_v(x)

    def _with_its_v(self, x: Tensor) -> tuple[bytes, dict[str, float]]:
        synthesis = self.synthesis
        if self.effort.level or synthesis.mode == CHOSEN or synthesis.gate_input == "signalled":
            stream = self.encode(x)
            return stream.to_bytes(), self.gate_weights(stream)
        with torch.inference_mode():
            with coded.observed(self.codec) as seen:
                stream, y = self._encode(x)
            try:
                latent = seen.latent(y, self.title)
            except UserError:  # coded element by element
                return stream.to_bytes(), self.gate_weights(stream)
            with synthesis.in_mode("weighted"):
                v = self._v(stream, latent.decoded())
        assert v is not None
        return stream.to_bytes(), dict(zip(self.domains, of_image(v)[0].tolist(), strict=True))

    def _with_v(self, stream: Stream, x: Tensor) -> Stream:
        """With the mode ``chosen``, the stream with the v that decodes x best, where writing it pays."""
        if self.synthesis.mode != CHOSEN:
            return stream
        image = self._image(x, *self._placed(stream))
        return replace(stream, **image.best(self._v(stream, image.y_hat), len(stream.v or b"")))

    def _image(self, x: Tensor, y_hat: Tensor, symbols: Tensor | None) -> chosen.CodedImage:
        """An image as it is coded in this latent, and in these symbols if they are known."""
        pixels = to_8_bit(x) if x.is_floating_point() else x
        decoder = self.synthesis, self.synthesis_geometry, self.memory
        return chosen.CodedImage(*decoder, y_hat, pixels, self.config.lmbda(), symbols)

    def _placed(self, stream: Stream) -> tuple[Tensor, Tensor | None]:
        """ŷ of a stream, and its symbols where the decoder has reconstruction points for them."""
        if self.synthesis.points is None:
            return self.latent(stream), None
        kept: list[Integers] = []
        y_hat = self.latent(stream, kept)
        symbols = np.concatenate(kept)[-y_hat.numel() :]
        if len(symbols) < y_hat.numel():
            raise UserError(f"{self.title} {_PART_BY_PART}")
        return y_hat, torch.from_numpy(symbols).to(y_hat).view_as(y_hat)

    def pieces(self, stream: Stream) -> Iterator[tiling.Piece]:
        y_hat, symbols = self._placed(stream)
        v = self._v(stream, y_hat)
        with self.synthesis.mixed_by(v) as transform:
            placed = self.synthesis.moved(y_hat, symbols, v)
            yield from self._shown(transform, with_shares(placed, v))

    @torch.inference_mode()
    def gate_weights(self, data: bytes | Stream) -> dict[str, float]:
        """V of the mode ``weighted`` for a stream, by domain: chosen or signalled in it, or the gate's.

        Where regions have their own it is the mean over the image.

        Args:
            data: contents of a ``.lic`` file, or a stream that was read from it.

        Raises:
            StreamError: as :meth:`decode`.
        """
        stream = data if isinstance(data, Stream) else Stream.from_bytes(data)
        with self._one_at_a_time, self.synthesis.in_mode("weighted"):
            v = self._v(stream, self.latent(stream))
        weights = [0.0] * len(self.domains) if v is None else of_image(v)[0].tolist()
        return dict(zip(self.domains, weights, strict=True))

    def _v(self, stream: Stream, y_hat: Tensor) -> Weights | None:
        """Weights of the adapters for the current mode, of the image or its regions; None: no adapters."""
        synthesis = self.synthesis
        if not synthesis.needs_gate:
            return synthesis.mode_weights(y_hat)
        chosen_v = None if synthesis.mode == "top1" else stream.chosen
        own = chosen_v or stream.v
        if own is not None and len(own) != len(self.domains):
            raise StreamError(
                f"The stream has weights for {len(own)} domains, but this pack has "
                f"{len(self.domains)}: {', '.join(self.domains)}. Use the pack it was made with."
            )
        if chosen_v is not None:
            return chosen.weights(chosen_v, y_hat.device) if any(chosen_v) else None
        if stream.v is not None:
            return synthesis.mode_weights(y_hat, from_bytes(stream.v, y_hat.device))
        if synthesis.gate_input == "signalled":
            raise StreamError(no_weights(stream))
        return synthesis.mode_weights(y_hat)

    @property
    def synthesis_parts(self) -> tuple[nn.Module, Sequence[tiling.SideBranch]]:
        synthesis = self.synthesis
        return synthesis.base, [
            tiling.SideBranch(site.at, synthesis.bank.at(site)[0], site.on_input)
            for site in synthesis.sites
        ]

    @cached_property
    def synthesis_geometry(self) -> tiling.Geometry:
        base, adapters = self.synthesis_parts
        return tiling.synthesis_geometry(base, self.codec.M, adapters)
