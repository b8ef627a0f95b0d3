"""The latent as the decoder has it, without computing what only the rate needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from compressai.entropy_models import EntropyBottleneck, EntropyModel
from compressai.models import CompressionModel
from numpy.typing import NDArray
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
def decoder_latent(codec: CompressionModel, x: Tensor, rates: Tensor | None = None) -> Tensor:
    """ŷ, what ``codec.g_s`` would be given for images x.

    Args:
        codec: any CompressAI codec, in eval mode.
        x: ``(B, 3, H, W)`` in [0, 1].
        rates: of a codec of variable rate, the place of each image's quality among those it has, ``(B,)``;
            None: the one that it codes at.

    Returns:
        ``(B, M, H/s, W/s)``.
    """
    if rates is not None:
        return until_synthesis(codec, lambda: codec(x, rates))
    bottleneck = only_bottleneck(codec)
    if bottleneck is not None:
        # Quantise y, and leave the likelihoods alone.
        return bottleneck.quantize(codec.g_a(x), "dequantize", bottleneck._get_medians())
    return until_synthesis(codec, lambda: codec(x))


def only_bottleneck(codec: CompressionModel) -> EntropyBottleneck | None:
    """The entropy model of a codec that codes y and nothing else; None for other codecs."""
    models = [m for m in codec.modules() if isinstance(m, EntropyModel)]
    alone = models[0] if len(models) == 1 else None
    return alone if isinstance(alone, EntropyBottleneck) else None


@dataclass(frozen=True)
class LatentFormat:
    """How ŷ is kept: as integers where it is integers around medians, else as 16-bit floats.

    Attributes:
        medians: ``(M, 1, 1)``; None: ŷ is made of predictions and is no integers.
    """

    medians: Tensor | None

    @classmethod
    def of(cls, codec: CompressionModel) -> LatentFormat:
        """The format for a codec."""
        bottleneck = only_bottleneck(codec)
        if bottleneck is None:
            return cls(None)
        return cls(bottleneck._get_medians().detach().cpu().reshape(-1, 1, 1))

    def stored(self, y_hat: Tensor) -> NDArray[Any]:
        """ŷ ``(M, H, W)`` as int8, int16 or float16."""
        y_hat = y_hat.detach().cpu()
        if self.medians is None:
            return y_hat.half().numpy()
        symbols = (y_hat - self.medians).round()
        small = symbols.abs().max() <= np.iinfo(np.int8).max
        return symbols.to(torch.int8 if small else torch.int16).numpy()

    def restored(self, kept: NDArray[Any]) -> Tensor:
        """What was kept, as float32; integers to the very bits of ŷ."""
        values = torch.from_numpy(kept.astype(np.float32))
        return values if self.medians is None else values.add_(self.medians)


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
