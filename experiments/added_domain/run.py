"""What does a domain cost that is added later? ``make experiments/added_domain``.

Trains sketch and comic, extends that pack by clipart (as by default; with a gate whose features are
all frozen; without the earlier domains' pictures), and trains all three from the start. Runs that are
finished are not done again. Writes results.csv, before_after.csv and gains.png beside this file.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from hydra import compose, initialize_config_dir

from lic_da.config import CONF
from lic_da.io.files import atomic_path
from lic_da.training.run import train_what_is_missing

HERE = Path(__file__).parent
RUNS = Path("outputs") / "experiment_added_domain"
NEW = "clipart"
SETTINGS = {
    "earlier pack": ["domains=[sketch,comic]"],
    "extended, replay": [f"domains=[{NEW}]", f"extend={RUNS / 'earlier_pack' / 'pack'}"],
    "extended, frozen features": [
        f"domains=[{NEW}]",
        f"extend={RUNS / 'earlier_pack' / 'pack'}",
        "own_features=0",
    ],
    "extended, no replay": [
        f"domains=[{NEW}]",
        f"extend={RUNS / 'earlier_pack' / 'pack'}",
        "replay=false",
    ],
    "from the start": [f"domains=[sketch,comic,{NEW}]"],
}
Summaries = dict[str, dict[str, Any]]


def trained(label: str, overrides: list[str]) -> dict[str, Any]:
    """Summary of a run, which is trained as far as it is missing."""
    folder = RUNS / label.replace(",", "").replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [*overrides, "logger=none", "evaluation.ms_ssim=false"])
    return train_what_is_missing(config, folder)


def write_tables(summaries: Summaries) -> None:
    """results.csv, a row a run, domain and blend; before_after.csv, of the earlier domains."""
    with atomic_path(HERE / "results.csv") as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("run", "domain", "blend", "images", "psnr", "gain", "gate_accuracy"))
        for label, summary in summaries.items():
            for domain, row in summary["domains"].items():
                right = f"{row['gate_accuracy']:.3f}" if "gate_accuracy" in row else ""
                for blend, gain in row["gain"].items():
                    figures = f"{row['psnr'][blend]:.3f}", f"{gain:.3f}", right
                    writer.writerow((label, domain, blend, row["images"], *figures))
    with atomic_path(HERE / "before_after.csv") as temporary, open(temporary, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("run", "domain", "blend", "before_psnr", "after_psnr", "difference"))
        for label, domain, blend, values in changes(summaries):
            figures = (values["before"], values["after"], values["difference"])
            writer.writerow((label, domain, blend, *(f"{value:.4f}" for value in figures)))


def changes(summaries: Summaries) -> list[tuple[str, str, str, dict[str, float]]]:
    """Run, domain, blend, and PSNR before and after, of all extensions."""
    return [
        (label, domain, blend, values)
        for label, summary in summaries.items()
        for domain, blends in summary.get("before_after", {}).items()
        for blend, values in blends.items()
    ]


def plot(summaries: Summaries) -> None:
    """Gains of the weighted blend a domain and run, and what the extensions changed."""
    figure, (gains, kept) = plt.subplots(1, 2, figsize=(9.6, 3.8), layout="constrained")
    domains = list(summaries["from the start"]["domains"])
    width = 0.8 / len(summaries)
    for number, (label, summary) in enumerate(summaries.items()):
        values = [summary["domains"][d]["gain"]["weighted"] for d in domains]
        gains.bar(np.arange(len(domains)) + number * width, values, width, label=label)
    gains.set_xticks(np.arange(len(domains)) + 0.4 - width / 2, domains)
    gains.set(ylabel="gain over base, dB (weighted)", title="All runs")
    gains.legend(fontsize="small")
    rows = [r for r in changes(summaries) if r[2] == "weighted"]
    for label in dict.fromkeys(r[0] for r in rows):
        own = [r for r in rows if r[0] == label]
        kept.plot(
            [r[1] for r in own],
            [r[3]["difference"] for r in own],
            "o",
            color=f"C{list(summaries).index(label)}",
            label=label,
        )
    kept.axhspan(-0.03, 0.03, color="grey", alpha=0.2, label="±0.03 dB")
    kept.set(ylabel="change by the extension, dB (weighted)", title="Earlier domains")
    kept.legend(fontsize="small")
    with atomic_path(HERE / "gains.png") as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def main() -> None:
    """Train what is missing, write tables and plot, say what became of it."""
    summaries = {label: trained(label, overrides) for label, overrides in SETTINGS.items()}
    write_tables(summaries)
    plot(summaries)
    wanted = summaries["from the start"]["domains"][NEW]["gain"]["weighted"]
    for label in (label for label in SETTINGS if label.startswith("extended")):
        gain = summaries[label]["domains"][NEW]["gain"]["weighted"]
        lost = min(
            v["difference"] for r, _, b, v in changes(summaries) if (r, b) == (label, "weighted")
        )
        print(
            f"{label}: {NEW} gains {gain:.3f} dB, {100 * gain / wanted:.0f} % of {wanted:.3f} from the "
            f"start; the earlier domains change by {lost:+.3f} dB at worst"
        )


if __name__ == "__main__":
    main()
