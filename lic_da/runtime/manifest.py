"""The folder that ``lic-da export`` writes, and reading it without believing it.

::

    manifest.json        format, codec, domains, geometry, and size and SHA-256 of every other file
    tables.npz           tables of the entropy coder; networks that are computed in double precision
    synthesis.onnx       y_hat (1, M, h, w), v (1, K+1) -> x_hat (1, 3, H, W); W + Σ v_k A_k inside
    gate.onnx            y_hat (1, M, h, w) -> v (1, K+1)
    analysis.onnx        x (1, 3, H, W) -> y (1, M, h, w)
    hyper_analysis.onnx  y (1, M, h, w) -> z (1, C, h', w'), of codecs that have one

The names of the files are fixed and no path is read from the manifest, nor anything that says which code
is run: kinds are looked up among those that are here.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lic_da.errors import UserError

FORMAT = 2
"""Newest format of the folder; one that a reader of before could read has the number of before.

2: images are cut on a grid.
"""

MANIFEST = "manifest.json"
TABLES = "tables.npz"
GRAPHS = ("synthesis.onnx", "gate.onnx", "analysis.onnx", "hyper_analysis.onnx")
TORCH = "synthesis.pt2"
"""For ``torch.export.load``; the runtime does not read it."""
FILES = (*GRAPHS, TORCH, TABLES, MANIFEST)
"""All that an export may consist of."""
ENTROPY = ("factorized", "mean_scale_hyperprior", "channelwise")
GATE_INPUTS = ("latent", "signalled")

_MOST_BYTES = 1 << 31
_MANIFEST_BYTES = 1 << 20
_LARGEST = 1024
_DOMAINS = 256


class ExportedFilesError(UserError):
    """A folder that is not what ``lic-da export`` writes, is damaged, or is of a newer format."""


@dataclass(frozen=True)
class Manifest:
    """What ``manifest.json`` says.

    Attributes:
        name: of the codec.
        quality: of the codec.
        fingerprint: SHA-256 of the base weights, 32 bytes; streams carry the first 8.
        stride: sides of coded images are padded to multiples of this.
        channels: M, of the latent.
        scale: pixels that an element of the latent is wide and high.
        halo: elements of the latent around a tile that its pixels depend on; None: images are not cut.
        grid: tiles begin at multiples of so many elements of the latent, and the halo is one.
        tile_bytes: bytes of activations for an element of the latent.
        domains: names, the source first.
        mode: that images are decoded with if none is asked for.
        gate_input: ``latent``, or ``signalled`` where the encoder writes v into the stream.
        threshold: v below it counts as zero.
        entropy: which entropy model it is, with its layers.
        files: name -> (bytes, SHA-256).
    """

    name: str
    quality: int
    fingerprint: bytes
    stride: int
    channels: int
    scale: int
    halo: int | None
    grid: int
    tile_bytes: int
    domains: tuple[str, ...]
    mode: str
    gate_input: str
    threshold: float
    entropy: Mapping[str, Any]
    files: Mapping[str, tuple[int, str]]

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read and check the manifest of a folder.

        Raises:
            ExportedFilesError: there is none, or it is not one that this version reads.
        """
        content = _json(folder)
        number = content.get("format")
        if type(number) is not int or number < 1:
            raise ExportedFilesError(
                f"{folder / MANIFEST} has no format: it is no exported pack's."
            )
        if number > FORMAT:
            raise ExportedFilesError(
                f"{folder} has format {number}, and this version of lic_da reads exported packs up to "
                f"format {FORMAT}: install a newer one, or export the pack again with this one."
            )
        fields = _Fields(content, folder / MANIFEST)
        grid = fields.whole("geometry.grid", 1) if number > 1 else 1
        halo = None if fields.get("geometry.halo") is None else fields.whole("geometry.halo", 0)
        if (halo or 0) % grid:
            raise ExportedFilesError(
                f"{folder / MANIFEST}: geometry.halo is {halo}, not a multiple of geometry.grid, {grid}."
            )
        return cls(
            name=fields.text("codec.name"),
            quality=fields.whole("codec.quality", 0),
            fingerprint=fields.sha256("codec.fingerprint"),
            stride=fields.whole("codec.stride", 1),
            channels=fields.whole("codec.channels", 1),
            scale=fields.whole("geometry.scale", 1),
            halo=halo,
            grid=grid,
            tile_bytes=fields.whole("geometry.bytes", 1, 1 << 30),
            domains=fields.domains("domains"),
            mode=fields.text("blend"),
            gate_input=fields.one_of("gate.input", GATE_INPUTS),
            threshold=fields.share("gate.threshold"),
            entropy=fields.mapping("entropy"),
            files=fields.files("files"),
        )

    def content(self, folder: Path, name: str) -> bytes:
        """Bytes of one of the folder's files, after its size and hash were compared.

        Raises:
            ExportedFilesError: it is missing or is not the one that was exported.
        """
        if name not in self.files:
            raise ExportedFilesError(f"{folder / MANIFEST} lists no {name}: it is damaged.")
        size, digest = self.files[name]
        try:
            with open(folder / name, "rb") as file:
                content = file.read(size + 1)
        except OSError as error:
            raise ExportedFilesError(
                f"{folder / name} cannot be read ({error.strerror})."
            ) from error
        if len(content) != size or hashlib.sha256(content).hexdigest() != digest:
            raise ExportedFilesError(
                f"{folder / name} is not the file that {MANIFEST} names: it is damaged, or of another "
                "export. Export the pack again."
            )
        return content

    def tensors(self, folder: Path) -> dict[str, NDArray]:
        """Arrays of ``tables.npz``.

        Raises:
            ExportedFilesError: as :meth:`content`, or it holds something else.
        """
        content = self.content(folder, TABLES)
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > len(content):
                    raise ValueError("its arrays are packed")
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ExportedFilesError(
                f"{folder / TABLES} holds no plain arrays ({error})."
            ) from error


def _json(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    try:
        with open(file, "rb") as opened:
            content = opened.read(_MANIFEST_BYTES + 1)
    except OSError:
        hint = " It is a pack: 'lic-da export PACK DIR' makes such a folder of it."
        is_pack = (folder / "config.yaml").is_file()
        raise ExportedFilesError(
            f"{folder} is no exported pack: it has no {MANIFEST}.{hint if is_pack else ''}"
        ) from None
    try:
        if len(content) > _MANIFEST_BYTES:
            raise ValueError("it is too long")
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ExportedFilesError(f"{file} cannot be read as JSON ({error}).") from error
    if not isinstance(found, dict):
        raise ExportedFilesError(f"{file} holds no settings.")
    return found


class _Fields:
    """Values of a manifest by dotted names, each checked to be of its kind."""

    def __init__(self, content: Mapping[str, Any], file: Path) -> None:
        self._content = content
        self._file = file

    def get(self, key: str) -> Any:
        value: Any = self._content
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    def _wrong(self, key: str, wanted: str) -> ExportedFilesError:
        return ExportedFilesError(f"{self._file}: {key} is {self.get(key)!r}, not {wanted}.")

    def text(self, key: str) -> str:
        value = self.get(key)
        if not isinstance(value, str) or not value:
            raise self._wrong(key, "a name")
        return value

    def one_of(self, key: str, known: tuple[str, ...]) -> str:
        value = self.get(key)
        if value not in known:
            raise self._wrong(key, f"one of {', '.join(known)}")
        return str(value)

    def whole(self, key: str, least: int, most: int = _LARGEST) -> int:
        value = self.get(key)
        if type(value) is not int or not least <= value <= most:
            raise self._wrong(key, f"a whole number from {least} to {most}")
        return value

    def share(self, key: str) -> float:
        value = self.get(key)
        if type(value) not in (int, float) or not 0 <= value < 1:
            raise self._wrong(key, "a number from 0 to below 1")
        return float(value)

    def sha256(self, key: str) -> bytes:
        try:
            value = bytes.fromhex(self.get(key))
        except (TypeError, ValueError):
            value = b""
        if len(value) != 32:
            raise self._wrong(key, "a SHA-256")
        return value

    def domains(self, key: str) -> tuple[str, ...]:
        value = self.get(key)
        good = isinstance(value, list) and all(isinstance(name, str) for name in value)
        if not good or not 1 <= len(value) <= _DOMAINS:
            raise self._wrong(key, f"a list of 1 to {_DOMAINS} names")
        return tuple(value)

    def mapping(self, key: str) -> Mapping[str, Any]:
        value = self.get(key)
        if not isinstance(value, Mapping):
            raise self._wrong(key, "a table of settings")
        return value

    def files(self, key: str) -> dict[str, tuple[int, str]]:
        listed = self.mapping(key)
        unknown = sorted(listed.keys() - {TABLES, TORCH, *GRAPHS})
        if unknown:
            raise ExportedFilesError(f"{self._file} lists {unknown[0]!r}, which is no file of its.")
        # Names of files hold dots, so they are not looked up as keys.
        found = {}
        for name, entry in listed.items():
            own = _Fields(entry if isinstance(entry, Mapping) else {}, self._file)
            found[name] = own.whole("bytes", 1, _MOST_BYTES), own.sha256("sha256").hex()
        return found
