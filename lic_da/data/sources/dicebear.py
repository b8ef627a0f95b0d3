"""Avatars that the packages of DiceBear draw."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from lic_da.data.licences import (
    Terms,
    dicebear_terms,
)
from lic_da.data.sources.base import Source, SourceUnavailable, unpack_folder
from lic_da.errors import unknown
from lic_da.io.files import read_json


@dataclass
class DiceBearSource(Source):
    """Drawings that the PyPI package dicebear-core puts together from seeds.

    Args:
        style: one of the styles in the package dicebear-styles.
        count: how many drawings.
    """

    style: str = ""
    count: int = 100

    @property
    def label(self) -> str:
        return f"DiceBear style {self.style}"

    def terms(self, store: Path) -> Terms:
        """See :meth:`Source.terms`."""
        spec = importlib.util.find_spec("dicebear_styles")
        folder = Path(next(iter(spec.submodule_search_locations or [""]))) if spec else Path()
        return dicebear_terms(folder / f"{self.style}.json")

    def root(self, store: Path) -> Path:
        target = store / f"dicebear-{self.style}-{self.count}"
        if target.is_dir():
            return target
        spec = importlib.util.find_spec("dicebear_styles")
        if spec is None or importlib.util.find_spec("dicebear") is None:
            raise SourceUnavailable(
                "The PyPI packages dicebear-core and dicebear-styles are missing."
            )
        import dicebear

        styles = Path(next(iter(spec.submodule_search_locations or [])))
        if not (styles / f"{self.style}.json").is_file():
            raise unknown(
                "DiceBear style", self.style, sorted(p.stem for p in styles.glob("*.json"))
            )
        style = dicebear.Style(read_json(styles / f"{self.style}.json"))
        with unpack_folder(target) as folder:
            for seed in range(self.count):
                drawing = dicebear.Avatar(style, {"seed": f"{self.style}-{seed}"}).to_string()
                (folder / f"{self.style}-{seed:04d}.svg").write_text(drawing, encoding="utf-8")
        return target
