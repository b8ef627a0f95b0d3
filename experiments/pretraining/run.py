"""What limits the bundled mean-scale codec? ``make experiments/pretraining``.

Short trainings at quality 3, each with one setting changed, judged by the validation photographs that
pre-training codes for real. One half goes on from the bundled weights: what would the next hour be best
spent on? The other starts from scratch, with transforms of other sizes. Writes limits.csv beside this
file; runs that are finished are not done again.
"""

from __future__ import annotations

from pathlib import Path

import typer

from experiments import common
from lic_da.codecs import zoo
from lic_da.io.files import read_json

HERE = Path(__file__).parent
RUNS = common.OUTPUTS / "experiment_pretraining"
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


def train(origin: str, name: str, changes: Settings) -> dict[str, object]:
    """A short training, unless it is there; its row."""
    folder = RUNS / f"{origin} {name}".translate(str.maketrans(" ²", "_2", "=,"))
    export = folder / "export"
    weights = zoo.WEIGHTS / CODEC / f"q{QUALITY}.safetensors"
    common.start(
        *("pretrain", f"codec={CODEC}", f"qualities=[{QUALITY}]"),
        *("data.batches_per_epoch=100", "warmup=50", "compile=false"),
        *(f"{key}={value}" for key, value in {**AS_IT_WAS, **changes}.items()),
        *(f"folder={folder}", f"export={export}"),
        *([f"start={weights}"] if origin == "bundled weights" else []),
    )
    recipe = read_json(export / f"q{QUALITY}.json")
    validation, (training,) = recipe["validation"], recipe["training"]
    pixels = training["steps"] * training["batch_size"] * training["crop"] ** 2
    return {
        "from": origin,
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
    rows = [train(origin, n, changes) for origin, group in groups for n, changes in group.items()]
    common.write_table(HERE / "limits.csv", rows)
    for row in rows:
        print(*row.values(), sep="\t")


if __name__ == "__main__":
    typer.run(main)
