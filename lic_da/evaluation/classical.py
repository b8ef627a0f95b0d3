"""Classical codecs as anchors: real files written by Pillow and its plugins."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features
from rich.console import Console
from rich.progress import track
from torch import Tensor

from lic_da.data.datamodule import LabelledImage, to_tensor
from lic_da.errors import UserError, unknown
from lic_da.evaluation.compressai_json import PublishedCurve
from lic_da.evaluation.measure import CLASSICAL, Point, score
from lic_da.io.files import read_json, write_text
from lic_da.io.images import RGB, read_rgb
from lic_da.surroundings import granted_cpus

METHOD = CLASSICAL
"""``method`` of the points of classical codecs; in the column of modes they have ``none``."""


@dataclass(frozen=True)
class ClassicalCodec:
    """An encoder of Pillow with its settings.

    Args:
        name: for tables.
        format: Pillow's name of the format.
        qualities: values of its ``quality``.
        settings: other arguments of ``Image.save``.
        library: Pillow's name of the library that does the work; empty: a plugin does.
        plugin: module that adds the format to Pillow; empty: Pillow has it itself.
        package: that holds the encoder.
        label: short name, for curves.
    """

    name: str
    format: str
    qualities: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    library: str = ""
    plugin: str = ""
    package: str = "pillow"
    label: str = ""

    def code(self, pixels: RGB, quality: int) -> tuple[int, Tensor]:
        """Encode and decode ``(H, W, 3)`` uint8 pixels.

        Returns:
            Size of the file in bytes, and the decoded pixels, uint8 ``(3, H, W)``.

        Raises:
            UserError: Pillow cannot write the format here.
        """
        self.check()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format=self.format, quality=quality, **self.settings)
        with Image.open(file) as image:
            return len(file.getvalue()), to_tensor(np.asarray(image.convert("RGB")))

    def measured(
        self,
        images: Sequence[LabelledImage],
        cache: Path,
        console: Console | None = None,
        *,
        ms_ssim: bool = False,
    ) -> list[Point]:
        """See :func:`measure_anchor`."""
        return measure_anchor(self, images, cache, console, ms_ssim=ms_ssim)

    def check(self) -> None:
        """Raise a UserError if Pillow cannot write the format here."""
        try:
            if self.plugin:
                importlib.import_module(self.plugin)
        except ImportError as error:
            raise UserError(
                f"{self.name} needs the package {self.package}: run 'make setup'."
            ) from error
        Image.init()
        if self.format not in Image.SAVE:
            raise UserError(f"This Pillow cannot write {self.label}: run 'make setup'.")

    @property
    def version(self) -> str:
        """Versions of the package and of the library in it."""
        library = f", {self.library} {features.version(self.library)}" if self.library else ""
        return f"{self.package} {importlib.metadata.version(self.package)}{library}"


JPEG = ClassicalCodec(
    "JPEG (Pillow, 4:2:0, optimised)",
    "JPEG",
    (5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90),
    {"optimize": True, "subsampling": "4:2:0"},
    library="libjpeg_turbo",
    label="JPEG",
)
WEBP = ClassicalCodec(
    "WebP (Pillow, method 6)",
    "WEBP",
    (0, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90),
    {"method": 6},
    library="webp",
    label="WebP",
)
AVIF = ClassicalCodec(
    "AVIF (Pillow, 4:2:0, speed 6)",
    "AVIF",
    (1, 5, 10, 20, 30, 40, 50, 60),
    {"speed": 6, "subsampling": "4:2:0", "max_threads": 1},
    library="avif",
    label="AVIF",
)
AVIF_444 = ClassicalCodec(
    "AVIF (Pillow, 4:4:4, speed 6)",
    "AVIF",
    (1, 5, 10, 20, 30, 40, 50, 60),
    {"speed": 6, "subsampling": "4:4:4", "max_threads": 1},
    library="avif",
    label="AVIF 4:4:4",
)
JPEG_XL = ClassicalCodec(
    "JPEG XL (pillow-jxl-plugin, effort 7)",
    "JXL",
    # Below quality 20 libjxl codes the image at half its size: its curve has a kink there.
    (20, 25, 30, 40, 50, 60, 75, 90),
    {"effort": 7, "num_threads": 1},
    plugin="pillow_jxl",
    package="pillow-jxl-plugin",
    label="JPEG XL",
)
ANCHORS = {"jpeg": JPEG, "webp": WEBP, "avif": AVIF, "avif444": AVIF_444, "jpegxl": JPEG_XL}


Anchor = ClassicalCodec | PublishedCurve
"""What is compared with: it has a ``name``, a ``label``, and what it ``measured`` on test images."""


def anchors_of(
    names: Iterable[str | Mapping[str, Any]], own: Mapping[str, Mapping[str, Any]]
) -> list[Anchor]:
    """The classical codecs of these names, and published curves.

    Args:
        names: ``report.anchors``: keys of :data:`ANCHORS` or of ``own``, or entries
            ``{kind: compressai_json, path: …, domain: …}``, see
            :class:`~lic_da.evaluation.compressai_json.PublishedCurve`.
        own: the user's, ``report.classical``: name -> arguments of :class:`ClassicalCodec`.

    Raises:
        UserError: there is none of such a name, two have one label, or an entry is not what it must be.
    """
    known = dict(ANCHORS)
    for key, entry in own.items():
        where = f"report.classical.{key}"
        if key in ANCHORS:
            raise UserError(f"{where}: there is a classical codec of this name already.")
        try:
            codec = ClassicalCodec(**{"label": key, **entry})
            qualities = tuple(codec.qualities)
        except TypeError as error:
            raise UserError(f"{where} does not describe a codec: {error}.") from error
        if not qualities or not all(type(q) is int for q in qualities):
            raise UserError(f"{where}.qualities must be a list of whole numbers.")
        known[key] = replace(codec, qualities=qualities)
    found: list[Anchor] = []
    for name in names:
        if isinstance(name, Mapping):
            if name.get("kind") != "compressai_json":
                raise unknown("kind of report.anchors", name.get("kind"), ["compressai_json"])
            found.append(PublishedCurve.of(name))
        elif name in known:
            found.append(known[name])
        else:
            raise unknown("classical codec", name, known)
    _check_labels(found)
    return found


def _check_labels(anchors: Sequence[Anchor]) -> None:
    """Raise a UserError if two curves of one domain would have one name."""
    for number, anchor in enumerate(anchors):
        for other in anchors[:number]:
            domains = {a.domain for a in (anchor, other) if isinstance(a, PublishedCurve)}
            apart = len(domains) == 2  # each on a domain of its own
            if anchor.label == other.label and not apart:
                raise UserError(
                    f"report.anchors: two of them are called {anchor.label}: give one another label."
                )


def measure_anchor(
    codec: ClassicalCodec,
    images: Sequence[LabelledImage],
    cache: Path,
    console: Console | None = None,
    *,
    ms_ssim: bool = False,
) -> list[Point]:
    """Code images at all qualities of a codec; what was coded before is read from a cache.

    An image is known by its pixels, so that a cache serves all domains and sweeps. An encoder of
    another version, or with other settings, has a cache of its own. What was coded of an image is kept
    as soon as it is there, so that a run that is killed loses no more than the images it was at, and
    several processes may share a cache.

    Args:
        codec: the anchor.
        images: what to code.
        cache: folder of the caches.
        console: where progress is shown.
        ms_ssim: measure MS-SSIM too, which takes longer than some of the codecs.

    Returns:
        One point an image and quality. ``bpp`` counts the whole file; there is no gate, no λ, no
        estimate and no times, which are nan, as MS-SSIM is of small images and where it was not asked for.
    """
    codec.check()
    known = _Cache(codec, cache, ms_ssim)
    with ThreadPoolExecutor(max_workers=granted_cpus()) as pool:  # the encoders release the lock
        coded = pool.map(lambda entry: _code(codec, entry, known), images)
        return [
            point
            for rows in track(
                coded,
                f"Coding with {codec.label}",
                total=len(images),
                console=console or Console(quiet=True),
                transient=True,
            )
            for point in rows
        ]


@dataclass(frozen=True)
class _Coded:
    bytes: int
    psnr: float
    ms_ssim: float | None = None  # not measured


class _Cache:
    """What one codec made of images: a folder whose name depends on everything that matters.

    An image has a file of its own, which is written whole or not at all.
    """

    def __init__(self, codec: ClassicalCodec, folder: Path, ms_ssim: bool) -> None:
        identity = json.dumps([codec.format, dict(codec.settings), codec.version])
        digest = hashlib.sha256(identity.encode()).hexdigest()[:10]
        self.codec, self.ms_ssim = codec, ms_ssim
        self.folder = folder / f"{codec.format.lower()}_{digest}"

    def coded(self, pixels: RGB) -> dict[int, _Coded]:
        """An image at all qualities of the codec; what is missing is coded now."""
        digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
        path = self.folder / f"{digest}.json"
        rows = self._read(path)
        missing = [
            q
            for q in self.codec.qualities
            if q not in rows or (self.ms_ssim and rows[q].ms_ssim is None)
        ]
        if missing:
            rows |= {quality: self._code(pixels, quality) for quality in missing}
            write_text(path, json.dumps({q: asdict(rows[q]) for q in sorted(rows)}) + "\n")
        return rows if self.ms_ssim else {q: replace(r, ms_ssim=None) for q, r in rows.items()}

    @staticmethod
    def _read(path: Path) -> dict[int, _Coded]:
        """What is known of an image; nothing if its file is not there or is damaged."""
        try:
            return {int(q): _Coded(**row) for q, row in read_json(path).items()}
        except (OSError, UserError, ValueError, TypeError, AttributeError):
            return {}

    def _code(self, pixels: RGB, quality: int) -> _Coded:
        size, decoded = self.codec.code(pixels, quality)
        psnr, ms_ssim = score(decoded, to_tensor(pixels), ms_ssim=self.ms_ssim)
        return _Coded(size, psnr, ms_ssim if self.ms_ssim else None)


def _code(codec: ClassicalCodec, entry: LabelledImage, cache: _Cache) -> list[Point]:
    pixels = read_rgb(entry.path)
    height, width = pixels.shape[:2]
    rows = cache.coded(pixels)
    return [_point(codec, entry, width, height, q, rows[q]) for q in codec.qualities]


def _point(
    codec: ClassicalCodec,
    entry: LabelledImage,
    width: int,
    height: int,
    quality: int,
    row: _Coded,
) -> Point:
    return Point(
        run="anchor",
        codec=codec.label,
        quality=quality,
        lmbda=math.nan,
        method=METHOD,
        blend="none",
        domain=entry.domain,
        seen=entry.label >= 0,
        image=entry.info.name,
        width=width,
        height=height,
        string_bytes=row.bytes,
        file_bytes=row.bytes,
        bpp=8 * row.bytes / (width * height),
        bpp_estimated=math.nan,
        psnr=row.psnr,
        ms_ssim=math.nan if row.ms_ssim is None else row.ms_ssim,
        encode_s=math.nan,
        decode_s=math.nan,
        gate={},
    )
