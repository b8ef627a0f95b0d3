"""What experiments and benchmarks share: start trainings, read and write tables, save plots, keep files.

All paths are relative to the folder that a program is started in, which is the repository's.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import matplotlib.pyplot as plt
import typer
from matplotlib.figure import Figure

from lic_da.evaluation.curves import Run
from lic_da.io.files import atomic_path
from lic_da.io.run_folder import PACK
from lic_da.sweeps.jobs import states

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

OUTPUTS = Path("outputs")
BRIEF = ("logger=none", "unseen=[]", "evaluation.ms_ssim=false", "evaluation.examples=0")
"""Settings of a run of which only rate and PSNR are of interest."""
QUICK = "bmshj2018_factorized_n64"
"""The codec of experiments with many trainings: it is trained in a third of the default one's time."""
QUICK_CODEC = f"codec={QUICK}"
NO_REPORT = (
    *("report.anchors=[]", "report.examples=0"),
    *("report.resamples=0", "report.thumbnails=0"),
)
"""Settings of a sweep whose report nobody reads."""
Jobs = Annotated[int, typer.Option(min=1, help="Trainings at a time.")]
Line = TypeVar("Line", bound="DataclassInstance")


def command(program: str, *settings: str) -> list[str]:
    """Words that start ``python -m lic_da.<program>`` with Hydra overrides."""
    return [sys.executable, "-m", f"lic_da.{program}", *settings]


def start(program: str, *settings: str) -> None:
    """Run ``python -m lic_da.<program>`` to its end.

    Raises:
        SystemExit: it failed, and has printed why; the exit code is the program's.
    """
    if code := subprocess.run(command(program, *settings), check=False).returncode:
        raise SystemExit(code)


def sweep(folder: Path, *settings: str, jobs: int = 1) -> None:
    """Train what is missing of a sweep, ``python -m lic_da.train -m``; runs that are finished stay.

    Args:
        folder: of the sweep.
        settings: Hydra overrides; those with several values span the sweep.
        jobs: trainings at a time; more than one are started by the joblib launcher.

    Raises:
        SystemExit: as :func:`start`.
    """
    launcher = ("hydra/launcher=joblib", f"hydra.launcher.n_jobs={jobs}") if jobs > 1 else ()
    start("train", "-m", *settings, f"hydra.sweep.dir={folder}", *launcher)


def trained(folder: Path, *settings: str) -> Path:
    """The pack of one training, which is done as far as it is missing.

    What is finished with the same settings is taken, what was interrupted goes on, and what was trained
    with other settings makes room.

    Args:
        folder: for this training alone; it lies there in ``sweep/run``.
        settings: Hydra overrides, each with one value.

    Raises:
        SystemExit: as :func:`start`.
    """
    runs = folder / "sweep"
    sweep(runs, *settings, *NO_REPORT, "hydra.sweep.subdir=run")
    return runs / "run" / PACK


def over(codec: str, folder: Path) -> Path:
    """Where an experiment keeps what it does over a codec: the folder itself is :data:`QUICK`'s."""
    return folder if codec == QUICK else folder / codec


def finished(folder: Path) -> list[Run]:
    """The finished runs of a sweep, by name; one for all qualities is there once for each.

    Args:
        folder: of the sweep; where it has not begun there are none.

    Raises:
        UserError: files of a run are damaged, or it is another folder.
    """
    if not folder.is_dir():
        return []
    return [r for job in states(folder) if job.state == "done" for r in Run.read_all(job.folder)]


def write_table(
    path: Path, rows: Iterable[Mapping[str, Any] | DataclassInstance], floats: str = ""
) -> None:
    """Write a CSV table, whole or not at all: UTF-8, a line a row, the first row's names as the header.

    Args:
        path: of the file.
        rows: dataclasses or dictionaries, at least one; None becomes an empty cell.
        floats: how numbers that are no integers are written, such as ``.4f``; empty: so that they are
            read again as they were. Dictionaries may hold text where a column is to be another way.

    Raises:
        ValueError: no rows, or one that has a column which the first has not.
    """
    lines = [row if isinstance(row, Mapping) else dataclasses.asdict(row) for row in rows]
    if not lines:
        raise ValueError(f"There is nothing to write to {path}.")
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        for line in lines:
            writer.writerow(
                {k: f"{v:{floats}}" if isinstance(v, float) else v for k, v in line.items()}
            )


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows of text as a table of Markdown, with the first row's names as the header.

    Args:
        rows: at least one; all have the same columns.
    """
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign, as pages show it; a dash: there is none."""
    return "–" if math.isnan(value) else f"{value:+.{digits}f}".replace("-", "−")


def numbers(text: str) -> list[int]:
    """Whole numbers with commas, as options give them.

    Raises:
        typer.BadParameter: it is something else.
    """
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise typer.BadParameter(f"'{text}' is no list of whole numbers, such as 1,2,3.") from None


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV table, as text."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_rows(path: Path, kind: Callable[..., Line]) -> list[Line]:
    """Rows of a CSV table that :func:`write_table` has written.

    Args:
        path: of the file.
        kind: dataclass of the rows; its fields are text, numbers, truth values, or numbers that may be
            missing (``float | None``).
    """

    def value(hint: Any, text: str) -> object:
        if hint is bool:
            return text == "True"
        if hint in (str, int, float):
            return hint(text)
        return float(text) if text else None

    hints = get_type_hints(kind)
    return [
        kind(**{k: value(hints[k], text) for k, text in row.items()}) for row in read_table(path)
    ]


def save_plot(figure: Figure, path: Path, dpi: int = 120) -> None:
    """Save a figure as PNG, whole or not at all, and close it."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format="png")
    plt.close(figure)


def keep(source: Path, target: Path) -> None:
    """Copy a file of a run, whole or not at all.

    Args:
        source: file.
        target: name of the copy, or a folder that is there.
    """
    with atomic_path(target / source.name if target.is_dir() else target) as temporary:
        shutil.copyfile(source, temporary)
