"""The CNN codec of Zou et al. 2022 with window attention (WACNN).

R. Zou, C. Song, Z. Zhang, *The Devil Is in the Details: Window-based Attention for Image
Compression*, CVPR 2022, arXiv 2203.08450. Parameters have the names and shapes of the published
checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from compressai.ans import BufferedRansEncoder, RansDecoder
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.layers import GDN, conv1x1, conv3x3, subpel_conv3x3
from compressai.models import CompressionModel
from compressai.models.utils import conv, deconv
from compressai.ops import quantize_ste
from torch import Tensor, nn

CodeSlice = Callable[[int, Tensor, Tensor], Tensor]
"""(number of the slice, its means, its scales) -> the slice, quantised; ``(B, M/10, H, W)`` each."""


class ResidualUnit(nn.Module):
    """1×1 to half the channels, 3×3, 1×1 back, with GELU; the input is added, then GELU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv = nn.Sequential(
            conv1x1(channels, half),
            nn.GELU(),
            conv3x3(half, half),
            nn.GELU(),
            conv1x1(half, channels),
        )
        self.gelu = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.gelu(self.conv(x) + x)
        return out


class WindowAttention(nn.Module):
    """Multi-head attention among the positions of a window, with a relative position bias.

    Args:
        channels: of input and output.
        heads: number of heads.
        window: side of the windows.
    """

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(
            nn.init.trunc_normal_(torch.empty((2 * window - 1) ** 2, heads), std=0.02)
        )
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        at = torch.cartesian_prod(torch.arange(window), torch.arange(window))
        distance = at[:, None] - at[None] + window - 1
        index = distance[..., 0] * (2 * window - 1) + distance[..., 1]
        self.register_buffer("relative_position_index", index)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend.

        Args:
            x: windows ``(B, windows, positions, C)``.
            mask: ``(windows, 1, positions, positions)``, added to the logits; None: none.
        """
        batch, windows, positions, channels = x.shape
        qkv = self.qkv(x).reshape(batch, windows, positions, 3, self.heads, channels // self.heads)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        logits = bias if mask is None else bias + mask
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=logits.to(q.dtype))
        out = self.proj(out.transpose(2, 3).reshape(x.shape))
        return out


class ShiftedWindowAttention(nn.Module):
    """Attention within windows that are shifted by ``shift``; the input is added.

    Args:
        channels: of input and output.
        heads: number of heads.
        window: side of the windows; sides of the input must be multiples of it.
        shift: by how many positions the windows are moved, cyclically.
    """

    def __init__(self, channels: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.attn = WindowAttention(channels, heads, window)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> the same shape."""
        height, width = x.shape[2:]
        shifted = torch.roll(x, (-self.shift, -self.shift), dims=(2, 3))
        windows = self.attn(self._windows(shifted), self._mask(height, width, x.device))
        out = self._image(windows, height, width)
        return x + torch.roll(out, (self.shift, self.shift), dims=(2, 3))

    def _windows(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, windows, positions, C)``."""
        batch, channels, height, width = x.shape
        w = self.window
        x = x.reshape(batch, channels, height // w, w, width // w, w)
        return x.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, w * w, channels)

    def _image(self, windows: Tensor, height: int, width: int) -> Tensor:
        """The inverse of ``_windows``."""
        batch, _, _, channels = windows.shape
        w = self.window
        x = windows.reshape(batch, height // w, width // w, w, w, channels)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, height, width)

    def _mask(self, height: int, width: int, device: torch.device) -> Tensor | None:
        """−100 between positions that only the cyclic shift has made neighbours."""
        if self.shift == 0:
            return None
        rows, columns = (self._regions(side, device) for side in (height, width))
        region = (3 * rows[:, None] + columns[None])[None, None].float()
        labels = self._windows(region)[0, :, :, 0]  # (windows, positions)
        other = labels[:, None, :] != labels[:, :, None]
        return torch.where(other, -100.0, 0.0)[:, None]

    def _regions(self, side: int, device: torch.device) -> Tensor:
        at = torch.arange(side, device=device)
        return (at >= side - self.window).int() + (at >= side - self.shift).int()


class WindowAttentionBlock(nn.Module):
    """x + u with u = a·σ(b), where a and b are two branches over x.

    Args:
        channels: of input and output.
        heads: of the attention.
        window: side of its windows.
        shift: of its windows.
    """

    def __init__(self, channels: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.conv_a = nn.Sequential(*(ResidualUnit(channels) for _ in range(3)))
        self.conv_b = nn.Sequential(
            ShiftedWindowAttention(channels, heads, window, shift),
            *(ResidualUnit(channels) for _ in range(3)),
            conv1x1(channels, channels),
        )
        self.product = nn.Identity()  # where adapters can take hold of u, before the skip

    def forward(self, x: Tensor) -> Tensor:
        u: Tensor = self.product(self.conv_a(x) * torch.sigmoid(self.conv_b(x)))
        return x + u


class WACNN(CompressionModel):
    r"""CNN codec with window attention and channel-wise autoregression, Zou et al. 2022.

    .. code-block:: none

              ┌───┐  y           ┌───┐ z  ┌──┐ ẑ   ┌────────┐ means
        x ──►─┤g_a├──┬───────►───┤h_a├──►─┤EB├──┬──┤h_mean_s├──────►─┐
              └───┘  │           └───┘    └──┘  │  └────────┘        │
                     │                          │  ┌─────────┐ scales│
                     │ 10 slices                └──┤h_scale_s├───►─┐ │
                     ▼                             └─────────┘     ▼ ▼
                   ┌──┐   slice i: mean and scale from these and from at most
                   │GC│◄─ 5 slices before it; then the residual of rounding
                   └──┘   is predicted and added: ŷ
              ┌───┐  │ ŷ
        x̂ ──◄─┤g_s├──┘
              └───┘

    Sides of images must be multiples of 64.

    Args:
        N: channels of the transforms.
        M: channels of the latent.
        slices: number of slices of the latent.
        support: how many earlier slices a slice is conditioned on, at most.
    """

    def __init__(
        self,
        N: int = 192,  # noqa: N803 (CompressAI's names)
        M: int = 320,  # noqa: N803
        slices: int = 10,
        support: int = 5,
    ) -> None:
        super().__init__()
        self.N, self.M, self.slices, self.support = N, M, slices, support
        width = M // slices
        self.g_a = nn.Sequential(
            conv(3, N),
            GDN(N),
            conv(N, N),
            GDN(N),
            WindowAttentionBlock(N, heads=8, window=8, shift=4),
            conv(N, N),
            GDN(N),
            conv(N, M),
            WindowAttentionBlock(M, heads=8, window=4, shift=2),
        )
        self.g_s = nn.Sequential(
            WindowAttentionBlock(M, heads=8, window=4, shift=2),
            deconv(M, N),
            GDN(N, inverse=True),
            deconv(N, N),
            GDN(N, inverse=True),
            WindowAttentionBlock(N, heads=8, window=8, shift=4),
            deconv(N, N),
            GDN(N, inverse=True),
            deconv(N, 3),
        )
        self.h_a = with_gelu(
            conv3x3(M, 320),
            conv3x3(320, 288),
            conv3x3(288, 256, stride=2),
            conv3x3(256, 224),
            conv3x3(224, 192, stride=2),
        )
        self.h_mean_s, self.h_scale_s = (
            with_gelu(
                conv3x3(192, 192),
                subpel_conv3x3(192, 224, 2),
                conv3x3(224, 256),
                subpel_conv3x3(256, 288, 2),
                conv3x3(288, M),
            )
            for _ in range(2)
        )
        before = [width * min(i, support) for i in range(slices)]
        self.cc_mean_transforms = nn.ModuleList(slice_net(M + b, width) for b in before)
        self.cc_scale_transforms = nn.ModuleList(slice_net(M + b, width) for b in before)
        self.lrp_transforms = nn.ModuleList(slice_net(M + b + width, width) for b in before)
        self.entropy_bottleneck = EntropyBottleneck(192)
        self.gaussian_conditional = GaussianConditional(None)

    @property
    def downsampling_factor(self) -> int:
        """Sides of images are multiples of this."""
        return 64

    def _latent(self, z_hat: Tensor, code: CodeSlice) -> Tensor:
        """ŷ, slice after slice; ``code`` says how a slice is quantised, written or read."""
        means, scales = self.h_mean_s(z_hat), self.h_scale_s(z_hat)
        done: list[Tensor] = []
        for i in range(self.slices):
            support = done[: self.support]
            mean_support = torch.cat([means, *support], dim=1)
            mean = self.cc_mean_transforms[i](mean_support)
            scale = self.cc_scale_transforms[i](torch.cat([scales, *support], dim=1))
            y_hat = code(i, mean, scale)
            residual = self.lrp_transforms[i](torch.cat([mean_support, y_hat], dim=1))
            done.append(y_hat + 0.5 * torch.tanh(residual))
        return torch.cat(done, dim=1)

    def forward(self, x: Tensor) -> dict[str, Any]:
        """``{"x_hat": (B, 3, H, W), "likelihoods": {"y": (B, M, H/16, W/16), "z": …}}``."""
        y = self.g_a(x)
        z = self.h_a(y)
        _, z_likelihoods = self.entropy_bottleneck(z)
        medians = self.entropy_bottleneck._get_medians()
        z_hat = quantize_ste(z - medians) + medians
        parts = y.chunk(self.slices, dim=1)
        likelihoods = []

        def code(i: int, mean: Tensor, scale: Tensor) -> Tensor:
            likelihoods.append(self.gaussian_conditional(parts[i], scale, mean)[1])
            rounded: Tensor = quantize_ste(parts[i] - mean) + mean
            return rounded

        y_hat = self._latent(z_hat, code)
        return {
            "x_hat": self.g_s(y_hat),
            "likelihoods": {"y": torch.cat(likelihoods, dim=1), "z": z_likelihoods},
        }

    def compress(self, x: Tensor) -> dict[str, Any]:
        """Strings of a batch of images, ``[[y …], [z …]]``, and the shape of z."""
        y = self.g_a(x)
        z = self.h_a(y)
        z_strings = self.entropy_bottleneck.compress(z)
        z_hat = self.entropy_bottleneck.decompress(z_strings, z.shape[-2:])
        gc = self.gaussian_conditional
        parts = y.chunk(self.slices, dim=1)
        coded: list[tuple[Tensor, Tensor]] = []  # symbols and table indexes, a pair a slice

        def code(i: int, mean: Tensor, scale: Tensor) -> Tensor:
            symbols = gc.quantize(parts[i], "symbols", mean)
            coded.append((symbols, gc.build_indexes(scale)))
            return symbols + mean

        self._latent(z_hat, code)
        y_strings = []
        for image in range(len(y)):
            encoder = BufferedRansEncoder()
            for symbols, indexes in coded:
                encoder.encode_with_indexes(
                    symbols[image].flatten().tolist(),
                    indexes[image].flatten().tolist(),
                    *self._tables(),
                )
            y_strings.append(encoder.flush())
        return {"strings": [y_strings, z_strings], "shape": z.shape[-2:]}

    def decompress(self, strings: list[list[bytes]], shape: tuple[int, int]) -> dict[str, Any]:
        """``{"x_hat": (B, 3, H, W)}``, clamped to [0, 1]."""
        y_strings, z_strings = strings
        z_hat = self.entropy_bottleneck.decompress(z_strings, shape)
        gc, tables = self.gaussian_conditional, self._tables()
        decoders = []
        for string in y_strings:
            decoder = RansDecoder()
            decoder.set_stream(string)
            decoders.append(decoder)

        def code(i: int, mean: Tensor, scale: Tensor) -> Tensor:
            indexes = gc.build_indexes(scale)
            symbols = [
                decoder.decode_stream(own.flatten().tolist(), *tables)
                for decoder, own in zip(decoders, indexes, strict=True)
            ]
            return gc.dequantize(
                torch.tensor(symbols, dtype=torch.int32, device=mean.device).view_as(mean), mean
            )

        return {"x_hat": self.g_s(self._latent(z_hat, code)).clamp(0, 1)}

    def _tables(self) -> tuple[list[list[int]], list[int], list[int]]:
        gc = self.gaussian_conditional
        return gc.quantized_cdf.tolist(), gc.cdf_length.tolist(), gc.offset.tolist()


def with_gelu(*layers: nn.Module) -> nn.Sequential:
    """The layers with GELU between them."""
    joined = [part for layer in layers for part in (layer, nn.GELU())]
    return nn.Sequential(*joined[:-1])


def slice_net(channels: int, width: int) -> nn.Sequential:
    """Five 3×3 convolutions that narrow ``channels`` to the ``width`` of a slice."""
    sizes = [channels, 224, 176, 128, 64, width]
    return with_gelu(*(conv3x3(a, b) for a, b in pairwise(sizes)))
