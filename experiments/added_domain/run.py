"""What does a domain cost that is added later? ``make experiments/added_domain``.

Trains sketch and comic, extends that pack by clipart (as by default; with a gate whose features are
all frozen; without the earlier domains' images), and trains all three from the start. Runs that are
finished are not done again. Writes results.csv, before_after.csv and gains.png beside this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import typer
from hydra import compose, initialize_config_dir

from experiments import common
from lic_da.config import CONF
from lic_da.training.run import train_what_is_missing
from lic_da.training.settings import RunSettings

HERE = Path(__file__).parent
RUNS = common.OUTPUTS / "experiment_added_domain"
NEW = "clipart"
EXTENDED = [f"domains=[{NEW}]", f"extend={RUNS / 'earlier_pack' / 'pack'}"]
SETTINGS = {
    "earlier pack": [common.QUICK_CODEC, "domains=[sketch,comic]"],
    "extended, replay": EXTENDED,
    "extended, frozen features": [*EXTENDED, "own_features=0"],
    "extended, no replay": [*EXTENDED, "replay=false"],
    "from the start": [common.QUICK_CODEC, f"domains=[sketch,comic,{NEW}]"],
}


@dataclass(frozen=True)
class Result:
    """Test images of a domain, decoded with a mode after a run: PSNR, gain over the base codec in dB."""

    run: str
    domain: str
    blend: str
    images: int
    psnr: float
    gain: float
    gate_accuracy: float | None


@dataclass(frozen=True)
class Change:
    """PSNR of an earlier domain before and after an extension, in dB."""

    run: str
    domain: str
    blend: str
    before_psnr: float
    after_psnr: float
    difference: float


def trained(label: str, overrides: list[str]) -> dict[str, Any]:
    """Summary of a run, which is trained as far as it is missing."""
    folder = RUNS / label.replace(",", "").replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [*overrides, "logger=none", "evaluation.ms_ssim=false"])
    return train_what_is_missing(RunSettings.from_config(config), folder)


def results(label: str, summary: dict[str, Any]) -> list[Result]:
    """A run's rows of results.csv."""
    return [
        Result(
            *(label, domain, mode, row["images"], row["psnr"][mode], gain),
            row.get("gate_accuracy"),
        )
        for domain, row in summary["domains"].items()
        for mode, gain in row["gain"].items()
    ]


def changes(label: str, summary: dict[str, Any]) -> list[Change]:
    """A run's rows of before_after.csv; none if it extends nothing."""
    return [
        Change(label, domain, mode, values["before"], values["after"], values["difference"])
        for domain, modes in summary.get("before_after", {}).items()
        for mode, values in modes.items()
    ]


def plot(found: list[Result], kept: list[Change], path: Path) -> None:
    """Gains of the weighted mode a domain and run, and what the extensions changed."""
    figure, (gains, change) = plt.subplots(1, 2, figsize=(9.6, 3.8), layout="constrained")
    by_run = {
        label: [r for r in found if (r.run, r.blend) == (label, "weighted")] for label in SETTINGS
    }
    width = 0.8 / len(by_run)
    for number, (label, rows) in enumerate(by_run.items()):
        gains.bar(np.arange(len(rows)) + number * width, [r.gain for r in rows], width, label=label)
    domains = [r.domain for r in by_run["from the start"]]
    gains.set_xticks(np.arange(len(domains)) + 0.4 - width / 2, domains)
    gains.set(ylabel="gain over base, dB (weighted)", title="All runs")
    gains.legend(fontsize="small")
    for number, label in enumerate(SETTINGS):
        if own := [c for c in kept if (c.run, c.blend) == (label, "weighted")]:
            points = [c.domain for c in own], [c.difference for c in own]
            change.plot(*points, "o", color=f"C{number}", label=label)
    change.axhspan(-0.03, 0.03, color="grey", alpha=0.2, label="±0.03 dB")
    change.set(ylabel="change by the extension, dB (weighted)", title="Earlier domains")
    change.legend(fontsize="small")
    common.save_plot(figure, path)


def write(found: list[Result], kept: list[Change], folder: Path) -> None:
    """results.csv; before_after.csv, of the earlier domains; gains.png; says what became of them."""
    common.write_table(folder / "results.csv", found, ".3f")
    common.write_table(folder / "before_after.csv", kept, ".4f")
    plot(found, kept, folder / "gains.png")
    gain = {r.run: r.gain for r in found if (r.domain, r.blend) == (NEW, "weighted")}
    wanted = gain["from the start"]
    for label in (label for label in SETTINGS if label.startswith("extended")):
        lost = min(c.difference for c in kept if (c.run, c.blend) == (label, "weighted"))
        print(
            f"{label}: {NEW} gains {gain[label]:.3f} dB, {100 * gain[label] / wanted:.0f} % of "
            f"{wanted:.3f} from the start; the earlier domains change by {lost:+.3f} dB at worst"
        )


def main() -> None:
    """Train what is missing, write tables and plot."""
    runs = {label: trained(label, overrides) for label, overrides in SETTINGS.items()}
    found = [row for label, summary in runs.items() for row in results(label, summary)]
    write(found, [row for label, summary in runs.items() for row in changes(label, summary)], HERE)


if __name__ == "__main__":
    typer.run(main)
