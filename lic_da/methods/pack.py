"""Packs: what a training run leaves behind, and all that is needed beside the base codec.

A pack is a folder::

    adapters.safetensors   bank and gate; of other methods it is weights.safetensors: what was trained,
                           with the entropy-coding tables that belong to it
    config.yaml            format, method, codec, quality, domains, fingerprint of the base, and what the
                           codec of the method wants to know: sites and adapters, the width, what a
                           pack that extends another took over, …
    metrics.json           what was measured at the end of training

A pack for all qualities of a codec of variable rate (format 3) has ``codec.quality: all``. It lists
``qualities`` and the fingerprint of the base at each, ``base_fingerprints``; ``quality`` is the one that it
codes at if none is asked for.

A pack is data: ``config.yaml`` holds plain values and registered names (:mod:`lic_da.registry`), and
opening it runs nothing but this package, unless the user trusts another one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lic_da.codecs import zoo
from lic_da.codecs.image_codec import ImageCodec
from lic_da.codecs.spec import CodecSpec
from lic_da.config import as_yaml
from lic_da.errors import UserError, unknown
from lic_da.io.files import atomic_path, user_path, write_json, write_text
from lic_da.io.tensors import TensorFile
from lic_da.io.yaml_files import read_yaml
from lic_da.migrations import ALL_RATES, FORMAT, named, pack_settings
from lic_da.registry import CODECS, refuse_paths

STORED_FROM = 16
"""Domains from which on the adapters of a pack stay in its file; fewer take about what the base does."""
CONFIG = "config.yaml"
ADAPTERS_FILE = "adapters.safetensors"
METRICS = "metrics.json"
_LARGEST = 1024
"""Number of channels, layers and the like that a pack may ask for."""
_DOMAINS = 256
"""Domains that a pack may have."""
_BYTES = 1 << 20
"""Length of the ``config.yaml`` of a pack, which has some 1,000 bytes."""
_NAME = re.compile(r"[\w.-]+")


def save(codec: ImageCodec, folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write a pack; a path of base weights becomes absolute, so that it opens from everywhere.

    Args:
        codec: a trained codec.
        folder: where to; it is made if need be.
        metrics: goes into ``metrics.json``.
    """
    with codec.at_quality(codec.config.default_quality):
        _save(codec, folder)
    write_json(folder / METRICS, metrics)


def _save(codec: ImageCodec, folder: Path) -> None:
    """Write tensors and ``config.yaml``, which tells the quality that the codec codes at."""
    tensors = codec.trained_state()
    with atomic_path(folder / codec.weights_file) as temporary:
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in tensors.items()},
            temporary,
            {"base_fingerprint": codec.fingerprint},
        )
    own = codec.config.settings()
    if zoo.is_file_of_weights(own.get("weights")):
        own["weights"] = str(Path(own["weights"]).expanduser().resolve())
    kind, several = type(codec), codec.config.all_rates
    settings = {
        "format": ALL_RATES if several else FORMAT,
        "method": codec.method,
        "kind": CODECS.name_of(kind) or f"{kind.__module__}.{kind.__qualname__}",
        "codec": named(own),
        "quality": codec.config.quality,
        **({"qualities": list(codec.fingerprints)} if several else {}),
        "domains": list(codec.domains),
        **named(codec.settings()),
        "base_fingerprint": codec.fingerprint,
        **({"base_fingerprints": dict(codec.fingerprints)} if several else {}),
        "fingerprint": zoo.fingerprint(codec.state()),
    }
    write_text(folder / CONFIG, as_yaml(settings))


def load(
    folder: Path | str,
    *,
    trust: Sequence[str] = (),
    quality: int | None = None,
    spatial: str | None = None,
    in_memory: bool | None = None,
) -> ImageCodec:
    """The codec of a pack, of whatever method.

    Args:
        folder: of the pack.
        trust: packages outside lic_da whose classes the pack may name, such as ``["my_package"]``. They are
            imported, and may do anything.
        quality: that it codes at, of a pack for several; None: the pack's own. Streams of all of them are
            decoded in any case.
        spatial: ``window``: decode each region of an image with a v of its own, whatever the pack says;
            ``image``: one v for all of it; None: as the pack says.
        in_memory: read all adapters now. False: leave them in their file, which stays open, and read those
            that an image needs when it is decoded, one by one; images are the same, bit for bit. None: of
            packs of fewer than ``STORED_FROM`` domains.

    Raises:
        UserError: the folder is no pack or asks for something outside lic_da that is not trusted, it
            belongs to other base weights or to none that are there, it is not for this quality, or its
            weights are not those that were saved.
    """
    folder = user_path(folder)
    config = read_config(folder, trust=trust)
    config.check_quality(quality, folder)
    _check_weights_are_there(config.codec, folder)
    if in_memory is None:
        in_memory = len(config.domains) < STORED_FROM
    kind = codec_class(config.kind)
    file = None if in_memory else TensorFile(folder / kind.weights_file)
    with _in_words(folder):
        tensors = {} if file is None else {"tensors": file}
        codec = kind.rebuild(config.codec, config.method, config.domains, {**config.own, **tensors})
    _check_base(codec, config, folder)
    held = read_tensors(folder, trust=trust) if file is None else file
    with _in_words(folder):
        codec.load_trained(held, str(folder / codec.weights_file))
    saved, now = config.fingerprint, zoo.fingerprint(codec.state())
    if saved is not None and saved != now:
        raise UserError(
            f"The weights in {folder / codec.weights_file} are not those that {CONFIG} names ({saved})."
        )
    if spatial is not None:
        codec.set_spatial(spatial)
    codec.select_quality(config.quality if quality is None else quality)
    return codec


def _check_weights_are_there(spec: CodecSpec, folder: Path) -> None:
    if zoo.is_file_of_weights(spec.weights):
        try:
            zoo.weights_path(spec)
        except UserError as error:
            raise UserError(
                f"{error} The pack {folder} belongs to them; if they are elsewhere now, say so in its "
                f"{CONFIG}: codec.weights."
            ) from error


def _check_base(codec: ImageCodec, config: PackConfig, folder: Path) -> None:
    for own, fingerprint in config.base_fingerprints.items():
        if codec.fingerprints[own] != fingerprint:
            raise UserError(
                f"The pack {folder} was trained on base weights {fingerprint}, but those of "
                f"codec {config.codec.name} at quality {own} here are {codec.fingerprints[own]}."
            )


_OF_ALL_PACKS = (
    "format", "method", "kind", "codec", "quality", "qualities", "domains", "base_fingerprint",
    "base_fingerprints", "fingerprint", "tensors",
)  # fmt: skip


@dataclass(frozen=True)
class PackConfig:
    """What ``config.yaml`` of a pack says, in today's format.

    Attributes:
        method: name of the method.
        kind: registered name or import path of the class that codes; see :data:`lic_da.registry.CODECS`.
        codec: the base codec.
        quality: that it codes at if none is asked for.
        domains: names of all domains, the source first.
        base_fingerprints: quality -> SHA-256 of the base weights, of each quality that it is for.
        fingerprint: SHA-256 of all weights of the codec; None: an older pack, which does not say.
        own: what the class that codes has given to be kept.
    """

    method: str
    kind: str
    codec: CodecSpec
    quality: int
    domains: tuple[str, ...]
    base_fingerprints: Mapping[int, str]
    fingerprint: str | None
    own: Mapping[str, Any]

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> PackConfig:
        """The contents of a pack's ``config.yaml`` that has been checked.

        Raises:
            UserError: it does not describe a codec.
        """
        codec = CodecSpec.from_settings(settings["codec"])
        if codec.all_rates != (settings["format"] == ALL_RATES):
            raise UserError(
                f"format {ALL_RATES} is that of packs for all qualities, and of no others: its format is "
                f"{settings['format']}, its codec.quality {codec.given['quality']}."
            )
        quality, fingerprints = codec.quality, {codec.quality: settings["base_fingerprint"]}
        if codec.all_rates:
            quality, fingerprints = settings["quality"], dict(settings["base_fingerprints"])
            for listed in (settings["qualities"], [*fingerprints]):
                if listed != [*codec.served]:
                    raise UserError(
                        f"it is for all qualities, {_listed(codec.served)}, but lists {_listed(listed)}."
                    )
            if quality not in codec.served:
                raise unknown("quality", quality, codec.served)
        return cls(
            method=settings["method"],
            kind=settings["kind"],
            codec=codec,
            quality=quality,
            domains=tuple(settings["domains"]),
            base_fingerprints=fingerprints,
            fingerprint=settings.get("fingerprint"),
            own={key: value for key, value in settings.items() if key not in _OF_ALL_PACKS},
        )

    @property
    def base_fingerprint(self) -> str:
        """SHA-256 of the base weights at the pack's own quality."""
        return self.base_fingerprints[self.quality]

    def check_quality(self, quality: int | None, folder: Path) -> None:
        """Raise a UserError unless the pack is for a quality; None is its own."""
        if quality is None or quality in self.codec.served:
            return
        several = "qualities" if self.codec.all_rates else "quality"
        raise UserError(
            f"The pack {folder} is for {several} {_listed(self.codec.served)} of {self.codec.name}, "
            f"not for {quality}."
        )


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


@contextmanager
def _in_words(folder: Path) -> Iterator[None]:
    """Say of which pack something is wrong; settings of a wrong kind fail in many ways."""
    try:
        yield
    except UserError as error:
        raise UserError(f"The pack {folder} cannot be opened: {error}") from error
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"The pack {folder} cannot be opened: its {CONFIG} does not describe a codec "
            f"({type(error).__name__}: {reason})."
        ) from error


def read_config(folder: Path, *, trust: Sequence[str] = ()) -> PackConfig:
    """``config.yaml`` of a pack, in today's format.

    Args:
        folder: of the pack.
        trust: see :func:`load`.

    Raises:
        UserError: the folder is no pack, or a pack that asks for something that it may not ask for.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}, where an adapter pack was to be.")
    file = folder / CONFIG
    _refuse_a_run(folder)
    if not file.is_file():
        missing = [name for name in (ADAPTERS_FILE, CONFIG) if not (folder / name).is_file()]
        raise UserError(f"{folder} is not an adapter pack: it has no {' and no '.join(missing)}.")
    if file.stat().st_size > _BYTES:
        raise UserError(f"{file} has {file.stat().st_size} bytes: it is no pack's, or damaged.")
    content = read_yaml(file)
    try:
        settings = pack_settings(content)
    except UserError as error:
        raise UserError(f"The pack {folder} cannot be read: {error}") from error
    _check(settings, trust, file)
    with _in_words(folder):
        config = PackConfig.from_settings(settings)
    weights_file = codec_class(config.kind).weights_file
    if not (folder / weights_file).is_file():
        raise UserError(f"{folder} is not an adapter pack: it has no {weights_file}.")
    return config


def _refuse_a_run(folder: Path) -> None:
    if (folder / "pack" / CONFIG).is_file():
        raise UserError(f"{folder} is the folder of a run; its pack is {folder / 'pack'}.")


def read_tensors(folder: Path, *, trust: Sequence[str] = ()) -> dict[str, Tensor]:
    """Tensors of a pack, such as ``bank.…`` and ``gate.…``.

    Raises:
        UserError: the folder is no pack, or their file cannot be read.
    """
    file = folder / codec_class(read_config(folder, trust=trust).kind).weights_file
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} cannot be read ({error}).") from error
    return tensors


def codec_class(name: str) -> type[ImageCodec]:
    """The class of this name, which a method's configuration or a pack gives.

    Raises:
        UserError: there is none, or it is no codec.
    """
    return CODECS.find_own(name)


def _check(settings: Mapping[str, Any], trust: Sequence[str], file: Path) -> None:
    """Refuse a pack that lacks something, asks for code, or for more than codecs have.

    Raises:
        UserError: it does.
    """
    missing = [
        key for key in ("codec", "quality", "domains", "base_fingerprint") if key not in settings
    ]
    if missing:
        raise UserError(f"{file} does not say {', '.join(missing)}: it is no pack's, or damaged.")
    refuse_paths(settings, trust, str(file))
    kind = settings["kind"]
    if not isinstance(kind, str) or "." not in kind:
        CODECS.find(kind)
    else:
        refuse_paths({"_target_": kind}, trust, str(file))
    codec, domains = settings["codec"], settings["domains"]
    if not isinstance(codec, Mapping) or not isinstance(codec.get("model"), Mapping):
        raise UserError(f"{file} does not describe a codec.")
    if not isinstance(codec.get("name"), str) or not _NAME.fullmatch(codec["name"]):
        raise UserError(f"{file}: {codec.get('name')!r} cannot be the name of a codec.")
    stride = codec.get("stride")
    if type(stride) is not int or not 1 <= stride <= _LARGEST:
        raise UserError(f"{file}: codec.stride is {stride!r}, not a number from 1 to {_LARGEST}.")
    if not isinstance(domains, list) or not 1 <= len(domains) <= _DOMAINS:
        raise UserError(f"{file} needs a list of 1 to {_DOMAINS} domains.")
    if not all(isinstance(name, str) and _NAME.fullmatch(name) for name in domains):
        raise UserError(f"{file} has names of domains that are none: {domains!r}.")
    for key in ("model", "by_quality", "gate", "sites"):
        _check_sizes(codec.get(key), f"codec.{key}", file)
    _check_sizes(settings.get("how"), "how", file)


def _check_sizes(part: Any, key: str, file: Path) -> None:
    """Refuse numbers that no codec has, before anything of that size is made."""
    if isinstance(part, Mapping | list):
        for name, value in part.items() if isinstance(part, Mapping) else enumerate(part):
            if name == "_target_":
                continue
            _check_sizes(value, f"{key}.{name}", file)
        if len(part) > _LARGEST:
            raise UserError(f"{file}: {key} has {len(part)} entries, more than {_LARGEST}.")
    elif isinstance(part, int | float) and not -_LARGEST <= part <= _LARGEST:
        raise UserError(f"{file}: {key} is {part}, and {_LARGEST} is the most that is read.")
