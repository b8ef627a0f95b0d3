"""Decoder-side domain adaptation of learned image codecs.

>>> from lic_da import AdaptedCodec
>>> codec = AdaptedCodec.load("outputs/NAME/pack")
>>> image = codec.decompress(codec.compress(image))
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from lic_da import light_imports

if TYPE_CHECKING:
    from lic_da.methods.adapters.codec import AdaptedCodec
    from lic_da.methods.pack import load

__all__ = ["AdaptedCodec", "load"]

light_imports.install()

# CompressAI's own use of TorchScript; nothing that a user of lic_da could change.
warnings.filterwarnings("ignore", message=".*torch.jit.* is deprecated", category=FutureWarning)


def __getattr__(name: str) -> Any:
    """Import torch and what stands on it only when it is asked for."""
    if name == "AdaptedCodec":
        from lic_da.methods.adapters.codec import AdaptedCodec

        return AdaptedCodec
    if name == "load":
        from lic_da.methods.pack import load

        return load
    raise AttributeError(f"module 'lic_da' has no attribute '{name}'")
