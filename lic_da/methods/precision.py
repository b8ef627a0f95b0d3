"""bfloat16 where it pays."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager

import torch


def bfloat16(device: torch.device, wanted: bool) -> AbstractContextManager[None]:
    """Autocast to bfloat16 on a device that computes in it; on others, and where not wanted, nothing.

    CPUs without such instructions do convolutions in bfloat16 many times slower than in float32.

    Args:
        device: where the block computes.
        wanted: by the settings.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and pays(device.type))


@functools.cache
def pays(device: str) -> bool:
    """Whether devices of this type compute in bfloat16 here."""
    if device == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return device != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
