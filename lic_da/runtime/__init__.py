"""Decoding (and encoding) of ``.lic`` streams without torch: numpy, Pillow and onnxruntime.

>>> from lic_da.runtime import Decoder
>>> image = Decoder("exported").decompress(data)

``lic-da export PACK DIR`` writes what is read here; the page *Runtime* of the documentation describes it.
This package imports nothing of lic_da but ``lic_da.io.bitstream`` and ``lic_da.errors``.
"""

from lic_da.runtime.codec import MODES, Decoder, Encoder
from lic_da.runtime.manifest import FORMAT, ExportedFilesError

__all__ = ["FORMAT", "MODES", "Decoder", "Encoder", "ExportedFilesError"]
