"""Packs: what a training run leaves behind, and all that is needed beside the base codec.

A pack is a folder::

    adapters.safetensors   bank and gate; of other methods it is weights.safetensors: what was trained,
                           with the entropy-coding tables that belong to it
    config.yaml            method, codec, quality, domains, fingerprint of the base, and what the codec
                           of the method wants to know: sites and adapters, the width, what a pack that
                           extends another took over, …
    metrics.json           what was measured at the end of training
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lic_da.adaptation.codec import AdaptedCodec
from lic_da.codecs import zoo
from lic_da.codecs.picture_codec import PictureCodec
from lic_da.errors import UserError
from lic_da.files import atomic_path, write_json

CONFIG = "config.yaml"
_METRICS = "metrics.json"
_ADAPTED = f"{AdaptedCodec.__module__}.{AdaptedCodec.__qualname__}"


def save(codec: PictureCodec, folder: Path, metrics: Mapping[str, Any]) -> None:
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
    own = codec.config.copy()
    if zoo.is_file_of_weights(own.weights):
        own.weights = str(Path(own.weights).expanduser().resolve())
    kind = type(codec)
    config = OmegaConf.create(
        {
            "method": codec.method,
            "kind": f"{kind.__module__}.{kind.__qualname__}",
            "codec": own,
            "quality": codec.config.quality,
            "domains": list(codec.domains),
            **codec.settings(),
            "base_fingerprint": codec.fingerprint,
            "fingerprint": zoo.fingerprint(codec.codec.state_dict()),
        }
    )
    with atomic_path(folder / CONFIG) as temporary:
        OmegaConf.save(config, temporary, resolve=True)
    write_json(folder / _METRICS, metrics)


def load(folder: Path | str) -> PictureCodec:
    """The codec of a pack, of whatever method.

    Raises:
        UserError: the folder is no pack, it belongs to other base weights or to none that are there, or
            its weights are not those that were saved.
    """
    folder = Path(folder)
    config = read_config(folder)
    if zoo.is_file_of_weights(config.codec.weights):
        try:
            zoo.weights_path(config.codec, config.quality)
        except UserError as error:
            raise UserError(
                f"{error} The pack {folder} belongs to them; if they are elsewhere now, say so in its "
                f"{CONFIG}: codec.weights."
            ) from error
    codec = _kind(config).rebuild(config)
    if codec.fingerprint != config.base_fingerprint:
        raise UserError(
            f"The pack {folder} was trained on base weights {config.base_fingerprint}, but those of "
            f"codec {config.codec.name} at quality {config.quality} here are {codec.fingerprint}."
        )
    codec.load_trained(read_tensors(folder), str(folder / codec.weights_file))
    saved, now = config.get("fingerprint"), zoo.fingerprint(codec.codec.state_dict())
    if saved is not None and saved != now:
        raise UserError(
            f"The weights in {folder / codec.weights_file} are not those that {CONFIG} names ({saved})."
        )
    return codec


def read_config(folder: Path) -> DictConfig:
    """``config.yaml`` of a pack.

    Raises:
        UserError: the folder is no pack.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}, where an adapter pack was to be.")
    if not (folder / CONFIG).is_file():
        missing = [
            name for name in (AdaptedCodec.weights_file, CONFIG) if not (folder / name).is_file()
        ]
        raise UserError(f"{folder} is not an adapter pack: it has no {' and no '.join(missing)}.")
    config = OmegaConf.load(folder / CONFIG)
    assert isinstance(config, DictConfig)
    weights_file = _kind(config).weights_file
    if not (folder / weights_file).is_file():
        raise UserError(f"{folder} is not an adapter pack: it has no {weights_file}.")
    return config


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Tensors of a pack, such as ``bank.…`` and ``gate.…``.

    Raises:
        UserError: the folder is no pack, or their file cannot be read.
    """
    file = folder / _kind(read_config(folder)).weights_file
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} cannot be read ({error}).") from error
    return tensors


def _kind(config: DictConfig) -> type[PictureCodec]:
    """Class of the codec; packs that do not say are of adapters."""
    return codec_class(str(config.get("kind", _ADAPTED)))


def codec_class(path: str) -> type[PictureCodec]:
    """The class of this name, which a method's configuration or a pack gives.

    Raises:
        UserError: there is none, or it is no codec.
    """
    try:
        kind = get_class(path)
    except Exception as error:  # importing fails in many ways
        raise UserError(f"There is no codec {path} ({error}).") from error
    if not issubclass(kind, PictureCodec):
        raise UserError(f"{path} is not a codec of a method.")
    return kind
