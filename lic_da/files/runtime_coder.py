"""Images to ``.lic`` files and back by an exported pack, as the command line does it. No torch in here."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from lic_da.files.batch import Job, Outcome
from lic_da.io.bitstream import Stream
from lic_da.io.files import output_path
from lic_da.runtime import Decoder, Encoder


@dataclass(frozen=True)
class RuntimeCoder:
    """Codes files; it holds names only, so that it can go to other processes.

    Attributes:
        folder: of an exported pack.
        threads: of each process.
        mode: how to code; None: as the pack does.
        domain: for the mode ``oracle``.
        format: ``png`` or ``webp``.
    """

    folder: Path
    threads: int
    mode: str | None = None
    domain: str | None = None
    format: str = "png"

    def check(self) -> None:
        """Read the folder before any file is read.

        Raises:
            UserError: it is no exported pack, or mode and domain do not go together.
        """
        decoder = _decoder(self.folder, self.threads)
        decoder.check_mode(self.mode or decoder.manifest.mode, self.domain)

    def compress(self, job: Job) -> Outcome:
        """Code an image as a stream."""
        from lic_da.io.images import read_rgb

        data = _encoder(self.folder, self.threads).compress(read_rgb(job.source), mode=self.mode)
        with output_path(job.target) as temporary:
            temporary.write_bytes(data)
        return _outcome(job, Stream.from_bytes(data))

    def decompress(self, job: Job) -> Outcome:
        """Decode a stream to an image without further loss."""
        from lic_da.io.lossless import save_lossless

        stream = Stream.read(job.source)
        pixels = _decoder(self.folder, self.threads).decompress(stream, self.mode, self.domain)
        save_lossless(job.target, pixels, self.format)
        return _outcome(job, stream)


def _outcome(job: Job, stream: Stream) -> Outcome:
    pixels = stream.width * stream.height
    return Outcome(job, pixels, round(stream.bpp * pixels))


@functools.lru_cache(maxsize=1)
def _decoder(folder: Path, threads: int) -> Decoder:
    return Decoder(folder, threads=threads)


@functools.lru_cache(maxsize=1)
def _encoder(folder: Path, threads: int) -> Encoder:
    return Encoder(folder, threads=threads)
