"""Training of adapters and gate over a frozen codec (Presta et al. 2024)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix

from lic_da.adapters.gate import from_bytes, to_bytes
from lic_da.adapters.synthesis import AdaptedSynthesis, one_hot, without_tiny
from lic_da.data.datamodule import CropDataset
from lic_da.errors import UserError
from lic_da.methods.adapters.calibrating import fitted_trust
from lic_da.methods.adapters.codec import AdaptedCodec
from lic_da.methods.adapters.extension import ExtendedCodec
from lic_da.methods.adapters.placing import fit_points
from lic_da.methods.encoder import FrozenEncoder
from lic_da.methods.losses import adaptation
from lic_da.methods.module import CodecModule, psnr_8_bit
from lic_da.methods.optim import optimizer_of
from lic_da.methods.precision import bfloat16

MODES = ("base", "weighted", "top1", "oracle")


class DecoderAdaptation(CodecModule):
    """Adapters and gate of an adapted codec, trained on γ·255²·MSE + cross-entropy.

    Only bank and gate are parameters of the optimizer, without what is frozen of a codec that is
    extended, and only they are in checkpoints. The frozen encoder and entropy model run without
    autograd and without computing a rate.

    Args:
        adapted: the codec with its untrained adapters.
        gamma: γ, weight of the distortion.
        lr: peak learning rate for the adapters.
        gate_lr: the same for the gate.
        optimizer: ``adam``, as published, or ``soap``; see :mod:`lic_da.methods.optim`.
        schedule: ``cosine`` (warm-up, then a cosine to zero over the whole run) or ``plateau``
            (halve when the validation gain has not grown for ``patience`` validations).
        warmup: steps until the peak.
        patience: of ``plateau``.
        bf16: run convolutions in bfloat16 while training, on devices that compute in it; validation and
            test are in float32.
        clamp: take the distortion of the image that is shown, clamped to [0, 1]; False: of the
            image as it is computed.
        source_adapter: train an adapter for the source domain too; False: it stays at zero, so that the
            source's images are decoded by the base decoder as far as the gate knows them.
    """

    adapted: AdaptedCodec
    encoder: FrozenEncoder

    def __init__(
        self,
        adapted: AdaptedCodec,
        *,
        gamma: float,
        lr: float,
        gate_lr: float,
        optimizer: str = "adam",
        schedule: str = "cosine",
        warmup: int = 100,
        patience: int = 15,
        bf16: bool = True,
        clamp: bool = True,
        source_adapter: bool = True,
    ) -> None:
        super().__init__(adapted)
        adapted.bank_in_memory("trained")
        adapted.check_points()
        self.save_hyperparameters(ignore=["adapted"])
        self.gamma, self.lr, self.gate_lr, self.optimizer = gamma, lr, gate_lr, optimizer
        self.schedule, self.warmup, self.patience, self.bf16 = schedule, warmup, patience, bf16
        self.clamp = clamp
        if not source_adapter:
            for site in self.synthesis.sites:
                self.synthesis.bank.at(site)[0].requires_grad_(False)
        self.confusion = MulticlassConfusionMatrix(len(adapted.domains))
        self.encoder = FrozenEncoder(adapted, reads_y=self.synthesis.gate_input == "signalled")
        self._base_psnr: dict[str, float] = {}

    @property
    def synthesis(self) -> AdaptedSynthesis:
        """The adapted synthesis transform; its module is registered once, inside the codec."""
        return self.adapted.synthesis

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        x, labels = batch["image"], batch["label"]
        y_hat, read = self.encoder.of_crops(batch)
        with bfloat16(x.device, self.bf16):
            logits = self.synthesis.gate(read)
            v = logits.float().softmax(dim=1)
            if self.bf16:  # such convolutions are faster with channels last
                y_hat = y_hat.contiguous(memory_format=torch.channels_last)
            with self.synthesis.mixed_by(v) as transform:
                x_hat = self.encoder.decode(transform, y_hat, batch)
        losses = adaptation(x_hat, x, logits, labels, self.gamma, self.clamp)
        right = (logits.argmax(dim=1) == labels).float().mean()
        return self.check_and_log(losses | {"gate_accuracy": right}, batch)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        x, label, domain = batch["image"], batch["label"], batch["domain"]
        y_hat, read = self.encoder.of_image(batch)
        gate = self.synthesis.gate(read).softmax(dim=1)
        if self.synthesis.gate_input == "signalled":
            gate = from_bytes(to_bytes(gate), gate.device)
        domains = len(self.adapted.domains)
        self.confusion.update(gate, label)
        if batch["file"] not in self._base_psnr:
            with self.synthesis.in_mode("base"):
                self._base_psnr[batch["file"]] = psnr_8_bit(self.synthesis(y_hat), x)
        decoded = {
            "weighted": without_tiny(gate, self.synthesis.threshold),
            "top1": one_hot(gate.argmax(dim=1), domains),
            "oracle": one_hot(label, domains),
        }
        values: dict[str, float] = {}
        for mode, v in decoded.items():
            same = [other for other in values if torch.equal(decoded[other], v)]
            # Mostly the gate is right, and then top1 and oracle are the same image.
            values[mode] = values[same[0]] if same else psnr_8_bit(self.synthesis(y_hat, v), x)
        values["base"] = self._base_psnr[batch["file"]]
        for mode in MODES:
            self.collect(f"psnr_{mode}/{domain}", values[mode])
            if mode != "base":
                self.collect(f"gain_{mode}/{domain}", values[mode] - values["base"])

    def on_validation_epoch_end(self) -> None:
        """Log PSNR a domain and mode, gains over the base, and the gate's accuracy."""
        logged = {f"val/{name}": value for name, value in self.collected().items()}
        counts = self.confusion.compute().float()
        logged["val/gate_accuracy"] = (counts.diagonal().sum() / counts.sum()).item()
        self.log_dict(logged)
        weighted = [
            value for name, value in logged.items() if name.startswith("val/gain_weighted/")
        ]
        self.log("val/gain", sum(weighted) / len(weighted), prog_bar=True)
        self.confusion.reset()

    def calibrate(self, crops: CropDataset, device: torch.device) -> None:
        """Fit reconstruction points and what the gate's v is multiplied by, if there are to be such."""
        synthesis, adapted = self.synthesis, self.adapted
        if synthesis.trust is None and synthesis.points is None:
            return
        self.eval()
        adapted.to(device)
        if synthesis.points is not None:
            earlier = adapted.extended["domains"] if isinstance(adapted, ExtendedCodec) else ()
            fit_points(adapted, crops, device, len(earlier))
        if synthesis.trust is not None:
            synthesis.trust = fitted_trust(synthesis, self.encoder, crops, device)
        adapted.to("cpu")

    def configure_optimizers(self) -> Any:
        groups = [
            {"params": _trained(self.synthesis.bank), "lr": self.lr},
            {"params": _trained(self.synthesis.gate), "lr": self.gate_lr},
        ]
        if self.schedule != "plateau":
            return self.with_cosine(groups, self.warmup)
        optimizer = optimizer_of(self.optimizer, groups)
        monitor, mode = self.monitored
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, mode=mode, factor=0.5, patience=self.patience
        )
        return [optimizer], [{"scheduler": plateau, "monitor": monitor}]

    def train(self, mode: bool = True) -> DecoderAdaptation:
        """Bank and gate follow ``mode``; everything frozen stays in eval mode."""
        super().train(mode)
        self.codec.eval()
        self.synthesis.train(mode)
        return self

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say also which pack is extended."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["extended_from"] = self._extended_from

    @property
    def _extended_from(self) -> str | None:
        """Fingerprint of the pack that is extended."""
        adapted = self.adapted
        return str(adapted.extended["from"]) if isinstance(adapted, ExtendedCodec) else None

    def check_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As of any codec; and it must be of the same extended pack."""
        if checkpoint.get("extended_from") != self._extended_from:
            raise UserError(
                "The checkpoint was made with another setting of extend, or that pack has changed since: "
                "give the pack that was extended then."
            )
        super().check_checkpoint(checkpoint)


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
