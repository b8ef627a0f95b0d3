"""A factorized prior with more channels, in which the narrower source codec lives on unchanged.

Katakol, Herranz, Yang, Mrak, *DANICE: Domain adaptation without forgetting in neural image
compression*, CVPRW 2021, arXiv 2104.09370 (CAwF). Every layer of the source codec has *old* channels,
and the widened layer *new* ones beside them::

                    from old            from new
         to old     source (frozen)     zero, or trained (cross)
         to new     trained             trained

The pixels are old channels at both ends. The old channels are computed by the source codec's very
layers, so that they are bit for bit the source's where nothing flows from new to old; all that is
trained is in layers of its own. The strings are those of the old and of the new channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from compressai.entropy_models import EntropyBottleneck
from compressai.layers import GDN
from compressai.models import CompressionModel, FactorizedPrior
from torch import Tensor, nn

from lic_da.codecs.models.convolutions import Convolution, convolution_like
from lic_da.codecs.models.fast import ChannelsLast
from lic_da.errors import UserError, unknown

CROSS = ("zero", "trained")
"""What flows from new to old channels: nothing, or what is learned, starting at nothing."""

PUBLISHED_ENTROPY_PARAMETERS = 97
"""Parameters a channel of the publication's entropy model; CompressAI's has 58 and 3 quantiles."""


class WidenedConvolution(nn.Module):
    """A convolution, or a transposed one, with more channels.

    Args:
        source: the source codec's; it is not copied.
        new_in: new channels of the input.
        new_out: new channels of the output.
        cross: let new channels reach the old ones, at first with zero weights.
    """

    def __init__(self, source: Convolution, new_in: int, new_out: int, *, cross: bool) -> None:
        super().__init__()
        self.source = source
        everything = source.in_channels + new_in
        self.new = convolution_like(source, everything, new_out) if new_out else None
        self.cross: Convolution | None = None
        if cross and new_in:
            self.cross = convolution_like(source, new_in, source.out_channels, bias=False)
            nn.init.zeros_(self.cross.weight)

    @property
    def acts_like(self) -> nn.Module:
        """A layer that sees as far."""
        return self.source

    def forward(self, x: Tensor) -> Tensor:
        """``(B, old + new, H, W)`` to the same with the output's channels."""
        channels = self.source.in_channels
        old: Tensor = self.source(x[:, :channels])
        if self.cross is not None:
            old = old + self.cross(x[:, channels:])
        return old if self.new is None else torch.cat([old, self.new(x)], dim=1)


class WidenedGDN(nn.Module):
    """A (inverse) generalised divisive normalisation with more channels.

    Args:
        source: the source codec's; it is not copied.
        new: number of new channels; at first they are normalised by themselves alone.
        cross: let new channels normalise the old ones, at first with zero weights.
    """

    def __init__(self, source: GDN, new: int, *, cross: bool) -> None:
        super().__init__()
        self.source = source
        self.old = int(source.beta.numel())
        start = GDN(new)
        self.beta, self.reparametrise = start.beta, start.gamma_reparam
        self.reparametrise_beta = start.beta_reparam
        zero = self.reparametrise.init(torch.zeros(new, self.old))
        self.gamma = nn.Parameter(torch.cat([zero, start.gamma.detach()], dim=1))
        self.cross = (
            nn.Parameter(self.reparametrise.init(torch.zeros(self.old, new))) if cross else None
        )

    @property
    def acts_like(self) -> nn.Module:
        """A layer that sees as far."""
        return self.source

    def forward(self, x: Tensor) -> Tensor:
        """``(B, old + new, H, W)``, normalised."""
        old, new = x[:, : self.old], x[:, self.old :]
        norm = F.conv2d(
            x**2,
            self.reparametrise(self.gamma)[..., None, None],
            self.reparametrise_beta(self.beta),
        )
        return torch.cat([self._old(old, new), new * self._root(norm)], dim=1)

    def _old(self, old: Tensor, new: Tensor) -> Tensor:
        source = self.source
        if self.cross is None:
            normalised: Tensor = source(old)
            return normalised
        gamma = source.gamma_reparam(source.gamma)[..., None, None]
        norm = F.conv2d(old**2, gamma, source.beta_reparam(source.beta))
        norm = norm + F.conv2d(new**2, self.reparametrise(self.cross)[..., None, None])
        return old * self._root(norm)

    def _root(self, norm: Tensor) -> Tensor:
        return torch.sqrt(norm) if self.source.inverse else torch.rsqrt(norm)


class WidenedFactorizedPrior(CompressionModel):
    """A factorized prior widened from N = M = ``source.M`` to ``width`` channels.

    .. code-block:: none

              ┌───┐ y, old ┌──────────────────────────────┐ ŷ, old ┌───┐
        x ──► │g_a├───────►│ source_bottleneck, 1st string ├───────►│g_s├──► x̂
              │   ├───────►│ entropy_bottleneck, 2nd       ├───────►│   │
              └───┘ y, new └──────────────────────────────┘ ŷ, new └───┘

    At first the new channels reach no pixel, and the image is the source codec's bit for bit.

    Args:
        source: a factorized prior with as many channels everywhere; it is frozen and not copied.
        width: channels of the widened codec.
        cross: see ``CROSS``.

    Raises:
        UserError: the source is another codec, or no narrower than ``width``; or unknown ``cross``.
    """

    def __init__(self, source: CompressionModel, width: int, cross: str = "zero") -> None:
        super().__init__()
        if type(source) is not FactorizedPrior or source.N != source.M:
            raise UserError(
                f"CAwF widens factorized priors with N = M, not {type(source).__name__}: use "
                "codec=bmshj2018_factorized_n64, for instance."
            )
        if not isinstance(width, int) or width <= source.M:
            raise UserError(
                f"method.width must be a whole number above the {source.M} channels of the source, not "
                f"{width}."
            )
        if cross not in CROSS:
            raise unknown("method.cross", cross, CROSS)
        source.requires_grad_(False)
        self.M = self.N = width
        self.old = int(source.M)
        new, trained = width - self.old, cross == "trained"
        self.g_a = _widen(source.g_a, new, cross=trained)
        self.g_s = _widen(source.g_s, new, cross=trained)
        self.source_bottleneck = source.entropy_bottleneck
        self.entropy_bottleneck = EntropyBottleneck(new)

    def forward(self, x: Tensor) -> dict[str, Any]:
        """As CompressAI's factorized prior, with the likelihoods of old and new channels."""
        y = self.g_a(x)
        y_hat_old, old = self.source_bottleneck(y[:, : self.old])
        y_hat_new, new = self.entropy_bottleneck(y[:, self.old :])
        x_hat = self.g_s(torch.cat([y_hat_old, y_hat_new], dim=1))
        return {"x_hat": x_hat, "likelihoods": {"y_old": old, "y_new": new}}

    def compress(self, x: Tensor) -> dict[str, Any]:
        """As CompressAI's factorized prior; the strings are those of old and of new channels."""
        y = self.g_a(x)
        strings = [
            self.source_bottleneck.compress(y[:, : self.old]),
            self.entropy_bottleneck.compress(y[:, self.old :]),
        ]
        return {"strings": strings, "shape": y.shape[-2:]}

    def decompress(self, strings: Sequence[list[bytes]], shape: Sequence[int]) -> dict[str, Tensor]:
        """As CompressAI's factorized prior."""
        old = self.source_bottleneck.decompress(strings[0], shape)
        new = self.entropy_bottleneck.decompress(strings[1], shape)
        return {"x_hat": self.g_s(torch.cat([old, new], dim=1)).clamp_(0, 1)}

    def update(self, scale_table: Any = None, force: bool = False, **kwargs: Any) -> bool:
        """Make the entropy-coding tables of the new channels; the source's stay as they are."""
        return bool(self.entropy_bottleneck.update(force=force, **kwargs))

    def aux_loss(self) -> Tensor:
        """CompressAI's loss for the quantiles, of the new channels."""
        return self.entropy_bottleneck.loss()

    @staticmethod
    def is_new(name: str) -> bool:
        """Whether a tensor of this name is not the source codec's."""
        return not (name.startswith("source_bottleneck.") or ".source." in name)


def _widen(transform: nn.Sequential, new: int, *, cross: bool) -> nn.Sequential:
    """The layers of a transform with new channels everywhere but where pixels go in or out."""
    widened: list[nn.Module] = []
    first, last = 0, len(transform) - 1
    for number, layer in enumerate(transform):
        if isinstance(layer, GDN):
            widened.append(WidenedGDN(layer, new, cross=cross))
            continue
        assert isinstance(layer, Convolution)
        pixels_in = number == first and isinstance(layer, nn.Conv2d)
        pixels_out = number == last and isinstance(layer, nn.ConvTranspose2d)
        widened.append(
            WidenedConvolution(
                layer,
                0 if pixels_in else new,
                0 if pixels_out else new,
                cross=cross or pixels_out,
            )
        )
    return ChannelsLast(*widened)  # as the source's layers compute, to the bit
