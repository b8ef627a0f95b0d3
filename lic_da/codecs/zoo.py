"""Base codecs by name and quality: construction, weights, fingerprint.

A codec is described by ``conf/codec/<name>.yaml``: the CompressAI class and its arguments, the
qualities that exist, and where the weights come from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from compressai.entropy_models import EntropyModel
from compressai.models import CompressionModel
from hydra.utils import instantiate
from omegaconf import DictConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lic_da.data.images import atomic_path
from lic_da.errors import UserError, unknown

LAMBDAS = {1: 0.0018, 2: 0.0035, 3: 0.0067, 4: 0.0130, 5: 0.0250, 6: 0.0483}
"""Quality -> λ of the rate-distortion loss R + λ·255²·MSE (CompressAI's table for MSE)."""

WEIGHTS = Path(__file__).resolve().parent / "weights"
"""Folder of the weights that come with the package."""


def check_quality(config: DictConfig) -> int:
    """The configured quality, if the codec has it.

    Raises:
        UserError: the codec has no such quality; the message lists those it has.
    """
    quality = config.quality
    if quality not in list(config.qualities):
        raise unknown("quality", quality, config.qualities, f"for codec {config.name}")
    return int(quality)


def build(config: DictConfig, *, weights: bool = True) -> CompressionModel:
    """The codec that ``conf/codec/<name>.yaml`` describes, in eval mode.

    Args:
        config: the ``codec`` part of the configuration.
        weights: load the configured weights; without them the codec is randomly initialised.

    Raises:
        UserError: unknown quality, or weights that are missing or do not fit.
    """
    quality = check_quality(config)
    codec: CompressionModel = instantiate(config.model)
    if weights:
        load_weights(codec, weights_path(config, quality))
    return codec.eval()


def weights_path(config: DictConfig, quality: int) -> Path:
    """File of the weights: the package's own for ``weights: bundled``, else the configured path."""
    if config.weights == "bundled":
        return WEIGHTS / config.name / f"q{quality}.safetensors"
    return Path(str(config.weights)).expanduser()


def load_weights(codec: CompressionModel, path: Path) -> None:
    """Load weights and entropy-coding tables (CDFs) from a safetensors file.

    The tables are part of the file, so that every machine codes with the very same integers.

    Raises:
        UserError: no such file, not a safetensors file, or keys or shapes that differ.
    """
    if not path.is_file():
        raise UserError(
            f"There are no weights at {path}. 'make pretrain' makes the bundled ones; for others set "
            "codec.weights to the path of a .safetensors file."
        )
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}).") from error
    expected = codec.state_dict()
    tables = {k for k in expected if k.rsplit(".", 1)[-1] in _TABLES}
    missing = sorted(expected.keys() - state.keys() - tables)
    surplus = sorted(state.keys() - expected.keys())
    shapes = sorted(
        f"{k} is {tuple(state[k].shape)}, not {tuple(expected[k].shape)}"
        for k in expected.keys() & state.keys() - tables
        if state[k].shape != expected[k].shape
    )
    problems = [
        f"{label}: {', '.join(keys[:4])}{' …' if len(keys) > 4 else ''}"
        for label, keys in (("missing", missing), ("unknown", surplus), ("other shape", shapes))
        if keys
    ]
    if problems:
        raise UserError(f"The weights in {path} do not fit this codec; {'; '.join(problems)}.")
    codec.load_state_dict(state)
    if any(key not in state or not state[key].numel() for key in tables):
        codec.update(force=True)


_TABLES = frozenset({"_quantized_cdf", "_offset", "_cdf_length"})


def save_weights(codec: CompressionModel, path: Path, metadata: Mapping[str, str]) -> None:
    """Write weights and entropy-coding tables as safetensors; the file appears whole or not at all."""
    codec.update(force=True)
    state = {k: v.detach().cpu().contiguous() for k, v in codec.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(state, temporary, dict(metadata))


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256 that identifies a codec: names, shapes and bytes of all its tensors.

    Args:
        state: a state dict of the codec as CompressAI defines it.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def keep_entropy_models_in_float32(codec: CompressionModel) -> None:
    """Let entropy models compute in float32 also under autocast: likelihoods need the precision."""
    for module in codec.modules():
        if isinstance(module, EntropyModel):
            module.forward = _in_float32(module.forward)  # type: ignore[method-assign]


def _in_float32(forward: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(x.device.type, enabled=False):
            return forward(x.float(), *args, **kwargs)

    return wrapped


def count_parameters(module: torch.nn.Module) -> int:
    """Number of elements of all parameters of a module."""
    return sum(p.numel() for p in module.parameters())
