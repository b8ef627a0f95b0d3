"""What do adapters for sketches and comics gain over the bundled codec? ``make experiments/sketch_comic``.

Trains with the default settings at quality 3 and keeps the run's tables and an image here.
"""

from __future__ import annotations

import datetime
from pathlib import Path

import typer

from experiments import common

HERE = Path(__file__).parent


def main() -> None:
    """Run the training command, copy what it found."""
    name = f"experiment_sketch_comic_{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}"
    common.start("train", "domains=[sketch,comic]", f"name={name}")
    run = common.OUTPUTS / name
    for file in ("rd_points.csv", "summary.json", "table.txt"):
        common.keep(run / file, HERE)
    # The drawings of Open Clip Art are in the public domain; other images stay where they are.
    # Of the four that are kept, the last has a gain near the mean.
    common.keep(sorted((run / "pictures").glob("sketch_*.png"))[-1], HERE / "sketch.png")


if __name__ == "__main__":
    typer.run(main)
