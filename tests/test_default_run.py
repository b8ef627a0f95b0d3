"""The default run on the real images keeps its promises (minutes; ``make test-slow``)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lic_da.config


@pytest.mark.slow
def test_adapters_for_sketch_and_comic_gain_without_costing_photographs() -> None:
    root = lic_da.config.CONF.parent
    name = "test_default_run"
    shutil.rmtree(root / "outputs" / name, ignore_errors=True)
    command = [sys.executable, "-m", "lic_da.train", "domains=[sketch,comic]", f"name={name}"]
    subprocess.run(command, cwd=root, check=True)
    summary = json.loads(Path(root / "outputs" / name / "summary.json").read_text())
    gain = {d: row["gain"]["weighted"] for d, row in summary["domains"].items()}
    assert gain["sketch"] >= 2.7 and gain["comic"] >= 0.2 and gain["natural"] >= 0
    assert summary["weighted_minus_oracle_db"] >= -0.05
    assert summary["gate_accuracy"] >= 0.95
