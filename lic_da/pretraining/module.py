"""Rate-distortion training of a codec, and what its weights reach when images are coded for real."""

from __future__ import annotations

import copy
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import lightning as L
import torch
from compressai.models import CompressionModel
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from lic_da.codecs import zoo
from lic_da.codecs.image_codec import ModelCodec
from lic_da.codecs.spec import CodecSpec
from lic_da.methods.losses import rate_distortion, rate_distortion_of_rates
from lic_da.methods.optim import soap
from lic_da.methods.precision import bfloat16
from lic_da.methods.schedule import warmup_cosine
from lic_da.methods.steps import steps_of

_WEIGHT = -0.75
"""Power of λ that a rate's loss is weighted by, so that no rate's gradient drowns the others'."""


class Pretraining(L.LightningModule):
    """Rate-distortion training of a codec.

    One of variable rate draws a rate for every crop, of those that are trained; losses are weighted by
    λ^-¾.

    Args:
        codec: any CompressAI model.
        config: what it is; its quality says λ of R + λ·255²·MSE.
        lr: peak learning rate.
        aux_lr: learning rate for the quantiles.
        warmup: steps until the peak; then a cosine decay to zero.
        clip: largest norm of the gradient.
        precondition_every: steps between updates of SOAP's preconditioner.
        average: decay of the moving average of the weights, a step; 0: the weights of the last step.
        seed: of the noise.
        bf16: run the transforms in bfloat16, on devices that compute in it; entropy models stay in
            float32.
        compile: compile the forward pass.
        rates: of a codec of variable rate, the qualities that are trained; None: all that it has.
    """

    def __init__(
        self,
        codec: CompressionModel,
        config: CodecSpec,
        *,
        lr: float,
        aux_lr: float,
        warmup: int,
        clip: float,
        precondition_every: int,
        average: float,
        seed: int,
        bf16: bool,
        compile: bool,
        rates: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.average = AveragedModel(codec, multi_avg_fn=_moving_average(average))
        self.average.requires_grad_(False)
        self.codec = codec.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        zoo.keep_entropy_models_in_float32(self.codec)
        self.config = config
        self.lmbdas = tuple(config.lmbda(quality) for quality in config.rates)
        self.drawn = [config.rates.index(quality) for quality in rates or config.rates]
        self.lr, self.aux_lr = lr, aux_lr
        self.warmup, self.clip, self.precondition_every = warmup, clip, precondition_every
        self.seed, self.bf16 = seed, bf16
        self.automatic_optimization = False
        self._loss = torch.compile(self._losses) if compile else self._losses

    def _losses(self, x: Tensor) -> dict[str, Tensor]:
        # Autocast is for the forward pass alone: Lightning's own would also cover the optimizer.
        with bfloat16(x.device, self.bf16):
            if len(self.lmbdas) == 1:
                out = self.codec(x)
                return rate_distortion(out["x_hat"].float(), x, out["likelihoods"], *self.lmbdas)
            drawn = torch.randint(len(self.drawn), (len(x),), device=x.device)
            rates = torch.tensor(self.drawn, device=x.device)[drawn]
            out = self.codec(x, rates)
        lmbdas = torch.tensor(self.lmbdas, device=x.device)
        weights = lmbdas**_WEIGHT / (lmbdas**_WEIGHT)[self.drawn].mean()
        return rate_distortion_of_rates(
            out["x_hat"].float(), x, out["likelihoods"], lmbdas[rates], weights[rates]
        )

    def configure_optimizers(self) -> Any:
        main = [p for n, p in self.codec.named_parameters() if not n.endswith(".quantiles")]
        quantiles = [p for n, p in self.codec.named_parameters() if n.endswith(".quantiles")]
        groups = [{"params": main, "lr": self.lr}]
        optimizer = soap(groups, precondition_every=self.precondition_every)
        total = steps_of(self.trainer)
        return [optimizer, torch.optim.Adam(quantiles, self.aux_lr)], [
            torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: warmup_cosine(step, self.warmup, total)
            )
        ]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        optimizer, aux_optimizer = cast(list[Any], self.optimizers())
        # The noise depends on seed and step alone, so that a resumed run is exact.
        torch.manual_seed(self.seed + self.global_step)
        x = batch["image"].contiguous(memory_format=torch.channels_last)
        losses = self._loss(x)
        if not torch.isfinite(losses["loss"]):
            raise RuntimeError(f"The loss is {losses['loss'].item()} for {batch['file']}.")
        optimizer.zero_grad()
        self.manual_backward(losses["loss"])
        self.clip_gradients(optimizer, self.clip, "norm")
        optimizer.step()
        aux_optimizer.zero_grad()
        aux = self.codec.aux_loss()
        self.manual_backward(aux)
        aux_optimizer.step()
        self.average.update_parameters(self.codec)
        self.lr_schedulers().step()  # type: ignore[union-attr]
        self.log_dict(
            {f"train/{k}": v for k, v in losses.items()} | {"train/aux": aux},
            on_step=False,
            on_epoch=True,
            batch_size=len(x),
        )
        self.log("train/loss_step", losses["loss"], prog_bar=True, logger=False)

    def finished(self) -> CompressionModel:
        """A copy of the averaged codec that can code."""
        codec: CompressionModel = copy.deepcopy(self.average.module).eval()
        codec.update(force=True)
        return codec

    def on_validation_epoch_start(self) -> None:
        """Make the tables of the codec that is validated."""
        # It is no part of this module, whose checkpoints would not fit its tables.
        self._coders = coders_of(self.finished(), self.config)
        self._points: dict[int, list[dict[str, float]]] = defaultdict(list)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        for quality, coder in self._coders.items():
            self._points[quality].append(code(coder, batch["image"]))

    def on_validation_epoch_end(self) -> None:
        """Log the means; of a codec of variable rate, those of each rate too."""
        means = means_of(self._points)
        for quality, point in (means.get("rates") or {}).items():
            self.log_dict({f"val/q{quality}/{k}": v for k, v in point.items()})
        self.log_dict({f"val/{k}": means[k] for k in _MEASURED}, prog_bar=True)


def _moving_average(decay: float) -> Callable[[Any, Any, Tensor | int], None]:
    """Exponential moving average; its decay rises to ``decay``, so that the first weights are forgotten."""

    @torch.no_grad()
    def update(averages: Any, weights: Any, updates: Tensor | int) -> None:
        now = min(decay, (1 + int(updates)) / (10 + int(updates)))
        torch._foreach_lerp_(averages, weights, 1 - now)

    return update


@torch.inference_mode()
def code(coder: ModelCodec, x: Tensor) -> dict[str, float]:
    """Code an image for real.

    Args:
        coder: a codec with its tables.
        x: ``(1, 3, H, W)`` in [0, 1].

    Returns:
        ``bpp`` of the strings, ``psnr`` in dB, ``loss`` = bpp + λ·255²·MSE.

    Raises:
        StreamError: the latents decode to others than were encoded.
    """
    height, width = x.shape[2:]
    stream = coder.encode(x)
    x_hat = coder.codec.g_s(coder.latent(stream))[..., :height, :width].clamp(0, 1)
    bpp = 8 * stream.string_bytes / (height * width)
    mse = max(torch.mean((x - x_hat) ** 2).item(), 1e-10)
    lmbda = coder.config.lmbda()
    return {"bpp": bpp, "psnr": -10 * math.log10(mse), "loss": bpp + lmbda * 255**2 * mse}


_MEASURED = ("bpp", "psnr", "loss")


def coder_of(codec: CompressionModel, spec: CodecSpec) -> ModelCodec:
    """A codec that can code."""
    return ModelCodec(codec.eval(), spec, zoo.fingerprint(codec.state_dict()))


def coders_of(codec: CompressionModel, spec: CodecSpec) -> dict[int, ModelCodec]:
    """A codec that can code, for each of its rates; they share no state."""
    coders = {}
    for quality in spec.rates:
        own = spec.at_quality(quality)
        coders[quality] = coder_of(zoo.select_rate(copy.deepcopy(codec), own), own)
    return coders


def means_of(points: Mapping[int, Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """Means of the points of each rate, and of the rates: the loss is their geometric mean.

    Args:
        points: quality -> what :func:`code` returns for each image.

    Returns:
        ``bpp``, ``psnr``, ``loss``, ``images``; of several rates, the same of each under ``rates``.
    """
    rates: dict[int, dict[str, float]] = {
        quality: {k: statistics.mean(p[k] for p in own) for k in _MEASURED}
        for quality, own in points.items()
    }
    count = {"images": len(next(iter(points.values())))}
    if len(rates) == 1:
        return {**next(iter(rates.values())), **count}
    means = {k: statistics.mean(r[k] for r in rates.values()) for k in ("bpp", "psnr")}
    loss = statistics.geometric_mean(r["loss"] for r in rates.values())
    return {**means, "loss": loss, **count, "rates": rates}


def validate(codec: CompressionModel, data: Any, spec: CodecSpec) -> dict[str, Any]:
    """Code the validation images at all rates of a training; see :func:`means_of`."""
    coders = coders_of(codec, spec)
    points: dict[int, list[dict[str, float]]] = defaultdict(list)
    for batch in data.val_dataloader():
        for quality, coder in coders.items():
            points[quality].append(code(coder, batch["image"]))
    return means_of(points)
