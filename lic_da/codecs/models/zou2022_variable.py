"""The codec of Zou et al. 2022, narrow, with one set of weights for all rates.

Transforms and window attention are those of
:class:`~lic_da.codecs.models.zou2022.WACNN`. Three things differ.

*One set of weights, many rates.* The latent is multiplied by a gain per channel and quality before it is
rounded, and by an inverse gain after it; so is z (Cui et al. 2021, *Asymmetric gained deep image
compression*, arXiv 2003.02012). Everything between, the entropy model, works on what is coded.

*A start from trained weights.* Transforms, hyperprior and bottleneck have the layers of
:class:`compressai.models.MeanScaleHyperprior`, whose weights a training can begin with: the nets of the
slices *add* to the means, and to the logarithms of the scales, that the hyper-synthesis states, and
begin as nothing.

*Read on every machine.* Outside of training the entropy parameters are computed in double precision, from
ẑ to ŷ (see :mod:`lic_da.codecs.models.hyperprior`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from compressai.models.utils import conv, deconv
from torch import Tensor, nn

from lic_da.codecs.models.hyperprior import DoubleInEval
from lic_da.codecs.models.zou2022 import ChannelwiseCodec, begin_at_zero, narrowing

LAMBDAS = (0.0018, 0.0035, 0.0067, 0.0130, 0.0250, 0.0483)
"""λ of the rates, lowest first (CompressAI's table for MSE)."""

_OF_START = 3
"""Place among the rates whose gains begin at 1: that of the weights a training starts from."""

STEEPEST = 3.0
"""Bound of what a slice's net adds to the logarithm of a scale."""


class RateGains(nn.Module):
    """A gain per channel and rate, and one that takes it back after rounding.

    Args:
        channels: of what is multiplied.
        power: gains begin as (λ / λ of the start)^power; at high rates the step that minimises
            R + λD goes with λ^-½.
    """

    def __init__(self, channels: int, power: float) -> None:
        super().__init__()
        start = torch.tensor([power * math.log(lmbda / LAMBDAS[_OF_START]) for lmbda in LAMBDAS])
        self.log_gain = nn.Parameter(start[:, None].repeat(1, channels))
        self.log_inverse = nn.Parameter(-start[:, None].repeat(1, channels))

    def gain(self, rates: Tensor) -> Tensor:
        """``(B,)`` places among the rates -> ``(B, C, 1, 1)``, computed in double precision."""
        return _factors(self.log_gain, rates)

    def inverse(self, rates: Tensor) -> Tensor:
        """As :meth:`gain`, for after rounding."""
        return _factors(self.log_inverse, rates)


def _factors(logarithms: Tensor, rates: Tensor) -> Tensor:
    return logarithms[rates].double().exp()[:, :, None, None]


class VariableRateWACNN(ChannelwiseCodec):
    """A narrow WACNN that codes at any of six rates; see the module's text.

    Args:
        N: channels of the transforms and of z.
        M: channels of the latent.
        slices: number of slices of the latent.
        support: how many earlier slices a slice is conditioned on, at most.
        hyper: channels inside the hyper-synthesis.
        slice_net: channels inside the net that states a slice's mean and scale.
        residual_net: channels inside the net that predicts a slice's residual of rounding.
    """

    rate: Tensor

    def __init__(
        self,
        N: int = 64,  # noqa: N803 (CompressAI's names)
        M: int = 160,  # noqa: N803
        slices: int = 5,
        support: int = 4,
        hyper: Sequence[int] = (96, 144),
        slice_net: Sequence[int] = (128, 96),
        residual_net: Sequence[int] = (64,),
    ) -> None:
        super().__init__(N, M, slices, support, bottleneck=N)
        for block in self.attention_blocks:
            block.begin_as_nothing()
        self.gains, self.hyper_gains = RateGains(M, 0.45), RateGains(N, 0.0)
        self.h_a = nn.Sequential(
            conv(M, N, kernel_size=3, stride=1),
            nn.LeakyReLU(),
            conv(N, N),
            nn.LeakyReLU(),
            conv(N, N),
        )
        first, second = hyper
        self.h_s = DoubleInEval(
            deconv(N, first),
            nn.LeakyReLU(),
            deconv(first, second),
            nn.LeakyReLU(),
            conv(second, 2 * M, kernel_size=3, stride=1),
        )
        before = [self.width * min(i, support) for i in range(slices)]
        self.parameter_nets = nn.ModuleList(
            _double(2 * M + b, *slice_net, 2 * self.width) for b in before
        )
        self.residual_nets = nn.ModuleList(
            _double(M + b + self.width, *residual_net, self.width) for b in before
        )
        self.register_buffer("rate", torch.tensor(_OF_START))

    def select_rate(self, quality: int) -> None:
        """Code at a quality, 1 to 6, from now on; the state dict tells which."""
        if not 1 <= quality <= len(LAMBDAS):
            raise ValueError(f"There is no quality {quality}.")
        self.rate.fill_(quality - 1)

    def _places(self, rates: Tensor | None, count: int) -> Tensor:
        """Of the rates of so many images; that of the codec if none are given."""
        return self.rate.expand(count) if rates is None else rates

    def _analyse(self, x: Tensor, rates: Tensor | None) -> tuple[Tensor, Tensor]:
        rates = self._places(rates, len(x))
        y = self.g_a(x).float() * self.gains.gain(rates).float()
        return y, self.h_a(y).float() * self.hyper_gains.gain(rates).float()

    def hyper(self, z_hat: Tensor, rates: Tensor | None) -> tuple[Tensor, Tensor]:
        coding = torch.float32 if self.training else torch.float64
        inverse = self.hyper_gains.inverse(self._places(rates, len(z_hat)))
        scales, means = self.h_s((z_hat * inverse).to(coding)).to(coding).chunk(2, dim=1)
        if self.training:
            return means, self.gaussian_conditional.lower_bound_scale(scales)
        return means, scales.clamp(min=float(self.gaussian_conditional.lower_bound_scale.bound))

    def _distribution(
        self, i: int, means: Tensor, scales: Tensor, support: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        seen = torch.cat([means, torch.log(scales), *support], dim=1)
        mean, scale = self.parameter_nets[i](seen).to(means.dtype).chunk(2, dim=1)
        own = slice(i * self.width, (i + 1) * self.width)
        steep = STEEPEST * torch.tanh(scale / STEEPEST)
        return means[:, own] + mean, scales[:, own] * torch.exp(steep)

    def _residual(
        self, i: int, means: Tensor, scales: Tensor, support: list[Tensor], y_hat: Tensor
    ) -> Tensor:
        seen = torch.cat([means, *support, y_hat], dim=1)
        out: Tensor = self.residual_nets[i](seen).to(means.dtype)
        return out

    def for_synthesis(self, y_hat: Tensor, rates: Tensor | None) -> Tensor:
        return (y_hat * self.gains.inverse(self._places(rates, len(y_hat)))).float()


def _double(*sizes: int) -> DoubleInEval:
    """A net of 3×3 convolutions that gives zeros until it is trained."""
    net = DoubleInEval(*narrowing(*sizes))
    begin_at_zero(net)
    return net


@torch.no_grad()
def start_from(codec: VariableRateWACNN, weights: Mapping[str, Tensor]) -> None:
    """Copy the weights of a mean-scale hyperprior with as many channels N and at most as many M.

    What it codes at the rate of the start is then what those weights code, but for the channels that
    are new, which begin small.

    Args:
        codec: fresh.
        weights: state dict of a :class:`compressai.models.MeanScaleHyperprior`.

    Raises:
        ValueError: the shapes do not go together.
    """
    channels = weights["g_a.6.weight"].shape[0]
    own = codec.state_dict()
    places = {
        **{
            f"g_a.{i}": f"g_a.{j}"
            for i, j in ((0, 0), (1, 1), (2, 2), (3, 3), (4, 5), (5, 6), (6, 7))
        },
        **{
            f"g_s.{i}": f"g_s.{j}"
            for i, j in ((0, 1), (1, 2), (2, 3), (3, 4), (4, 6), (5, 7), (6, 8))
        },
        **{f"{net}.{i}": f"{net}.{i}" for net in ("h_a", "h_s") for i in (0, 2, 4)},
    }
    for theirs, ours in places.items():
        for kind in ("weight", "bias", "beta", "gamma"):
            if (source := weights.get(f"{theirs}.{kind}")) is None:
                continue
            target = own[f"{ours}.{kind}"]
            if ours == "h_s.4":  # scales, then means
                for half, part in enumerate(source.chunk(2)):
                    target[half * codec.M : half * codec.M + channels] = part
                    target[half * codec.M + channels : (half + 1) * codec.M].mul_(_SMALL)
                continue
            if ours == "g_a.7":
                target[channels:].mul_(_SMALL_LATENT)
            if ours in ("g_s.1", "h_a.0") and kind == "weight":
                new = target[channels:] if ours == "g_s.1" else target[:, channels:]
                new.mul_(_SMALL)
            region = tuple(slice(side) for side in source.shape)
            if any(a > b for a, b in zip(source.shape, target.shape, strict=True)):
                raise ValueError(f"{theirs}.{kind} is larger than {ours}.{kind}.")
            target[region] = source
    for name, source in weights.items():
        if name.startswith("entropy_bottleneck.") and name in own and own[name].numel():
            own[name].copy_(source)


_SMALL, _SMALL_LATENT = 0.1, 0.5
