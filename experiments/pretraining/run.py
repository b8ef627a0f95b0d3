"""What limits the bundled mean-scale codec? ``make experiments/pretraining``.

Short trainings at quality 3, each with one setting changed, judged by the validation photographs that
pre-training codes for real. One half goes on from the bundled weights: what would the next hour be best
spent on? The other starts from scratch, with transforms of other sizes. Writes limits.csv beside this
file; runs that are finished are not done again.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

from lic_da.codecs import zoo
from lic_da.io.files import atomic_path

HERE = Path(__file__).parent
RUNS = Path("outputs") / "experiment_pretraining"
CODEC, QUALITY, STEPS = "mbt2018_mean_n64", 3, 400
Settings = dict[str, float]
AS_IT_WAS: Settings = {
    "steps.first": STEPS,
    "steps.next": STEPS,
    "data.batch_size": 8,
    "data.crop": 128,
}
GO_ON: dict[str, Settings] = {
    "as it was": {},
    "learning rate 5e-4": {"lr.next": 5e-4},
    "learning rate 3e-3": {"lr.next": 3e-3},
    "2 crops of 256²": {"data.batch_size": 2, "data.crop": 256},
    "16 crops of 128²": {"data.batch_size": 16},
    "twice the steps": {"steps.next": 2 * STEPS},
}
SCRATCH: dict[str, Settings] = {
    "as it was": {},
    "M = 128": {"codec.model.M": 128},
}


def train(start: str, name: str, changes: Settings) -> dict[str, object]:
    """A short training, unless it is there; its row."""
    folder = RUNS / f"{start} {name}".translate(str.maketrans(" ²", "_2", "=,"))
    export = folder / "export"
    settings = {**AS_IT_WAS, **changes}
    command = [
        *(sys.executable, "-m", "lic_da.pretrain", f"codec={CODEC}"),
        *(f"qualities=[{QUALITY}]", "data.batches_per_epoch=100", "warmup=50", "compile=false"),
        *(f"{key}={value}" for key, value in settings.items()),
        *(f"folder={folder}", f"export={export}"),
    ]
    if start == "bundled weights":
        command.append(f"start={zoo.WEIGHTS / CODEC / f'q{QUALITY}.safetensors'}")
    subprocess.run(command, check=True)
    recipe = json.loads((export / f"q{QUALITY}.json").read_text())
    validation, (training,) = recipe["validation"], recipe["training"]
    pixels = training["steps"] * training["batch_size"] * training["crop"] ** 2
    return {
        "from": start,
        "change": name,
        "steps": training["steps"],
        "megapixels": f"{pixels / 1e6:.0f}",
        "minutes": training["minutes_of_last_session"],
        "bpp": f"{validation['bpp']:.4f}",
        "psnr": f"{validation['psnr']:.3f}",
        "loss": f"{validation['loss']:.4f}",
    }


def main() -> None:
    """Train what is missing and write the table."""
    groups = (("bundled weights", GO_ON), ("scratch", SCRATCH))
    rows = [train(start, n, changes) for start, group in groups for n, changes in group.items()]
    with atomic_path(HERE / "limits.csv") as temporary, open(temporary, "w") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(*row.values(), sep="\t")


if __name__ == "__main__":
    main()
