"""Images to ``.lic`` files and back, as the command line does it, with a pack or a codec alone."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lic_da.codecs import fingerprints
from lic_da.config import CONF, available, read_settings
from lic_da.errors import UserError, unknown
from lic_da.files.batch import Job, Outcome
from lic_da.io.bitstream import Stream
from lic_da.io.files import output_path, user_path

if TYPE_CHECKING:
    from lic_da.codecs.image_codec import ImageCodec
    from lic_da.io.images import RGB

_ALONE = ("natural",)  # a codec alone has adapters of one domain, which are zero and not used


@dataclass(frozen=True)
class Coder:
    """Codes files; it holds names only, so that it can go to other processes.

    Attributes:
        pack: folder of a pack; None: a base codec alone.
        codec: name of the base codec alone; None: the one that a stream was made with.
        quality: of the base codec alone; None: as the stream, or as the codec's configuration. Of a pack
            for several, the one that images are coded at; None: the pack's own.
        mode: how to code; None: as the pack's method is judged by.
            A base codec alone knows ``base`` only.
        domain: for the mode ``oracle``.
        format: ``png`` or ``webp``.
        trust: packages outside lic_da whose classes the pack may name.
        spatial: of the gate, ``image`` or ``window``; None: as the pack says.
        v: ``best``: when compressing, search the v of each image (:mod:`lic_da.methods.adapters.chosen`).
        effort: when compressing, how long to search for better latents (:mod:`lic_da.codecs.refine`).
        seed: of that search.
        steps_shown: show its steps on stderr, for a single image.
    """

    pack: Path | None = None
    codec: str | None = None
    quality: int | None = None
    mode: str | None = None
    domain: str | None = None
    format: str = "png"
    trust: tuple[str, ...] = ()
    v: str = "gate"
    effort: int = 0
    seed: int = 0
    steps_shown: bool = False
    spatial: str | None = None

    def check(self) -> None:
        """Load what is known before any file is read.

        Raises:
            UserError: pack, codec, quality, mode or domain do not exist or do not go together.
        """
        if self.pack is not None:
            codec = load(self.pack, self.trust, self.spatial, self.quality)
            if self.v == "best" and "chosen" not in codec.modes_on_request:
                raise UserError(f"--v best needs a pack of adapters; this one is {codec.method}.")
            if self.mode in codec.modes_on_request:
                raise UserError(
                    f"--mode {self.mode} is none to decode with: compress --v best chooses v, and a stream "
                    "that has one is decoded with it unless another mode is asked for."
                )
            codec.check_mode(self.mode or codec.modes[0], self.domain)
        elif self.domain is not None:
            raise UserError(f"A codec alone has no adapters for --domain {self.domain}.")
        elif self.codec is not None:
            codec = alone(self.codec, self.quality)
        if self.effort:
            from lic_da.codecs.refine import Effort

            with codec.refining(Effort(self.effort)):
                pass

    def compress(self, job: Job) -> Outcome:
        """Code an image as a stream."""
        from lic_da.io.images import read_rgb

        with self._encoder() as codec:
            data = codec.compress(read_rgb(job.source))
        with output_path(job.target) as temporary:
            temporary.write_bytes(data)
        return _outcome(job, Stream.from_bytes(data))

    def encode(self, pixels: RGB) -> tuple[bytes, dict[str, float] | None]:
        """Code an image as a stream, as :meth:`compress` does.

        Args:
            pixels: ``(H, W, 3)``, uint8.

        Returns:
            Contents of a ``.lic`` file, and v by domain; None: the codec has no gate, or the mode is base.
        """
        with self._encoder() as codec:
            if self.pack is None or self.mode == "base":
                return codec.compress(pixels), None
            return codec.compress_with_v(pixels)

    @contextmanager
    def _encoder(self) -> Iterator[ImageCodec]:
        """The codec that compresses, in its mode and with its effort inside the block."""
        if self.pack is None and self.codec is None:
            raise UserError("Compressing needs --pack, or --codec for a base codec alone.")
        if self.pack:
            codec = load(self.pack, self.trust, quality=self.quality)
        else:
            codec = alone(str(self.codec), self.quality)
        mode = self.mode or codec.modes[0] if self.pack else "base"
        if self.v == "best":
            mode = "chosen"
        with codec.in_mode(mode), self._refining(codec):
            yield codec

    @contextmanager
    def _refining(self, codec: ImageCodec) -> Iterator[None]:
        """Spend the effort inside the block, and show its steps if wanted."""
        from rich.console import Console
        from rich.progress import Progress

        from lic_da.codecs.refine import Effort

        hidden = not (self.effort and self.steps_shown)
        with Progress(console=Console(stderr=True), transient=True, disable=hidden) as progress:
            task = progress.add_task("Refining")

            def on_step(done: int, total: int) -> None:
                progress.update(task, completed=done, total=total)

            with codec.refining(Effort(self.effort, self.seed, on_step)):
                yield

    def decompress(self, job: Job) -> Outcome:
        """Decode a stream to an image without further loss."""
        from lic_da.io.lossless import save_lossless

        stream = Stream.read(job.source)
        save_lossless(job.target, self.decode(stream), self.format)
        return _outcome(job, stream)

    def decode(self, stream: Stream) -> RGB:
        """Decode a stream to ``(H, W, 3)`` uint8."""
        codec = load(self.pack, self.trust, self.spatial) if self.pack else self._of(stream)
        return codec.decompress(stream, self.mode if self.pack else "base", self.domain)

    def _of(self, stream: Stream) -> ImageCodec:
        """The base codec that is named, as far as it is not that which made the stream."""
        base = fingerprints.find(stream.fingerprint)
        if base is None and self.codec is None:
            raise UserError(
                f"The stream was made with weights {stream.fingerprint.hex()}…, which are none of this "
                "package's base codecs. Use --pack and the pack that wrote it, or --codec and --quality."
            )
        name = self.codec or (base.codec if base else "")
        same = base.quality if base is not None and base.codec == name else None
        return alone(name, same if self.quality is None else self.quality)


def _outcome(job: Job, stream: Stream) -> Outcome:
    return Outcome(
        job, stream.width * stream.height, round(stream.bpp * stream.width * stream.height)
    )


def load(
    folder: Path,
    trust: Sequence[str] = (),
    spatial: str | None = None,
    quality: int | None = None,
) -> ImageCodec:
    """The codec of a pack; the last one is kept. For the rest see :func:`lic_da.methods.pack.load`."""
    return _load(folder.resolve(), tuple(trust), spatial, quality)


@functools.lru_cache(maxsize=1)
def _load(
    folder: Path, trust: tuple[str, ...], spatial: str | None, quality: int | None
) -> ImageCodec:
    from lic_da.methods import pack

    return pack.load(folder, trust=trust, spatial=spatial, quality=quality)


@functools.lru_cache(maxsize=8)  # the streams of a folder may be of several qualities
def alone(name: str, quality: int | None) -> ImageCodec:
    """A base codec whose adapters are zero."""
    from lic_da.methods.adapters.codec import AdaptedCodec

    if name not in available("codec"):
        raise unknown("codec", name, available("codec"))
    settings = read_settings(CONF / "codec" / f"{name}.yaml")
    if quality is not None:
        settings["quality"] = quality
    return AdaptedCodec.build(settings, _ALONE)


def default_pack() -> Path | None:
    """The pack that is meant if none is named: LIC_DA_PACK, ``conf/cli.yaml``, or the last run's.

    Returns:
        Its folder; None: there has been no run.
    """
    if os.environ.get("LIC_DA_PACK"):
        return user_path(os.environ["LIC_DA_PACK"])
    config = _plain(CONF / "cli.yaml")
    if config.get("pack") is not None:
        return user_path(config["pack"])
    outputs = user_path(config.get("outputs", "outputs"))
    places = ("*", "sweeps/*/*")  # runs, jobs of sweeps
    packs = [p for place in places for p in outputs.glob(f"{place}/pack/*.safetensors")]
    return max(packs, key=lambda file: file.stat().st_mtime).parent if packs else None


def domains_of(folder: Path, fingerprint: bytes) -> list[str] | None:
    """Names of a pack's domains, without loading it.

    Returns:
        The names; None: it is no pack of adapters over the base weights whose fingerprint begins so.
    """
    config = _plain(folder / "config.yaml")
    several = config.get("base_fingerprints")
    known = [
        config.get("base_fingerprint"),
        *(several.values() if isinstance(several, dict) else ()),
    ]
    if config.get("method", "adapters") != "adapters":
        return None  # it has no gate
    if not any(str(own).startswith(fingerprint.hex()) for own in known):
        return None
    return [str(name) for name in config.get("domains", [])]


def _plain(file: Path) -> dict[str, Any]:
    """A YAML file as it stands; empty if there is none that can be read."""
    from lic_da.io.yaml_files import read_yaml

    try:
        return read_yaml(file)
    except (FileNotFoundError, UserError):
        return {}
