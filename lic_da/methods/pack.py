"""Packs: what a training run leaves behind, and all that is needed beside the base codec.

A pack is a folder::

    adapters.safetensors   bank and gate; of other methods it is weights.safetensors: what was trained,
                           with the entropy-coding tables that belong to it
    config.yaml            format, method, codec, quality, domains, fingerprint of the base, and what the
                           codec of the method wants to know: sites and adapters, the width, what a
                           pack that extends another took over, …
    metrics.json           what was measured at the end of training

A pack is data: ``config.yaml`` holds plain values and registered names (:mod:`lic_da.registry`), and
opening it runs nothing but this package, unless the user trusts another one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
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
from lic_da.errors import UserError
from lic_da.io.files import atomic_path, read_yaml, write_json, write_text
from lic_da.io.tensors import TensorFile
from lic_da.migrations import FORMAT, named, pack_settings
from lic_da.registry import CODECS, refuse_paths

STORED_FROM = 16
"""Domains from which on the adapters of a pack stay in its file; fewer take about what the base does."""
CONFIG = "config.yaml"
ADAPTERS_FILE = "adapters.safetensors"
_METRICS = "metrics.json"
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
    kind = type(codec)
    settings = {
        "format": FORMAT,
        "method": codec.method,
        "kind": CODECS.name_of(kind) or f"{kind.__module__}.{kind.__qualname__}",
        "codec": named(own),
        "quality": codec.config.quality,
        "domains": list(codec.domains),
        **named(codec.settings()),
        "base_fingerprint": codec.fingerprint,
        "fingerprint": zoo.fingerprint(codec.state()),
    }
    write_text(folder / CONFIG, as_yaml(settings))
    write_json(folder / _METRICS, metrics)


def load(
    folder: Path | str,
    *,
    trust: Sequence[str] = (),
    spatial: str | None = None,
    in_memory: bool | None = None,
) -> ImageCodec:
    """The codec of a pack, of whatever method.

    Args:
        folder: of the pack.
        trust: packages outside lic_da whose classes the pack may name, such as ``["my_package"]``. They are
            imported, and may do anything.
        spatial: ``window``: decode each region of an image with a v of its own, whatever the pack says;
            ``image``: one v for all of it; None: as the pack says.
        in_memory: read all adapters now. False: leave them in their file, which stays open, and read those
            that an image needs when it is decoded, one by one; images are the same, bit for bit. None: of
            packs of fewer than ``STORED_FROM`` domains.

    Raises:
        UserError: the folder is no pack or asks for something outside lic_da that is not trusted, it
            belongs to other base weights or to none that are there, or its weights are not those that
            were saved.
    """
    folder = Path(folder)
    config = read_config(folder, trust=trust)
    if zoo.is_file_of_weights(config.codec.weights):
        try:
            zoo.weights_path(config.codec)
        except UserError as error:
            raise UserError(
                f"{error} The pack {folder} belongs to them; if they are elsewhere now, say so in its "
                f"{CONFIG}: codec.weights."
            ) from error
    if in_memory is None:
        in_memory = len(config.domains) < STORED_FROM
    kind = codec_class(config.kind)
    file = None if in_memory else TensorFile(folder / kind.weights_file)
    with _in_words(folder):
        own = config.own if file is None else {**config.own, "tensors": file}
        codec = kind.rebuild(config.codec, config.method, config.domains, own)
    if codec.fingerprint != config.base_fingerprint:
        raise UserError(
            f"The pack {folder} was trained on base weights {config.base_fingerprint}, but those of "
            f"codec {config.codec.name} at quality {config.codec.quality} here are {codec.fingerprint}."
        )
    tensors = read_tensors(folder, trust=trust) if file is None else file
    with _in_words(folder):
        codec.load_trained(tensors, str(folder / codec.weights_file))
    saved, now = config.fingerprint, zoo.fingerprint(codec.state())
    if saved is not None and saved != now:
        raise UserError(
            f"The weights in {folder / codec.weights_file} are not those that {CONFIG} names ({saved})."
        )
    if spatial is not None:
        codec.set_spatial(spatial)
    return codec


_OF_ALL_PACKS = (
    "format", "method", "kind", "codec", "quality", "domains", "base_fingerprint", "fingerprint",
)  # fmt: skip


@dataclass(frozen=True)
class PackConfig:
    """What ``config.yaml`` of a pack says, in today's format.

    Attributes:
        method: name of the method.
        kind: registered name or import path of the class that codes; see :data:`lic_da.registry.CODECS`.
        codec: the base codec.
        domains: names of all domains, the source first.
        base_fingerprint: SHA-256 of the base weights.
        fingerprint: SHA-256 of all weights of the codec; None: an older pack, which does not say.
        own: what the class that codes has given to be kept.
    """

    method: str
    kind: str
    codec: CodecSpec
    domains: tuple[str, ...]
    base_fingerprint: str
    fingerprint: str | None
    own: Mapping[str, Any]

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> PackConfig:
        """The contents of a pack's ``config.yaml`` that has been checked.

        Raises:
            UserError: it does not describe a codec.
        """
        return cls(
            method=settings["method"],
            kind=settings["kind"],
            codec=CodecSpec.from_settings(settings["codec"]),
            domains=tuple(settings["domains"]),
            base_fingerprint=settings["base_fingerprint"],
            fingerprint=settings.get("fingerprint"),
            own={key: value for key, value in settings.items() if key not in _OF_ALL_PACKS},
        )


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
