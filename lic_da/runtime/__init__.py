"""Decoding (and encoding) of ``.lic`` streams without torch: numpy, Pillow and onnxruntime.

>>> from lic_da.runtime import Decoder
>>> image = Decoder("exported").decompress(data)

``lic-da export PACK DIR`` writes what is read here; the page *Runtime* of the documentation describes it.
This package imports nothing of lic_da but ``lic_da.io.bitstream`` and ``lic_da.errors``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lic_da.runtime.manifest import FORMAT, ExportedFilesError

if TYPE_CHECKING:
    from lic_da.runtime.codec import MODES, Decoder, Encoder

__all__ = ["FORMAT", "MODES", "Decoder", "Encoder", "ExportedFilesError"]


def __getattr__(name: str) -> Any:
    """What needs onnxruntime, when it is first asked for; ``lic-da export`` says that it is missing."""
    if name in __all__:
        return getattr(importlib.import_module("lic_da.runtime.codec"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
