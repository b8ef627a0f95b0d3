"""``make pretrain``: train a base codec on photographs, one quality after the other.

Loss: R + λ·255²·MSE with additive uniform noise as the proxy of quantisation (Ballé et al. 2018,
arXiv 1802.01436), and CompressAI's auxiliary loss for the quantiles of the entropy bottleneck. The
first quality starts from scratch, each next one from its neighbour's weights. The optimiser is SOAP.

A run that is interrupted and started again goes on after the last checkpoint; finished qualities
are not trained again.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any, cast

import hydra
import lightning as L
import torch
from compressai.models import CompressionModel
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import Tensor

from lic_da.codecs import known, zoo
from lic_da.command import command
from lic_da.config import CONF
from lic_da.data.images import atomic_path
from lic_da.training.losses import bits_per_pixel, rate_distortion
from lic_da.training.optimisers import soap
from lic_da.training.schedule import warmup_cosine


class Pretraining(L.LightningModule):
    """Rate-distortion training of a codec.

    Args:
        codec: any CompressAI model.
        lmbda: λ of R + λ·255²·MSE.
        lr: peak learning rate.
        aux_lr: learning rate for the quantiles.
        warmup: steps until the peak; then a cosine decay to zero.
        clip: largest norm of the gradient.
        precondition_every: steps between updates of SOAP's preconditioner.
        seed: of the noise.
        bf16: run the transforms in bfloat16 (entropy models stay in float32).
        compile: compile the forward pass.
    """

    def __init__(
        self,
        codec: CompressionModel,
        *,
        lmbda: float,
        lr: float,
        aux_lr: float,
        warmup: int,
        clip: float,
        precondition_every: int,
        seed: int,
        bf16: bool,
        compile: bool,
    ) -> None:
        super().__init__()
        self.codec = codec.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        zoo.keep_entropy_models_in_float32(self.codec)
        self.lmbda, self.lr, self.aux_lr = lmbda, lr, aux_lr
        self.warmup, self.clip, self.precondition_every = warmup, clip, precondition_every
        self.seed, self.bf16 = seed, bf16
        self.automatic_optimization = False
        self._loss = torch.compile(self._losses) if compile else self._losses

    def _losses(self, x: Tensor) -> dict[str, Tensor]:
        # Autocast is for the forward pass alone: Lightning's own would also cover the optimiser.
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            out = self.codec(x)
        return rate_distortion(out["x_hat"].float(), x, out["likelihoods"], self.lmbda)

    def configure_optimizers(self) -> Any:
        main = [p for n, p in self.codec.named_parameters() if not n.endswith(".quantiles")]
        quantiles = [p for n, p in self.codec.named_parameters() if n.endswith(".quantiles")]
        groups = [{"params": main, "lr": self.lr}]
        optimiser = soap(groups, precondition_every=self.precondition_every)
        total = self.trainer.max_epochs * self.trainer.datamodule.batches_per_epoch  # type: ignore[operator, attr-defined]
        return [optimiser, torch.optim.Adam(quantiles, self.aux_lr)], [
            torch.optim.lr_scheduler.LambdaLR(
                optimiser, lambda step: warmup_cosine(step, self.warmup, total)
            )
        ]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        optimiser, aux_optimiser = cast(list[Any], self.optimizers())
        # The noise depends on seed and step alone, so that a resumed run is exact.
        torch.manual_seed(self.seed + self.global_step)
        x = batch["image"].contiguous(memory_format=torch.channels_last)
        losses = self._loss(x)
        if not torch.isfinite(losses["loss"]):
            raise RuntimeError(f"The loss is {losses['loss'].item()} for {batch['file']}.")
        optimiser.zero_grad()
        self.manual_backward(losses["loss"])
        self.clip_gradients(optimiser, self.clip, "norm")
        optimiser.step()
        aux_optimiser.zero_grad()
        aux = self.codec.aux_loss()
        self.manual_backward(aux)
        aux_optimiser.step()
        self.lr_schedulers().step()  # type: ignore[union-attr]
        self.log_dict(
            {f"train/{k}": v for k, v in losses.items()} | {"train/aux": aux},
            on_step=False,
            on_epoch=True,
            batch_size=len(x),
        )
        self.log("train/loss_step", losses["loss"], prog_bar=True, logger=False)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        x = batch["image"]
        out = self.codec(x)
        losses = rate_distortion(
            out["x_hat"].float().clamp(0, 1), x, out["likelihoods"], self.lmbda
        )
        psnr = -10 * torch.log10(losses["mse"])
        self.log_dict(
            {"val/loss": losses["loss"], "val/bpp": losses["bpp"], "val/psnr": psnr},
            batch_size=1,
            prog_bar=True,
        )


@torch.inference_mode()
def real_coding(codec: CompressionModel, data: Any) -> dict[str, float]:
    """Mean bpp (real and estimated) and PSNR over validation squares, by real entropy coding."""
    codec = codec.eval()
    rows = []
    for batch in data.val_dataloader():
        x = batch["image"]
        height, width = (s // 64 * 64 for s in x.shape[2:])
        x = x[..., :height, :width]
        coded = codec.compress(x)
        size = sum(len(string) for strings in coded["strings"] for string in strings)
        x_hat = codec.decompress(coded["strings"], coded["shape"])["x_hat"]
        mse = torch.mean((x - x_hat) ** 2).item()
        estimate = bits_per_pixel(codec(x)["likelihoods"], height * width).item()
        rows.append((8 * size / (height * width), estimate, -10 * math.log10(mse)))
    means = torch.tensor(rows).mean(dim=0).tolist()
    return dict(zip(("bpp", "bpp_estimated", "psnr"), means, strict=True))


def history_of(recipe_file: Path) -> list[dict[str, Any]]:
    """Earlier trainings that led to the exported weights, as their recipe tells."""
    if not recipe_file.is_file():
        return []
    history: list[dict[str, Any]] = json.loads(recipe_file.read_text())["training"]
    return history


def origin(start: Path | None, exported: Path) -> str:
    """What a training started from, in words."""
    if start is None:
        return "scratch"
    return "the weights before" if start == exported else f"quality {start.parent.name[1:]}"


def pretrain_quality(
    config: DictConfig, quality: int, start: Path | None, console: Console
) -> Path:
    """Train one quality unless its weights are there already; the file of its weights.

    Args:
        config: composed from ``conf/pretrain.yaml``.
        quality: which λ.
        start: weights to start from; None: from scratch.
        console: where progress is shown.
    """
    folder = Path(config.folder) / f"q{quality}"
    export = Path(config.export) if config.export else zoo.WEIGHTS / config.codec.name
    exported, recipe_file = export / f"q{quality}.safetensors", export / f"q{quality}.json"
    history: list[dict[str, Any]] = []
    if config.refine and exported.is_file():
        start = exported
        history = history_of(recipe_file)
    weights = folder / "weights.safetensors"
    if weights.is_file():
        console.print(f"quality {quality} is trained already: {weights}")
        return weights
    L.seed_everything(config.seed, verbose=False)
    codec = zoo.build(config.codec, weights=False)
    phase = "first" if start is None else "next"
    if start is not None:
        zoo.load_weights(codec, start)
    data = instantiate(config.data, console=console)
    module = Pretraining(
        codec.train(),
        lmbda=zoo.LAMBDAS[quality],
        lr=config.lr[phase],
        aux_lr=config.aux_lr,
        warmup=config.warmup,
        clip=config.clip,
        precondition_every=config.precondition_every,
        seed=config.seed,
        bf16=config.bf16,
        compile=config.compile,
    )
    checkpoint = folder / "checkpoints" / "last.ckpt"
    trainer = L.Trainer(
        max_epochs=math.ceil(config.steps[phase] / config.data.batches_per_epoch),
        logger=CSVLogger(folder, name="", version="log"),
        callbacks=[
            ModelCheckpoint(folder / "checkpoints", filename="last", enable_version_counter=False),
            RichProgressBar(leave=False),
        ],
        log_every_n_steps=50,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    began = time.time()
    resumed = checkpoint if checkpoint.is_file() else None
    trainer.fit(module, datamodule=data, ckpt_path=resumed, weights_only=False)
    codec = zoo.build(config.codec, weights=False)
    codec.load_state_dict(module.codec.state_dict())
    codec.update(force=True)
    recipe = {
        "codec": config.codec.name,
        "quality": quality,
        "lmbda": zoo.LAMBDAS[quality],
        "training": [
            *history,
            {
                "started_from": origin(start, exported),
                "steps": config.steps[phase],
                "lr": config.lr[phase],
                "batch_size": config.data.batch_size,
                "crop": config.data.crop,
                "batches_per_epoch": config.data.batches_per_epoch,
                "minutes_of_last_session": round((time.time() - began) / 60, 1),
            },
        ],
        "training_images": len(data.train_dataset()),
        "validation": real_coding(codec, data),
        "config": OmegaConf.to_container(config, resolve=True),
        "torch": torch.__version__,
    }
    recipe["config"].pop("folder")
    metadata = {"codec": config.codec.name, "quality": str(quality)}
    with atomic_path(recipe_file) as temporary:
        temporary.write_text(json.dumps(recipe, indent=1) + "\n")
    zoo.save_weights(codec, exported, metadata)
    fingerprints = export.parent / known.FINGERPRINTS.name
    known.record(zoo.fingerprint(codec.state_dict()), config.codec.name, quality, fingerprints)
    log = folder / "log" / "metrics.csv"
    if log.is_file():
        with atomic_path(export / f"q{quality}.log.csv") as temporary:
            temporary.write_text(log.read_text())
    zoo.save_weights(codec, weights, metadata)  # the last file: it says that all is done
    console.print(f"quality {quality}: {recipe['validation']}")
    return weights


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="pretrain")
@command
def main(config: DictConfig) -> None:
    """Train all configured qualities."""
    console = Console(stderr=True)
    torch.set_float32_matmul_precision("high")
    start = None
    for quality in config.qualities:
        config.codec.quality = quality
        zoo.check_quality(config.codec)
        start = pretrain_quality(config, quality, start, console)


if __name__ == "__main__":
    main()
