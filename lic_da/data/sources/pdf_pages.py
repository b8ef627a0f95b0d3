"""Pages of PDF documents as images, drawn by pdfium (the package pypdfium2)."""

from __future__ import annotations

import hashlib
import importlib.util
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lic_da.data.licences import Terms
from lic_da.data.sources.base import Found, Source, SourceUnavailable, stated, unpack_folder
from lic_da.errors import UserError
from lic_da.io.files import read_json, write_json
from lic_da.io.listing import ends_in, files_of
from lic_da.io.lossless import save_png

_POINTS_AN_INCH = 72
_LEVEL = 6  # of zlib; the hashes of the files say which split they are in, so it stays
_UNREAD = ".unreadable.json"


@dataclass
class PdfPages(Source):
    """Pages of the PDF files of another source, as PNG images on white.

    Args:
        of: the source that holds the PDF files; its ``include`` and ``exclude`` choose among them.
        dpi: resolution, in pixels an inch.
        pages: at most this many pages, chosen by the hashes of their documents and numbers; None: all.
    """

    of: Source = field(default_factory=lambda: _missing())
    dpi: float = 100.0
    pages: int | None = None

    @property
    def label(self) -> str:
        """See :attr:`Source.label`."""
        return f"pages of {self.of.label}"

    def terms(self, store: Path) -> Terms:
        """Those of the source of the files."""
        return self.of.terms(store)

    def watched(self, store: Path) -> list[Any]:
        """Of a user's own folder: the PDF files, by name, size and time."""
        return stated(self._documents(store)) if self.of.of_the_user else []

    def _documents(self, store: Path) -> list[Found]:
        root = self.of.root(store)
        names = files_of(root, ends_in(".pdf")).names
        return [Found(root / name, name) for name in names if self.of.wanted(name)]

    def root(self, store: Path) -> Path:
        """See :meth:`Source.root`.

        Raises:
            UserError: there is no PDF file, or none that can be read.
        """
        if importlib.util.find_spec("pypdfium2") is None:
            raise SourceUnavailable(
                "Pages of PDF files need the PyPI package pypdfium2: run 'pip install pypdfium2'."
            )
        documents = self._documents(store)
        if not documents:
            raise UserError(f"There are no PDF files in {self.of.label}.")
        settings = f"{self.of.label}|{self.dpi}|{self.pages}|{stated(documents)}"
        target = store / f"pdf-{hashlib.sha256(settings.encode()).hexdigest()[:16]}"
        if not target.is_dir():
            with unpack_folder(target) as folder:
                self._draw(documents, folder)
        return target

    def files(self, store: Path) -> list[Found]:
        """See :meth:`Source.files`; documents that cannot be read are left out and counted."""
        found = super().files(store)
        unread = read_json(self.root(store) / _UNREAD)
        self.left_out = Counter({"PDF files that cannot be read": unread} if unread else {})
        return found

    def _draw(self, documents: list[Found], folder: Path) -> None:
        import pypdfium2

        opened: dict[str, Any] = {}
        for document in documents:
            try:
                opened[document.name] = pypdfium2.PdfDocument(document.path)
            except (pypdfium2.PdfiumError, OSError):
                continue
        if not opened:
            raise UserError(f"No PDF file in {self.of.label} can be read.")
        places = [(name, n) for name, pdf in opened.items() for n in range(len(pdf))]
        chosen = sorted(places, key=_key)[: self.pages]
        for name, number in sorted(chosen):
            image = opened[name][number].render(scale=self.dpi / _POINTS_AN_INCH).to_numpy()
            grey = image.shape[2] == 1
            pixels = image.repeat(3, axis=2) if grey else image[:, :, 2::-1]  # BGR
            stem = name.removesuffix(".pdf").replace("/", "-")
            save_png(folder / f"{stem}-{number + 1:04d}.png", pixels, _LEVEL)
        for pdf in opened.values():
            pdf.close()
        write_json(folder / _UNREAD, len(documents) - len(opened))


def _key(place: tuple[str, int]) -> str:
    return hashlib.sha256(f"{place[0]}|{place[1]}".encode()).hexdigest()


def _missing() -> Source:
    raise UserError("PdfPages needs 'of': the source that holds the PDF files.")
