"""Which settings suit adapters over a bundled codec? ``make experiments/adapter_settings``.

Trains adapters and gate on sketches and comics at quality 3, each time with one setting changed, and
compares the PSNR of the validation images; test images have no say. Writes settings.csv beside this
file, and <codec>.txt: what the first settings gain on the test images. Runs that are finished over the
same base weights are not done again; ``ARGS="--codecs zou2022_n64"`` trains over one codec alone.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import typer

from experiments import common

HERE = Path(__file__).parent
RUNS = common.OUTPUTS / "experiment_adapter_settings"
DOMAINS, QUALITY = ("natural", "sketch", "comic"), 3
COMMON = {"steps": 500, "gamma": 0.01, "lr": 1e-3, "gate_lr": 3e-3}
CHANGES: tuple[dict[str, float], ...] = (
    {},
    {"lr": 5e-4},
    {"lr": 2e-3},
    {"gate_lr": 1e-3},
)


def train(codec: str, change: dict[str, float]) -> dict[str, str]:
    """A training, as far as it is missing; its row."""
    name = "_".join(f"{key}{value:g}" for key, value in change.items()) or "common"
    folder = RUNS / codec / name
    settings = {**COMMON, **change}
    common.sweep(
        folder,
        *(f"codec={codec}", f"codec.quality={QUALITY}", f"domains=[{','.join(DOMAINS[1:])}]"),
        *(f"codec.training.{key}={value}" for key, value in settings.items()),
        *("early_stopping=null", "evaluation.modes=[base,weighted]", "evaluation.compatibility=1"),
        *(*common.BRIEF, *common.NO_REPORT),
    )
    (run,) = common.finished(folder)
    if not change:
        common.keep(run.folder / "table.txt", HERE / f"{codec}.txt")
    psnr = run.validated()
    return {
        "codec": codec,
        **{key: f"{value:g}" for key, value in settings.items()},
        **{f"psnr_{domain}": f"{psnr[domain]:.3f}" for domain in DOMAINS},
        "psnr_mean": f"{statistics.mean(psnr.values()):.3f}",
    }


def main(codecs: str = "mbt2018_mean_n64,zou2022_n64") -> None:
    """Train what is missing and write the table; rows of codecs that are not named stay."""
    table, named = HERE / "settings.csv", codecs.split(",")
    others = common.read_table(table) if table.is_file() else []
    rows = [row for row in others if row["codec"] not in named]
    rows += [train(codec, change) for codec in named for change in CHANGES]
    common.write_table(table, rows)


if __name__ == "__main__":
    typer.run(main)
