"""Adapter packs: what a training run leaves behind, and all that is needed beside the base codec.

A pack is a folder::

    adapters.safetensors   bank and gate
    config.yaml            codec, quality, sites, adapters, domains, blend, fingerprint of the base;
                           of a pack that extends another, also the fingerprints of what it took over
    metrics.json           what was measured at the end of training
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lic_da.adaptation.codec import PAPER, AdaptedCodec, adapter_state
from lic_da.adaptation.extension import check_frozen
from lic_da.codecs import zoo
from lic_da.data.images import atomic_path
from lic_da.errors import UserError

_TENSORS, _CONFIG, _METRICS = "adapters.safetensors", "config.yaml", "metrics.json"


def save(adapted: AdaptedCodec, folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write a pack; a path of base weights becomes absolute, so that it opens from everywhere.

    Args:
        adapted: the codec with its trained adapters.
        folder: where to; it is made if need be.
        metrics: goes into ``metrics.json``.
    """
    tensors = adapter_state(adapted.codec)
    with atomic_path(folder / _TENSORS) as temporary:
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in tensors.items()},
            temporary,
            {"base_fingerprint": adapted.fingerprint},
        )
    codec = adapted.config.copy()
    if zoo.is_file_of_weights(codec.weights):
        codec.weights = str(Path(codec.weights).expanduser().resolve())
    config = OmegaConf.create(
        {
            "codec": codec,
            "quality": adapted.config.quality,
            "how": adapted.how,
            "domains": list(adapted.domains),
            "blend": adapted.synthesis.blend,
            "base_fingerprint": adapted.fingerprint,
        }
    )
    if adapted.extended is not None:
        config.extended = adapted.extended
    with atomic_path(folder / _CONFIG) as temporary:
        OmegaConf.save(config, temporary, resolve=True)
    with atomic_path(folder / _METRICS) as temporary:
        temporary.write_text(json.dumps(metrics, indent=1) + "\n")


def load(folder: Path) -> AdaptedCodec:
    """The codec of a pack, with its adapters.

    Raises:
        UserError: the folder is no pack, it belongs to other base weights or to none that are there, or
            it extends another pack but differs from it where it must not.
    """
    config = read_config(folder)
    if zoo.is_file_of_weights(config.codec.weights):
        try:
            zoo.weights_path(config.codec, config.quality)
        except UserError as error:
            raise UserError(
                f"{error} The pack {folder} belongs to them; if they are elsewhere now, say so in its "
                f"{_CONFIG}: codec.weights."
            ) from error
    adapted = AdaptedCodec.build(config.codec, list(config.domains), config.get("how", PAPER))
    if adapted.fingerprint != config.base_fingerprint:
        raise UserError(
            f"The pack {folder} was trained on base weights {config.base_fingerprint}, but those of "
            f"codec {config.codec.name} at quality {config.quality} here are {adapted.fingerprint}."
        )
    load_adapters(adapted, read_tensors(folder), str(folder / _TENSORS))
    adapted.synthesis.blend = config.blend
    adapted.extended = config.get("extended")
    check_frozen(adapted, str(folder / _TENSORS))
    return adapted


def read_config(folder: Path) -> DictConfig:
    """``config.yaml`` of a pack.

    Raises:
        UserError: the folder is no pack.
    """
    missing = [name for name in (_TENSORS, _CONFIG) if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} is not an adapter pack: it has no {' and no '.join(missing)}.")
    config = OmegaConf.load(folder / _CONFIG)
    assert isinstance(config, DictConfig)
    return config


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Tensors of bank and gate of a pack, named ``bank.…`` and ``gate.…``.

    Raises:
        UserError: their file cannot be read.
    """
    try:
        tensors: dict[str, Tensor] = load_file(folder / _TENSORS)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder / _TENSORS} cannot be read ({error}).") from error
    return tensors


def load_adapters(adapted: AdaptedCodec, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Copy tensors of bank and gate into a codec.

    Raises:
        UserError: names or shapes differ; the message says which.
    """
    own = adapter_state(adapted.codec)
    wrong = sorted(
        key
        for key in own.keys() | tensors.keys()
        if key not in own or key not in tensors or own[key].shape != tensors[key].shape
    )
    if wrong:
        raise UserError(
            f"{origin} does not fit this codec and these domains; first differences: "
            f"{', '.join(wrong[:4])}."
        )
    with torch.no_grad():
        for key, value in own.items():
            value.copy_(tensors[key])
