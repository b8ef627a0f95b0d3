"""Runs in W&B: resumed offline, and where W&B cannot be reached."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb

from lic_da.tracking import loggers
from lic_da.tracking.settings import LoggerSettings
from tests.wandb_records import runs_below


@pytest.fixture(autouse=True)
def own_wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """W&B without settings of this machine or of other tests."""
    wandb.teardown()
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    yield
    wandb.teardown()


def logger(mode: str) -> LoggerSettings:
    return LoggerSettings("lic_da", mode, "sweep")


def test_a_resumed_offline_run_goes_on_with_its_first_part_when_it_is_uploaded(
    tmp_path: Path,
) -> None:
    for step in (1, 2):
        run = loggers.begin(logger("offline"), tmp_path, "train", {})
        run.log({"step": step})
        run.finish()
        wandb.teardown()  # the parts are of two processes
    parts = runs_below(tmp_path)
    assert len({part.id for part in parts}) == 1
    assert all(part.resume for part in parts)  # else the second erases the first there


def test_forgotten_runs_are_not_gone_on_with(tmp_path: Path) -> None:
    for _ in range(2):
        loggers.forget(tmp_path)
        loggers.begin(logger("offline"), tmp_path, "summary", {}).finish()
    assert len({run.id for run in runs_below(tmp_path)}) == 2


@pytest.mark.parametrize("key", ["0123456789" * 4, "local-" + "0123456789" * 4])
def test_where_wandb_cannot_be_reached_a_run_goes_on_offline_and_says_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    key: str,
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody answers
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setattr(loggers, "_PATIENCE", 2.0)
    run = loggers.begin(logger("auto"), tmp_path, "train", {})
    run.log({"loss": 0.5})
    run.finish()
    warned = capsys.readouterr().err
    assert "warning: W&B cannot be used now (" in warned
    assert f"{tmp_path.name} is logged offline" in warned
    # W&B writes by a process of its own, which a busy machine lets wait.
    deadline = time.monotonic() + 30
    while runs_below(tmp_path)[0].exit_code is None and time.monotonic() < deadline:
        time.sleep(0.1)
    (logged,) = runs_below(tmp_path)
    assert logged.logged("loss") == 0.5 and logged.exit_code == 0
