"""Which settings suit adapters over a bundled codec? ``make experiments/adapter_settings``.

Trains adapters and gate on sketches and comics at quality 3, each time with one setting changed, and
compares the PSNR of the validation pictures; test pictures have no say. Writes settings.csv beside this
file, and <codec>.txt: what the first settings gain on the test pictures. Runs that are finished over the
same base weights are not done again.
"""

from __future__ import annotations

import csv
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import typer

from lic_da.evaluation.curves import Run
from lic_da.io.files import atomic_path

HERE = Path(__file__).parent
RUNS = Path("outputs") / "experiment_adapter_settings"
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
    subprocess.run(
        [
            *(sys.executable, "-m", "lic_da.train", "-m", f"codec={codec}"),
            *(f"codec.quality={QUALITY}", f"domains=[{','.join(DOMAINS[1:])}]"),
            *(f"codec.training.{key}={value}" for key, value in settings.items()),
            *(f"hydra.sweep.dir={folder}", "logger=none", "unseen=[]", "early_stopping=null"),
            *("evaluation.blends=[base,weighted]", "evaluation.ms_ssim=false"),
            *("evaluation.examples=0", "evaluation.compatibility=1"),
            *("report.anchors=[]", "report.examples=0"),
        ],
        check=True,
    )
    (summary,) = folder.glob("*/summary.json")
    if not change:
        shutil.copy(summary.with_name("table.txt"), HERE / f"{codec}.txt")
    psnr = Run.read(summary.parent).validated()
    return {
        "codec": codec,
        **{key: f"{value:g}" for key, value in settings.items()},
        **{f"psnr_{domain}": f"{psnr[domain]:.3f}" for domain in DOMAINS},
        "psnr_mean": f"{statistics.mean(psnr.values()):.3f}",
    }


def main(codecs: str = "mbt2018_mean_n64") -> None:
    """Train what is missing and write the table."""
    rows = [train(codec, change) for codec in codecs.split(",") for change in CHANGES]
    with atomic_path(HERE / "settings.csv") as temporary, open(temporary, "w") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    typer.run(main)
