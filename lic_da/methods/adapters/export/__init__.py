"""Exporting a pack for decoders without torch: ONNX graphs, tables of the entropy coder, a manifest.

What is written is described, and read, by :mod:`lic_da.runtime`. The synthesis graph holds base weights and
adapters as they are and merges them by v, its input. Every export is checked before it
appears: an image is encoded by torch and decoded by both.
"""

from lic_da.methods.adapters.export.errors import Code, ExportError
from lic_da.methods.adapters.export.program import export

__all__ = ["Code", "ExportError", "export"]
