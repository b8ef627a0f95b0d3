"""Training of codecs that become codecs of their own: what fine-tuning and widening share."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from compressai.entropy_models import EntropyBottleneck
from torch import Tensor

from lic_da.codecs import zoo
from lic_da.codecs.image_codec import pad
from lic_da.codecs.latents import decoder_latent
from lic_da.methods.losses import clamp_ste, rate_distortion
from lic_da.methods.module import CodecModule, psnr_8_bit
from lic_da.methods.precision import bfloat16
from lic_da.methods.retrained import RetrainedCodec


def noise_seed(*numbers: int) -> int:
    """Seed for each tuple of numbers, without relation to the others'."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


class Baseline(CodecModule):
    """What training a codec beside its base has in common: validation against the base.

    Args:
        adapted: the codec to train.
        lr: peak learning rate.
        optimizer: ``adam`` or ``soap``; see :mod:`lic_da.methods.optim`.
        warmup: steps until the peak; then a cosine to zero.
        bf16: run convolutions in bfloat16 while training, on devices that compute in it; validation and
            test are in float32.
    """

    adapted: RetrainedCodec

    def __init__(
        self, adapted: RetrainedCodec, *, lr: float, optimizer: str, warmup: int, bf16: bool
    ) -> None:
        super().__init__(adapted)
        self.save_hyperparameters(ignore=["adapted"])
        self.base = adapted.base.codec  # moves with the codec to the device
        self.lr, self.optimizer, self.warmup, self.bf16 = lr, optimizer, warmup, bf16
        self.lmbda = adapted.config.lmbda()
        self._base_psnr: dict[str, float] = {}

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        x, domain = batch["image"], batch["domain"]
        padded = pad(x, self.adapted.stride)
        if batch["file"] not in self._base_psnr:
            x_hat = self.base.g_s(decoder_latent(self.base, padded))
            self._base_psnr[batch["file"]] = psnr_8_bit(x_hat, x)
        out = self.codec(padded)
        losses = rate_distortion(clamp_ste(out["x_hat"]), padded, out["likelihoods"], self.lmbda)
        psnr = psnr_8_bit(out["x_hat"], x)
        self.collect(f"psnr_base/{domain}", self._base_psnr[batch["file"]])
        self.collect(f"psnr_adapted/{domain}", psnr)
        self.collect(f"gain_adapted/{domain}", psnr - self._base_psnr[batch["file"]])
        self.collect(f"bpp/{domain}", losses["bpp"].item())
        self.collect(f"rate_distortion/{domain}", losses["loss"].item())

    def on_validation_epoch_end(self) -> None:
        """Log means a domain, and over the domains that it is trained on."""
        logged = self.collected()
        self.log_dict({f"val/{name}": value for name, value in logged.items()})
        for name, label in (("gain", "gain_adapted"), ("loss", "rate_distortion")):
            values = [logged[f"{label}/{d}"] for d in self.trained_on]
            self.log(f"val/{name}", sum(values) / len(values), prog_bar=True)

    @property
    def trained_on(self) -> tuple[str, ...]:
        """Names of the domains whose images are trained on and validated."""
        names: tuple[str, ...] = self.trainer.datamodule.train_domains  # type: ignore[attr-defined]
        return names


class RateDistortionTraining(Baseline):
    """All that is trainable in a codec, trained on R + λ·255²·MSE.

    Uniform noise stands for rounding while training (Ballé et al. 2018). Entropy models compute in
    float32. CompressAI's auxiliary loss trains the quantiles, which the main loss does not reach.

    Args:
        adapted: the codec to train.
        lr: see :class:`Baseline`.
        optimizer: its name.
        aux_lr: constant learning rate of the quantiles, by Adam.
        warmup: steps until the peak.
        bf16: run the transforms in bfloat16, on devices that compute in it.
        seed: of the noise.
    """

    monitored: ClassVar[tuple[str, Literal["min", "max"]]] = ("val/loss", "min")

    def __init__(
        self,
        adapted: RetrainedCodec,
        *,
        lr: float,
        optimizer: str = "adam",
        aux_lr: float = 1e-3,
        warmup: int = 100,
        bf16: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(adapted, lr=lr, optimizer=optimizer, warmup=warmup, bf16=bf16)
        self.aux_lr, self.seed = aux_lr, seed
        zoo.keep_entropy_models_in_float32(self.codec)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        x = batch["image"]
        # The noise depends on seed and batch alone, so that a resumed run is exact.
        torch.manual_seed(noise_seed(self.seed, self.current_epoch, batch_idx, self.global_rank))
        with bfloat16(x.device, self.bf16):
            out = self.codec(x)
        losses = rate_distortion(clamp_ste(out["x_hat"]), x, out["likelihoods"], self.lmbda)
        aux = self.codec.aux_loss()
        # They have no parameter in common, so that their sum trains each as it would be by itself.
        return self.check_and_log(losses | {"aux": aux}, batch) + aux

    def _quantiles(self) -> list[Tensor]:
        models = [m for m in self.codec.modules() if isinstance(m, EntropyBottleneck)]
        return [m.quantiles for m in models if m.quantiles.requires_grad]

    def configure_optimizers(self) -> Any:
        quantiles = self._quantiles()
        own = {id(q) for q in quantiles}
        main = [p for p in self.trainable() if id(p) not in own]
        groups = [{"params": main, "lr": self.lr}]
        constant = {"params": quantiles, "lr": self.aux_lr}
        return self.with_cosine(groups, self.warmup, constant=[constant])

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of the main loss's gradient; that of the quantiles is another matter."""
        if gradient_clip_val:
            main = optimizer.param_groups[0]["params"]
            torch.nn.utils.clip_grad_norm_(main, float(gradient_clip_val))

    def train(self, mode: bool = True) -> RateDistortionTraining:
        """The codec follows ``mode``; the base codec, which may share layers with it, does not."""
        super().train(mode)
        self.base.eval()
        self.codec.train(mode)
        return self
