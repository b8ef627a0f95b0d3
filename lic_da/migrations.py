"""What older files of this project say, in today's words. No other module knows older formats.

Format 1 (packs without a number, settings of runs and of pre-trainings, checkpoints) named classes by
their import paths, under ``_target_`` or ``kind``. Format 2 names them by registered names, see
:mod:`lic_da.registry`. Format 3 is that of packs for all qualities of a codec, and is format 2 else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lic_da.errors import UserError

FORMAT = 2
"""Of the packs that are written, but for those for all qualities of a codec."""

ALL_RATES = 3
"""Of packs for all qualities of a codec of variable rate, which older versions do not open."""

NAMES = {
    "compressai.models.FactorizedPrior": "factorized_prior",
    "compressai.models.ScaleHyperprior": "scale_hyperprior",
    "compressai.models.MeanScaleHyperprior": "mean_scale_hyperprior",
    "compressai.models.Cheng2020Attention": "cheng2020_attention",
    "lic_da.codecs.hyperprior.MeanScaleHyperprior": "portable_mean_scale_hyperprior",
    "lic_da.codecs.zou2022.WACNN": "wacnn",
    "lic_da.codecs.zou2022_variable.VariableRateWACNN": "variable_rate_wacnn",
    "lic_da.adaptation.sites.Serial": "serial",
    "lic_da.adaptation.sites.Parallel": "parallel",
    "lic_da.adaptation.sites.Inside": "inside",
    "lic_da.adaptation.adapters.Residual": "residual",
    "lic_da.adaptation.adapters.LowRank": "lowrank",
    "lic_da.data.sources.FolderSource": "folder",
    "lic_da.data.sources.HuggingFaceSource": "huggingface",
    "lic_da.data.sources.DebianSource": "debian",
    "lic_da.data.sources.NpmSource": "npm",
    "lic_da.data.sources.PypiSource": "pypi",
    "lic_da.data.sources.DiceBearSource": "dicebear",
    "lic_da.training.module.DecoderAdaptation": "adapters",
    "lic_da.training.baselines.DecoderFinetuning": "decoder",
    "lic_da.training.baselines.RateDistortionTraining": "rate_distortion",
    "lic_da.adaptation.codec.AdaptedCodec": "adapters",
    "lic_da.adaptation.extension.ExtendedCodec": "extended_adapters",
    "lic_da.adaptation.retrained.FinetunedCodec": "finetuned",
    "lic_da.adaptation.retrained.FinetunedDecoderCodec": "finetuned_decoder",
    "lic_da.adaptation.retrained.WidenedCodec": "widened",
}
"""Import path in files of format 1 -> registered name."""


_OPTIONS = {"optimiser": "optimizer"}
"""Earlier name of a setting of a training -> today's."""


def override(argument: str) -> str:
    """A command line's ``codec.training.lr=1e-3`` and the like, with today's name of the setting."""
    setting, equals, value = argument.partition("=")
    *above, name = setting.split(".")
    if not above or above[-1] != "training" or name not in _OPTIONS:
        return argument
    return ".".join((*above, _OPTIONS[name])) + equals + value


def options(settings: Any) -> Any:
    """Settings in which those of trainings have today's names; they are not changed.

    Where both names are there, what stands under today's counts.
    """
    if not isinstance(settings, Mapping):
        return settings
    today = {key: options(value) for key, value in settings.items()}
    training = today.get("training")
    if isinstance(training, Mapping):
        kept = {key: value for key, value in training.items() if key not in _OPTIONS}
        today["training"] = {_OPTIONS.get(key, key): v for key, v in training.items()} | kept
    return today


def named(settings: Any) -> Any:
    """Settings in which every class of the package has its registered name; others keep ``_target_``.

    Args:
        settings: dictionaries, lists and plain values; they are not changed.
    """
    if isinstance(settings, Mapping):
        renamed = {key: named(value) for key, value in settings.items()}
        target = renamed.get("_target_")
        if isinstance(target, str) and target in NAMES:
            del renamed["_target_"]
            renamed.pop("_partial_", None)  # of training modules, which get their codec later
            renamed = {**renamed, "kind": NAMES[target]}
        return renamed
    if isinstance(settings, list | tuple):
        return [named(value) for value in settings]
    return settings


def codec_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint or a pack says of its codec, of whatever age; see :func:`named`."""
    migrated: dict[str, Any] = options(named(settings))
    return _gate_of_codec(migrated)


def _gate_of_codec(settings: Mapping[str, Any]) -> dict[str, Any]:
    how = settings.get("how")
    return (
        {**settings, "how": _with_later_gate(how)} if isinstance(how, Mapping) else dict(settings)
    )


_LATER_GATE = {"calibration": "none", "spatial": "image", "window": 6}


def _with_later_gate(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that say of a gate from before there were calibrations or regions that it has none."""
    gate = settings.get("gate")
    if not isinstance(gate, Mapping):
        return dict(settings)
    return {**settings, "gate": {**_LATER_GATE, **gate}}


def run_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``config.yaml`` of a run, of whatever age."""
    migrated = _with_later_gate(options(named(settings)))
    evaluation = migrated.get("evaluation")
    if isinstance(evaluation, dict):
        names, modes = metric_names(evaluation), mode_names(evaluation)
        for older in ("ms_ssim", "blends"):
            evaluation.pop(older, None)
        effort = evaluation.get("effort") or 0  # runs from before there was one have none
        evaluation |= {"metrics": names, "modes": modes, "effort": effort}
    method = migrated.get("method")
    if isinstance(method, dict) and method.get("codec") in NAMES:
        method["codec"] = NAMES[method["codec"]]
    data = migrated.get("data")
    if isinstance(data, dict):
        for switch in ("more_tests", "augment"):  # runs from before these were there
            data.setdefault(switch, False)
        migrated.setdefault("points", "none")
    return migrated


def metric_names(evaluation: Mapping[str, Any]) -> list[str]:
    """Names of the metrics that are asked for, ``psnr`` first.

    ``ms_ssim: true`` or ``false`` is how older settings say it.

    Args:
        evaluation: ``metrics`` (of settings that lack it: PSNR and MS-SSIM) and maybe ``ms_ssim``.

    Raises:
        UserError: ``metrics`` is no list of names.
    """
    listed, older = evaluation.get("metrics"), evaluation.get("ms_ssim")
    names = ["psnr", "ms_ssim"] if listed is None else listed
    if not _is_list_of_names(names):
        raise UserError(f"metrics must be a list of names, such as [psnr, ms_ssim], not {names!r}.")
    kept = [name for name in names if name != "ms_ssim" or older is not False]
    return list(dict.fromkeys(("psnr", *kept, *(["ms_ssim"] if older is True else []))))


def mode_names(evaluation: Mapping[str, Any]) -> Any:
    """The modes that are asked for; None: all. ``blends`` is how older settings say it."""
    modes = evaluation.get("modes")
    return evaluation.get("blends") if modes is None else modes


def _is_list_of_names(value: Any) -> bool:
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    return listed and all(isinstance(name, str) for name in value)


def pack_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``config.yaml`` of a pack, of whatever age.

    Raises:
        UserError: it is of a format that is not known yet.
    """
    number = settings.get("format", 1)
    if type(number) is not int or number < 1:
        raise UserError(f"its format is {number!r}, which is no format of packs.")
    if number > ALL_RATES:
        raise UserError(
            f"it has format {number}, and this version of lic_da reads packs up to format {ALL_RATES}: "
            "install a newer one."
        )
    if number >= FORMAT:
        return _gate_of_codec(options(settings))
    migrated = codec_settings(settings)
    kind = migrated.get("kind", "lic_da.adaptation.codec.AdaptedCodec")
    return {
        **migrated,
        "format": FORMAT,
        "method": migrated.get("method", "adapters"),
        "kind": NAMES.get(kind, kind) if isinstance(kind, str) else kind,
    }
