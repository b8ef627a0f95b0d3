"""Checkpoints of codecs, as people publish them: reading them, and making them fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from compressai.entropy_models import EntropyBottleneck
from compressai.models import CompressionModel
from compressai.models.utils import remap_old_keys
from compressai.zoo.pretrained import load_pretrained
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lic_da.errors import UserError

SUFFIXES = (".safetensors", ".pth", ".pth.tar", ".pt", ".ckpt")
"""File names that checkpoints may end in."""

TABLES = frozenset({"_quantized_cdf", "_offset", "_cdf_length", "scale_table"})
"""Last parts of the names of entropy-coding tables, whose sizes depend on the weights."""

_NESTED = ("state_dict", "model_state_dict", "model", "net")


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint, by the names it has in it.

    Args:
        path: a safetensors file, or one of torch, whose tensors may lie in a nested dict. Pickled
            files are read with ``weights_only=True``: nothing in them is executed.

    Raises:
        UserError: no such file, of another kind, or it cannot be read.
    """
    if not path.is_file():
        raise UserError(f"There are no weights at {path}.")
    if not path.name.endswith(SUFFIXES):
        raise UserError(f"{path} must end in one of {', '.join(SUFFIXES)}.")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path} is not a readable safetensors file ({error}).") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling fails in many ways
        reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} cannot be read as plain tensors ({reason}). If you trust the file, save its "
            "state dict again by itself: torch.save(model.state_dict(), 'new.pth')."
        ) from error
    return _tensors(content, path)


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """The dict of tensors, out of the dicts it is nested in."""
    if isinstance(content, Mapping):
        for key in _NESTED:
            if isinstance(content.get(key), Mapping):
                return _tensors(content[key], path)
        tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
        if tensors:
            return tensors
    raise UserError(f"{path} holds no state dict.")


def remap_state_dict(
    state: Mapping[str, Tensor], codec: CompressionModel, path: Path
) -> dict[str, Tensor]:
    """The tensors by the names that ``codec`` has for them.

    Prefixes that a wrapper has put before all names (``module.``, ``model.``) are taken away, and old
    names of CompressAI become those of today. Tables and constants that are missing are the codec's.

    Raises:
        UserError: parameters are missing, unknown or of another shape; the message says which.
    """
    state = load_pretrained(_without_prefix(state))
    for name, module in codec.named_modules():
        if isinstance(module, EntropyBottleneck):
            state = remap_old_keys(name, state)
    expected = codec.state_dict()
    parameters = {name for name, _ in codec.named_parameters()}
    missing = sorted(parameters - state.keys())
    surplus = sorted(state.keys() - expected.keys())
    shapes = sorted(
        f"{k} is {tuple(state[k].shape)}, not {tuple(expected[k].shape)}"
        for k in expected.keys() & state.keys()
        if not is_table(k) and state[k].shape != expected[k].shape
    )
    problems = [
        f"{label}: {', '.join(keys[:4])}{f' and {len(keys) - 4} more' if len(keys) > 4 else ''}"
        for label, keys in (("missing", missing), ("unknown", surplus), ("other shape", shapes))
        if keys
    ]
    spoilt = sorted(k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all())
    if spoilt:
        more = f" and {len(spoilt) - 4} more" if len(spoilt) > 4 else ""
        raise UserError(
            f"The weights in {path} cannot be used: {', '.join(spoilt[:4])}{more} hold values that are "
            "no finite numbers."
        )
    if problems:
        raise UserError(
            f"The weights in {path} do not fit {type(codec).__name__}; {'; '.join(problems)}."
        )
    return {**expected, **state}


def is_table(key: str) -> bool:
    """Whether a tensor of this name is an entropy-coding table."""
    return key.rsplit(".", 1)[-1] in TABLES


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take away what stands before ``g_a.`` in all names; what lies beside the codec is left out."""
    prefix = next((key[: key.index("g_a.")] for key in state if "g_a." in key), "")
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


@torch.no_grad()
def load_partial(codec: CompressionModel, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into a codec; entropy-coding tables take the size that they have.

    Args:
        codec: where to.
        tensors: by their names in its state dict; parameters have its shapes.
    """
    state = codec.state_dict()
    for key, value in tensors.items():
        if is_table(key):
            module, _, name = key.rpartition(".")
            setattr(codec.get_submodule(module), name, value.clone())
        else:
            state[key].copy_(value)
