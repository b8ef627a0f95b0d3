"""Does a tool find the domains of a pile by itself? ``make experiments/pile``.

Mixes images of six domains in one folder, under names that do not tell them apart, and trains on it three
times: on groups that look alike, on groups after rounds of training, and on the true domains. Runs that are
finished with the same options are not done again. Writes groups.csv, agreement.csv and gains.csv beside
this file.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer
from sklearn.metrics import adjusted_rand_score

from experiments import common
from lic_da.config import as_yaml
from lic_da.data.domains import prepare
from lic_da.data.index import ImageInfo
from lic_da.data.pile import members, prepare_pile, read_groups, write_groups
from lic_da.evaluation.measure import Point, read_points
from lic_da.io.files import write_text
from lic_da.io.run_folder import CONFIG, SUMMARY

HERE = Path(__file__).parent
RUNS = common.OUTPUTS / "experiment_pile"
PER_DOMAIN, DATA, STEPS = 160, Path("data"), 900
"""Options of the runs in that folder; others have folders of their own."""
DOMAINS = ("sketch", "comic", "clipart", "quickdraw", "screenshot", "document")
LABELLED = "true domains"
TRAININGS = {"looks": (), "rounds": ("rounds=2",), LABELLED: ()}
"""Settings of the trainings beside the pile."""


@dataclass(frozen=True)
class Placed:
    """An image of the pile: its domain and the split it has there, and the group it is in, by run."""

    image: str
    domain: str
    split: str
    looks: str
    rounds: str


@dataclass(frozen=True)
class Agreement:
    """How well the groups of a run agree with the domains: adjusted Rand index, 1 for the same."""

    run: str
    images: str
    count: int
    groups: int
    rand_index: float


@dataclass(frozen=True)
class Gain:
    """Mean gain over the base decoder on a domain's test images in the pile, in dB, without labels."""

    run: str
    domain: str
    images: int
    gain: float


def folder_of(per_domain: int, data_dir: Path, steps: int) -> Path:
    """Folder of the pile and the runs on it, another one for other options."""
    parts = [RUNS.name]
    if per_domain != PER_DOMAIN:
        parts.append(f"{per_domain}-images")
    if steps != STEPS:
        parts.append(f"{steps}-steps")
    if (data := data_dir.resolve()) != DATA.resolve():
        parts.append(f"data-{hashlib.sha256(str(data).encode()).hexdigest()[:8]}")
    return RUNS.with_name("_".join(parts))


def mix(folder: Path, data_dir: Path, per_domain: int) -> dict[str, tuple[str, ImageInfo]]:
    """Links to images of all domains in one folder, named by their hashes; others are removed from it.

    Of each domain all test images come first, then the others.

    Returns:
        Name in the pile -> domain, and what its index says of the image.
    """
    folder.mkdir(parents=True, exist_ok=True)
    truth, places = {}, {}
    for name in DOMAINS:
        images = prepare(name, data_dir)
        order = sorted(images.entries, key=lambda p: (p.split != "test", p.sha256[::-1]))
        for entry in order[:per_domain]:
            path = images.path(entry).resolve()
            link = f"{entry.sha256[:16]}{path.suffix}"
            truth[link], places[link] = (name, entry), path
    for left in folder.iterdir():
        if left.is_symlink() and left.readlink() != places.get(left.name):
            left.unlink()
    for link, path in places.items():
        if not (folder / link).is_symlink():
            (folder / link).symlink_to(path)
    return truth


def write_truth(pile: Path, data_dir: Path, truth: dict[str, tuple[str, ImageInfo]]) -> Path:
    """The groups that a search would find if it could not err, as a run leaves them; their folder.

    It lies beside that of the pile.
    """
    images = prepare_pile(pile, data_dir, "natural")
    domain_of = {p.sha256: f"pile-{truth[p.name][0]}" for p in images.entries}
    folder = pile.with_name("truth")
    write_groups(members(images, domain_of, [*domain_of]), folder)
    write_text(folder / CONFIG, as_yaml({"pile": str(pile)}))
    return folder


def train(run: str, runs: Path, groups: str, settings: Sequence[str]) -> Path:
    """Train on the groups of a pile if that is not done yet; the folder of the run.

    Args:
        run: one of ``TRAININGS``.
        runs: folder of the pile and of all runs on it, with these settings.
        groups: how many to look for, or the folder of a run that has found them.
        settings: more Hydra overrides.
    """
    name = run.replace(" ", "_")
    folder = runs / name
    if (folder / SUMMARY).is_file():
        return folder
    last = folder / "checkpoints" / "last.ckpt"
    resumed = (f"ckpt_path={last}",) if last.is_file() else ()
    pile = (runs / "pile").absolute()
    words = (
        common.QUICK_CODEC,
        f"pile={pile}",
        f"groups={groups}",
        f"name={runs.name}/{name}",
        *common.BRIEF,
    )
    common.start("train", *words, *TRAININGS[run], *settings, *resumed)
    return folder


def placed(truth: dict[str, tuple[str, ImageInfo]], runs: Path) -> list[Placed]:
    """Where each image was put by the two searches in the folder of the runs."""
    found = {
        run: {member.image: member.domain for member in read_groups(runs / run)}
        for run in ("looks", "rounds")
    }
    return [
        Placed(name, domain, entry.split, found["looks"][name], found["rounds"][name])
        for name, (domain, entry) in sorted(truth.items())
        if name in found["looks"]
    ]


def agreements(rows: Sequence[Placed]) -> list[Agreement]:
    """Of both searches, on all images and on those that test with in their own domains."""
    found = []
    for run in ("looks", "rounds"):
        for kind, own in (("all", rows), ("test", [r for r in rows if r.split == "test"])):
            groups = [getattr(row, run) for row in own]
            index = float(adjusted_rand_score([row.domain for row in own], groups))
            found.append(Agreement(run, kind, len(own), len({*groups}), index))
    return found


def gains(run: str, points: Iterable[Point], truth: dict[str, str]) -> list[Gain]:
    """Gains of a run by true domain, those of the source aside.

    Args:
        run: its name.
        points: of its test images; every run has the same, since splits are those of the pile.
        truth: name of an image -> domain.
    """
    psnr: dict[str, dict[str, float]] = defaultdict(dict)
    for point in points:
        if point.image in truth and point.blend in ("base", "weighted"):
            psnr[point.image][point.blend] = point.psnr
    gained = defaultdict(list)
    for image, by_mode in psnr.items():
        gained[truth[image]].append(by_mode["weighted"] - by_mode["base"])
    return [Gain(run, name, len(own), fmean(own)) for name, own in sorted(gained.items())]


def write(rows: Sequence[Placed], found: Sequence[Gain], folder: Path) -> list[Agreement]:
    """groups.csv, a row an image; agreement.csv, a row a search; gains.csv, a row a run and domain."""
    agreed = agreements(rows)
    common.write_table(folder / "groups.csv", rows)
    common.write_table(folder / "agreement.csv", agreed, ".4f")
    common.write_table(folder / "gains.csv", found, ".4f")
    return agreed


def main(
    per_domain: Annotated[int, typer.Option(min=10, help="Images of each domain.")] = PER_DOMAIN,
    data_dir: Annotated[Path, typer.Option(help="Folder of the prepared images.")] = DATA,
    steps: Annotated[int, typer.Option(min=1, help="Of each training.")] = STEPS,
) -> None:
    """Mix the pile, train what is missing, write the tables."""
    runs = folder_of(per_domain, data_dir, steps)
    pile = (runs / "pile").absolute()
    truth = mix(pile, data_dir, per_domain)
    settings = (f"data.data_dir={data_dir}", f"codec.training.steps={steps}")
    known = {LABELLED: str(write_truth(pile, data_dir, truth))}
    folders = {run: train(run, runs, known.get(run, "6"), settings) for run in TRAININGS}
    of_image = {name: domain for name, (domain, _) in truth.items()}
    found = [
        gain
        for run, folder in folders.items()
        for gain in gains(run, read_points(folder / "rd_points.csv"), of_image)
    ]
    for agreed in write(placed(truth, runs), found, HERE):
        print(f"{agreed.run}, {agreed.images} images: adjusted Rand index {agreed.rand_index:.2f}")
    by_run: defaultdict[str, float] = defaultdict(float)
    for gain in found:
        by_run[gain.run] += gain.gain / len(DOMAINS)
    for run, mean in by_run.items():
        print(f"{run}: {mean:+.2f} dB, mean over domains")


if __name__ == "__main__":
    typer.run(main)
