"""What a pre-training leaves: weights, the recipe that led to them and its log; and what it starts from."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressai.models import CompressionModel

from lic_da.codecs import zoo
from lic_da.codecs.spec import CodecSpec
from lic_da.errors import UserError
from lic_da.io.files import atomic_path, read_json
from lic_da.pretraining.settings import PretrainingSettings

SCRATCH = "scratch"


@dataclass(frozen=True)
class WeightsFiles:
    """Where the weights of a quality lie, and what belongs to them."""

    weights: Path
    recipe: Path
    log: Path

    @classmethod
    def trained(cls, settings: PretrainingSettings) -> WeightsFiles:
        """In the folder of the training; the weights are written last and say that all is done."""
        folder = settings.folder / settings.codec.weights_stem
        return cls(folder / "weights.safetensors", folder / "recipe.json", folder / "log.csv")

    @classmethod
    def exported(cls, settings: PretrainingSettings) -> WeightsFiles:
        """In the folder of finished weights.

        Raises:
            UserError: the package is no place for weights of this codec.
        """
        codec = settings.codec
        if settings.export is None and codec.weights != "bundled":
            raise UserError(
                f"The package has no place for weights of {codec.name}: say export=FOLDER."
            )
        folder = settings.export or zoo.WEIGHTS / codec.name
        stem = codec.weights_stem
        return cls(
            folder / f"{stem}.safetensors", folder / f"{stem}.json", folder / f"{stem}.log.csv"
        )

    def read(self, spec: CodecSpec) -> CompressionModel | None:
        """The codec with these weights; None: there are none.

        Raises:
            UserError: they do not fit the codec.
        """
        if not self.weights.is_file():
            return None
        codec = zoo.build(spec, weights=False)
        zoo.load_weights(codec, self.weights)
        return zoo.select_rate(codec, spec)

    def trainings(self) -> list[dict[str, Any]]:
        """The trainings that led to these weights, as their recipe tells."""
        if not self.recipe.is_file():
            return []
        # The first recipes told of one training without a list.
        trainings: list[dict[str, Any]] = read_json(self.recipe).get("training", [])
        return trainings

    def rows(self) -> list[dict[str, str]]:
        """The log of these trainings; a log of one training has no column that numbers them."""
        if not self.log.is_file():
            return []
        last = str(max(len(self.trainings()) - 1, 0))
        return [{"training": last, **row} for row in _read_rows(self.log)]


@dataclass(frozen=True)
class Provenance:
    """What a training starts from; noted in its folder, for exported weights may change meanwhile.

    Attributes:
        started_from: in words.
        training: the trainings of those weights, if it refines them.
        log: rows of their log.
    """

    started_from: str
    training: list[dict[str, Any]]
    log: list[dict[str, str]]

    @classmethod
    def of(cls, start: Path | None, exported: WeightsFiles) -> Provenance:
        """The origin of a training that starts from these weights."""
        if start != exported.weights:
            return cls(_in_words(start), [], [])
        return cls("the weights before", exported.trainings(), exported.rows())


def _in_words(start: Path | None) -> str:
    """What a training started from, in words."""
    if start is None:
        return SCRATCH
    name = start.parent.name if start.stem == "weights" else start.stem
    return f"quality {name[1:]}" if name[1:].isdigit() else start.name


def logged(sessions: Path, training: int, batches: int) -> list[dict[str, str]]:
    """The logs of all sessions as one; of epochs that were done twice the last time counts.

    Where an epoch was interrupted, its training losses are means over the rest of it.

    Args:
        sessions: folder of the logs.
        training: place among the trainings that the recipe tells, a column of the log.
        batches: of an epoch.

    Returns:
        Rows, validation and training losses of an epoch after another.
    """
    rows: dict[tuple[int, bool], dict[str, str]] = {}
    for log in sorted(sessions.glob("session_*/metrics.csv"), key=lambda p: int(p.parent.name[8:])):
        for row in _read_rows(log):
            if None in row.values():  # a line that was cut
                continue
            epoch = int(row["epoch"])
            # Lightning counts a step too many after an epoch that went on.
            true = {"training": f"{training}", "step": f"{(epoch + 1) * batches - 1}"}
            rows[epoch, not row.get("val/loss")] = {**row, **true}
    return [rows[key] for key in sorted(rows)]


def _read_rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_rows(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """Write rows of a log, whichever columns each of them has."""
    first = ("training", "epoch", "step")
    names = [*first, *sorted({name for row in rows for name in row} - {*first})]
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
