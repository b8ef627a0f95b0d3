"""Entropy models: from the strings of a stream to the latent, and back.

Each is that of a codec of lic_da, with the same tables, the same order of symbols and the same arithmetic;
the checksum over the symbols, which a stream carries, tells whether it came to the same latent.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lic_da.io.bitstream import StreamError
from lic_da.runtime.layers import Array, Layers
from lic_da.runtime.rans import RansDecoder, RansEncoder, Tables

Floats = NDArray[np.float32]
Shape = tuple[int, int]

_STATE = 8  # bytes
_PIECE = 1 << 19  # symbols that are lists of numbers at a time
_MOST = 1 << 26  # CompressAI's encoder never ends at numbers from 2²⁷ on


class Symbols:
    """Symbols on their way through the coder; ``crc`` is the CRC-32 of all so far."""

    def __init__(self) -> None:
        self.crc = 0

    def _seen(self, symbols: NDArray[np.int32]) -> NDArray[np.int32]:
        self.crc = zlib.crc32(np.ascontiguousarray(symbols, "<i4").data, self.crc)
        return symbols


class Reading(Symbols):
    """Reads symbols from the strings of a stream, one string after another."""

    def begin(self, string: bytes) -> None:
        """Go on with this string."""
        self._decoder = RansDecoder(string)

    def take(self, tables: Tables, indexes: Iterable[int]) -> NDArray[np.int32]:
        """The next symbols ``(n,)``; indexes are the numbers of their tables."""
        symbols = np.array(self._decoder.decode(tables, indexes), np.int64)
        if symbols.size and (np.abs(symbols).max() >= 1 << 31):
            raise StreamError("The stream's strings hold a number that no encoder writes.")
        return self._seen(symbols.astype(np.int32))


class Writing(Symbols):
    """Writes symbols as the strings of a stream."""

    def begin(self) -> None:
        """Go on with a new string."""
        self._encoder = RansEncoder()

    def put(self, tables: Tables, indexes: Iterable[int], values: NDArray) -> NDArray[np.int32]:
        """Round values ``(n,)`` to symbols and write them.

        Returns:
            The symbols.
        """
        symbols = self._seen(np.rint(values).clip(-_MOST, _MOST).astype(np.int32))
        self._encoder.encode(tables, indexes, symbols.tolist())
        return symbols

    def end(self) -> bytes:
        """The string."""
        return self._encoder.flush()


class Bottleneck:
    """A table and a median for every channel (``compressai.entropy_models.EntropyBottleneck``)."""

    def __init__(self, tensors: Mapping[str, NDArray]) -> None:
        self.tables = _tables(tensors, "bottleneck")
        self.medians = tensors["bottleneck.medians"].astype(np.float32)
        if self.medians.shape != (len(self.tables),):
            raise ValueError("a channel of the bottleneck has no median")

    def read(self, reading: Reading, string: bytes, shape: Shape) -> Floats:
        """Values ``(C, h, w)`` of a string."""
        values = np.empty((len(self.tables), shape[0] * shape[1]), np.float32)
        reading.begin(string)
        for channel, row in enumerate(values):
            row[:] = reading.take(self.tables, repeat(channel, len(row)))
        values += self.medians[:, None]
        return values.reshape(-1, *shape)

    def write(self, writing: Writing, values: Floats) -> tuple[bytes, Floats]:
        """The string of values ``(C, h, w)``, and the values as they are read from it."""
        rounded = np.empty_like(values)
        writing.begin()
        for channel, median in enumerate(self.medians):
            own = (values[channel] - median).ravel()
            symbols = writing.put(self.tables, repeat(channel, own.size), own)
            rounded[channel] = symbols.reshape(values.shape[1:]).astype(np.float32) + median
        return writing.end(), rounded

    def least_bits(self, shape: Shape) -> float:
        """Bits that a string of this shape has at least."""
        return shape[0] * shape[1] * float(self.tables.least_bits().sum())


class Gaussian:
    """Tables by scale (``compressai.entropy_models.GaussianConditional``)."""

    def __init__(self, tensors: Mapping[str, NDArray]) -> None:
        self.tables = _tables(tensors, "gaussian")
        self.scales = tensors["gaussian.scales"].astype(np.float32)
        if self.scales.shape != (len(self.tables),):
            raise ValueError("a table of the Gaussians has no scale")

    def read(self, reading: Reading, scales: NDArray, means: NDArray) -> NDArray:
        """The next values, of the shape and type of ``means``."""
        values, indexes = np.empty(means.size, means.dtype), self._indexes(scales)
        for i in range(0, len(values), _PIECE):
            piece = indexes[i : i + _PIECE]
            values[i : i + _PIECE] = reading.take(self.tables, piece.tolist())
        return values.reshape(means.shape) + means

    def write(self, writing: Writing, values: NDArray, scales: NDArray, means: NDArray) -> NDArray:
        """Write values; what is returned is what is read."""
        symbols = writing.put(
            self.tables,
            self._indexes(scales).tolist(),
            (values.astype(means.dtype) - means).ravel(),
        )
        return symbols.reshape(means.shape).astype(means.dtype) + means

    def _indexes(self, scales: NDArray) -> NDArray[np.intp]:
        """The table of each scale: the first whose own is not below it, or the last."""
        return np.searchsorted(self.scales[:-1].astype(scales.dtype), scales.ravel(), side="left")

    def least_bits(self, count: int) -> float:
        """Bits that so many symbols take at least: all from the table of the narrowest Gaussian."""
        return count * float(self.tables.least_bits().min())


class EntropyModel(ABC):
    """The strings of a codec.

    Args:
        settings: ``entropy`` of the manifest.
        tensors: of ``tables.npz``.
    """

    strings: ClassVar[int]
    """How many there are."""

    def __init__(self, settings: Mapping[str, Any], tensors: Mapping[str, NDArray]) -> None:
        self.bottleneck = Bottleneck(tensors)

    def decode(self, strings: Sequence[bytes], shape: Shape) -> tuple[Floats, int]:
        """The latent of strings.

        Args:
            strings: of a stream.
            shape: of the latent that the stream states.

        Returns:
            ŷ ``(M, h, w)``, and the checksum of its symbols.

        Raises:
            StreamError: these cannot be strings of this codec and a latent of this shape.
        """
        if len(strings) != self.strings:
            raise StreamError(
                f"The stream holds {len(strings)} strings; this codec writes {self.strings}."
            )
        if sum(map(len, strings)) < self._least_bits(shape) / 8 - _STATE:
            raise StreamError("The stream's strings are too short for the size it states.")
        reading = Reading()
        return self._read(reading, strings, shape), reading.crc

    def encode(self, y: Floats, z: Floats | None) -> tuple[tuple[bytes, ...], Shape, int]:
        """Strings of a latent, the shape that a stream states, and the checksum of the symbols.

        Args:
            y: ``(M, h, w)``.
            z: the hyper-latent ``(C, h', w')``, of codecs that have one.
        """
        writing = Writing()
        strings, shape = self._write(writing, y, z)
        return strings, shape, writing.crc

    def _least_bits(self, shape: Shape) -> float:
        return self.bottleneck.least_bits(shape)

    @abstractmethod
    def _read(self, reading: Reading, strings: Sequence[bytes], shape: Shape) -> Floats: ...

    @abstractmethod
    def _write(
        self, writing: Writing, y: Floats, z: Floats | None
    ) -> tuple[tuple[bytes, ...], Shape]: ...

    def gained(self, y: Floats) -> Floats:
        """What of y ``(M, h, w)`` is coded: y, times its gains where a codec has some."""
        return y

    def hyper_gained(self, z: Floats) -> Floats:
        """As :meth:`gained`, for z."""
        return z


class Factorized(EntropyModel):
    """One string, of the latent (``compressai.models.FactorizedPrior``)."""

    strings = 1

    def _read(self, reading: Reading, strings: Sequence[bytes], shape: Shape) -> Floats:
        return self.bottleneck.read(reading, strings[0], shape)

    def _write(
        self, writing: Writing, y: Floats, z: Floats | None
    ) -> tuple[tuple[bytes, ...], Shape]:
        string, _ = self.bottleneck.write(writing, y)
        return (string,), (y.shape[1], y.shape[2])


class MeanScaleHyperprior(EntropyModel):
    """A hyper-synthesis states scale and mean of every symbol (``lic_da.codecs.models.hyperprior``)."""

    strings = 2

    def __init__(self, settings: Mapping[str, Any], tensors: Mapping[str, NDArray]) -> None:
        super().__init__(settings, tensors)
        self.gaussian = Gaussian(tensors)
        self.h_s = Layers(settings["h_s"], tensors, "h_s")

    def _least_bits(self, shape: Shape) -> float:
        count = len(self._parameters(np.zeros((len(self.bottleneck.tables), 1, 1)))[0].ravel())
        return super()._least_bits(shape) + self.gaussian.least_bits(count * shape[0] * shape[1])

    def _parameters(self, z_hat: NDArray) -> Sequence[Floats]:
        """Scales and means ``(M, h, w)``, computed in double precision and rounded once."""
        return np.split(self.h_s(z_hat.astype(np.float64)).astype(np.float32), 2)

    def _read(self, reading: Reading, strings: Sequence[bytes], shape: Shape) -> Floats:
        scales, means = self._parameters(self.bottleneck.read(reading, strings[1], shape))
        reading.begin(strings[0])
        return self.gaussian.read(reading, scales, means)

    def _write(
        self, writing: Writing, y: Floats, z: Floats | None
    ) -> tuple[tuple[bytes, ...], Shape]:
        assert z is not None
        z_string, z_hat = self.bottleneck.write(writing, z)
        scales, means = self._parameters(z_hat)
        writing.begin()
        self.gaussian.write(writing, y, scales, means)
        return (writing.end(), z_string), (z.shape[1], z.shape[2])


class Channelwise(EntropyModel):
    """The latent slice after slice, in doubles, as ``lic_da.codecs.models.zou2022_variable`` codes it."""

    strings = 2

    def __init__(self, settings: Mapping[str, Any], tensors: Mapping[str, NDArray]) -> None:
        super().__init__(settings, tensors)
        self.gaussian = Gaussian(tensors)
        self.support, self.steepest = int(settings["support"]), float(settings["steepest"])
        self.least_scale = float(settings["least_scale"])
        self.h_s = Layers(settings["h_s"], tensors, "h_s")
        self.parameters, self.residuals = (
            [Layers(net, tensors, f"{name}.{i}") for i, net in enumerate(settings[name])]
            for name in ("parameter_nets", "residual_nets")
        )
        self.gain, self.inverse, self.hyper_gain, self.hyper_inverse = (
            tensors[name].astype(np.float64)[:, None, None]
            for name in ("gain", "inverse", "hyper_gain", "hyper_inverse")
        )
        if not self.parameters or len(self.inverse) % len(self.parameters):
            raise ValueError("the latent cannot be cut into its slices")

    def gained(self, y: Floats) -> Floats:
        return y * self.gain.astype(np.float32)

    def hyper_gained(self, z: Floats) -> Floats:
        return z * self.hyper_gain.astype(np.float32)

    def _least_bits(self, shape: Shape) -> float:
        each = self._hyper(np.zeros((len(self.bottleneck.tables), 1, 1)))[0].size
        return super()._least_bits(shape) + self.gaussian.least_bits(each * shape[0] * shape[1])

    def _hyper(self, z_hat: NDArray) -> tuple[Array, Array]:
        """Means and scales that the hyper-synthesis states."""
        scales, means = np.split(self.h_s(z_hat * self.hyper_inverse), 2)
        return means, np.maximum(scales, self.least_scale)

    def _latent(self, z_hat: Floats, code: Any) -> Array:
        """What of ŷ is coded, ``(M, h, w)``; code(i, scales, means) reads or writes a slice."""
        means, scales = self._hyper(z_hat)
        logarithms = np.log(scales)
        width = len(means) // len(self.parameters)
        done: list[Array] = []
        for i, (net, residual_net) in enumerate(zip(self.parameters, self.residuals, strict=True)):
            support, own = done[: self.support], slice(i * width, (i + 1) * width)
            mean, scale = np.split(net(np.concatenate([means, logarithms, *support])), 2)
            steep = self.steepest * np.tanh(scale / self.steepest)
            y_hat = code(i, scales[own] * np.exp(steep), means[own] + mean)
            residual = residual_net(np.concatenate([means, *support, y_hat]))
            done.append(y_hat + 0.5 * np.tanh(residual))
        return np.concatenate(done)

    def _read(self, reading: Reading, strings: Sequence[bytes], shape: Shape) -> Floats:
        z_hat = self.bottleneck.read(reading, strings[1], shape)
        reading.begin(strings[0])
        coded = self._latent(
            z_hat, lambda i, scales, means: self.gaussian.read(reading, scales, means)
        )
        return (coded * self.inverse).astype(np.float32)

    def _write(
        self, writing: Writing, y: Floats, z: Floats | None
    ) -> tuple[tuple[bytes, ...], Shape]:
        assert z is not None
        z_string, z_hat = self.bottleneck.write(writing, z)
        slices = np.split(y, len(self.parameters))
        writing.begin()
        self._latent(
            z_hat,
            lambda i, scales, means: self.gaussian.write(writing, slices[i], scales, means),
        )
        return (writing.end(), z_string), (z.shape[1], z.shape[2])


def _tables(tensors: Mapping[str, NDArray], name: str) -> Tables:
    cdf, lengths, offsets = (tensors[f"{name}.{part}"] for part in ("cdf", "lengths", "offsets"))
    if any(part.dtype.kind != "i" for part in (cdf, lengths, offsets)):
        raise ValueError(f"the tables of the {name} are no integers")
    return Tables.of(cdf, lengths, offsets)
