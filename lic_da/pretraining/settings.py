"""The settings of a pre-training, read and checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lic_da.codecs.spec import CodecSpec
from lic_da.config import flat, merged, plain
from lic_da.errors import UserError, unknown
from lic_da.io.files import user_path
from lic_da.same_settings import PRETRAINING

_AT_LEAST_ONE = ("steps.first", "steps.next", "data.batches_per_epoch", "data.val_images")


@dataclass(frozen=True)
class PretrainingSettings:
    """What ``conf/pretrain.yaml`` and the command line say, for one quality of a codec.

    Attributes:
        codec: the codec at the quality that is trained.
        qualities: all that are to be trained, in this order.
        start: weights that the first quality starts from; None: from scratch.
        refine: start from the exported weights of the same quality.
        steps: ``first`` and ``next``: of a training from scratch, and of one from other weights.
        lr: the same of the peak learning rate.
        module: other arguments of :class:`lic_da.pretraining.module.Pretraining`, by their names.
        seed: of everything random.
        data: ``_target_`` of the data module, and its arguments.
        folder: of the trainings, one in it for each quality.
        export: folder for finished weights; None: the package's own.
        config: all settings as plain values, for files.
    """

    codec: CodecSpec
    qualities: tuple[int, ...]
    start: Path | None
    refine: bool
    steps: Mapping[str, int]
    lr: Mapping[str, float]
    module: Mapping[str, Any]
    seed: int
    data: Mapping[str, Any]
    folder: Path
    export: Path | None
    config: Mapping[str, Any]

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> PretrainingSettings:
        """Read and check the settings of ``python -m lic_da.pretrain``.

        Args:
            settings: as ``conf/pretrain.yaml`` has them.

        Raises:
            UserError: a setting is out of its range.
        """
        config = {"rates": None, **plain(settings)}
        codec, data = CodecSpec.from_settings(config["codec"]), config["data"]
        if not isinstance(config["qualities"], list) or not config["qualities"]:
            raise UserError("qualities must be a list such as [4,3].")
        numbers = flat(config)
        for key in _AT_LEAST_ONE:
            if numbers[key] < 1:
                raise UserError(f"{key} must be 1 at least.")
        if data["crop"] < 1 or data["crop"] % codec.stride:
            raise UserError(f"data.crop must be a multiple of {codec.stride} for this codec.")
        if config["refine"] and config["start"]:
            raise UserError("refine=true starts from the exported weights: leave out start.")
        _check_rates(codec, config["rates"], config["export"])
        trained = [codec.quality] if codec.variable_rate else config["qualities"]
        module = ("aux_lr", "warmup", "clip", "precondition_every", "average", "bf16", "compile")
        return cls(
            codec=codec,
            qualities=tuple(codec.at_quality(quality).quality for quality in trained),
            start=user_path(config["start"]) if config["start"] else None,
            refine=config["refine"],
            steps=config["steps"],
            lr=config["lr"],
            module={key: config[key] for key in (*module, "rates")},
            seed=config["seed"],
            data=data,
            folder=user_path(config["folder"]),
            export=user_path(config["export"]) if config["export"] else None,
            config=config,
        )

    def at_quality(self, quality: int) -> PretrainingSettings:
        """The same for another quality of the codec."""
        codec = self.codec.at_quality(quality)
        config = merged(self.config, {"codec": {"quality": quality}})
        return replace(self, codec=codec, config=config)

    def recipe(self) -> dict[str, Any]:
        """What files keep of the settings: without folders and what has no effect on the weights."""
        left_out = ("folder", "export", "qualities", "start")
        kept = {key: value for key, value in plain(self.config).items() if key not in left_out}
        codec = {
            "name": self.codec.name,
            "quality": self.codec.quality,
            "model": plain(self.codec.model),
            "stride": self.codec.stride,
        }
        return {**kept, "codec": codec}

    def noted(self) -> dict[str, Any]:
        """What is noted in the folder of a training, and compared when it goes on."""
        return {**self.recipe(), "start": str(self.start.resolve()) if self.start else None}

    def differing(self, theirs: Mapping[str, Any]) -> list[str]:
        """Dotted names of settings in which a training that was noted differs; none: it is the same."""
        return PRETRAINING.differing(self.noted(), theirs)


def _check_rates(codec: CodecSpec, rates: Any, export: str | None) -> None:
    """Raise a UserError unless these are some of the qualities of a codec of variable rate; None: all."""
    if rates is None:
        return
    if not codec.variable_rate:
        raise UserError(f"rates is for codecs of variable rate; for {codec.name} say qualities.")
    if not isinstance(rates, list) or not rates:
        raise UserError("rates must be a list of qualities, such as [3], or null.")
    if len(set(rates)) < len(rates):
        raise UserError(f"rates names a quality twice: {rates}.")
    if export is None:
        raise UserError(
            "rates=… trains weights that are worse at all other rates: give them a folder, export=…"
        )
    for quality in rates:
        if quality not in codec.rates:
            raise unknown("quality in rates", quality, codec.rates, f"of {codec.name}")
