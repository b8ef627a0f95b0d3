"""Transforms between images and latents as processors compute them fastest, outside of training.

A layer of convolutions, of GDN and of pointwise functions stays the module it is: its parameters, its
place and what adapters do with it. Only its class says another way to compute the same, which is taken
where there are no gradients, on a CPU in single precision; else it computes as its parent. Results
differ from the parent's by rounding, some 1e-6 of images in [0, 1].

==================================  ====================================================================
channels last, from end to end      one copy of the smallest tensor, and none between layers
GDN (Ballé et al. 2016)             band by band, each in a processor's cache: x², 1×1 convolution, root
                                    and product otherwise go through main memory one after the other
layers to and from three channels   in sub-pixel form (:mod:`lic_da.codecs.models.subpixel`)
==================================  ====================================================================
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from compressai.layers import GDN
from compressai.models import CompressionModel
from torch import Tensor, nn

from lic_da.codecs.models import subpixel
from lic_da.codecs.models.convolutions import Convolution
from lic_da.codecs.models.zou2022 import WindowAttentionBlock

_BAND = 1 << 18
"""Elements that GDN computes at a time: of them and what it makes of them, a cache holds a few."""

_POINTWISE = (nn.ReLU, nn.LeakyReLU, nn.GELU, nn.Sigmoid, nn.Identity)


def applies(x: Tensor) -> bool:
    """Whether the fast ways are taken: no gradients, a CPU, float32, and nobody traces the layers."""
    if torch.is_grad_enabled() or not x.is_cpu or x.dtype != torch.float32:
        return False
    traced = torch.jit.is_tracing() or torch.compiler.is_compiling()  # type: ignore[attr-defined]
    return not traced and not torch.is_autocast_enabled("cpu")


class ChannelsLast(nn.Sequential):
    """Layers that get their input with channels last, and so go on."""

    def forward(self, x: Tensor) -> Tensor:
        """As ``nn.Sequential``."""
        if applies(x):
            x = x.contiguous(memory_format=torch.channels_last)
        result: Tensor = super().forward(x)
        return result


class FastGDN(GDN):
    """GDN, or its inverse, band by band.

    Attributes:
        overwrites: its input, which is a convolution's output that nobody else needs: the system is not
            asked for another large piece of memory.
    """

    overwrites = False

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> the same shape."""
        if not applies(x):
            result: Tensor = super().forward(x)
            return result
        gamma, beta = self.gamma_reparam(self.gamma), self.beta_reparam(self.beta)
        out = x if self.overwrites else torch.empty_like(x)
        height = max(1, _BAND // (x.shape[0] * x.shape[1] * x.shape[3]))
        for band, into in zip(x.split(height, dim=2), out.split(height, dim=2), strict=True):
            norm = pointwise(band.square(), gamma[..., None, None], beta)
            torch.mul(band, norm.sqrt_() if self.inverse else norm.rsqrt_(), out=into)
        return out


class SubpixelConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution to few channels; see :func:`lic_da.codecs.models.subpixel.convolve`."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """``(B, C_in, H, W)`` -> ``(B, C_out, H', W')``."""
        if output_size is None and applies(x):
            return subpixel.convolve(self, x, self.weight, self.bias)
        return super().forward(x, output_size)


class BlockConv2d(nn.Conv2d):
    """A convolution from few channels; see :func:`lic_da.codecs.models.subpixel.convolve_blocks`."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C_in, H, W)`` -> ``(B, C_out, H', W')``."""
        if applies(x) and not any(side % self.stride[0] for side in x.shape[2:]):
            return subpixel.convolve_blocks(self, x)
        return super().forward(x)


class PointwiseConv2d(nn.Conv2d):
    """A convolution of 1×1; see :func:`pointwise`."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C_in, H, W)`` -> ``(B, C_out, H, W)``."""
        if applies(x) and self.bias is not None:
            return pointwise(x, self.weight, self.bias)
        return super().forward(x)


def quicken(codec: CompressionModel) -> CompressionModel:
    """The codec itself, whose ``g_a`` and ``g_s`` compute in the fast ways from now on, if they can.

    Transforms with other layers than convolutions, GDN, pointwise functions and window attention stay what
    they are.
    """
    for transform in (codec.g_a, codec.g_s):
        if type(transform) is nn.Sequential and all(map(_is_known, transform)):
            transform.__class__ = ChannelsLast
            before: nn.Module | None = None
            for layer in transform:
                layer.__class__ = _fast_class(layer)
                if isinstance(layer, FastGDN):
                    layer.overwrites = isinstance(before, Convolution)
                before = layer
                if isinstance(layer, WindowAttentionBlock):
                    for part in layer.modules():
                        part.__class__ = _fast_class(part)
    return codec


def _is_known(layer: nn.Module) -> bool:
    return type(layer) in (nn.Conv2d, nn.ConvTranspose2d, GDN, WindowAttentionBlock, *_POINTWISE)


def _fast_class(layer: nn.Module) -> type[nn.Module]:
    if type(layer) is GDN:
        return FastGDN
    if type(layer) is nn.Conv2d and layer.kernel_size == layer.stride == (1, 1):
        return PointwiseConv2d
    if subpixel.suits(layer):
        return SubpixelConvTranspose2d
    return BlockConv2d if subpixel.suits_blocks(layer) else type(layer)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A convolution of 1×1, by oneDNN, which torch takes by itself only on several threads."""
    if torch.backends.mkldnn.is_available():
        return torch.mkldnn_convolution(x, weight, bias, (0, 0), (1, 1), (1, 1), 1)
    return F.conv2d(x, weight, bias)
