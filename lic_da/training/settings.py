"""The settings of a training run, read and checked once.

With ``extend=PACK`` codec, sites, adapters, gate and source domain are those of the pack. They are put in
the place of what ``conf/`` says before anything is looked up, so that all that refers to them follows.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from lic_da.codecs import zoo
from lic_da.codecs.image_codec import ImageCodec
from lic_da.codecs.spec import OF_ADAPTERS, CodecSpec, MethodSpec
from lic_da.config import available, flat, is_of, merged, plain
from lic_da.data.datamodule import domain_names, listed
from lic_da.data.domains import load_domain, unseen_domains
from lic_da.data.pile import PileDataModule, named_groups, read_groups
from lic_da.errors import UserError, unknown
from lic_da.evaluation.measure import check_modes, check_qualities
from lic_da.evaluation.metrics import METRICS
from lic_da.io.files import user_path
from lic_da.io.run_folder import CONFIG
from lic_da.io.yaml_files import read_yaml
from lic_da.methods import pack
from lic_da.methods.adapters.codec import AdaptedCodec
from lic_da.methods.adapters.spec import PUBLISHED
from lic_da.methods.optim import check_optimizer
from lic_da.migrations import metric_names, mode_names, options, run_settings
from lic_da.same_settings import RESUMED, RUN
from lic_da.tracking.settings import LoggerSettings
from lic_da.training.numbers import Number, check_numbers

TRAIN_ON = ("all", "targets")
"""Domains whose images a method is trained on: all of the run, or the targets without the source."""

_MEASURED = (1, 2, 3, 4)
"""Qualities of a codec for all of them that are measured if none are asked for, as of ``make sweep``."""

_OF_THE_PACK = ("codec", "data.source", *OF_ADAPTERS)
_MAY_DIFFER = ("codec.training", "codec.weights")  # where they are given


@dataclass(frozen=True)
class Extension:
    """The pack that a run extends.

    Attributes:
        pack: its folder.
        domains: names of its domains, the source first.
        fingerprint: SHA-256 of its adapters and gate.
        replay: its domains are in the batches too.
        own_features: channels of the gate that only the new domains use.
        trust: packages outside lic_da whose classes the pack may name.
    """

    pack: Path
    domains: tuple[str, ...]
    fingerprint: str
    replay: bool
    own_features: int
    trust: tuple[str, ...]


@dataclass(frozen=True)
class PileSettings:
    """A folder of images without labels, whose groups take the place of domains.

    Attributes:
        folder: of the images.
        groups: how many to look for, at most.
        earlier: folder of a run whose groups are gone on with, and its moves by hand; None: none.
        rounds: of brief training, after each of which images go to the adapters that decode them best.
        round_steps: batches of each.
    """

    folder: str
    groups: int
    earlier: Path | None
    rounds: int
    round_steps: int

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> PileSettings | None:
        """The settings of a run's pile; None: it has none.

        Raises:
            UserError: ``groups`` is neither a number nor the folder of a run that has found groups, or
                another number is none that works.
        """
        folder, groups, earlier = settings["pile"], settings["groups"], None
        if not isinstance(groups, int):
            earlier = user_path(str(groups))
            table = read_groups(earlier)
            folder = folder or read_yaml(earlier / CONFIG)["pile"]
            groups = len(named_groups(table))
        if folder is None:
            return None
        for name, least in (("groups", 1), ("rounds", 0), ("round_steps", 1)):
            Number(least).check(name, groups if name == "groups" else settings[name])
        return cls(str(folder), groups, earlier, settings["rounds"], settings["round_steps"])


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured after a training.

    Attributes:
        modes: ways to decode; None: all that the method has.
        metrics: names for :data:`~lic_da.evaluation.metrics.METRICS`.
        qualities: of a codec that is trained for all its qualities, those that are measured; None: 1 to 4,
            as far as it has them.
        effort: of the encoder for each image, from 0 to 3; see :mod:`lic_da.codecs.refine`.
        compatibility: source test images whose old streams are tried with what was trained.
        examples: images a domain that are kept as PNG.
    """

    modes: Sequence[str] | None
    metrics: Sequence[str]
    qualities: Sequence[int] | None
    effort: int
    compatibility: int
    examples: int

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> EvaluationSettings:
        """The settings under ``evaluation``."""
        named = {**settings, "metrics": metric_names(settings), "modes": mode_names(settings)}
        named.setdefault("effort", 0)
        named.setdefault("qualities", None)
        return cls(**{field.name: named[field.name] for field in fields(cls)})


@dataclass(frozen=True)
class RunSettings:
    """What ``conf/train.yaml`` and the command line say, with what a pack that is extended brings.

    Attributes:
        codec: the base codec.
        method: how it is adapted.
        training: how it is trained; see :data:`lic_da.registry.MODULES`.
        names: of all domains that the codec is made for, the source first.
        domains: names of the new ones, which the run is about.
        extension: the pack that is extended; None: none.
        pile: images without labels, whose groups the domains are once they are found; None: none.
        data: ``_target_`` of the data module, and its arguments.
        trainer: ``_target_`` of the trainer, and its arguments.
        evaluation: what is measured.
        logger: where W&B runs go.
        seed: of everything random.
        ema: decay a step of the average of what is trained; None: no average.
        early_stopping: validations without getting better; None: never.
        ckpt_path: checkpoint that the training goes on from; None: it begins.
        config: all settings as plain values, for files.
    """

    codec: CodecSpec
    method: MethodSpec
    training: Mapping[str, Any]
    names: tuple[str, ...]
    domains: tuple[str, ...]
    extension: Extension | None
    pile: PileSettings | None
    data: Mapping[str, Any]
    trainer: Mapping[str, Any]
    evaluation: EvaluationSettings
    logger: LoggerSettings
    seed: int
    ema: float | None
    early_stopping: int | None
    ckpt_path: Path | None
    config: Mapping[str, Any]

    @classmethod
    def from_config(cls, config: DictConfig) -> RunSettings:
        """Read and check the settings of a run, before anything is downloaded.

        Args:
            config: composed from ``conf/train.yaml``; it is not changed.

        Raises:
            UserError: something cannot work; the message says what would.
        """
        CodecSpec.from_settings(config.codec)
        config = copy.deepcopy(config)
        extension, pile = _extended(config), PileSettings.from_settings(_pile(config))
        _on_pile(config, pile)
        earlier = extension.domains if extension else ()
        source, *new = domain_names(config.domains, config.data.source)
        names = (*(earlier or [source]), *new)
        if len(names) < 2 and pile is None:
            raise UserError(
                f"Name at least one target domain, such as domains=[sketch]. Available: "
                f"{', '.join(available('domain'))}."
            )
        with open_dict(config):
            config.domains = new
            config.unseen = list(
                unseen_domains(listed(config.unseen), names, user_path(config.data.data_dir))
            )
        for name in names:
            load_domain(name)
        values = options(plain(config))
        settings = cls(
            codec=CodecSpec.from_settings(values["codec"]),
            method=MethodSpec.from_settings(values),
            training=values["method"]["training"],
            names=names,
            domains=tuple(new),
            extension=extension,
            pile=pile,
            data=values["data"],
            trainer=values["trainer"],
            evaluation=EvaluationSettings.from_settings(values["evaluation"]),
            logger=LoggerSettings.from_settings(values["logger"]),
            seed=values["seed"],
            ema=values["ema"],
            early_stopping=values["early_stopping"],
            ckpt_path=user_path(values["ckpt_path"]) if values["ckpt_path"] else None,
            config=values,
        )
        settings._check()
        return settings

    def _check(self) -> None:
        check_numbers(self.config)
        train_on = self.method.own.get("train_on")
        if train_on not in TRAIN_ON:
            raise unknown("method.train_on", train_on, TRAIN_ON)
        for training in (self.codec.training, self.training):
            check_optimizer(training)
        if self.extension and self.method.name != AdaptedCodec.method:
            raise UserError(
                f"A pack is extended by adapters only: leave out method={self.method.name}."
            )
        gate = self.config["gate"]
        if (
            self.extension
            and not self.extension.replay
            and gate.get("calibration", "none") != "none"
        ):
            raise UserError(
                "The pack that is extended has gate.calibration=learned, which is fitted to images of all "
                "domains: leave out replay=false."
            )
        if self.data.get("augment") and self.data.get("latent_cache"):
            raise UserError(
                "data.augment makes crops that no cached latent belongs to: use "
                "data.latent_cache=false, or data.augment=false."
            )
        for key in ("crop", "val_crop"):
            if self.data[key] % self.codec.stride:
                raise UserError(
                    f"data.{key} must be a multiple of {self.codec.stride} for this codec."
                )
        if self.pile and (self.extension or self.method.name != AdaptedCodec.method):
            raise UserError(
                "Groups of a pile are found by adapters of a new pack: leave out extend and method. "
                "lic-da data add outputs/NAME/groups.csv makes domains of them for anything else."
            )
        METRICS.chosen(self.evaluation.metrics)
        kind = pack.codec_class(self.method.codec)
        if not issubclass(kind, AdaptedCodec):
            _check_without_adapters(self.method.name)
        if self.codec.all_rates:
            self._check_all_rates(kind)
        check_modes(self.evaluation.modes, kind.modes, kind.modes_on_request)
        check_qualities(self.evaluation.qualities, "evaluation.qualities", self.codec)

    def _check_all_rates(self, kind: type[ImageCodec]) -> None:
        if not kind.all_rates:
            raise UserError(
                f"codec.quality=all is for method=adapters: method={self.method.name} trains for one "
                f"quality at a time, such as codec.quality={self.codec.default_quality}."
            )
        if self.data.get("latent_cache"):
            raise UserError(
                "The cache holds latents of one quality, and codec.quality=all draws one for each crop: "
                "leave out data.latent_cache=true."
            )

    @property
    def steps(self) -> int:
        """Batches of the whole training."""
        return int(self.codec.training["steps"])

    @property
    def measured(self) -> tuple[int, ...]:
        """The qualities that are measured."""
        served, asked = self.codec.served, self.evaluation.qualities
        if asked is not None:
            return tuple(asked)
        usual = tuple(q for q in served if q in _MEASURED)
        return usual if self.codec.all_rates and usual else served[: len(_MEASURED)]

    @property
    def train_domains(self) -> tuple[str, ...]:
        """The domains whose images are trained on; those of the others are only tested."""
        if self.extension:
            return self.names if self.extension.replay else self.domains
        return self.names if self.method.own["train_on"] == "all" else self.names[1:]

    def resumed(self, checkpoint: Path) -> RunSettings:
        """The same, going on from a checkpoint."""
        config = merged(self.config, {"ckpt_path": str(checkpoint)})
        return replace(self, ckpt_path=checkpoint, config=config)

    def on_groups(self, groups: Sequence[str], folder: Path) -> RunSettings:
        """The same, with the groups of its pile as domains.

        Args:
            groups: names.
            folder: of the run, which holds their table.
        """
        assert self.pile is not None
        target = f"{PileDataModule.__module__}.{PileDataModule.__qualname__}"
        found = {"_target_": target, "pile": self.pile.folder, "folder": str(folder)}
        return replace(
            self,
            names=(self.names[0], *groups),
            domains=tuple(groups),
            data=merged(self.data, found),
        )

    def in_group(self, group: str) -> RunSettings:
        """The same, with its W&B run in a group unless it is in one."""
        if self.logger.group is not None:
            return self
        config = merged(self.config, {"logger": {"group": group}})
        return replace(self, logger=replace(self.logger, group=group), config=config)

    def are_those_of(self, config: Mapping[str, Any]) -> bool:
        """Whether a run of these settings has the result of a run of others.

        Args:
            config: of the other run, as its ``config.yaml`` has them; plain values.
        """
        return not RUN.differing(self.config, config)

    def check_resumes(self, folder: Path) -> None:
        """Raise a UserError if the training in a folder is to go on with settings that it has not had."""
        if self.ckpt_path is None or not (folder / CONFIG).is_file():
            return
        before = run_settings(read_yaml(folder / CONFIG))
        if other := RESUMED.differing(self.config, before):
            had, asked = flat(before), flat(self.config)
            if "codec.name" in other:  # by which all that is about the codec differs
                raise UserError(
                    f"ckpt_path goes on with {folder}, whose training is over codec={had['codec.name']} "
                    f"and not {asked['codec.name']}: give that again, or choose another name=…."
                )
            told = ", ".join(f"{k}={had.get(k)} and not {asked.get(k)}" for k in other)
            raise UserError(
                f"ckpt_path goes on with {folder}, whose training has {told}: give that again, or choose "
                "another name=…."
            )


def _pile(config: DictConfig) -> dict[str, Any]:
    """The settings of a run that are about a pile, as plain values."""
    return {key: config[key] for key in ("pile", "groups", "rounds", "round_steps")}


def _on_pile(config: DictConfig, pile: PileSettings | None) -> None:
    """Leave out of the settings of a run what stands for domains; the groups of its pile will be there.

    Args:
        config: a copy of the run's own; it is changed if there is a pile.
        pile: None: there is none.

    Raises:
        UserError: domains are on the command line beside a pile, or what belongs to one without it.
    """
    given = _given()
    if pile is None:
        if alone := sorted({"groups", "rounds", "round_steps"} & {*given}):
            raise UserError(f"{alone[0]} goes with a pile: give pile=FOLDER too.")
        return
    if "domains" in given:
        raise UserError(
            "The groups of a pile are its domains: leave out domains, or leave out pile and groups."
        )
    with open_dict(config):
        config.pile, config.domains = pile.folder, []
        if "unseen" not in given:
            config.unseen = []


def _extended(config: DictConfig) -> Extension | None:
    """Put what comes from the pack that is extended into the settings.

    Settings of the training are the pack's too, unless they are given on the command line. Of a pack
    that is not there yet (``extend`` null) nothing is taken.

    Args:
        config: a copy of the run's own; it is changed, and gets the pack's fingerprint.

    Raises:
        UserError: there is no such pack, the command line names another codec than the pack's, or a
            domain that the pack has.
    """
    if config.extend is None:
        if alone := sorted({"replay", "own_features", "trust"} & {*_given()}):
            raise UserError(f"{alone[0]} goes with a pack that is extended: give extend=PACK too.")
        return None
    folder = Path(str(config.extend).replace("%q", str(config.codec.quality))).expanduser()
    trust = listed(config.get("trust"))
    taken = pack.read_config(folder, trust=trust)
    if taken.method != AdaptedCodec.method:
        raise UserError(
            f"{folder} is a pack of method {taken.method}: only packs of adapters can be extended."
        )
    source = taken.domains[0]
    new = domain_names(config.domains, source)[1:]
    if not new or set(new) & set(taken.domains):
        raise UserError(
            f"The pack {folder} has the domains {', '.join(taken.domains)} already. Name new ones only, "
            "such as domains=[mine]."
        )
    theirs = _settings_of_pack(taken, config, folder)
    fingerprint = zoo.fingerprint(pack.read_tensors(folder, trust=trust))
    with open_dict(config):
        config.data.source = source
        for key in ("codec", *OF_ADAPTERS):
            config[key] = theirs[key]
        config.extended_from = fingerprint
    return Extension(folder, taken.domains, fingerprint, config.replay, config.own_features, trust)


def _settings_of_pack(taken: pack.PackConfig, config: DictConfig, folder: Path) -> DictConfig:
    """``codec`` and ``OF_ADAPTERS`` of a pack, with what may be and is given otherwise."""
    theirs = OmegaConf.create(
        {
            "codec": taken.codec.settings(),
            "data": {"source": taken.domains[0]},
            "points": "none",
            **taken.own.get("how", PUBLISHED.settings()),
        }
    )
    for key in _given():
        given = OmegaConf.select(config, key)
        if is_of(key, _MAY_DIFFER):
            OmegaConf.update(theirs, key, given, force_add=True)
        elif is_of(key, _OF_THE_PACK) and given != OmegaConf.select(theirs, key):
            raise UserError(
                f"{key} is that of the pack {folder} and cannot be another one: leave it out, or extend "
                "another pack."
            )
    return theirs


def _check_without_adapters(method: str) -> None:
    """Raise a UserError where settings are given that do nothing without adapters.

    Of a sweep over several methods they may be those of another one.
    """
    if not HydraConfig.initialized() or HydraConfig.get().mode == RunMode.MULTIRUN:
        return
    if idle := [key for key in _given() if is_of(key, OF_ADAPTERS)]:
        raise UserError(
            f"{', '.join(idle)} would do nothing: method={method} has no adapters and no gate. Leave "
            "that out, or leave out the method."
        )


def _given() -> list[str]:
    """Keys that are on the command line; of a codec by its name, that name."""
    if not HydraConfig.initialized():
        return []
    keys = [o.lstrip("+~").split("=", 1)[0] for o in HydraConfig.get().overrides.task]
    return ["codec.name" if key == "codec" else key for key in keys]
