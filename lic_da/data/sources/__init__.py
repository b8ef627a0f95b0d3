"""Where the images of a domain come from, a file a kind."""

from lic_da.data.sources.base import Found, Source, SourceUnavailable
from lic_da.data.sources.dicebear import DiceBearSource
from lic_da.data.sources.folder import FolderSource
from lic_da.data.sources.huggingface import HuggingFaceSource
from lic_da.data.sources.packages import DebianSource, NpmSource, PypiSource

__all__ = [
    "DebianSource",
    "DiceBearSource",
    "FolderSource",
    "Found",
    "HuggingFaceSource",
    "NpmSource",
    "PypiSource",
    "Source",
    "SourceUnavailable",
]
