"""Convolutions that are like others."""

from __future__ import annotations

from torch import nn

Convolution = nn.Conv2d | nn.ConvTranspose2d


def convolution_like(
    source: Convolution, in_channels: int, out_channels: int, *, bias: bool = True
) -> Convolution:
    """A new convolution of the same kind and geometry, with other channels and one group."""
    kind = nn.ConvTranspose2d if isinstance(source, nn.ConvTranspose2d) else nn.Conv2d
    extra = {"output_padding": source.output_padding} if kind is nn.ConvTranspose2d else {}
    return kind(
        in_channels,
        out_channels,
        source.kernel_size,  # type: ignore[arg-type]
        stride=source.stride,  # type: ignore[arg-type]
        padding=source.padding,  # type: ignore[arg-type]
        dilation=source.dilation,  # type: ignore[arg-type]
        bias=bias,
        **extra,  # type: ignore[arg-type]
    )
