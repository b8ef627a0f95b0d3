"""Icon sets in Iconify's JSON form, which many npm packages carry: one file, a drawing an entry."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

from lic_da.data.sources.base import unpack_folder
from lic_da.data.sources.packages import NpmSource
from lic_da.errors import UserError
from lic_da.io.files import read_json

_PIXELS = 512  # what a drawing says of its size; it is drawn at SVG_SIZE anyway


@dataclass
class IconSetSource(NpmSource):
    """Drawings of an icon set: ``icons.json`` of an npm package ``@iconify-json/…``.

    Each entry becomes an SVG file, black where the set has no colours of its own, in the middle of a
    white square with some margin.

    Args:
        margin: white around a drawing, as a share of its side.
    """

    margin: float = 0.06

    def root(self, store: Path) -> Path:
        """See :meth:`Source.root`.

        Raises:
            UserError: the package holds no icon set.
        """
        package = super().root(store)
        digest = hashlib.sha256(str(self.margin).encode()).hexdigest()[:8]
        target = package.with_name(f"{package.name}-svg-{digest}")
        if target.is_dir():
            return target
        try:
            found = read_json(package / "package" / "icons.json")
            icons = {str(name): icon for name, icon in found["icons"].items()}
            sides = [float(found.get(key, 16)) for key in ("width", "height")]
        except (OSError, KeyError, AttributeError, TypeError, ValueError):
            raise UserError(f"The {self.label} holds no icon set (package/icons.json).") from None
        with unpack_folder(target) as folder:
            for name, icon in sorted(icons.items()):
                if icon.get("hidden"):
                    continue
                drawing = self._svg(
                    str(icon["body"]),
                    *(float(icon.get(k, s)) for k, s in zip(_SIDES, sides, strict=True)),
                )
                (folder / f"{name.replace('/', '-')}.svg").write_text(drawing, encoding="utf-8")
        return target

    def _svg(self, body: str, width: float, height: float) -> str:
        space = self.margin * max(width, height)
        box = f"{-space:g} {-space:g} {width + 2 * space:g} {height + 2 * space:g}"
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox={quoteattr(box)} width="{_PIXELS}" height="{_PIXELS}" color="black">{body}</svg>'
        )


_SIDES = ("width", "height")
