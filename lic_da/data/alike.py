"""Near-identical images, found by their perceptual hashes.

The fingerprint of an image is its 256-bit perceptual hash (pHash, 16×16 lowest frequencies of a DCT, by
the package imagehash). Two images whose fingerprints differ in at most ``NEAR_IDENTICAL`` bits show the
same: one drawing at two sizes, a photograph and its recompressed copy.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Sequence
from pathlib import Path

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lic_da.data import selection
from lic_da.data.index import DomainImages, ImageInfo
from lic_da.io.files import atomic_path
from lic_da.io.images import ImageProblem, read_rgb
from lic_da.surroundings import granted_cpus
from lic_da.workers import DIED, Workers

Bits = NDArray[np.bool_]

NEAR_IDENTICAL = 40
"""Bits of 256; looked at: pairs below are one drawing, pairs above are not."""

_HASH_SIDE = 16
_A_PROCESS = 64  # images; fewer are read faster than another process starts
_ODD_COLUMNS = np.tile(np.arange(_HASH_SIDE) % 2 == 1, _HASH_SIDE)


def fingerprint(image: Image.Image) -> Bits:
    """The perceptual hash of an RGB image, ``(256,)`` bool."""
    return np.asarray(imagehash.phash(image, hash_size=_HASH_SIDE).hash.ravel(), bool)


def distances(ones: Bits, others: Bits) -> NDArray[np.int32]:
    """Bits that differ, ``(N, M)``, between fingerprints ``(N, 256)`` and ``(M, 256)``."""
    a, b = ones.astype(np.float32), others.astype(np.float32)
    differ = a.sum(axis=1)[:, None] + b.sum(axis=1)[None, :] - 2 * a @ b.T
    return np.rint(differ).astype(np.int32)


def mirrored_distances(ones: Bits, others: Bits) -> NDArray[np.int32]:
    """As :func:`distances`, the smaller of an image's own and its mirror image's.

    Mirroring an image changes the sign of its odd horizontal frequencies, so about the bits of those are
    inverted.
    """
    return np.minimum(distances(ones, others), distances(ones ^ _ODD_COLUMNS, others))


def fingerprints(
    images: DomainImages, entries: Sequence[ImageInfo] | None = None
) -> tuple[Bits, list[ImageInfo]]:
    """The fingerprints of prepared images, kept in the domain's folder once they are computed.

    Args:
        images: a prepared domain.
        entries: some of its images; None: all.

    Returns:
        Fingerprints ``(N, 256)`` in the order of the images, and the images that cannot be read: their
        rows are zero.
    """
    wanted = list(images.entries if entries is None else entries)
    kept = _load(images.folder)
    missing = [p for p in wanted if p.sha256 not in kept]
    unreadable: list[ImageInfo] = []
    if missing:
        jobs = [(images.path(p), Path(p.name).suffix.lower() in _DRAWN) for p in missing]
        with Workers(min(granted_cpus(), -(-len(jobs) // _A_PROCESS))) as workers:
            for number, outcome in workers.outcomes(_fingerprint_of, jobs):
                if outcome is DIED or isinstance(outcome, str):
                    unreadable.append(missing[number])
                else:
                    kept[missing[number].sha256] = outcome
        save_fingerprints(images.folder, kept)
    nothing = np.zeros(_HASH_SIDE**2, bool)
    rows = [kept.get(p.sha256, nothing) for p in wanted]
    return np.array(rows, bool).reshape(len(rows), _HASH_SIDE**2), unreadable


_DRAWN = (".svg", ".svgz")


def _fingerprint_of(job: tuple[Path, bool]) -> Bits | str:
    """The fingerprint as of preparing: of drawings whole, of other images scaled down."""
    path, drawn = job
    try:
        image = Image.fromarray(read_rgb(path))
    except ImageProblem as problem:
        return problem.reason
    if not drawn:
        image.thumbnail((selection.SIZE, selection.SIZE))
    return fingerprint(image)


def save_fingerprints(folder: Path, kept: dict[str, Bits]) -> None:
    """Keep fingerprints by the SHA-256 of their images' files; where one may not write, they are not."""
    with contextlib.suppress(OSError), atomic_path(folder / "fingerprints.npz") as temporary:
        bits = np.packbits(np.array(list(kept.values()), bool).reshape(len(kept), -1), axis=1)
        np.savez(temporary, sha256=np.array(list(kept), "S64"), bits=bits)


def _load(folder: Path) -> dict[str, Bits]:
    try:
        with np.load(folder / "fingerprints.npz", allow_pickle=False) as file:
            bits = np.unpackbits(file["bits"], axis=1).astype(bool)
            names = [name.decode() for name in file["sha256"]]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return {}
    return dict(zip(names, bits, strict=False)) if bits.shape[1:] == (_HASH_SIDE**2,) else {}
