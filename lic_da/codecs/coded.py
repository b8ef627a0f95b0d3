"""How a codec codes y: which numbers its entropy coder writes, and what they cost and decode to.

A codec is listened to while it codes an image (:func:`observed`). What it does with y is one of two:

* *at once* (:class:`CodedAtOnce`): one call of a CompressAI entropy model; means and tables of all elements
  are known beforehand. Factorized and (mean-)scale hyperpriors.
* *in slices* (:class:`CodedInSlices`): mean and scale of a slice are computed from the slices before it
  (:class:`~lic_da.codecs.models.zou2022.ChannelwiseCodec`).

Other codecs, such as those that code element after element, have no description here.

The same image can be coded with another y: z, tables and the form of the strings are the codec's, so that
all of its decoders read them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from compressai.entropy_models import EntropyBottleneck, EntropyModel
from compressai.models import CompressionModel
from torch import Tensor, nn

from lic_da.codecs.models.hyperprior import in_single_precision
from lic_da.codecs.models.zou2022 import ChannelwiseCodec
from lic_da.errors import UserError

_NIBBLE = 4  # bits that an escaped symbol is written in at a time

Where = tuple[slice, slice]
"""Rows and columns of a latent."""

Draw = Callable[[Tensor], tuple[Tensor, Tensor]]
"""What y is apart from its mean -> the integers below and the share, 0 to 1, of those above."""


class Coded(NamedTuple):
    """A latent, or a part of one, as it is coded.

    Attributes:
        bits: of all elements together.
        y_hat: what the synthesis transform is given, ``(1, M, h, w)``.
        symbols: the integers, or what lies between two of them, of the same shape.
    """

    bits: Tensor
    y_hat: Tensor
    symbols: Tensor


def rounded(t: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest integers, as a :data:`Draw`."""
    return t.round(), torch.zeros_like(t)


class CodedLatent(ABC):
    """How y is coded, given all that is coded before it.

    Attributes:
        y: what was given to the coder, ``(1, M, h, w)``.
        search_rate: by which a search moves it, in symbols a step of Adam; chosen on validation images.
    """

    y: Tensor
    search_rate: ClassVar[float]

    @abstractmethod
    def coded(self, y: Tensor, where: Where, draw: Draw) -> Coded:
        """Code another y.

        Args:
            y: ``(1, M, h', w')``.
            where: the rows and columns of the latent that it is for; what lies around it is not known.
            draw: how it is rounded.
        """

    @abstractmethod
    def decoded(self) -> Tensor:
        """ŷ of the y that there is, as the decoder has it to the bit."""

    @abstractmethod
    def exchanged(self, y: Tensor) -> AbstractContextManager[None]:
        """Inside the block the codec's ``compress`` writes another y for the image this is of."""

    @contextmanager
    def searched(self) -> Iterator[None]:
        """Around many calls of :meth:`coded`."""
        yield


@dataclass(frozen=True)
class CodedAtOnce(CodedLatent):
    """A y that is coded by one call of an entropy model.

    Attributes:
        codec: whose entropy model it is.
        model: the entropy model, with its tables.
        y: what it was given, ``(1, M, h, w)``.
        means: of y, broadcast to it; symbols are the rounded differences.
        indexes: which of the model's tables codes each element, integers of the shape of y.
    """

    codec: CompressionModel
    model: EntropyModel
    y: Tensor
    means: Tensor
    indexes: Tensor

    search_rate = 0.07

    def symbols(self) -> Tensor:
        """The integers that are coded, as floats."""
        return (self.y - self.means).round()

    def coded(self, y: Tensor, where: Where, draw: Draw) -> Coded:
        means = self.part(self.means.expand_as(self.y), where)
        below, weight = draw(y - means)
        low, high = (self.bits(b, where) for b in (below, below + 1))
        symbols = below + weight
        return Coded((low + weight * (high - low)).sum(), symbols + means, symbols)

    def decoded(self) -> Tensor:
        y_hat = self.symbols() + self.means
        return y_hat.contiguous()  # sums over other strides are rounded otherwise

    def exchanged(self, y: Tensor) -> AbstractContextManager[None]:
        def make(model: EntropyModel) -> Callable[..., Any]:
            method = model.compress

            def compress(inputs: Tensor, *others: Any, **named: Any) -> Any:
                own = model is self.model and inputs.shape == y.shape
                return method(y if own else inputs, *others, **named)

            return compress

        return _in_place_of_compress(self.codec, make)

    @cached_property
    def _bits(self) -> Tensor:
        """Bits of each entry of the tables, ``(tables, entries)``."""
        cdf = self.model._quantized_cdf.double()
        shares = cdf.diff(dim=1).clamp(min=1) / 2**self.model.entropy_coder_precision
        return -shares.log2().float()

    @staticmethod
    def part(whole: Tensor, where: Where) -> Tensor:
        """Some rows and columns of what has the shape of y."""
        return whole[..., where[0], where[1]]

    def bits(self, symbols: Tensor, where: Where) -> Tensor:
        """What the coder spends on symbols, in bits each.

        Args:
            symbols: whole numbers, ``(1, M, h', w')``.
            where: the rows and columns of the latent that they are for.
        """
        table = self.part(self.indexes, where).long()
        value = symbols.long() - self.model._offset.long()[table]
        escape = self.model._cdf_length.long()[table] - 2  # the entry for what has none of its own
        beyond = torch.where(value < 0, -2 * value - 1, 2 * (value - escape))
        outside = (value < 0) | (value >= escape)
        width = self._bits.shape[1]
        entry = torch.where(outside, escape, value)
        bits = self._bits.flatten()[(table * width + entry).flatten()].view_as(symbols)
        nibbles = beyond.clamp(min=0).float().add(1).log2().div(_NIBBLE).ceil()
        return torch.where(outside, bits + _NIBBLE * (1 + nibbles), bits)


@dataclass(frozen=True)
class CodedInSlices(CodedLatent):
    """A y of which each slice is coded by what its earlier slices say.

    Bits are those of the model's densities; the coder's tables are made of 64 of them. Means and scales
    are followed in single precision inside :meth:`searched`; the real coder rounds y by its own.

    Attributes:
        codec: the codec.
        y: as it is coded, ``(1, M, h, w)``.
        z: as it is coded.
    """

    codec: ChannelwiseCodec
    y: Tensor
    z: Tensor

    search_rate = 0.03  # a step moves what is expected of the slices behind, too

    def coded(self, y: Tensor, where: Where, draw: Draw) -> Coded:
        # Copies, which gradients may go through where the originals were made in inference mode.
        means, scales = (t[..., where[0], where[1]].float().clone() for t in self._stated)
        parts = y.chunk(self.codec.slices, dim=1)
        density = self.codec.gaussian_conditional
        bits: list[Tensor] = []
        symbols: list[Tensor] = []

        def cost(numbers: Tensor, scale: Tensor) -> Tensor:
            likely = density._likelihood(numbers, scale)
            return -density.likelihood_lower_bound(likely).log2()

        def code(i: int, mean: Tensor, scale: Tensor) -> Tensor:
            below, weight = draw(parts[i] - mean)
            low, high = cost(below, scale), cost(below + 1, scale)
            bits.append((low + weight * (high - low)).sum())
            symbols.append(below + weight)
            return symbols[-1] + mean

        coded = self.codec.in_slices(means, scales, code)
        y_hat = self.codec.for_synthesis(coded, None)
        return Coded(torch.stack(bits).sum(), y_hat, torch.cat(symbols, dim=1))

    def decoded(self) -> Tensor:
        density, parts = self.codec.gaussian_conditional, self.y.chunk(self.codec.slices, dim=1)

        def code(i: int, mean: Tensor, scale: Tensor) -> Tensor:
            symbols = density.quantize(parts[i].to(mean.dtype), "symbols", mean)
            return density.dequantize(symbols, mean)

        y_hat = self.codec.for_synthesis(self.codec.in_slices(*self._stated, code), None)
        return y_hat.contiguous()

    def exchanged(self, y: Tensor) -> AbstractContextManager[None]:
        method = self.codec.code
        return _in_place(self.codec, "code", lambda own, z: method(y, z))

    @contextmanager
    def searched(self) -> Iterator[None]:
        with in_single_precision(self.codec):
            yield

    @cached_property
    def _stated(self) -> tuple[Tensor, Tensor]:
        """Means and scales that the hyper-synthesis states."""
        bottleneck = self.codec.entropy_bottleneck
        z_hat = bottleneck.decompress(bottleneck.compress(self.z), self.z.shape[-2:])
        return self.codec.hyper(z_hat, None)


class Observed:
    """What a codec hands to its entropy coders while it codes one image."""

    def __init__(self) -> None:
        self._at_once: list[CodedAtOnce] = []
        self._in_slices: list[CodedInSlices] = []

    def latent(self, y: Tensor, title: str) -> CodedLatent:
        """How y was coded.

        Args:
            y: what ``g_a`` gave for the image.
            title: of the codec, for the message.

        Raises:
            UserError: neither at once nor in slices.
        """
        latent = self.at_once(y)
        if latent is None and len(self._in_slices) == 1:
            return self._in_slices[0]
        if latent is None:
            raise UserError(
                f"Latents of {title} cannot be refined: it codes them element by element, each with "
                "tables that depend on those before. Codecs that code all of y at once can (factorized and "
                "hyperprior ones), and those of Zou et al., which code it in slices. Use effort 0."
            )
        return latent

    def at_once(self, y: Tensor) -> CodedAtOnce | None:
        """How y was coded, if that was by one call of an entropy model."""
        own = [c for c in self._at_once if c.y.shape == y.shape and torch.equal(c.y, y)]
        return own[0] if len(own) == 1 else None


@contextmanager
def observed(codec: CompressionModel) -> Iterator[Observed]:
    """Inside the block, what the codec hands to its entropy coders is noted."""
    seen = Observed()

    def make(model: EntropyModel) -> Callable[..., Any]:
        method = model.compress

        def compress(inputs: Tensor, *others: Any, **named: Any) -> Any:
            seen._at_once.append(_at_once(codec, model, inputs, others, named))
            return method(inputs, *others, **named)

        return compress

    with ExitStack() as stack:
        stack.enter_context(_in_place_of_compress(codec, make))
        if isinstance(codec, ChannelwiseCodec):
            method = codec.code

            def code(y: Tensor, z: Tensor) -> Any:
                seen._in_slices.append(CodedInSlices(codec, y, z))
                return method(y, z)

            stack.enter_context(_in_place(codec, "code", code))
        yield seen


def _at_once(
    codec: CompressionModel,
    model: EntropyModel,
    y: Tensor,
    others: Sequence[Any],
    named: Mapping[str, Any],
) -> CodedAtOnce:
    """What a call of an entropy model's ``compress`` does."""
    if isinstance(model, EntropyBottleneck):
        channels = torch.arange(y.shape[1], device=y.device).view(1, -1, 1, 1)
        medians = model._get_medians().view(1, -1, 1, 1)
        return CodedAtOnce(codec, model, y, medians, channels.expand_as(y))
    arguments = dict(zip(("indexes", "means"), others, strict=False)) | dict(named)
    means = arguments.get("means")
    return CodedAtOnce(
        codec, model, y, y.new_zeros(()) if means is None else means, arguments["indexes"]
    )


@contextmanager
def _in_place_of_compress(
    codec: CompressionModel, make: Callable[[EntropyModel], Callable[..., Any]]
) -> Iterator[None]:
    with ExitStack() as stack:
        for model in [m for m in codec.modules() if isinstance(m, EntropyModel)]:
            stack.enter_context(_in_place(model, "compress", make(model)))
        yield


@contextmanager
def _in_place(module: nn.Module, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Inside the block a function stands in place of a module's method."""
    before = module.__dict__.get(name)
    setattr(module, name, function)
    try:
        yield
    finally:
        if before is None:
            delattr(module, name)  # the class's own shows again
        else:
            setattr(module, name, before)
