"""Training adapters and gate over a frozen codec (LightningModule)."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix

from lic_da.adaptation.codec import AdaptedCodec, pad, to_8_bit
from lic_da.adaptation.gate import from_bytes, to_bytes
from lic_da.adaptation.synthesis import AdaptedSynthesis, one_hot, without_tiny
from lic_da.codecs.latents import decoder_latent, encoder_latent
from lic_da.errors import UserError
from lic_da.training.losses import adaptation
from lic_da.training.schedule import warmup_cosine

BLENDS = ("base", "weighted", "top1", "oracle")
_TRAINED = ("codec.g_s.bank.", "codec.g_s.gate.")


class DecoderAdaptation(L.LightningModule):
    """Adapters and gate of an adapted codec, trained on γ·255²·MSE + cross-entropy.

    Only bank and gate are parameters of the optimiser, without what is frozen of a codec that is
    extended, and only they are in checkpoints. The frozen encoder and entropy model run without
    autograd and without computing a rate.

    Args:
        adapted: the codec with its untrained adapters.
        gamma: γ, weight of the distortion.
        lr: peak learning rate of Adam for the adapters.
        gate_lr: the same for the gate.
        schedule: ``cosine`` (warm-up, then a cosine to zero over the whole run) or ``plateau``
            (halve when the validation gain has not grown for ``patience`` validations).
        warmup: steps until the peak.
        patience: of ``plateau``.
        bf16: run convolutions in bfloat16 while training; validation and test are in float32.
    """

    def __init__(
        self,
        adapted: AdaptedCodec,
        *,
        gamma: float,
        lr: float,
        gate_lr: float,
        schedule: str = "cosine",
        warmup: int = 100,
        patience: int = 15,
        bf16: bool = True,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["adapted"])
        self.adapted = adapted
        self.codec = adapted.codec
        self.gamma, self.lr, self.gate_lr = gamma, lr, gate_lr
        self.schedule, self.warmup, self.patience, self.bf16 = schedule, warmup, patience, bf16
        self.confusion = MulticlassConfusionMatrix(len(adapted.domains))
        self._base_psnr: dict[str, float] = {}
        self._means: dict[tuple[str, str], list[float]] = {}
        self.strict_loading = False  # checkpoints hold bank and gate only

    @property
    def synthesis(self) -> AdaptedSynthesis:
        """The adapted synthesis transform; its module is registered once, inside the codec."""
        return self.adapted.synthesis

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        x, labels = batch["image"], batch["label"]
        y_hat, read = self._latents(x)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.synthesis.gate(read)
            v = logits.float().softmax(dim=1)
            x_hat = self.synthesis(y_hat, v)
        losses = adaptation(x_hat, x, logits, labels, self.gamma)
        if not torch.isfinite(losses["loss"]):
            raise RuntimeError(f"The loss is {losses['loss'].item()}; pictures: {batch['file']}.")
        right = (logits.argmax(dim=1) == labels).float().mean()
        self.log_dict(
            {f"train/{k}": value for k, value in losses.items()} | {"train/gate_accuracy": right},
            batch_size=len(x),
        )
        self.log("loss", losses["loss"], prog_bar=True, logger=False)
        return losses["loss"]

    def _latents(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """ŷ, and the latent that the gate reads."""
        with encoder_latent(self.codec) as y:
            y_hat = decoder_latent(self.codec, x)
        return y_hat, y[0] if self.synthesis.gate_input == "signalled" else y_hat

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        x, label, domain = batch["image"], batch["label"], batch["domain"]
        y_hat, read = self._latents(pad(x, self.adapted.stride))
        gate = self.synthesis.gate(read).softmax(dim=1)
        if self.synthesis.gate_input == "signalled":
            gate = from_bytes(to_bytes(gate), gate.device)
        domains = len(self.adapted.domains)
        self.confusion.update(gate, label)
        if batch["file"] not in self._base_psnr:
            with self.synthesis.blending("base"):
                self._base_psnr[batch["file"]] = psnr_8_bit(self.synthesis(y_hat), x)
        decoded = {
            "weighted": without_tiny(gate, self.synthesis.threshold),
            "top1": one_hot(gate.argmax(dim=1), domains),
            "oracle": one_hot(label, domains),
        }
        values = {blend: psnr_8_bit(self.synthesis(y_hat, v), x) for blend, v in decoded.items()}
        values["base"] = self._base_psnr[batch["file"]]
        for blend in BLENDS:
            self._means.setdefault((blend, domain), []).append(values[blend])

    def on_validation_epoch_end(self) -> None:
        """Log PSNR a domain and blend, gains over the base, and the gate's accuracy."""
        means = {key: sum(v) / len(v) for key, v in self._means.items()}
        self._means.clear()
        logged = {f"val/psnr_{b}/{d}": value for (b, d), value in means.items()}
        gains = {(b, d): value - means["base", d] for (b, d), value in means.items() if b != "base"}
        logged |= {f"val/gain_{b}/{d}": value for (b, d), value in gains.items()}
        counts = self.confusion.compute().float()
        logged["val/gate_accuracy"] = (counts.diagonal().sum() / counts.sum()).item()
        self.log_dict(logged)
        weighted = [value for (b, _), value in gains.items() if b == "weighted"]
        self.log("val/gain", sum(weighted) / len(weighted), prog_bar=True)
        self.confusion.reset()

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.Adam(
            [
                {"params": _trained(self.synthesis.bank), "lr": self.lr},
                {"params": _trained(self.synthesis.gate), "lr": self.gate_lr},
            ]
        )
        if self.schedule == "plateau":
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimiser, mode="max", factor=0.5, patience=self.patience
            )
            return [optimiser], [{"scheduler": plateau, "monitor": "val/gain"}]
        total = int(self.trainer.estimated_stepping_batches)
        cosine = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: warmup_cosine(step, self.warmup, total)
        )
        return [optimiser], [{"scheduler": cosine, "interval": "step"}]

    def train(self, mode: bool = True) -> DecoderAdaptation:
        """Bank and gate follow ``mode``; everything frozen stays in eval mode."""
        super().train(mode)
        self.codec.eval()
        self.synthesis.train(mode)
        return self

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep bank and gate only, and say which base weights they belong to."""
        for part in {"state_dict", "current_model_state"} & checkpoint.keys():
            checkpoint[part] = {k: v for k, v in checkpoint[part].items() if k.startswith(_TRAINED)}
        checkpoint["base_fingerprint"] = self.adapted.fingerprint
        checkpoint["domains"] = self.adapted.domains
        checkpoint["extended_from"] = self._extended_from

    @property
    def _extended_from(self) -> str | None:
        """Fingerprint of the pack that is extended."""
        return None if self.adapted.extended is None else str(self.adapted.extended["from"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of other base weights or other domains."""
        self.check_checkpoint(checkpoint)

    def check_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise a UserError unless it is of these base weights, these domains and this extended pack."""
        base, domains = checkpoint.get("base_fingerprint"), checkpoint.get("domains")
        if base != self.adapted.fingerprint:
            raise UserError(
                f"The checkpoint belongs to base weights {base}, but this codec has "
                f"{self.adapted.fingerprint}: give the codec and quality it was made with."
            )
        if domains != self.adapted.domains:
            raise UserError(
                f"The checkpoint was made for the domains {', '.join(domains or ['?'])}, not for "
                f"{', '.join(self.adapted.domains)}."
            )
        if checkpoint.get("extended_from") != self._extended_from:
            raise UserError(
                "The checkpoint was made with another setting of extend, or that pack has changed since: "
                "give the pack that was extended then."
            )


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


class AdapterAveraging(WeightAveraging):
    """Exponential moving average of adapters and gate; it is what is validated, kept and tested.

    Args:
        decay: of the average, a step.
    """

    def __init__(self, decay: float) -> None:
        # Of equal values this form of the average is exactly that value: frozen weights stay.
        super().__init__(use_buffers=False, avg_fn=lambda a, new, _: a + (new - a) * (1 - decay))

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Complete both states by what is frozen, which checkpoints leave out."""
        frozen = {k: v for k, v in pl_module.state_dict().items() if not k.startswith(_TRAINED)}
        parts = {"state_dict", "current_model_state"} & checkpoint.keys()
        whole = {part: {**frozen, **checkpoint[part]} for part in parts}
        super().on_load_checkpoint(trainer, pl_module, {**checkpoint, **whole})


def psnr_8_bit(x_hat: Tensor, x: Tensor) -> float:
    """PSNR in dB of one image after rounding to 8 bits; padding of ``x_hat`` is left out."""
    decoded = to_8_bit(x_hat[..., : x.shape[2], : x.shape[3]])
    mse = torch.mean((decoded.float() - to_8_bit(x).float()) ** 2).item()
    return 10 * math.log10(255**2 / max(mse, 1e-9))
