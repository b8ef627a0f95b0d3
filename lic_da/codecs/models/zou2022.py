"""The CNN codec of Zou et al. 2022 with window attention (WACNN).

R. Zou, C. Song, Z. Zhang, *The Devil Is in the Details: Window-based Attention for Image
Compression*, CVPR 2022, arXiv 2203.08450. Parameters have the names and shapes of the published
checkpoints.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
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

_CLOSED = -5.0
"""Bias of branch b where a block begins as almost nothing: σ(−5) = 0.007."""

CodeSlice = Callable[[int, Tensor, Tensor], Tensor]
"""(number of the slice, its means, its scales) -> the slice, quantised; ``(B, M/slices, H, W)`` each."""


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

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            x: windows ``(…, positions, C)``.
            mask: ``(positions, positions)``, added to the logits of all of them; None: none.
        """
        qkv = self.qkv(x.flatten(0, -3))
        q, k, v = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        logits = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        if mask is not None:
            logits = logits + mask
        # Windows as the batch, with one bias for all: then nothing as large as all logits is kept.
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=logits[None].to(q.dtype))
        out = self.proj(out.transpose(1, 2).reshape(x.shape))
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
        if self.shift == 0:
            return x + self._image(self.attn(self._windows(x)))
        shifted = torch.roll(x, (-self.shift, -self.shift), dims=(2, 3))
        out = self._image(self._attend(self._windows(shifted)))
        return x + torch.roll(out, (self.shift, self.shift), dims=(2, 3))

    def _windows(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, rows, columns, positions, C)``."""
        batch, channels, height, width = x.shape
        w = self.window
        x = x.reshape(batch, channels, height // w, w, width // w, w)
        return x.permute(0, 2, 4, 3, 5, 1).flatten(3, 4)

    def _image(self, windows: Tensor) -> Tensor:
        """The inverse of ``_windows``."""
        batch, rows, columns, _, channels = windows.shape
        w = self.window
        x = windows.unflatten(3, (w, w)).transpose(2, 3)
        return x.reshape(batch, rows * w, columns * w, channels).permute(0, 3, 1, 2)

    def _attend(self, windows: Tensor) -> Tensor:
        """Attend in shifted windows; in the last ones the shift has brought together what is far apart."""
        rows, columns = windows.shape[1:3]

        def part(lowest: bool, rightmost: bool) -> Tensor:
            own = windows[:, rows - 1 :] if lowest else windows[:, : rows - 1]
            own = own[:, :, columns - 1 :] if rightmost else own[:, :, : columns - 1]
            return self.attn(own, self._mask(lowest, rightmost, windows.device))

        sides = [
            torch.cat(
                [part(lowest, right) for right in (False, True) if right or columns > 1], dim=2
            )
            for lowest in (False, True)
            if lowest or rows > 1
        ]
        return torch.cat(sides, dim=1)

    def _mask(self, lowest: bool, rightmost: bool, device: torch.device) -> Tensor | None:
        """−100 between positions of a window that only the cyclic shift has made neighbours."""
        if not (lowest or rightmost):
            return None
        beyond = torch.arange(self.window, device=device) >= self.window - self.shift
        region = 2 * (beyond & lowest)[:, None] + (beyond & rightmost)[None]
        label = region.flatten()
        return torch.where(label[:, None] != label[None], -100.0, 0.0)


class WindowAttentionBlock(nn.Module):
    """x + u with u = a·σ(b), where a and b are two branches over x.

    Args:
        channels: of input and output.
        heads: of the attention.
        window: side of its windows.
        shift: of its windows.

    Attributes:
        window: side of its windows.
        reach: positions that it sees on each side, at most: those of a window, and three 3×3 convolutions.
        left_out: whether the block returns its input, as at the beginning of a training that spends its
            time on the other layers first.
    """

    def __init__(self, channels: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.window, self.reach = window, window - 1 + 3
        self.conv_a = nn.Sequential(*(ResidualUnit(channels) for _ in range(3)))
        self.conv_b = nn.Sequential(
            ShiftedWindowAttention(channels, heads, window, shift),
            *(ResidualUnit(channels) for _ in range(3)),
            conv1x1(channels, channels),
        )
        self.product = nn.Identity()  # where adapters can take hold of u, before the skip
        self.left_out = False

    def begin_as_nothing(self) -> None:
        """Close the gate σ(b) almost wholly, so that a block put into trained layers changes little."""
        last = self.conv_b[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.constant_(last.bias, _CLOSED)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> the same shape; sides are multiples of the window."""
        if self.left_out:
            return x
        u: Tensor = self.product(self.conv_a(x) * torch.sigmoid(self.conv_b(x)))
        return x + u


class ChannelwiseCodec(CompressionModel):
    r"""A codec with window attention whose latent is coded slice after slice.

    .. code-block:: none

              ┌───┐  y           ┌───┐ z  ┌──┐ ẑ   ┌─────┐
        x ──►─┤g_a├──┬───────►───┤h_a├──►─┤EB├──►──┤hyper├───────►─┐
              └───┘  │           └───┘    └──┘     └─────┘         │
                     │ slices                                      ▼
                   ┌──┐   slice i: mean and scale from the hyper-synthesis and from at most
                   │GC│◄─ ``support`` slices before it; then the residual of rounding
                   └──┘   is predicted and added: ŷ
              ┌───┐  │ ŷ
        x̂ ──◄─┤g_s├──┘
              └───┘

    Sides of images must be multiples of 64.

    Args:
        N: channels of the transforms.
        M: channels of the latent.
        slices: number of slices of the latent; M is a multiple of it.
        support: how many earlier slices a slice is conditioned on, at most.
        bottleneck: channels of z.
    """

    def __init__(self, N: int, M: int, slices: int, support: int, bottleneck: int) -> None:  # noqa: N803
        super().__init__()
        if M % slices:
            raise ValueError(f"M = {M} channels cannot be cut into {slices} equal slices.")
        self.N, self.M, self.slices, self.support = N, M, slices, support
        self.width = M // slices
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
        self.entropy_bottleneck = EntropyBottleneck(bottleneck)
        self.gaussian_conditional = GaussianConditional(None)

    @property
    def downsampling_factor(self) -> int:
        """Sides of images are multiples of this."""
        return 64

    @property
    def attention_blocks(self) -> list[WindowAttentionBlock]:
        """Those of both transforms."""
        return [m for m in self.modules() if isinstance(m, WindowAttentionBlock)]

    @abstractmethod
    def hyper(self, z_hat: Tensor, rates: Tensor | None) -> tuple[Tensor, Tensor]:
        """Means and scales that the hyper-synthesis states, ``(B, M, H/16, W/16)`` each."""

    @abstractmethod
    def _distribution(
        self, i: int, means: Tensor, scales: Tensor, support: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Mean and scale of slice i, given the slices before it."""

    @abstractmethod
    def _residual(
        self, i: int, means: Tensor, scales: Tensor, support: list[Tensor], y_hat: Tensor
    ) -> Tensor:
        """Prediction of what rounding took from slice i, before tanh."""

    def _analyse(self, x: Tensor, rates: Tensor | None) -> tuple[Tensor, Tensor]:
        """Y as it is coded, and z."""
        y = self.g_a(x)
        return y, self.h_a(y)

    def _latent(self, z_hat: Tensor, rates: Tensor | None, code: CodeSlice) -> Tensor:
        """What of ŷ is coded, slice after slice; ``code`` says how one is quantised, written or read."""
        return self.in_slices(*self.hyper(z_hat, rates), code)

    def in_slices(self, means: Tensor, scales: Tensor, code: CodeSlice) -> Tensor:
        """Go through the slices of the latent.

        Args:
            means: that the hyper-synthesis states, ``(B, M, H/16, W/16)``.
            scales: as the means.
            code: how a slice is quantised, written or read.

        Returns:
            What of ŷ is coded, of the same shape.
        """
        done: list[Tensor] = []
        for i in range(self.slices):
            support = done[: self.support]
            y_hat = code(i, *self._distribution(i, means, scales, support))
            residual = self._residual(i, means, scales, support, y_hat)
            done.append(y_hat + 0.5 * torch.tanh(residual))
        return torch.cat(done, dim=1)

    def forward(self, x: Tensor, rates: Tensor | None = None) -> dict[str, Any]:
        """Code images as in training: straight-through rounding, likelihoods under uniform noise.

        Args:
            x: ``(B, 3, H, W)`` in [0, 1].
            rates: of a codec of variable rate, the place of each image's rate, ``(B,)`` whole numbers;
                None: the rate of the codec.

        Returns:
            ``{"x_hat": (B, 3, H, W), "likelihoods": {"y": (B, M, H/16, W/16), "z": …}}``.
        """
        y, z = self._analyse(x, rates)
        _, z_likelihoods = self.entropy_bottleneck(z)
        medians = self.entropy_bottleneck._get_medians()
        z_hat = quantize_ste(z - medians) + medians
        parts = y.chunk(self.slices, dim=1)
        likelihoods = []

        def code(i: int, mean: Tensor, scale: Tensor) -> Tensor:
            likelihoods.append(self.gaussian_conditional(parts[i], scale, mean)[1])
            rounded: Tensor = quantize_ste(parts[i] - mean) + mean
            return rounded

        y_hat = self.for_synthesis(self._latent(z_hat, rates, code), rates)
        return {
            "x_hat": self.g_s(y_hat),
            "likelihoods": {"y": torch.cat(likelihoods, dim=1), "z": z_likelihoods},
        }

    def compress(self, x: Tensor) -> dict[str, Any]:
        """Strings of a batch of images, ``[[y …], [z …]]``, and the shape of z."""
        return self.code(*self._analyse(x, None))

    def code(self, y: Tensor, z: Tensor) -> dict[str, Any]:
        """Strings of latents as they are coded, y ``(B, M, H/16, W/16)`` and z, as :meth:`compress`."""
        z_strings = self.entropy_bottleneck.compress(z)
        z_hat = self.entropy_bottleneck.decompress(z_strings, z.shape[-2:])
        gc = self.gaussian_conditional
        parts = y.chunk(self.slices, dim=1)
        coded: list[tuple[Tensor, Tensor]] = []  # symbols and table indexes, a pair a slice

        def code(i: int, mean: Tensor, scale: Tensor) -> Tensor:
            symbols = gc.quantize(parts[i].to(mean.dtype), "symbols", mean)
            coded.append((symbols, gc.build_indexes(scale)))
            return symbols + mean

        self._latent(z_hat, None, code)
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

        y_hat = self.for_synthesis(self._latent(z_hat, None, code), None)
        return {"x_hat": self.g_s(y_hat).clamp(0, 1)}

    def for_synthesis(self, y_hat: Tensor, rates: Tensor | None) -> Tensor:
        """ŷ as the synthesis transform takes it."""
        return y_hat

    def _tables(self) -> tuple[list[list[int]], list[int], list[int]]:
        gc = self.gaussian_conditional
        return gc.quantized_cdf.tolist(), gc.cdf_length.tolist(), gc.offset.tolist()


class WACNN(ChannelwiseCodec):
    """CNN codec with window attention and channel-wise autoregression, Zou et al. 2022.

    Args:
        N: channels of the transforms.
        M: channels of the latent.
        slices: number of slices of the latent.
        support: how many earlier slices a slice is conditioned on, at most.
        hyper: channels of the hyper-analysis, layer after layer; the hyper-syntheses have them in the
            other order. The last are those of z.
        slice_net: channels inside the nets of a slice.
        residual: whether the nets of a slice add to the means, and to the logarithms of the scales, that
            the hyper-syntheses state; they begin as nothing. Published: they stand for themselves.
    """

    def __init__(
        self,
        N: int = 192,  # noqa: N803 (CompressAI's names)
        M: int = 320,  # noqa: N803
        slices: int = 10,
        support: int = 5,
        hyper: Sequence[int] = (320, 288, 256, 224, 192),
        slice_net: Sequence[int] = (224, 176, 128, 64),
        residual: bool = False,
    ) -> None:
        super().__init__(N, M, slices, support, hyper[-1])
        a, b, c, d, e = hyper
        self.residual = residual
        self.h_a = with_gelu(
            conv3x3(M, a),
            conv3x3(a, b),
            conv3x3(b, c, stride=2),
            conv3x3(c, d),
            conv3x3(d, e, stride=2),
        )
        self.h_mean_s, self.h_scale_s = (
            with_gelu(
                conv3x3(e, e),
                subpel_conv3x3(e, d, 2),
                conv3x3(d, c),
                subpel_conv3x3(c, b, 2),
                conv3x3(b, M),
            )
            for _ in range(2)
        )
        before = [self.width * min(i, support) for i in range(slices)]

        def nets(extra: int) -> nn.ModuleList:
            return nn.ModuleList(narrowing(M + b + extra, *slice_net, self.width) for b in before)

        self.cc_mean_transforms, self.cc_scale_transforms = nets(0), nets(0)
        self.lrp_transforms = nets(self.width)
        if residual:
            for net in (*self.cc_mean_transforms, *self.cc_scale_transforms, *self.lrp_transforms):
                begin_at_zero(net)

    def hyper(self, z_hat: Tensor, rates: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.h_mean_s(z_hat), self.h_scale_s(z_hat)

    def _distribution(
        self, i: int, means: Tensor, scales: Tensor, support: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        mean = self.cc_mean_transforms[i](torch.cat([means, *support], dim=1))
        scale = self.cc_scale_transforms[i](torch.cat([scales, *support], dim=1))
        if not self.residual:
            return mean, scale
        own_mean, own_scale = (t.chunk(self.slices, dim=1)[i] for t in (means, scales))
        bound = self.gaussian_conditional.lower_bound_scale
        return own_mean + mean, bound(own_scale) * torch.exp(scale)

    def _residual(
        self, i: int, means: Tensor, scales: Tensor, support: list[Tensor], y_hat: Tensor
    ) -> Tensor:
        out: Tensor = self.lrp_transforms[i](torch.cat([means, *support, y_hat], dim=1))
        return out


def with_gelu(*layers: nn.Module) -> nn.Sequential:
    """The layers with GELU between them."""
    joined = [part for layer in layers for part in (layer, nn.GELU())]
    return nn.Sequential(*joined[:-1])


def narrowing(*sizes: int) -> nn.Sequential:
    """3×3 convolutions from each number of channels to the next, with GELU between them."""
    return with_gelu(*(conv3x3(a, b) for a, b in pairwise(sizes)))


def begin_at_zero(net: nn.Sequential) -> None:
    """Let the last layer of a net give zeros until it is trained."""
    last = net[-1]
    assert isinstance(last, nn.Conv2d) and last.bias is not None
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
