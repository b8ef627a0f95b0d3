"""An exported pack, ready to decode and encode images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from lic_da.errors import UserError, check_domain, unknown
from lic_da.io.bitstream import CHOSEN_UNITS, Stream, StreamError, check_fits, no_weights
from lic_da.io.files import user_path
from lic_da.io.shown import RGB, as_rgb
from lic_da.runtime.entropy import (
    Channelwise,
    EntropyModel,
    Factorized,
    Floats,
    MeanScaleHyperprior,
)
from lic_da.runtime.manifest import (
    ENTROPY,
    TABLES,
    ExportedFilesError,
    Manifest,
)
from lic_da.spans import Span, spans, tile_side

MODES = ("weighted", "top1", "oracle", "base")
"""v as the gate says; one-hot of its argmax; one-hot of a given domain; no adapters."""

MEMORY = 1 << 28
"""Bytes of activations; larger images are coded in tiles."""

_WIDE = 8  # halos: so wide is a tile with its halo at least, where nobody has said how much memory there is

_MODELS: dict[str, type[EntropyModel]] = {
    "factorized": Factorized,
    "mean_scale_hyperprior": MeanScaleHyperprior,
    "channelwise": Channelwise,
}
assert tuple(_MODELS) == ENTROPY
_ERRORS_ONLY = 3


class _Exported:
    """What decoder and encoder have in common: a folder's manifest, entropy model and graphs."""

    def __init__(self, folder: Path | str, threads: int | None, memory: int | None) -> None:
        self.folder = user_path(folder)
        self.manifest = Manifest.read(self.folder)
        wide = (_WIDE * (self.manifest.halo or 0)) ** 2 * self.manifest.tile_bytes
        self.memory = max(MEMORY, wide) if memory is None else memory
        self._threads = threads
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self._entropy = self._entropy_model()

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, the source first."""
        return self.manifest.domains

    def _entropy_model(self) -> EntropyModel:
        settings = self.manifest.entropy
        model = _MODELS.get(str(settings.get("kind")))
        if model is None:
            raise ExportedFilesError(
                f"{self.folder} has an entropy model {settings.get('kind')!r}; there are "
                f"{', '.join(ENTROPY)}."
            )
        tensors = self.manifest.tensors(self.folder)
        try:
            return model(settings, tensors)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ExportedFilesError(
                f"{self.folder / TABLES} does not hold the tables of a {settings['kind']} model "
                f"({type(error).__name__}: {error})."
            ) from error

    def _run(self, graph: str, **inputs: Floats) -> Floats:
        """The one output of a graph, which is loaded when it is first used."""
        session = self._sessions.get(graph)
        try:
            if session is None:
                options = onnxruntime.SessionOptions()
                options.log_severity_level = _ERRORS_ONLY
                options.intra_op_num_threads = self._threads or 0
                session = onnxruntime.InferenceSession(
                    self.manifest.content(self.folder, graph), options, ["CPUExecutionProvider"]
                )
                self._sessions[graph] = session
            (output,) = session.run(None, inputs)
        except UserError:
            raise
        except Exception as error:  # onnxruntime's exceptions have no base of their own
            raise ExportedFilesError(
                f"{self.folder / graph} cannot be computed ({' '.join(str(error).split())})."
            ) from error
        return np.asarray(output)

    def _gate(self, latent: Floats) -> Floats:
        """V ``(K+1,)`` that the gate states for a latent ``(M, h, w)``."""
        return self._run("gate.onnx", y_hat=latent[None])[0]

    def _tiles(self, rows: int, columns: int) -> Iterator[tuple[Span, Span]]:
        """Parts of a latent that are computed one after another."""
        halo, grid = self.manifest.halo, self.manifest.grid
        side = tile_side(rows, columns, halo, grid, self.manifest.tile_bytes, self.memory)
        for row in spans(rows, side, halo or 0, grid):
            for column in spans(columns, side, halo or 0, grid):
                yield row, column


class Decoder(_Exported):
    """Decodes streams by the merged synthesis of an exported pack.

    Args:
        folder: what ``lic-da export PACK DIR`` has written.
        threads: of onnxruntime; None: as many as it takes by itself, one for each core.
        memory: bytes of activations; larger images are decoded in tiles. None: 256 MiB, or what tiles take
            that are wide beside their surroundings.

    Attributes:
        folder: where it was read.
        manifest: what it says of itself.

    Raises:
        ExportedFilesError: the folder is no exported pack, is damaged, or is of a newer format.

    Example:
        >>> decoder = Decoder("exported")
        >>> image = decoder.decompress(Path("a.lic").read_bytes())
    """

    def __init__(
        self, folder: Path | str, *, threads: int | None = None, memory: int | None = None
    ) -> None:
        super().__init__(folder, threads, memory)

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
            mode: one of ``MODES``; None: the pack's.
            domain: for ``oracle``, the domain whose adapters to use.
            blend: earlier name of ``mode``.

        Returns:
            ``(H, W, 3)`` uint8 array.

        Raises:
            StreamError: the bytes are no stream or a damaged one, it was made with other weights, or its
                latent decodes to other values than were encoded.
            UserError: there is no such mode or domain.
        """
        mode = mode or blend or self.manifest.mode
        self.check_mode(mode, domain)
        stream = data if isinstance(data, Stream) else Stream.from_bytes(data)
        y_hat = self.latent(stream)
        v = self._weights(stream, y_hat, mode, domain)
        scale = self.manifest.scale
        pixels = np.empty((stream.height, stream.width, 3), np.uint8)
        for row, column in self._tiles(*y_hat.shape[1:]):
            part = pixels[row.wanted(scale), column.wanted(scale)]
            if not part.size:  # all of it is padding
                continue
            seen = np.ascontiguousarray(y_hat[None, :, row.computed(), column.computed()])
            x_hat = self._run("synthesis.onnx", y_hat=seen, v=v[None])[0]
            x_hat = x_hat[:, row.inside(scale), column.inside(scale)]
            x_hat = x_hat[:, : part.shape[0], : part.shape[1]] * np.float32(255)
            part[:] = np.rint(x_hat, out=x_hat).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
        return pixels

    def check_mode(self, mode: str, domain: str | None = None) -> None:
        """Raise a UserError unless mode and domain exist and go together."""
        if mode not in MODES:
            raise unknown("mode", mode, MODES)
        check_domain(mode, domain, self.domains)

    def latent(self, stream: Stream) -> Floats:
        """ŷ ``(M, h, w)`` of a stream that is one of this codec, and decodes to what was encoded.

        Raises:
            StreamError: it is not, or does not.
        """
        manifest = self.manifest
        if stream.fingerprint != manifest.fingerprint[:8]:
            raise StreamError(
                f"The stream was made with weights {stream.fingerprint.hex()}…, but {self.folder} is of "
                f"{manifest.name}, quality {manifest.quality} ({manifest.fingerprint[:8].hex()}…). Use "
                "the codec that wrote it."
            )
        padded = [-(-side // manifest.stride) for side in (stream.height, stream.width)]
        if list(stream.shape) != padded:
            raise StreamError("The stream's latent does not have the size that its image needs.")
        y_hat, checksum = self._entropy.decode(stream.strings, stream.shape)
        if checksum != stream.latent_crc:
            raise StreamError(
                "The latents decode to other values than were encoded, so the image would be garbage. "
                "The stream was probably written by another version of the codec or other hardware."
            )
        return y_hat

    def gate_weights(self, data: bytes | Stream) -> dict[str, float]:
        """V of the mode ``weighted`` for a stream, by domain: signalled in it, or the gate's.

        Raises:
            StreamError: as :meth:`decompress`.
        """
        stream = data if isinstance(data, Stream) else Stream.from_bytes(data)
        v = self._weights(stream, self.latent(stream), "weighted", None)
        return dict(zip(self.domains, v.tolist(), strict=True))

    def _weights(self, stream: Stream, y_hat: Floats, mode: str, domain: str | None) -> Floats:
        """V ``(K+1,)`` of a mode."""
        count = len(self.domains)
        chosen = None if mode == "top1" else stream.chosen
        own = chosen or stream.v
        if own is not None and len(own) != count and mode in ("weighted", "top1"):
            raise StreamError(
                f"The stream has weights for {len(own)} domains, but {self.folder} has {count}: "
                f"{', '.join(self.domains)}. Use the pack it was made with."
            )
        if mode == "base":
            return np.zeros(count, np.float32)
        if mode == "oracle":
            return _one_hot(self.domains.index(str(domain)), count)
        if chosen is not None:
            return np.array(chosen, np.float32) / CHOSEN_UNITS
        if stream.v is not None:
            v = np.frombuffer(stream.v, np.uint8).astype(np.float32)
            v /= v.sum()
        elif self.manifest.gate_input == "signalled":
            raise StreamError(no_weights(stream))
        else:
            v = self._gate(y_hat)
        if mode == "top1":
            return _one_hot(int(v.argmax()), count)
        kept = np.where((v >= self.manifest.threshold) | (v == v.max()), v, np.float32(0))
        return kept / kept.sum() if self.manifest.threshold else v


class Encoder(_Exported):
    """Writes streams; they are those of the base codec, whatever the adapters are.

    The analysis is computed in single precision by other code than torch's: a value of the latent that lies
    in the middle between two integers may be rounded the other way, so strings may differ from those that
    torch writes. Every decoder reads both.

    Args:
        folder: what ``lic-da export PACK DIR`` has written.
        threads: of onnxruntime; None: as many as it takes by itself, one for each core.
        memory: bytes of activations; larger images are encoded in tiles. None: 256 MiB, or what tiles take
            that are wide beside their surroundings.

    Raises:
        ExportedFilesError: the folder is no exported pack, is damaged, or is of a newer format.
    """

    def __init__(
        self, folder: Path | str, *, threads: int | None = None, memory: int | None = None
    ) -> None:
        super().__init__(folder, threads, memory)

    def compress(self, image: Any, *, mode: str | None = None) -> bytes:
        """Code an image.

        Args:
            image: ``(H, W, 3)`` uint8 array, or a PIL image, which is taken as a viewer shows it:
                upright, on white, in sRGB.
            mode: ``base``: write no v, also where the pack's encoder signals it; None, or the pack's.

        Returns:
            Contents of a ``.lic`` file.

        Raises:
            UserError: it is no such image, or smaller than 16 or larger than a stream can state; or there
                is no such mode.
        """
        if mode not in (None, *MODES):
            raise unknown("mode", mode, MODES)
        pixels = as_rgb(image)
        height, width = pixels.shape[:2]
        stride = self.manifest.stride
        check_fits(width, height, stride)
        beyond = ((0, -height % stride), (0, -width % stride), (0, 0))
        y = self._analysed(np.pad(pixels, beyond, mode="edge"))
        coded = self._entropy.gained(y)
        strings, shape, checksum = self._entropy.encode(coded, self._hyper(coded))
        stream = Stream(
            self.manifest.fingerprint[:8], width, height, shape, strings, checksum,
            self._signalled(y) if mode != "base" else None,
        )  # fmt: skip
        return stream.to_bytes()

    def _analysed(self, pixels: RGB) -> Floats:
        """Y ``(M, h, w)`` of an image whose sides are multiples of the stride."""
        scale = self.manifest.scale
        rows, columns = (side // scale for side in pixels.shape[:2])
        y = np.empty((self.manifest.channels, rows, columns), np.float32)
        for row, column in self._tiles(rows, columns):
            part = pixels[row.computed(scale), column.computed(scale)]
            x = np.ascontiguousarray(part.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
            seen = self._run("analysis.onnx", x=x)[0]
            y[:, row.wanted(), column.wanted()] = seen[:, row.inside(), column.inside()]
        return y

    def _hyper(self, y: Floats) -> Floats | None:
        if self._entropy.strings == 1:
            return None
        return self._entropy.hyper_gained(self._run("hyper_analysis.onnx", y=y[None])[0])

    def _signalled(self, y: Floats) -> bytes | None:
        """V in 255ths, where the encoder sends it."""
        if self.manifest.gate_input != "signalled":
            return None
        return np.rint(self._gate(y) * np.float32(255)).astype(np.uint8).tobytes()


def _one_hot(label: int, count: int) -> Floats:
    v = np.zeros(count, np.float32)
    v[label] = 1
    return v
