"""How much rate does adaptation save, over four qualities? ``make experiments/sweep``.

Runs the sweep of ``make sweep DOMAINS=sketch,comic QUALITIES=1,2,3,4`` as far as it is missing, and
keeps its tables here.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import typer

HERE = Path(__file__).parent
SWEEP = Path("outputs") / "experiment_sweep"


def main(jobs: int = 1) -> None:
    """Run the sweep, copy what it found.

    Args:
        jobs: runs at a time.
    """
    subprocess.run(
        [
            *(sys.executable, "-m", "lic_da.train", "-m", "domains=[sketch,comic]"),
            *("codec.quality=1,2,3,4", f"hydra.sweep.dir={SWEEP}"),
            *(["hydra/launcher=joblib", f"hydra.launcher.n_jobs={jobs}"] if jobs > 1 else []),
        ],
        check=True,
    )
    for file in ("bd_rate.csv", "summary.json"):
        shutil.copy(SWEEP / file, HERE / file)


if __name__ == "__main__":
    typer.run(main)
