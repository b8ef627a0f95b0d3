"""What a codec is and how it is to be adapted, as frozen values that are read and checked once.

::

    conf/codec/<name>.yaml, a pack, a plain mapping ──► CodecSpec   ──► zoo.build, ImageCodec
    conf/method, adapter, gate, sites, points       ──► MethodSpec  ──► ImageCodec.new
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lic_da.config import ALL, merged, plain
from lic_da.errors import UserError, unknown

LAMBDAS = {1: 0.0018, 2: 0.0035, 3: 0.0067, 4: 0.0130, 5: 0.0250, 6: 0.0483}
"""Quality -> λ of the rate-distortion loss R + λ·255²·MSE (CompressAI's table for MSE)."""

_NEEDED = ("name", "model", "qualities", "quality", "stride")


@dataclass(frozen=True)
class CodecSpec:
    """A base codec at one of its qualities: what ``conf/codec/<name>.yaml`` says of it.

    Attributes:
        name: of the codec, for tables, packs and the folder of its weights.
        quality: one of ``qualities``; of ``quality: all`` the one that it codes at, first the middle one.
        qualities: all that the codec has.
        stride: sides of coded images are padded to multiples of this, in pixels.
        model: ``kind`` (see :data:`lic_da.registry.MODELS`) or ``_target_``, and arguments.
        weights: ``bundled``, ``zoo``, ``random`` or the path of a file, in which ``%q`` stands for the
            quality; None: not said.
        sites: where adapters act in ``g_s``, each as :data:`lic_da.registry.SITES` makes it;
            None: not said.
        gate: ``mid``, channels of the gate.
        training: settings of training adapters and gate over this codec.
        lambdas: quality -> λ, of the qualities whose λ is not CompressAI's.
        variable_rate: whether one set of weights serves all qualities.
        all_rates: whether what is trained over it is for all qualities (``quality: all``).
        where: in words, where weights can be had.
        zoo: name of the architecture in CompressAI's model zoo.
        given: the settings that it was made from, for files; ``by_quality`` is not applied in them.
    """

    name: str
    quality: int
    qualities: tuple[int, ...]
    stride: int
    model: Mapping[str, Any]
    weights: str | None = None
    sites: Sequence[Mapping[str, Any]] | None = None
    gate: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    lambdas: Mapping[int, float] = field(default_factory=dict)
    variable_rate: bool = False
    all_rates: bool = False
    where: str = ""
    zoo: str | None = None
    given: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> CodecSpec:
        """The codec that settings describe; what ``by_quality`` says of their quality is applied.

        Raises:
            UserError: something is missing, or the codec has no such quality or no λ for it; the message
                lists what there is.
        """
        given = plain(settings)
        missing = [key for key in _NEEDED if given.get(key) is None]
        if missing:
            raise UserError(
                f"The settings of codec {given.get('name')} do not say {', '.join(missing)}."
            )
        name, quality, qualities = given["name"], given["quality"], given["qualities"]
        if not isinstance(qualities, list):
            raise UserError(f"qualities of codec {name} must be a list such as [1, 2, 3].")
        if quality == ALL:
            _check_all_rates(given)
        elif quality not in qualities:
            raise unknown("quality", quality, qualities, f"for codec {name}")
        own = merged(given, (given.get("by_quality") or {}).get(quality) or {})
        spec = cls(
            name=str(name),
            quality=int(_middle(qualities) if quality == ALL else quality),
            qualities=tuple(int(q) for q in qualities),
            stride=int(own["stride"]),
            model=own["model"],
            weights=None if own.get("weights") is None else str(own["weights"]),
            sites=own.get("sites"),
            gate=own.get("gate") or {},
            training=own.get("training") or {},
            lambdas=own.get("lambdas") or {},
            variable_rate=bool(own.get("variable_rate")),
            all_rates=quality == ALL,
            where=str(own.get("where") or ""),
            zoo=own.get("zoo"),
            given=given,
        )
        for served in spec.served:
            spec.lmbda(served)
        return spec

    @classmethod
    def of(cls, codec: CodecSpec | Mapping[str, Any]) -> CodecSpec:
        """The codec itself, or the one that settings describe; see :meth:`from_settings`."""
        return codec if isinstance(codec, CodecSpec) else cls.from_settings(codec)

    def settings(self) -> dict[str, Any]:
        """The settings that it was made from, as files hold them: a copy of their own."""
        copy: dict[str, Any] = plain(self.given)
        return copy

    def at_quality(self, quality: int) -> CodecSpec:
        """The same codec at another quality, and for that alone.

        Raises:
            UserError: it has no such quality, or no λ for it.
        """
        return self.from_settings({**self.given, "quality": quality})

    def coding_at(self, quality: int) -> CodecSpec:
        """The same, coding at another of the qualities that it is for."""
        if quality not in self.served:
            raise unknown("quality", quality, self.served, f"of this {self.name}")
        return replace(self, quality=quality)

    def lmbda(self, quality: int | None = None) -> float:
        """λ of a quality: as ``lambdas`` says, else as CompressAI's table.

        Args:
            quality: which; None: its own.

        Raises:
            UserError: neither knows the quality.
        """
        quality = self.quality if quality is None else quality
        value = self.lambdas.get(quality, LAMBDAS.get(quality))
        if value is None:
            raise UserError(
                f"Codec {self.name} does not say which λ its quality {quality} stands for: add "
                f"lambdas: {{{quality}: …}} to its configuration (R + λ·255²·MSE)."
            )
        return float(value)

    @property
    def served(self) -> tuple[int, ...]:
        """The qualities that what is trained over it is for: with ``quality: all`` all, else its own."""
        return self.qualities if self.all_rates else (self.quality,)

    @property
    def default_quality(self) -> int:
        """The quality at which what is for several of them codes if none is asked for."""
        return _middle(self.served)

    @property
    def rates(self) -> tuple[int, ...]:
        """The qualities that its weights serve: all of a codec of variable rate, else its own."""
        return self.qualities if self.variable_rate else (self.quality,)

    @property
    def weights_stem(self) -> str:
        """Name of a file of its weights without its suffix: ``q3``, or ``all`` of variable rate."""
        return "all" if self.variable_rate else f"q{self.quality}"


def _middle(qualities: Sequence[int]) -> int:
    """The quality in the middle; of an even number of them the lower one."""
    return qualities[(len(qualities) - 1) // 2]


def _check_all_rates(settings: Mapping[str, Any]) -> None:
    """Raise a UserError unless one set of a codec's weights serves several qualities, each listed once."""
    name, qualities = settings["name"], settings["qualities"]
    if not settings.get("variable_rate"):
        raise UserError(
            f"codec.quality=all needs a codec of variable rate, such as zou2022_n64. {name} has other "
            f"weights for each quality: name one of {', '.join(map(str, qualities))}."
        )
    if not qualities or len(set(qualities)) < len(qualities):
        raise UserError(f"qualities of codec {name} must be different numbers, not {qualities}.")


_NOT_OF_THE_CODEC = ("name", "codec", "training", "gamma")
OF_ADAPTERS = ("sites", "adapter", "gate", "points")
"""Parts of a command's settings: where adapters act, of which kind they are, how their gate works, where
decoded symbols are put."""


@dataclass(frozen=True)
class MethodSpec:
    """How a codec is to be adapted: what a command's settings say of the method.

    Attributes:
        name: of the method, for tables and packs.
        codec: registered name or import path of the class that codes; see :data:`lic_da.registry.CODECS`.
        own: what ``conf/method`` says of the codec beside, such as ``start`` or ``width``.
        adapters: ``sites``, ``adapter``, ``gate`` and ``points``, which the method ``adapters`` reads.
    """

    name: str
    codec: str
    own: Mapping[str, Any] = field(default_factory=dict)
    adapters: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> MethodSpec:
        """The method of a command's settings.

        Args:
            settings: with ``method``, and whichever of ``OF_ADAPTERS`` there are.
        """
        method = settings["method"]
        return cls(
            name=str(method["name"]),
            codec=str(method["codec"]),
            # How it is trained may refer to what only a training has, and is left alone.
            own={key: plain(method[key]) for key in method if key not in _NOT_OF_THE_CODEC},
            adapters={key: plain(settings[key]) for key in settings if key in OF_ADAPTERS},
        )
