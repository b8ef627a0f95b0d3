"""Writing an exported pack, and trying it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lic_da.codecs.image_codec import ImageCodec
from lic_da.codecs.spatial import tiling
from lic_da.errors import NotWritable, UserError
from lic_da.io.bitstream import Stream
from lic_da.io.files import appearing, user_path, write_text
from lic_da.methods.adapters.codec import AdaptedCodec
from lic_da.methods.adapters.export.entropy import array, entropy_of
from lic_da.methods.adapters.export.errors import ExportError
from lic_da.methods.adapters.export.graphs import OPSET, geometry_of, quiet, write_graphs
from lic_da.runtime import manifest as exported
from lic_da.surroundings import package_version

_ROUNDED = 1e-6  # of ŷ, whose values have steps of 1
_CHECKED = (80, 208)  # height and width of the image that exports are checked with


def export(
    codec: ImageCodec, folder: Path, *, overwrite: bool = False, torch_too: bool = False
) -> dict[str, Any]:
    """Write a codec for :class:`lic_da.runtime.Decoder`; the folder appears whole or not at all.

    Args:
        codec: of a pack.
        folder: where to.
        overwrite: replace what was exported there before.
        torch_too: write ``synthesis.pt2`` too, for ``torch.export.load``: ``(y_hat, v)`` to ``x_hat``.

    Returns:
        The manifest.

    Raises:
        ExportError: it cannot be exported, or the folder is there.
        UserError: its adapters stay in a file.
    """
    folder = Path(os.path.realpath(user_path(folder)))
    _check_free(folder, overwrite)
    _check_installed()
    if not isinstance(codec, AdaptedCodec):
        raise ExportError(
            "method",
            f"Packs of method adapters can be exported, but this one is of method {codec.method}.",
        )
    _check_the_runtime_has(codec)
    codec.bank_in_memory("exported")
    settings, tensors = entropy_of(codec.codec)
    with _appearing(folder) as temporary:
        geometry = geometry_of(codec)
        with quiet():
            write_graphs(codec, temporary, geometry, torch_too)
        with (temporary / exported.TABLES).open("wb") as file:
            np.savez(file, **tensors)  # type: ignore[arg-type]
        content = _manifest(codec, geometry, settings, temporary)
        write_text(temporary / exported.MANIFEST, json.dumps(content, indent=1) + "\n")
        _check(codec, temporary)
    return content


def _check_free(folder: Path, overwrite: bool) -> None:
    """Raise an ExportError if anything would be lost in a folder that is written to."""
    if not folder.exists():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        ours = (folder / exported.MANIFEST).is_file()
        if not (ours and overwrite):
            hint = "--overwrite replaces it" if ours else "name another, or an empty one"
            raise ExportError("exists", f"{folder} exists; {hint}.")


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """As :func:`lic_da.io.files.appearing`; of an earlier export that had more nothing stays.

    Raises:
        ExportError: nothing can be written there.
    """
    try:
        with appearing(folder, exported.MANIFEST, exported.FILES) as temporary:
            yield temporary
    except NotWritable as error:
        raise ExportError("not_writable", str(error)) from error


def _check_installed() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            raise ExportError(
                "not_installed",
                f"Exporting needs {package}, which is not installed: pip install 'lic-da[export]'.",
            ) from None


def _check_the_runtime_has(codec: AdaptedCodec) -> None:
    """Raise an ExportError if decoding takes what the runtime does not do."""
    if codec.synthesis.trust is not None:
        raise ExportError(
            "calibration",
            "The gate of this pack is calibrated (gate.calibration=learned), which the runtime lacks.",
        )
    if codec.synthesis.spatial != "image":
        raise ExportError(
            "spatial",
            "This pack finds a v for each region of an image (gate.spatial=window), which the runtime "
            "cannot: --spatial image exports it with one v an image.",
        )
    if codec.synthesis.points is not None:
        raise ExportError(
            "points",
            f"This pack has reconstruction points (points={codec.adapter_config.points}), "
            "which the runtime lacks.",
        )


def _manifest(
    codec: AdaptedCodec, geometry: tiling.Geometry, entropy: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    synthesis = codec.synthesis
    files = {
        file.name: {
            "bytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for file in sorted(folder.iterdir())
    }
    return {
        "format": 1 if geometry.grid == 1 else exported.FORMAT,
        "made_with": {"lic_da": package_version(), "torch": torch.__version__, "opset": OPSET},
        "codec": {
            "name": codec.config.name,
            "quality": int(codec.config.quality),
            "fingerprint": codec.fingerprint,
            "stride": codec.stride,
            "channels": int(codec.codec.M),
        },
        "domains": list(codec.domains),
        "blend": synthesis.mode,
        "gate": {"input": synthesis.gate_input, "threshold": float(synthesis.threshold)},
        "geometry": {
            "scale": geometry.scale,
            "halo": geometry.halo,
            "bytes": geometry.bytes_each,
            **({} if geometry.grid == 1 else {"grid": geometry.grid}),
        },
        "entropy": entropy,
        "files": files,
    }


def _check(codec: AdaptedCodec, folder: Path) -> None:
    """Encode an image by torch, decode it by torch and by the runtime, and compare.

    Raises:
        ExportError: symbols of the latent differ at all, ŷ by more than its rounding, or images by
            more than one of 255 levels.
    """
    from lic_da.runtime import Decoder

    height, width = _CHECKED
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([(3 * rows + columns) % 256, rows * columns // 64 % 256, columns], axis=-1)
    stream = Stream.from_bytes(codec.compress(image.astype(np.uint8)))
    try:
        decoder = Decoder(folder)
        # The stream's checksum holds symbols to the bit; what is predicted beside them is rounded once.
        apart = decoder.latent(stream) - array(codec.latent(stream))[0]
        modes = [(mode, codec.domains[-1] if mode == "oracle" else None) for mode in codec.modes]
        differences = [
            decoder.decompress(stream, *how).astype(int) - codec.decompress(stream, *how)
            for how in modes
        ]
    except UserError as error:
        raise ExportError("different", f"What was exported cannot be decoded: {error}") from error
    if np.abs(apart).max() > _ROUNDED or max(np.abs(d).max() for d in differences) > 1:
        raise ExportError("different", "The runtime decodes to another image than torch does.")
