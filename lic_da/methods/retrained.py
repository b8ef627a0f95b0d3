"""Codecs that were trained themselves, beside the base codec: fine-tuned ones and a widened one.

Such a codec has two models and so two modes: ``adapted`` codes with the trained one, ``base`` with the
base codec. What the trained model makes of streams of the base codec tells the methods apart::

                             strings            a stream of the base codec
    FinetunedCodec           its own            is refused; the mode base opens it
    FinetunedDecoderCodec    the base codec's   is decoded by the trained decoder
    WidenedCodec             its own            is decoded as by the base codec
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from compressai.models import CompressionModel
from torch import Tensor

from lic_da.codecs import zoo
from lic_da.codecs.image_codec import ImageCodec, ModelCodec
from lic_da.codecs.spatial import tiling
from lic_da.codecs.spec import CodecSpec, MethodSpec
from lic_da.config import plain
from lic_da.io.bitstream import Stream, StreamError


@dataclass
class TrainedModelCodec(ModelCodec):
    """A model that was trained for some domains; its streams are its own."""

    trained_as: str = ""

    @property
    def title(self) -> str:
        return f"{super().title}, {self.trained_as}"


@dataclass
class RetrainedCodec(ImageCodec):
    """A trained codec and the base codec it was made from.

    Attributes:
        method: name of the method.
        names: of the domains, the source first.
        base: the base codec.
        adapted: the trained codec.
        own: what the method's settings say of the codec, such as ``train_on``; files call it ``how``.
        mode: the current one.
    """

    method: str
    names: tuple[str, ...]
    base: ModelCodec
    adapted: ModelCodec
    own: Mapping[str, Any]
    mode: str = "adapted"

    modes: ClassVar[tuple[str, ...]] = ("adapted", "base")

    @classmethod
    def new(
        cls, config: CodecSpec, method: MethodSpec, domains: Sequence[str], *, weights: bool = True
    ) -> Self:
        return cls._build(config, method.name, method.own, domains, weights=weights)

    @classmethod
    def rebuild(
        cls, config: CodecSpec, method: str, domains: Sequence[str], settings: Mapping[str, Any]
    ) -> Self:
        return cls._build(config, method, settings["how"], domains)

    @classmethod
    def _build(
        cls,
        config: CodecSpec,
        method: str,
        own: Mapping[str, Any],
        domains: Sequence[str],
        *,
        weights: bool = True,
    ) -> Self:
        model = zoo.build(config, weights=weights).requires_grad_(False)
        base = ModelCodec(model, config, zoo.fingerprint(model.state_dict()))
        trained = cls.make_trainable(model, config, own)
        names = tuple(domains)
        title = f"as adapted by {method} to {', '.join(names[1:])}"
        adapted = TrainedModelCodec(trained.eval(), config, base.fingerprint, trained_as=title)
        return cls(method, names, base, adapted, own)

    @staticmethod
    @abstractmethod
    def make_trainable(
        base: CompressionModel, config: CodecSpec, own: Mapping[str, Any]
    ) -> CompressionModel:
        """The model to train; whatever is to be trained in it, and nothing else, requires gradients.

        Args:
            base: the frozen base codec, which stays as it is.
            config: what it is.
            own: see the class.
        """

    def settings(self) -> dict[str, Any]:
        return {"how": plain(self.own)}

    @property
    def codec(self) -> CompressionModel:  # type: ignore[override]
        return self.adapted.codec

    @property
    def config(self) -> CodecSpec:  # type: ignore[override]
        return self.base.config

    @property
    def fingerprint(self) -> str:  # type: ignore[override]
        return self.base.fingerprint

    @property
    def domains(self) -> tuple[str, ...]:
        return self.names

    @property
    def model(self) -> CompressionModel:
        return self._current.codec

    @property
    def modules(self) -> tuple[CompressionModel, ...]:
        return self.codec, self.base.codec

    @property
    def _current(self) -> ModelCodec:
        return self.base if self.mode == "base" else self.adapted

    def is_trained(self, name: str) -> bool:
        return True

    def base_weights(self) -> Mapping[str, Tensor]:
        return self.base.codec.state_dict()

    @contextmanager
    def in_mode(self, mode: str, domain: str | None = None) -> Iterator[None]:
        self.check_mode(mode, domain)
        before, self.mode = self.mode, mode
        try:
            yield
        finally:
            self.mode = before

    def string_weights(self, mode: str) -> str:
        return (self.base if mode == "base" else self.adapted).fingerprint

    def encode(self, x: Tensor) -> Stream:
        return self._current.encode(x)

    def pieces(self, stream: Stream) -> Iterator[tiling.Piece]:
        trained = bytes.fromhex(self.adapted.fingerprint)[:8]
        if self.mode == "base" and stream.fingerprint == trained != self._base_name:
            raise StreamError(
                f"The stream was written by {self.adapted.title}, and the base codec cannot open it: leave "
                "out the mode base."
            )
        return self._current.pieces(stream)

    @property
    def _base_name(self) -> bytes:
        """What streams of the base codec carry."""
        return bytes.fromhex(self.fingerprint)[:8]

    def load_trained(self, tensors: Mapping[str, Tensor], origin: str) -> None:
        super().load_trained(tensors, origin)
        self._name_weights()

    def finish(self) -> None:
        """Make entropy-coding tables for the trained weights, and name these by their fingerprint."""
        self.codec.eval().update(force=True)
        self._name_weights()

    def _name_weights(self) -> None:
        self.adapted.fingerprint = zoo.fingerprint(self.codec.state_dict())
