"""Base codecs by name and quality: construction, weights, fingerprint.

A codec is described by a :class:`lic_da.codecs.spec.CodecSpec`, from ``conf/codec/<name>.yaml``: the
CompressAI class and its arguments, the qualities that exist, and where the weights come from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from compressai.entropy_models import EntropyModel
from compressai.models import CompressionModel
from compressai.zoo.image import model_urls
from safetensors.torch import save_file
from torch import Tensor

from lic_da.codecs.checkpoints import is_table, read_checkpoint, remap_state_dict
from lic_da.codecs.models.fast import quicken
from lic_da.codecs.spec import CodecSpec
from lic_da.errors import UserError
from lic_da.io.files import atomic_path
from lic_da.registry import MODELS

WEIGHTS = Path(__file__).resolve().parent / "weights"
"""Folder of the weights that come with the package."""


def build(config: CodecSpec | Mapping[str, Any], *, weights: bool = True) -> CompressionModel:
    """The codec that ``conf/codec/<name>.yaml`` describes, in eval mode.

    Args:
        config: the codec, or its settings as a plain mapping.
        weights: load the configured weights; without them the codec is randomly initialised.

    Raises:
        UserError: unknown quality, or weights that are missing or do not fit.
    """
    spec = CodecSpec.of(config)
    if not weights:
        return _made(spec)
    if spec.weights == "random":
        with torch.random.fork_rng(devices=[]):
            # The same weights, and so the same fingerprint, every time.
            torch.manual_seed(0 if spec.variable_rate else spec.quality)
            codec = _made(spec)
        codec.update(force=True)
        return codec
    path = weights_path(spec)  # says what is missing before anything large is built
    codec = _made(spec)
    load_weights(codec, path)
    return select_rate(codec, spec)


def _made(spec: CodecSpec) -> CompressionModel:
    codec: CompressionModel = MODELS.make(spec.model)
    return select_rate(quicken(codec.eval()), spec)


def select_rate(codec: CompressionModel, spec: CodecSpec) -> CompressionModel:
    """The codec itself; one of variable rate codes at the quality of ``spec`` from now on."""
    if spec.variable_rate:
        codec.select_rate(spec.quality)
    return codec


def is_file_of_weights(weights: str | None) -> bool:
    """Whether ``codec.weights`` names a file, and not a kind of weights."""
    return weights not in (None, "bundled", "zoo", "random")


def weights_path(spec: CodecSpec) -> Path:
    """File of the weights.

    Args:
        spec: whose. Its ``weights`` are ``bundled`` (the package's own), ``zoo`` (CompressAI's; downloaded
            once and checked by their hash) or a path, in which ``%q`` stands for the quality.

    Raises:
        UserError: there is no such file; the message says where it can be had.
    """
    if spec.weights is None:
        raise UserError(
            f"Say where the weights of codec {spec.name} at quality {spec.quality} are: "
            f"codec.weights=PATH. {spec.where}".rstrip()
        )
    if spec.weights == "zoo":
        return _downloaded(spec)
    if spec.weights == "bundled":
        path = WEIGHTS / spec.name / f"{spec.weights_stem}.safetensors"
        if not path.is_file():
            raise UserError(
                f"The package has no weights of {spec.name} at quality {spec.quality}; 'make pretrain' "
                "makes them, or set codec.weights to a file."
            )
        return path
    path = Path(spec.weights.replace("%q", str(spec.quality))).expanduser()
    if not path.is_file():
        raise UserError(f"There are no weights at {path} (codec.weights). {spec.where}".rstrip())
    return path


def _downloaded(spec: CodecSpec) -> Path:
    """The checkpoint of CompressAI's model zoo, from torch's cache or downloaded into it."""
    urls = model_urls.get(spec.zoo, {}).get("mse", {})
    if spec.quality not in urls:
        raise UserError(
            f"CompressAI's zoo has no weights of {spec.name} at quality {spec.quality}. "
            f"{spec.where}".rstrip()
        )
    url = urls[spec.quality]
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), path.stem.split(".")[0].rsplit("-")[-1])
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"The weights of {spec.name} at quality {spec.quality} could not be downloaded ({error}). "
                f"Fetch {url} elsewhere and put it at {path}, or set codec.weights to a file you have."
            ) from error
    return path


def load_weights(codec: CompressionModel, path: Path) -> None:
    """Load the weights of a checkpoint, and see to the entropy-coding tables (CDFs).

    Tables in a safetensors file are taken as they are, so that every machine codes with the very
    same integers. Those of other checkpoints may be older than the weights: they are made anew.

    Raises:
        UserError: the file cannot be read, or keys or shapes differ.
    """
    state = remap_state_dict(read_checkpoint(path), codec, path)
    codec.load_state_dict(state)
    tables = [key for key in state if is_table(key)]
    if path.suffix != ".safetensors" or any(not state[key].numel() for key in tables):
        codec.update(force=True)


@torch.no_grad()
def round_kernels(codec: CompressionModel) -> None:
    """Round the kernels of all convolutions to half precision, and make the tables that belong to them.

    The codec goes on computing in single precision; a file of it is half as large.
    """
    for parameter in codec.parameters():
        if parameter.ndim == 4:
            parameter.copy_(parameter.half() + 0)  # no -0.0
    codec.update(force=True)


def save_weights(
    codec: CompressionModel, path: Path, metadata: Mapping[str, str], *, half: bool = False
) -> None:
    """Write weights and entropy-coding tables as safetensors; the file appears whole or not at all.

    Args:
        codec: whose weights.
        path: of the file.
        metadata: of the file.
        half: keep kernels in half precision, to which they have been rounded.
    """
    codec.update(force=True)
    state = {k: v.detach().cpu().contiguous() for k, v in codec.state_dict().items()}
    if half:
        state = {k: v.half() if v.ndim == 4 else v for k, v in state.items()}
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
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        args = tuple(map(_to_float32, args))
        kwargs = {key: _to_float32(value) for key, value in kwargs.items()}
        with torch.autocast(args[0].device.type, enabled=False):
            return forward(*args, **kwargs)

    return wrapped


def _to_float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) else value


def count_parameters(module: torch.nn.Module) -> int:
    """Number of elements of all parameters of a module."""
    return sum(p.numel() for p in module.parameters())


def count_trainable(module: torch.nn.Module) -> int:
    """Number of parameters that require gradients."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def parameters_by_part(codec: CompressionModel) -> dict[str, int]:
    """Parameters of a codec's encoder, decoder, entropy model (all that is neither), and in total."""
    encoder, decoder = count_parameters(codec.g_a), count_parameters(codec.g_s)
    total = count_parameters(codec)
    return {
        "encoder": encoder,
        "decoder": decoder,
        "entropy": total - encoder - decoder,
        "total": total,
    }
