"""Fine-tuning the decoder; the whole codec is trained by :mod:`lic_da.methods.retraining`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lic_da.methods.encoder import FrozenEncoder
from lic_da.methods.losses import distortion
from lic_da.methods.precision import bfloat16
from lic_da.methods.retrained import RetrainedCodec
from lic_da.methods.retraining import Baseline


class DecoderFinetuning(Baseline):
    """The synthesis transform, trained on γ·255²·MSE; the rate is constant.

    Args:
        adapted: the codec to train.
        gamma: γ, weight of the distortion.
        lr: see :class:`Baseline`, as what follows.
        optimizer: its name.
        warmup: steps until the peak.
        bf16: run convolutions in bfloat16, on devices that compute in it.
    """

    encoder: FrozenEncoder

    def __init__(
        self,
        adapted: RetrainedCodec,
        *,
        gamma: float,
        lr: float,
        optimizer: str = "adam",
        warmup: int = 100,
        bf16: bool = True,
    ) -> None:
        super().__init__(adapted, lr=lr, optimizer=optimizer, warmup=warmup, bf16=bf16)
        self.gamma = gamma
        self.encoder = FrozenEncoder(adapted)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        x = batch["image"]
        y_hat, _ = self.encoder.of_crops(batch)
        with bfloat16(x.device, self.bf16):
            x_hat = self.encoder.decode(self.codec.g_s, y_hat, batch)
        return self.check_and_log(distortion(x_hat, x, self.gamma), batch)

    def configure_optimizers(self) -> Any:
        groups = [{"params": self.trainable(), "lr": self.lr}]
        return self.with_cosine(groups, self.warmup)

    def train(self, mode: bool = True) -> DecoderFinetuning:
        """The synthesis transform follows ``mode``; everything frozen stays in eval mode."""
        super().train(mode)
        self.base.eval()
        self.codec.eval()
        self.codec.g_s.train(mode)
        return self
