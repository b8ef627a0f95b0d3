"""What does one set of weights for all rates cost? ``make experiments/separate_rates``.

Goes on training ``zou2022_n64`` from its bundled weights, for all rates at once and for one rate alone, by
as many steps with the same crops, and codes the validation photographs for real. Writes rates.csv beside
this file; trainings that are finished are not done again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments import common
from lic_da.codecs import zoo
from lic_da.io.files import read_json

HERE = Path(__file__).parent
RUNS = common.OUTPUTS / "experiment_separate_rates"
CODEC, RATES, STEPS = "zou2022_n64", (1, 3, 6), 200
SETTINGS = (
    *("data.batch_size=4", "data.crop=256", "data.val_images=14", "data.val_crop=256"),
    *("warmup=20", "precondition_every=30", "average=0.98"),
)


@dataclass(frozen=True)
class Row:
    """Validation photographs at one rate: means of real bits per pixel, PSNR and R + λ·255²·MSE.

    ``over_all_percent`` is the loss over that of the training for all rates, at the same rate.
    """

    trained: str
    steps: int
    quality: int
    bpp: float
    psnr: float
    loss: float
    over_all_percent: float


def train(name: str, rates: str, steps: int, photos: str) -> dict[str, Any]:
    """Train unless it is done; what was measured, by quality."""
    folder = RUNS / name.replace(" ", "_")
    common.start(
        *("pretrain", f"codec={CODEC}", f"rates={rates}", *SETTINGS),
        *(f"steps={{first: {steps}, next: {steps}}}", f"data.batches_per_epoch={steps}"),
        *("lr={first: 3.0e-4, next: 3.0e-4}", f"data.photos=[{photos}]"),
        *(f"start={zoo.WEIGHTS / CODEC / 'all.safetensors'}", f"folder={folder}"),
        f"export={folder / 'export'}",
    )
    rates_of: dict[str, Any] = read_json(folder / "export" / "all.json")["validation"]["rates"]
    return rates_of


def rows(measured: dict[str, dict[str, Any]], steps: int) -> list[Row]:
    """Rows of the table: all rates of the training for all, and of the others the rate of each."""
    together = measured["all rates"]
    found = []
    for name, points in measured.items():
        own = together if name == "all rates" else [name.removeprefix("quality ")]
        for quality in own:
            point, reference = points[quality], together[quality]
            found.append(
                Row(
                    *(name, steps, int(quality), point["bpp"], point["psnr"], point["loss"]),
                    over_all_percent=100 * (point["loss"] / reference["loss"] - 1),
                )
            )
    return found


def main(
    steps: Annotated[int, typer.Option(min=1, help="Of each training.")] = STEPS,
    photos: Annotated[str, typer.Option(help="More folders of photographs, with commas.")] = "",
) -> None:
    """Train what is missing and write the table."""
    trainings = {"all rates": "null"} | {f"quality {q}": f"[{q}]" for q in RATES}
    measured = {name: train(name, rates, steps, photos) for name, rates in trainings.items()}
    table = rows(measured, steps)
    common.write_table(HERE / "rates.csv", table, ".5g")
    for row in table:
        if row.trained != "all rates":
            print(f"{row.trained} alone: {row.over_all_percent:+.2f} % of the loss of all rates")


if __name__ == "__main__":
    typer.run(main)
