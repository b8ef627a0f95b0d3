"""Settings as frozen values: what was read is given back, what is wrong is said, and what is the same."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

import lic_da.config
from lic_da.codecs.spec import CodecSpec
from lic_da.command import unknown_setting
from lic_da.config import as_yaml, available, merged, plain, read_settings
from lic_da.errors import UserError
from lic_da.io.run_folder import CONFIG
from lic_da.methods.adapters.codec import AdaptedCodec
from lic_da.methods.adapters.spec import PUBLISHED, AdapterSpec
from lic_da.migrations import override, run_settings
from lic_da.pretraining.settings import PretrainingSettings
from lic_da.same_settings import CURVE, RUN
from lic_da.training.settings import EvaluationSettings, RunSettings
from tests.conftest import CODEC, MEAN_SCALE, codec_config


def composed(command: str, *overrides: str) -> Any:
    with initialize_config_dir(str(lic_da.config.CONF), version_base="1.3"):
        return compose(command, list(overrides))


@pytest.mark.parametrize("command", ["train", "describe"])
def test_cawf_stands_on_a_codec_that_it_can_widen_unless_another_is_named(command: str) -> None:
    assert composed(command).codec.name == "zou2022_n64"
    assert composed(command, "method=cawf").codec.name == CODEC
    assert composed(command, "method=cawf", "codec=mbt2018_mean_n64").codec.name == MEAN_SCALE
    assert composed(command, "codec.quality=2", "method=finetune").codec.name == "zou2022_n64"


def test_a_run_over_another_codec_is_not_gone_on_with_and_the_codec_alone_is_named(
    tmp_path: Path,
) -> None:
    before = RunSettings.from_config(composed("train", f"codec={CODEC}"))
    (tmp_path / CONFIG).write_text(as_yaml(before.config))
    asked = dataclasses.replace(
        RunSettings.from_config(composed("train")), ckpt_path=tmp_path / "last.ckpt"
    )
    with pytest.raises(UserError, match=f"over codec={CODEC} and not zou2022_n64: give that again"):
        asked.check_resumes(tmp_path)


@pytest.mark.parametrize("name", available("codec"))
def test_a_codec_gives_back_the_settings_it_was_made_from_at_every_quality(name: str) -> None:
    settings = read_settings(lic_da.config.CONF / "codec" / f"{name}.yaml")
    spec = CodecSpec.from_settings(settings)
    for quality in spec.qualities:
        own = spec.at_quality(quality)
        assert own.quality == quality and own.lmbda() == spec.lmbda(quality)
        assert list(own.settings()) == list(settings)  # their order too, which files keep
        assert own.settings() == {**settings, "quality": quality}
    assert spec == CodecSpec.from_settings(composed("train", f"codec={name}").codec)


def test_what_a_codec_was_made_from_or_gives_back_can_be_changed_without_changing_it() -> None:
    settings = codec_config().settings()
    spec = CodecSpec.from_settings(settings)
    before = copy.deepcopy(spec)
    settings["model"]["N"] = 8
    spec.settings()["sites"].clear()
    assert spec == before
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.quality = 1  # type: ignore[misc]


def test_what_a_codec_says_of_a_quality_holds_at_that_quality_alone() -> None:
    spec = codec_config(3, "cheng2020_attn")
    large = spec.at_quality(6)
    assert (spec.model["N"], spec.gate["mid"]) == (128, 42)
    assert (large.model["N"], large.gate["mid"]) == (192, 64)
    assert large.settings()["model"]["N"] == 128  # what files hold says so once
    assert large.at_quality(3) == spec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stride": None, "model": None}, f"codec {CODEC} do not say model, stride"),
        ({"qualities": 3}, "qualities of codec .* must be a list"),
        ({"quality": 7}, f"Unknown quality '7' for codec {CODEC}.*1, 2, 3, 4, 5, 6"),
        ({"qualities": [9], "quality": 9}, r"add lambdas: \{9: …\}"),
    ],
)
def test_a_codec_that_cannot_be_is_refused_in_words(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CodecSpec.from_settings({**codec_config().settings(), **changes})


@pytest.mark.parametrize("missing", ["sites", "gate"])
def test_a_codec_that_says_nothing_of_adapters_gets_none(missing: str) -> None:
    settings = codec_config().settings()
    del settings[missing]
    with pytest.raises(UserError, match=r"bmshj2018.* add sites: \[…\] and gate: \{mid: …\}"):
        AdaptedCodec.build(settings, ("natural",), weights=False)


def test_adapters_are_as_published_where_nothing_is_said() -> None:
    given = {"gate": {"input": "signalled"}}
    spec = AdapterSpec.from_settings(given)
    assert given == {"gate": {"input": "signalled"}}
    assert dataclasses.replace(spec, gate_input="latent", given=PUBLISHED.given) == PUBLISHED
    assert AdapterSpec.from_settings(spec.settings()) == spec
    with pytest.raises(UserError, match=r"gate\.threshold must be from 0 to below 1, not 1"):
        AdapterSpec.from_settings({"gate": {"threshold": 1}})


def test_runs_are_the_same_if_only_what_has_no_effect_differs() -> None:
    ours = plain(composed("train"))
    other = merged(
        ours,
        {
            **{"name": "other", "ckpt_path": "last.ckpt", "extend": "elsewhere", "trust": ["mine"]},
            **{"logger": {"mode": "disabled", "group": "sweep"}, "report": {"worst": 0}},
            "codec": {"qualities": [1, 2, 3]},
            "data": {"num_workers": 3, "cache_gb": 1.0, "latent_pixels": 1},
        },
    )
    assert RUN.differing(ours, other) == []
    cached = {"data": {"latent_cache": True}}
    assert RUN.differing(merged(ours, cached), merged(other, cached)) == ["data.latent_pixels"]
    for key, changed in (
        ("seed", {"seed": 1}),
        ("codec.quality", {"codec": {"quality": 2}}),
        ("gate.threshold", {"gate": {"threshold": 0.1}}),
        ("domains", {"domains": ["sketch"]}),
        ("extended_from", {"extended_from": "0123"}),
    ):
        assert RUN.differing(ours, merged(ours, changed)) == [key]
    assert CURVE.differing(ours, merged(ours, {"codec": {"quality": 2}})) == []


def test_a_run_from_before_is_the_same_as_one_of_today() -> None:
    ours = plain(composed("train", f"codec={CODEC}", "codec.training.optimizer=adam"))
    theirs = copy.deepcopy(ours)
    for part in ("codec", "method"):
        del theirs[part]["training"]["optimizer"]
    theirs["codec"]["model"] = {"_target_": "compressai.models.FactorizedPrior", "N": 64, "M": 64}
    theirs["method"]["codec"] = "lic_da.adaptation.codec.AdaptedCodec"
    theirs["method"]["training"]["_target_"] = "lic_da.training.module.DecoderAdaptation"
    theirs["method"]["training"]["_partial_"] = True
    del theirs["method"]["training"]["kind"]
    assert RUN.differing(ours, theirs) == []
    soap = merged(ours, {"method": {"training": {"optimizer": "soap"}}})
    assert RUN.differing(soap, theirs) == ["method.training.optimizer"]


def test_settings_under_their_earlier_names_are_those_of_today() -> None:
    """Of a run that is there, of a file of a user's and on the command line."""
    ours = plain(composed("train", "codec.training.optimizer=adam"))
    theirs = copy.deepcopy(ours)
    for part in ("codec", "method"):
        theirs[part]["training"]["optimiser"] = theirs[part]["training"].pop("optimizer")
    assert RUN.differing(ours, theirs) == []
    theirs["method"]["training"]["optimiser"] = "soap"
    assert RUN.differing(ours, theirs) == ["method.training.optimizer"]
    own = composed("train", "~codec.training.optimizer", "+codec.training.optimiser=adam")
    assert own.method.training.optimizer == "adam"
    assert override("codec.training.optimiser=adam") == "codec.training.optimizer=adam"
    assert override("+method.training.optimiser=soap") == "+method.training.optimizer=soap"
    for other in (
        "codec.training.lr=1e-3",
        "optimiser=adam",
        "name=codec.training.optimiser",
        "-m",
    ):
        assert override(other) == other


def test_a_pretraining_from_before_is_the_same_and_one_of_other_settings_is_not() -> None:
    ours = PretrainingSettings.from_settings(composed("pretrain")).at_quality(4)
    noted = ours.noted()
    before = copy.deepcopy(noted)
    before["codec"] = {**ours.codec.settings(), "training": {"lr": 1}}
    before["started_from"] = "scratch"
    del before["data"]["photos"]
    before["data"]["_target_"] = "lic_da.training.photographs.PhotographsDataModule"
    assert ours.differing(before) == []
    assert ours.differing(merged(noted, {"clip": 2, "lr": {"first": 1}})) == ["clip", "lr.first"]
    assert ours.at_quality(3).differing(noted) == ["codec.quality"]


def test_settings_by_their_older_names_are_the_same() -> None:
    older = {"evaluation": {"blends": ["base", "weighted"], "ms_ssim": False}}
    today = {"evaluation": {"modes": ["base", "weighted"], "metrics": ["psnr"]}}
    assert run_settings(older) == run_settings(today)
    assert EvaluationSettings.from_settings(
        {**older["evaluation"], "compatibility": 1, "examples": 0}
    ) == EvaluationSettings.from_settings(
        {**today["evaluation"], "compatibility": 1, "examples": 0}
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("codec.training.steps=abc", r"codec\.training\.steps must be a whole .* of at least 0, not 'abc'"),
        ("codec.training.steps=2.5", r"codec\.training\.steps must be a whole number"),
        ("codec.training.batch_size=0", r"batch_size must be a whole number of at least 1, not 0"),
        ("codec.training.lr=-1", r"codec\.training\.lr must be a number of at least 0, not -1"),
        ("codec.training.gamma=nan", r"codec\.training\.gamma must be a number of at least 0, not nan"),
        ("codec.training.warmup=true", r"codec\.training\.warmup must be a whole number"),
        ("data.batches_per_epoch=0", r"data\.batches_per_epoch must be a whole number of at least 1"),
        ("data.crop=many", r"data\.crop must be a whole number of at least 1, not 'many'"),
        ("data.crop=null", r"data\.crop must be a whole number of at least 1, not None"),
        ("data.train_images=-5", r"data\.train_images must be a whole number of at least 1, not -5"),
        ("data.train_images=0", r"data\.train_images must be a whole number of at least 1, not 0"),
        ("data.val_images=-1", r"data\.val_images must be a whole number of at least 1, not -1"),
        ("data.num_workers=-1", r"data\.num_workers must be a whole number of at least 0"),
        ("evaluation.compatibility=-1", r"evaluation\.compatibility must be a whole number"),
        ("evaluation.examples=-1", r"evaluation\.examples must be a whole number of at least 0"),
        ("own_features=1.5", r"own_features must be a whole number of at least 0, not 1\.5"),
        ("gate.mid=0", r"gate\.mid must be a whole number of at least 1, not 0"),
        ("ema=1.5", r"ema must be a number of at least 0 and at most 1, not 1\.5"),
        ("seed=abc", r"seed must be a whole number of at least 0 and at most .*, not 'abc'"),
        ("seed=-1", r"seed must be a whole number of at least 0 and at most .*, not -1"),
    ],
)  # fmt: skip
def test_numbers_that_no_training_can_have_are_refused(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        RunSettings.from_config(composed("train", override))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["codec.training.step=20"],
            "Unknown setting 'step' of codec.training. Did you mean 'steps'?",
        ),
        (
            ["codec=zou2022_n64", "data.augmnt=true"],
            "Did you mean 'augment'?",
        ),
        (["domain=sketch"], "Unknown setting 'domain'. Did you mean 'domains'?"),
        (["-m", "codec.quality=1,2", "domains=[sketch],[comic]", "sead=0,1"], "mean 'seed'?"),
    ],
)
def test_a_setting_that_a_command_has_not_is_named_with_what_there_is(
    arguments: list[str], message: str
) -> None:
    error = unknown_setting("train", arguments)
    assert error is not None and message in str(error) and "Available: " in str(error)


@pytest.mark.parametrize("shown", ["--help", "--cfg=job", "--cfg job"])
def test_an_unknown_setting_is_named_where_settings_are_only_shown(shown: str) -> None:
    asked = [sys.executable, "-m", "lic_da.train", "sead=1", *shown.split()]
    done = subprocess.run(asked, capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: Unknown setting 'sead'. Did you mean 'seed'?")
    assert len(done.stderr.splitlines()) == 1


def test_settings_that_a_command_has_are_not_taken_for_unknown_ones() -> None:
    known = ["codec=zou2022_n64", "codec.training.steps=2", "+new.a=1", "hydra.verbose=true", "-m"]
    assert unknown_setting("train", [*known, "hydra/launcher=joblib", "domains=[sketch]"]) is None


@pytest.mark.parametrize(
    "arguments",
    [
        ["method=adapters,cawf", "method.training.seed=1"],  # ambiguous without -m
        ["--config-name=pretrain", "rates=[3]", "steps.firs=2"],
        ["--version", "sead=1"],
        ["codec@x=3"],
        ["=3"],
    ],
)
def test_where_hydra_objects_to_something_else_its_words_stand(arguments: list[str]) -> None:
    assert unknown_setting("train", arguments) is None


@pytest.mark.parametrize("given", ["gate.calibration=learned", "adapter=lowrank", "sites=all"])
def test_settings_of_adapters_are_refused_where_there_are_none(given: str) -> None:
    asked = [sys.executable, "-m", "lic_da.train", "method=finetune", given, "name=never"]
    done = subprocess.run(asked, capture_output=True, text=True)
    assert done.returncode == 2
    said = f"error: {given.partition('=')[0]} would do nothing: method=finetune has no adapters"
    assert done.stderr.startswith(said)
