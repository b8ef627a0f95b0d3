"""The latent as the decoder has it, without computing what only the rate needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from compressai.entropy_models import EntropyBottleneck, EntropyModel
from compressai.models import CompressionModel
from torch import Tensor, nn


class _Reached(Exception):
    """Carries the latent out of a forward pass that need not go on."""

    def __init__(self, y_hat: Tensor) -> None:
        super().__init__()
        self.y_hat = y_hat


def _stop(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    raise _Reached(inputs[0])


@contextmanager
def encoder_latent(codec: CompressionModel) -> Iterator[list[Tensor]]:
    """Inside the block, every y that ``codec.g_a`` computes is appended to the list."""
    seen: list[Tensor] = []
    hook = codec.g_a.register_forward_hook(lambda module, inputs, y: seen.append(y))
    try:
        yield seen
    finally:
        hook.remove()


@torch.no_grad()
def decoder_latent(codec: CompressionModel, x: Tensor) -> Tensor:
    """ŷ, what ``codec.g_s`` would be given for images x.

    Args:
        codec: any CompressAI codec, in eval mode.
        x: ``(B, 3, H, W)`` in [0, 1].

    Returns:
        ``(B, M, H/s, W/s)``.
    """
    models = [m for m in codec.modules() if isinstance(m, EntropyModel)]
    if len(models) == 1 and isinstance(models[0], EntropyBottleneck):
        # Only y is coded: quantise it, and leave the likelihoods alone.
        medians = models[0]._get_medians()
        return models[0].quantize(codec.g_a(x), "dequantize", medians)
    return until_synthesis(codec, lambda: codec(x))


def until_synthesis(codec: CompressionModel, call: Callable[[], object]) -> Tensor:
    """What ``call`` hands to ``codec.g_s``; nothing is computed from there on.

    Args:
        codec: any CompressAI codec.
        call: uses the codec, such as ``lambda: codec.decompress(strings, shape)``.
    """
    hook = codec.g_s.register_forward_pre_hook(_stop)
    try:
        call()
    except _Reached as reached:
        return reached.y_hat
    finally:
        hook.remove()
    raise RuntimeError("The codec does not go through g_s.")
