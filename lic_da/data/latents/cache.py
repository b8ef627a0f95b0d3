"""The latents of training images, computed once a base codec and shared by all runs with it.

An encoder that is frozen gives the same latent for an image at every step of every run. The cache keeps
them in Arrow files, which are mapped into memory::

    DATA/latents/<fingerprint of the base weights>/part-….arrow

An image is known by the SHA-256 of its file. Files are only ever added, whole; one process at a time adds.
Their names hold a checksum of all their bytes, which is compared before they are parsed.
Whatever is damaged or belongs to another codec is found when it is first used in a run, said, and made
anew.
"""

from __future__ import annotations

import hashlib
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from lic_da.io.files import atomic_path

Latent = NDArray[Any]

_IN_A_PART = 64  # latents: what a killed run has computed is lost only as far as its last part
_DTYPES = ("int8", "int16", "float16")


@dataclass(frozen=True)
class Box:
    """Part of an image that is coded as an image of its own; it may go on beyond the image's edges.

    Attributes:
        sha256: of the image's file.
        top: in pixels.
        left: in pixels.
        height: in pixels.
        width: in pixels.
        mirrored: whether it is then mirrored, left to right.
    """

    sha256: str
    top: int
    left: int
    height: int
    width: int
    mirrored: bool = False

    @property
    def key(self) -> str:
        """Its name in the cache."""
        place = f"{self.top},{self.left},{self.height},{self.width}"
        return f"{self.sha256}:{place}{',mirrored' if self.mirrored else ''}"


class LatentCache:
    """Latents by image, for one base codec.

    Args:
        folder: of all caches.
        fingerprint: SHA-256 of the base weights.
        encode: ``(3, H, W)`` uint8 -> latent ``(M, h, w)``, int8, int16 or float16.
        console: where is said what goes on.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: str,
        encode: Callable[[Tensor], Latent],
        console: Console | None = None,
    ) -> None:
        self.folder = folder / fingerprint[:16]
        self.fingerprint = fingerprint
        self.encode = encode
        self.console = console or Console(quiet=True, stderr=True)
        self._latents: dict[str, Latent] = {}

    def __getitem__(self, box: Box) -> Latent:
        """The latent of a box that was among those of :meth:`prepare`."""
        return self._latents[box.key]

    def prepare(self, boxes: Sequence[Box], read: Callable[[Box], Tensor]) -> None:
        """See that the latents of all boxes are at hand; compute and keep those that are not.

        Args:
            boxes: parts of images.
            read: the pixels of one, ``(3, H, W)`` uint8.
        """
        wanted = {box.key: box for box in boxes}
        self._read(wanted)  # without the lock: mostly all is there
        if len(self._latents) == len(wanted):
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._add(wanted, read)
        except OSError as error:
            self.console.print(
                f"Latents cannot be kept in {self.folder} ({error}); they are computed for this run alone. "
                "Free some space, or choose another folder with data.data_dir.",
                highlight=False,
            )
            for box in self._missing(wanted):
                self._latents[box.key] = self.encode(read(box))

    def _missing(self, wanted: Mapping[str, Box]) -> list[Box]:
        return [box for key, box in wanted.items() if key not in self._latents]

    def _add(self, wanted: Mapping[str, Box], read: Callable[[Box], Tensor]) -> None:
        """Compute what is missing, as the only process that does."""
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0.5)
        except Timeout:
            self.console.print("Another process computes latents of this codec: waiting for it.")
            lock.acquire()
        try:
            for left in (*self.folder.glob(".*.arrow"), *self.folder.glob("whole-*.arrow")):
                left.unlink()  # by a process that was killed
            self._read(wanted, drop=True)
            missing = self._missing(wanted)
            with Progress(console=self.console, transient=True) as progress:
                task = progress.add_task("Encoding training images", total=len(missing))
                for start in range(0, len(missing), _IN_A_PART):
                    part = missing[start : start + _IN_A_PART]
                    rows = self._rows_of(part, read, lambda: progress.advance(task))
                    self._take(_write(self.folder, rows), wanted)
        finally:
            lock.release()

    def _rows_of(
        self, boxes: Iterable[Box], read: Callable[[Box], Tensor], done: Callable[[], None]
    ) -> Iterator[dict[str, Any]]:
        for box in boxes:
            yield _row(self.fingerprint, box.key, self.encode(read(box)))
            done()

    def _read(self, wanted: Mapping[str, Box], *, drop: bool = False) -> None:
        """Take what the files hold.

        Args:
            wanted: by key.
            drop: remove damaged files, and say so.
        """
        for path in sorted(self.folder.glob("part-*.arrow")):
            try:
                self._take(path, wanted)
            except FileNotFoundError:  # another process has found it damaged
                continue
            except Damaged as damage:
                if drop:
                    self.console.print(
                        f"Cached latents in {path} {damage}: they are computed anew.",
                        highlight=False,
                    )
                    path.unlink(missing_ok=True)

    def _take(self, path: Path, wanted: Mapping[str, Box]) -> None:
        """Take the latents of a file that are wanted; all of them or none.

        Raises:
            Damaged: it is not what was written, or was written for another codec.
        """
        found: dict[str, Latent] = {}
        for row in _rows(path):
            if row.codec != self.fingerprint:
                raise Damaged("belong to another codec")
            if row.key in wanted and row.key not in self._latents:
                found[row.key] = row.latent()
        self._latents.update(found)


class Damaged(Exception):
    """A file of latents cannot be used; the message says why."""


@dataclass(frozen=True)
class _Row:
    """One latent of a file."""

    key: str
    codec: str
    dtype: str
    shape: tuple[int, ...]
    data: memoryview
    checksum: int

    def latent(self) -> Latent:
        """The latent as a view of the file, checked."""
        if self.checksum != _checksum(self.codec, self.key, self.dtype, self.shape, self.data):
            raise Damaged("are damaged (a checksum does not match)")
        array = np.frombuffer(self.data, self.dtype)
        return array.reshape(self.shape)


def _checksum(
    codec: str, key: str, dtype: str, shape: Iterable[int], data: bytes | memoryview
) -> int:
    named = f"{codec} {key} {dtype} {tuple(shape)}".encode()
    return zlib.crc32(data, zlib.crc32(named))


def _row(codec: str, key: str, latent: Latent) -> dict[str, Any]:
    data = np.ascontiguousarray(latent).tobytes()
    dtype, shape = latent.dtype.name, list(latent.shape)
    assert dtype in _DTYPES
    checksum = _checksum(codec, key, dtype, shape, data)
    return {
        "key": key,
        "codec": codec,
        "dtype": dtype,
        "shape": shape,
        "latent": data,
        "checksum": checksum,
    }


def _write(folder: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write a file of latents, named by the checksum of its bytes; it appears whole or not at all."""
    from datasets import Features, List, Value
    from datasets.arrow_writer import ArrowWriter

    features = Features(
        {
            "key": Value("string"),
            "codec": Value("string"),
            "dtype": Value("string"),
            "shape": List(Value("int64")),
            "latent": Value("binary"),
            "checksum": Value("uint32"),
        }
    )
    whole = folder / f"whole-{uuid.uuid4().hex[:8]}.arrow"
    with atomic_path(whole) as temporary:
        writer = ArrowWriter(features=features, path=str(temporary), writer_batch_size=8)
        try:
            for row in rows:
                writer.write(dict(row))
            writer.finalize()
        finally:
            writer.close()
        path = folder / f"part-{_checksum_of_file(temporary):08x}-{uuid.uuid4().hex[:8]}.arrow"
    return whole.rename(path)


def _checksum_of_file(path: Path) -> int:
    checksum = 0
    with open(path, "rb") as file:
        while piece := file.read(1 << 22):
            checksum = zlib.crc32(piece, checksum)
    return checksum


def _rows(path: Path) -> Iterator[_Row]:
    """The rows of a file, mapped into memory.

    Raises:
        Damaged: the file is not one that :func:`_write` has written to its end.
    """
    from datasets import Dataset

    # Before Arrow parses it, which trusts what a file says of itself.
    if f"{_checksum_of_file(path):08x}" != path.name.split("-")[1]:
        raise Damaged("are damaged (the file's checksum does not match)")
    try:
        table = Dataset.from_file(str(path)).data.table
        names = ("key", "codec", "dtype", "shape", "checksum")
        columns = [table.column(name).to_pylist() for name in names]
        latents = [memoryview(value.as_buffer()) for value in table.column("latent")]
    except OSError:
        raise
    except Exception as error:  # a file that was made otherwise
        raise Damaged(f"cannot be read ({error})") from error
    for key, codec, dtype, shape, checksum, data in zip(*columns, latents, strict=True):
        yield _Row(key, codec, dtype, tuple(shape or ()), data, checksum)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
