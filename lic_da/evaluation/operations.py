"""What coding costs by counting: multiplications and additions of convolutions and matrix products."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def operations(module: nn.Module, x: Tensor) -> int:
    """Multiplications and additions of a module, by torch's counter.

    Args:
        module: whatever takes ``x``; activations and entropy coding do not count.
        x: its input.
    """
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        module(x.clone())  # with gradients the layers compute as CompressAI's do
    return int(counter.get_total_flops())


def kmacs_per_pixel(module: nn.Module, x: Tensor, pixels: int) -> float:
    """Thousands of multiply-accumulate operations for each of an image's pixels; see :func:`operations`."""
    return operations(module, x) / 2 / pixels / 1000
