"""Names for the fingerprints of base weights that come with the package. No torch in here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from lic_da.io.files import read_json, write_text

FINGERPRINTS = Path(__file__).resolve().parent / "weights" / "fingerprints.json"
"""SHA-256 of base weights -> codec and quality."""


class Base(NamedTuple):
    """A codec of a certain quality."""

    codec: str
    quality: int

    def __str__(self) -> str:
        return f"{self.codec}, quality {self.quality}"


def find(fingerprint: bytes) -> Base | None:
    """The base codec whose fingerprint begins with these bytes, if it is one of the package's."""
    for known, (codec, quality) in _read().items():
        if bytes.fromhex(known).startswith(fingerprint):
            return Base(codec, quality)
    return None


def describe(fingerprint: bytes) -> str:
    """Base weights in words: ``name, quality q (0123abcd…)``, the name as far as it is known."""
    base = find(fingerprint)
    return f"{base or 'unknown'} ({fingerprint[:8].hex()}…)"


def record(fingerprint: str, codec: str, quality: int, file: Path = FINGERPRINTS) -> None:
    """Note the fingerprint of a codec's weights in place of the one before."""
    known = {k: v for k, v in _read(file).items() if v != [codec, quality]}
    known[fingerprint] = [codec, quality]
    lines = (f' "{k}": {json.dumps(v)}' for k, v in sorted(known.items(), key=lambda kv: kv[1]))
    write_text(file, "{\n" + ",\n".join(lines) + "\n}\n")


def _read(file: Path = FINGERPRINTS) -> dict[str, list]:
    known: dict[str, list] = read_json(file) if file.is_file() else {}
    return known
