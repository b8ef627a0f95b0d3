"""How much rate does adaptation save, over four qualities? ``make experiments/sweep``.

Runs the sweep of ``make sweep DOMAINS=sketch,comic QUALITIES=1,2,3,4`` as far as it is missing, and
keeps its tables here; with ``ARGS="--codec zou2022_n64"`` those of another codec, in a folder of its name.
"""

from __future__ import annotations

from pathlib import Path

import typer

from experiments import common
from lic_da.config import available
from lic_da.errors import unknown

HERE = Path(__file__).parent
RUNS = common.OUTPUTS / "experiment_sweep"
CODEC = "bmshj2018_factorized_n64"


def main(codec: str = CODEC, jobs: common.Jobs = 1) -> None:
    """Run the sweep of a codec in conf/codec, copy what it found."""
    if codec not in available("codec"):
        raise SystemExit(str(unknown("codec", codec, available("codec"))))
    runs, place = (
        (RUNS, HERE) if codec == CODEC else (RUNS.with_name(f"{RUNS.name}_{codec}"), HERE / codec)
    )
    settings = ["domains=[sketch,comic]", "codec.quality=1,2,3,4"]
    common.sweep(runs, *settings, f"codec={codec}", jobs=jobs)
    place.mkdir(exist_ok=True)
    for name in ("bd_rate.csv", "summary.json"):
        common.keep(runs / name, place)


if __name__ == "__main__":
    typer.run(main)
