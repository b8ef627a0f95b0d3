"""What do more domains in one pack cost? ``make experiments/scaling_domains``.

Trains 2, 4, 8 and 12 domains together (the source counts), and every target alone with the source; each
domain sees as many crops in all of them. Writes results.csv, a row a domain and run: its gain together and
alone, and how often the gate is right; costs.csv: time of a training step, of decoding over the base
decoder, and the size of the pack; gains.png. A pack of 64 domains, folders with parts of photographs, is
trained for a few steps, for its costs alone. Runs that are finished are not done again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import matplotlib.pyplot as plt
import numpy as np
import typer
from matplotlib.axes import Axes

from experiments import common
from lic_da.config import CONF
from lic_da.data.domains import prepare
from lic_da.errors import unknown
from lic_da.evaluation.curves import Run
from lic_da.io.files import write_text
from lic_da.io.images import read_rgb
from lic_da.io.lossless import save_png

HERE = Path(__file__).parent
RUNS = common.OUTPUTS / "experiment_scaling_domains"
SOURCE, QUALITY = "natural", 3
TARGETS = (
    *("sketch", "comic", "clipart", "document", "screenshot", "painting", "map", "astronomy"),
    *("chart", "emoji", "quickdraw"),
)
COUNTS = (2, 4, 8, 12)
CROPS = 1000  # of each domain in a training
BATCH = 6
FOLDERS, IMAGES, SIDE, FOLDER_STEPS = 64, 6, 192, 60
SHORT = ("evaluation.modes=[base,weighted]", "evaluation.compatibility=1")
Seeds = Annotated[int, typer.Option(min=1, help="Trainings of each kind, by their seeds.")]


@dataclass(frozen=True)
class Result:
    """Test images of a domain after a training: gains over the base codec in dB at its rate.

    ``alone`` is the gain that the domain has by itself with the source, with the same seed.
    """

    domains: int
    seed: int
    domain: str
    images: int
    gain: float
    alone: float
    oracle_gain: float
    gate_accuracy: float


@dataclass(frozen=True)
class Cost:
    """What a run took: seconds a training step, decoding over the base's in the same run, MiB of the pack.

    Training is timed from a run's settings to its last checkpoint; of a run that was resumed, since then.
    """

    domains: int
    seed: int
    steps: int
    step_s: float
    decode_ratio: float
    pack_mib: float
    gate_accuracy: float


def steps(domains: int) -> int:
    """Batches in which each of so many domains has ``CROPS`` crops."""
    return round(CROPS * domains / BATCH)


def groups(domains: int, most: int) -> list[Sequence[str]]:
    """The targets that are trained together where there are so many domains, the source included.

    Args:
        domains: 2: each target alone, of those that are in a training of ``most``; of 2 all.
        most: domains of the largest training.
    """
    if domains > 2:
        return [TARGETS[: domains - 1]]
    return [[target] for target in TARGETS[: most - 1 if most > 2 else None]]


def train(targets: Sequence[Sequence[str]], seeds: int, jobs: int) -> None:
    """Train what is missing of groups of as many targets, each together with the source."""
    domains = len(targets[0]) + 1
    common.sweep(
        RUNS / f"{domains}_domains",
        common.QUICK_CODEC,
        "domains=" + ",".join(f"[{','.join(group)}]" for group in targets),
        "seed=" + ",".join(map(str, range(seeds))),
        *(f"codec.quality={QUALITY}", f"codec.training.steps={steps(domains)}"),
        *(f"codec.training.batch_size={BATCH}", "early_stopping=null"),
        *(*common.BRIEF, *common.NO_REPORT),
        jobs=jobs,
    )


def results(together: Iterable[Run], alone: Iterable[Run]) -> list[Result]:
    """Rows of results.csv, of runs with several targets and of runs with one."""
    by_itself = {
        (run.config["seed"], *run.config["domains"]): run.summary["domains"] for run in alone
    }
    found = []
    for run in together:
        seed, targets = run.config["seed"], run.config["domains"]
        for domain in targets:
            row, own = run.summary["domains"][domain], by_itself.get((seed, domain))
            found.append(
                Result(
                    *(len(targets) + 1, seed, domain, row["images"], row["gain"]["weighted"]),
                    alone=own[domain]["gain"]["weighted"] if own else float("nan"),
                    oracle_gain=row["gain"].get("oracle", float("nan")),
                    gate_accuracy=row["gate_accuracy"],
                )
            )
    return sorted(found, key=lambda r: (r.domains, r.seed))


def cost(run: Run) -> Cost:
    """A run's row of costs.csv."""
    seconds: dict[tuple[str, str, str], float] = {
        (p.domain, p.image, p.blend): p.decode_s for p in run.points
    }
    ratios = [
        took / seconds[domain, image, "base"]
        for (domain, image, mode), took in seconds.items()
        if mode == "weighted"
    ]
    began, ended = (
        (run.folder / name).stat().st_mtime for name in ("config.yaml", "checkpoints/last.ckpt")
    )
    taken = int(run.config["codec"]["training"]["steps"])
    return Cost(
        *(len(run.config["domains"]) + 1, run.config["seed"], taken),
        step_s=(ended - began) / taken,
        decode_ratio=median(ratios),
        pack_mib=(run.folder / "pack" / "adapters.safetensors").stat().st_size / 2**20,
        gate_accuracy=run.summary["gate_accuracy"],
    )


def folders(root: Path, count: int) -> list[str]:
    """Make domains of folders with parts of photographs, and a ``conf`` that knows them.

    Returns:
        Their names, the source first.
    """
    images = prepare(SOURCE, Path("data"))
    files = [images.path(image) for image in images.split("train")]
    names = [f"folder{number:02d}" for number in range(count)]
    if not (root / "conf").is_dir():
        shutil.copytree(CONF, root / "conf")
    for number, name in enumerate(names):
        for part in range(IMAGES):
            index = number * IMAGES + part
            target = root / "images" / name / f"{part}.png"
            if not target.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                _save_part(files[index % len(files)], index // len(files), target)
        path = (root / "images" / name).resolve()
        source = f"sources:\n  - {{kind: folder, path: {path}}}\n"
        write_text(root / "conf" / "domain" / f"{name}.yaml", source + "shares: [0.5, 0.2, 0.3]\n")
    return names


def _save_part(file: Path, number: int, target: Path) -> None:
    """Save one of the squares that a photograph can be cut into."""
    pixels = read_rgb(file)
    across = pixels.shape[1] // SIDE
    y, x = (SIDE * place for place in divmod(number % max(1, across), max(1, across)))
    save_png(target, np.ascontiguousarray(pixels[y : y + SIDE, x : x + SIDE]))


@contextmanager
def _conf(folder: Path) -> Iterator[None]:
    """Let programs that are started read another ``conf``."""
    before = os.environ.get("LIC_DA_CONF")
    os.environ["LIC_DA_CONF"] = str(folder.resolve())
    try:
        yield
    finally:
        if before is None:
            del os.environ["LIC_DA_CONF"]
        else:
            os.environ["LIC_DA_CONF"] = before


def train_folders(root: Path, names: Sequence[str]) -> None:
    """Train a pack of folder domains for a few steps, if that was not done yet."""
    source, *targets = names
    with _conf(root / "conf"):
        common.sweep(
            root / "runs",
            common.QUICK_CODEC,
            *(f"domains=[{','.join(targets)}]", f"data.source={source}", "seed=0"),
            *(f"data.data_dir={root / 'data'}", f"codec.quality={QUALITY}"),
            *(f"codec.training.steps={FOLDER_STEPS}", f"codec.training.batch_size={BATCH}"),
            *("data.val_images=1", *SHORT, *common.BRIEF, *common.NO_REPORT),
        )


def write(found: Sequence[Result], costs: Sequence[Cost], folder: Path) -> None:
    """results.csv, costs.csv and gains.png."""
    common.write_table(folder / "results.csv", found, ".4f")
    common.write_table(folder / "costs.csv", costs, ".4f")
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.8), layout="constrained")
    plot(found, axes[0], axes[1])
    common.save_plot(figure, folder / "gains.png")


def plot(found: Sequence[Result], gains: Axes, gate: Axes) -> None:
    """What a domain loses against its gain alone, and the gate's accuracy, over the number of domains."""
    counts = sorted({r.domains for r in found})
    colours = [plt.get_cmap("tab20")(n) for n in range(20)]  # ten would not do for eleven domains
    for axis in (gains, gate):
        axis.set_prop_cycle(color=colours)
    for domain in dict.fromkeys(r.domain for r in found):
        own = [[r for r in found if (r.domain, r.domains) == (domain, n)] for n in counts]
        there = [(n, rows) for n, rows in zip(counts, own, strict=True) if rows]
        x = [n for n, _ in there]
        gains.plot(x, [np.mean([r.gain - r.alone for r in rows]) for _, rows in there], "o-")
        y = [100 * np.mean([r.gate_accuracy for r in rows]) for _, rows in there]
        gate.plot(x, y, "o-", label=domain)
    gains.axhline(0, color="grey", linewidth=0.8)
    gains.set(xlabel="domains", ylabel="dB over the gain alone", title="Gain together")
    gate.set(xlabel="domains", ylabel="%", title="Gate accuracy")
    gate.legend(fontsize="x-small", ncols=2)
    for axis in (gains, gate):
        axis.set_xticks(counts)


def main(
    counts: Annotated[str, typer.Option(help="Domains that are trained together.")] = ",".join(
        map(str, (*COUNTS, FOLDERS))
    ),
    seeds: Seeds = 1,
    jobs: common.Jobs = 1,
) -> None:
    """Train what is missing of some numbers of domains, write tables and plot of what there is."""
    asked = common.numbers(counts)
    for count in asked:
        if count not in (*COUNTS, FOLDERS):
            raise SystemExit(str(unknown("number of domains", count, (*COUNTS, FOLDERS))))
    together = [count for count in asked if count != FOLDERS]
    for count in dict.fromkeys((2, *together)) if together else ():
        train(groups(count, max(together)), seeds, jobs)
    root = RUNS / "folders"
    if FOLDERS in asked:
        train_folders(root, folders(root, FOLDERS))
    runs = {count: common.finished(RUNS / f"{count}_domains") for count in COUNTS}
    of_all = [run for own in runs.values() for run in own]
    costs = [cost(run) for run in (*of_all, *common.finished(root / "runs"))]
    found = results(of_all, runs[COUNTS[0]])
    write(found, costs, HERE)
    for count in (count for count in COUNTS[1:] if runs[count]):
        worst = min((r for r in found if r.domains == count), key=lambda r: r.gain - r.alone)
        print(f"{count} domains: {worst.domain} {worst.gain - worst.alone:+.2f} dB to alone")


if __name__ == "__main__":
    typer.run(main)
