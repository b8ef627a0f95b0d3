"""Why a pack cannot be exported."""

from __future__ import annotations

from typing import Literal

from lic_da.errors import UserError

Code = Literal[
    "method",
    "calibration",
    "spatial",
    "points",
    "entropy_model",
    "layer",
    "different",
    "not_installed",
    "exists",
    "not_writable",
]
"""Why a pack cannot be exported, for programs: its method is not ``adapters``; its gate is calibrated, or
finds a v per region; it has reconstruction points; its entropy model is none that the runtime has, or
computes distributions in single precision; a layer has no counterpart; the runtime decodes to another
image; onnx, onnxscript or onnxruntime are missing; the folder is there already, or cannot be written."""


class ExportError(UserError):
    """A pack cannot be exported.

    Attributes:
        code: why, for programs; see :data:`Code`.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
