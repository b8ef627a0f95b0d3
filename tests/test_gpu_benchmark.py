"""The benchmark for GPUs goes the same ways on a CPU, and says which of its sections failed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import gpu
from experiments import common

UNITS = {
    "agreement": {"images", "streams", "levels", "%"},
    "decode": {"ms", "× base"},
    "steps": {"ms", "times"},
    "pretraining": {"Mpx/s"},
}


def invoke(out: Path, *options: str) -> int:
    arguments = ["--device", "cpu", "--brief", "--out", str(out), *options]
    return CliRunner().invoke(gpu.app, arguments, catch_exceptions=False).exit_code


@pytest.mark.parametrize("section", UNITS)
def test_a_section_writes_numbers_that_are_sound(section: str, tmp_path: Path) -> None:
    assert invoke(tmp_path / "gpu.csv", "--only", section) == 0
    rows = common.read_rows(tmp_path / "gpu.csv", gpu.Row)
    assert {row.unit for row in rows} == UNITS[section]
    assert {row.section for row in rows} == {section} and {row.device for row in rows} == {"CPU"}
    for row in rows:
        assert 0 <= row.lower_quartile <= row.value <= row.upper_quartile, row
        if row.unit in ("ms", "× base", "times", "Mpx/s"):
            assert row.value > 0, row


def test_a_device_agrees_with_itself(tmp_path: Path) -> None:
    invoke(tmp_path / "gpu.csv", "--only", "agreement")
    for row in common.read_rows(tmp_path / "gpu.csv", gpu.Row):
        assert row.value == (1 if "same bytes" in row.what else 0), row


def test_ddp_of_one_process_trains_to_the_same_weights(tmp_path: Path) -> None:
    assert invoke(tmp_path / "gpu.csv", "--sections", "ddp") == 0  # in a process of its own
    rows = common.read_rows(tmp_path / "gpu.csv", gpu.Row)
    (apart,) = (row.value for row in rows if "difference of weights" in row.what)
    assert apart == 0 and len(rows) == 3


def test_a_section_that_fails_or_hangs_costs_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(command: list[str], timeout: float, **_: object) -> subprocess.CompletedProcess[str]:
        section, part = command[command.index("--only") + 1], Path(command[-1])
        common.write_table(part, [gpu.row(section, "found", "cpu", [1.0], "ms")])
        if section == "steps":
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, 1 if section == "decode" else 0)

    monkeypatch.setattr(subprocess, "run", start)
    assert invoke(tmp_path / "gpu.csv", "--sections", "decode,steps,ddp") == 1
    rows = common.read_rows(tmp_path / "gpu.csv", gpu.Row)
    told = [(row.section, row.what, row.note.split(" more ")[0]) for row in rows]
    assert told == [
        ("decode", "found", ""),
        ("decode", gpu.FAILED, "exit code 1"),
        ("steps", "found", ""),
        ("steps", gpu.FAILED, "took"),
        ("ddp", "found", ""),
    ]


def test_without_a_gpu_it_says_how_to_try_it(tmp_path: Path) -> None:
    if gpu.torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = CliRunner().invoke(gpu.app, ["--out", str(tmp_path / "gpu.csv")])
    assert done.exit_code == 2 and "--device cpu" in done.output
