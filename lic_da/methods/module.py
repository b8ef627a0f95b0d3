"""Training a codec (LightningModule): what all methods share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from lic_da.codecs.checkpoints import is_table
from lic_da.codecs.image_codec import ImageCodec, to_8_bit
from lic_da.data.datamodule import CropDataset
from lic_da.errors import UserError
from lic_da.methods.encoder import FrozenEncoder
from lic_da.methods.optim import Groups, optimizer_of
from lic_da.methods.processes import gathered
from lic_da.methods.schedule import warmup_cosine
from lic_da.methods.steps import steps_of
from lic_da.migrations import codec_settings, options

_CODEC = "codec."


class CodecModule(L.LightningModule):
    """What training a codec has in common, whatever the method.

    Checkpoints hold what is trained, without entropy-coding tables, and say which base weights and
    domains it belongs to.

    Attributes:
        monitored: what is logged in validation that tells the best weights, and ``max`` or ``min``.
        encoder: the frozen encoder, whose latents of training images may be kept; None: it is trained.
        optimizer: its name.

    Args:
        adapted: the codec to train.
    """

    monitored: ClassVar[tuple[str, Literal["min", "max"]]] = ("val/gain", "max")
    encoder: FrozenEncoder | None = None
    optimizer: str = "adam"

    def __init__(self, adapted: ImageCodec) -> None:
        super().__init__()
        self.adapted = adapted
        self.codec = adapted.codec
        self.strict_loading = False  # checkpoints hold what is trained only
        self._means: dict[str, list[float]] = {}

    def on_train_start(self) -> None:
        """As where an epoch begins, which Lightning does not tell of where one is gone on with midway."""
        self.train()

    def on_train_epoch_start(self) -> None:
        """Lightning leaves modules in the mode they have: codecs come in eval mode."""
        self.train()

    def collect(self, name: str, value: float) -> None:
        """Note a value of one validation image, of which :meth:`collected` gives the mean."""
        self._means.setdefault(name, []).append(value)

    def collected(self) -> dict[str, float]:
        """Means of what was noted since the last call, by all processes."""
        noted, self._means = gathered(self._means), {}
        # fsum: the same whatever the order, and so however many processes have shared the images.
        return {name: math.fsum(values) / len(values) for name, values in noted.items()}

    def check_and_log(self, losses: Mapping[str, Tensor], batch: dict[str, Any]) -> Tensor:
        """Log the losses of a training step; the loss.

        Raises:
            RuntimeError: it is not finite.
        """
        loss = losses["loss"]
        if not torch.isfinite(loss):
            raise RuntimeError(f"The loss is {loss.item()}; images: {batch['file']}.")
        size = len(batch["image"])
        self.log_dict({f"train/{name}": value for name, value in losses.items()}, batch_size=size)
        self.log("loss", loss, prog_bar=True, logger=False)
        return loss

    def trainable(self) -> list[torch.nn.Parameter]:
        """Parameters of the codec that require gradients."""
        return [p for p in self.codec.parameters() if p.requires_grad]

    def with_cosine(self, groups: Groups, warmup: int, constant: Groups = ()) -> Any:
        """The optimizer, whose learning rates rise and then fall to zero over the whole run.

        Args:
            groups: of parameters.
            warmup: steps until the peak.
            constant: groups whose learning rate stays as it is, trained by Adam.
        """
        total = steps_of(self.trainer)
        # Lightning clips no gradients for a fused optimizer under its own mixed precision.
        fused = self.trainer.precision == "32-true"
        optimizer = optimizer_of(self.optimizer, groups, constant, fused=fused)
        rates = [lambda step: warmup_cosine(step, warmup, total)] * len(groups)
        rates += [lambda step: 1.0] * len(constant)
        cosine = torch.optim.lr_scheduler.LambdaLR(optimizer, rates)
        return [optimizer], [{"scheduler": cosine, "interval": "step"}]

    def is_trained(self, name: str) -> bool:
        """Whether a tensor of the state dict of this name belongs into checkpoints."""
        own = name.removeprefix(_CODEC)
        return name.startswith(_CODEC) and self.adapted.is_trained(own) and not is_table(own)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what is trained only, and say which base weights it belongs to."""
        for part in {"state_dict", "current_model_state"} & checkpoint.keys():
            checkpoint[part] = {k: v for k, v in checkpoint[part].items() if self.is_trained(k)}
        checkpoint["base_fingerprint"] = self.adapted.fingerprint
        checkpoint["domains"] = self.adapted.domains
        checkpoint["method"] = self.adapted.method
        checkpoint["settings"] = self.adapted.settings()
        if self._qualities is not None:
            checkpoint["qualities"] = self._qualities

    @property
    def _qualities(self) -> list[int] | None:
        """Those that are trained for where these are all; None: one."""
        config = self.adapted.config
        return list(config.served) if config.all_rates else None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of other base weights, other domains or another method."""
        self.check_checkpoint(checkpoint)

    def check_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise a UserError unless base weights, domains, method, settings and optimizer are the same."""
        base, domains = checkpoint.get("base_fingerprint"), checkpoint.get("domains")
        method = checkpoint.get("method", "adapters")
        if method != self.adapted.method:
            raise UserError(
                f"The checkpoint was made by method {method}, not {self.adapted.method}: give "
                f"method={method}."
            )
        if base != self.adapted.fingerprint:
            raise UserError(
                f"The checkpoint belongs to base weights {base}, but this codec has "
                f"{self.adapted.fingerprint}: give the codec and quality it was made with."
            )
        theirs = checkpoint.get("qualities")
        if theirs != self._qualities:
            made = "all" if theirs else self.adapted.config.quality
            raise UserError(
                f"The checkpoint was made for {f'qualities {theirs}' if theirs else 'one quality'}: give "
                f"codec.quality={made}, and the codec's qualities as they were then."
            )
        noted = options({"training": checkpoint.get("hyper_parameters", {})})["training"]
        used = noted.get("optimizer", "adam")
        if used != self.optimizer:
            raise UserError(
                f"The checkpoint was made with the optimizer {used}, not {self.optimizer}: give "
                f"method.training.optimizer={used}, and steps, learning rates and warm-up as config.yaml "
                "of that run says."
            )
        if domains != self.adapted.domains:
            raise UserError(
                f"The checkpoint was made for the domains {', '.join(domains or ['?'])}, not for "
                f"{', '.join(self.adapted.domains)}."
            )
        settings = self.adapted.settings()
        theirs = codec_settings(checkpoint.get("settings", settings))
        if theirs != settings:
            raise UserError(
                f"The checkpoint was made with other settings of the codec: {theirs}, not {settings}."
            )

    def calibrate(self, crops: CropDataset, device: torch.device) -> None:
        """Called after training, when the codec is finished: what is set by a trained codec is set here.

        Args:
            crops: of training images, a group a domain.
            device: that has done the training; the codec is left on the CPU.
        """

    def load_trained(self, checkpoint: Mapping[str, Any], origin: str) -> None:
        """Copy what a checkpoint holds into the codec."""
        under = f"{_CODEC}{self.adapted.stored_under}"
        tensors = {k.removeprefix(under): v for k, v in checkpoint["state_dict"].items()}
        self.adapted.load_trained(tensors, origin)


class TrainedAveraging(WeightAveraging):
    """Exponential moving average of what is trained; it is what is validated, kept and tested.

    Args:
        decay: of the average, a step.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=False, avg_fn=lambda a, new, _: moved(a, new, 1 - decay))

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Complete both states by what is frozen, which checkpoints leave out."""
        module = cast(CodecModule, pl_module)
        frozen = {k: v for k, v in module.state_dict().items() if not module.is_trained(k)}
        parts = {"state_dict", "current_model_state"} & checkpoint.keys()
        whole = {part: {**frozen, **checkpoint[part]} for part in parts}
        super().on_load_checkpoint(trainer, pl_module, {**checkpoint, **whole})


def moved(average: Tensor, new: Tensor, share: float) -> Tensor:
    """An average, moved a share of the way to new values; what is equal stays bit for bit, -0.0 too."""
    return torch.where(average == new, average, average + (new - average) * share)


def psnr_8_bit(x_hat: Tensor, x: Tensor) -> float:
    """PSNR in dB of one image after rounding to 8 bits; padding of ``x_hat`` is left out."""
    decoded = to_8_bit(x_hat[..., : x.shape[2], : x.shape[3]])
    mse = torch.mean((decoded.float() - to_8_bit(x).float()) ** 2).item()
    return 10 * math.log10(255**2 / max(mse, 1e-9))
