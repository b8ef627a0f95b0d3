"""Piles of images without labels: groups are found, may be moved by hand, and become an ordinary pack."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from rich.console import Console
from sklearn.metrics import adjusted_rand_score
from typer.testing import CliRunner

from lic_da.cli import app
from lic_da.data import clusters
from lic_da.data.blocks import describe
from lic_da.data.pile import Member, named_groups, prepare_pile, read_groups, write_groups
from lic_da.data.sources.tables import read_table
from lic_da.errors import UserError
from lic_da.io.images import RGB
from lic_da.io.lossless import save_png
from lic_da.methods.adapters.codec import AdaptedCodec
from lic_da.training.pile import rounds
from lic_da.training.pile.grouping import _names, find_groups
from lic_da.training.run import train
from lic_da.training.settings import RunSettings
from tests.conftest import photo_crops, scribbles

QUICK = (
    "codec.training.steps=4",
    "codec.training.batch_size=4",
    "codec.training.crop=64",
    "codec.training.optimizer=adam",
    "codec.training.lr=2e-3",
    "data.batches_per_epoch=2",
    "data.val_images=1",
    "data.val_crop=64",
    "data.source=photos",
    "evaluation.ms_ssim=false",
    "evaluation.examples=0",
    "logger=none",
    "round_steps=12",
)
QUIET = Console(quiet=True)


def flats(count: int, side: int = 96) -> list[RGB]:
    """Rectangles in flat colours, each image different."""
    rng = np.random.default_rng(5)
    return [
        np.kron(rng.integers(0, 256, (3, 3, 3), np.uint8), np.ones((32, 32, 1), np.uint8))
        for _ in range(count)
    ]


@pytest.fixture
def source(folder_domain: Callable[..., Path], photographs: list[RGB]) -> None:
    """The source domain ``photos``."""
    folder_domain("photos", photo_crops(photographs, 12, side=96))


@pytest.fixture
def pile(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder of images of several kinds, whose names do not tell the kind: ``pile(lines=8)``."""

    def make(**kinds: int) -> Path:
        folder = tmp_path / "mixed"
        folder.mkdir(exist_ok=True)
        makers = {"lines": lambda n: scribbles(n, side=96), "flats": flats}
        images = [(kind, p) for kind, count in kinds.items() for p in makers[kind](count)]
        for number in np.random.default_rng(0).permutation(len(images)).tolist():
            kind, pixels = images[number]
            save_png(folder / f"{number:03d}.png", pixels)
            (tmp_path / "kinds.txt").open("a").write(f"{number:03d}.png {kind}\n")
        return folder

    return make


def kinds(tmp_path: Path) -> dict[str, str]:
    """Name of each image of the pile -> its kind."""
    return dict(line.split() for line in (tmp_path / "kinds.txt").read_text().splitlines())


def settings_of(conf: Path, tmp_path: Path, *overrides: str) -> RunSettings:
    with initialize_config_dir(str(conf), version_base="1.3"):
        config = compose("train", [*QUICK, f"data.data_dir={tmp_path / 'data'}", *overrides])
    return RunSettings.from_config(config)


def agreement(table: list[Member], tmp_path: Path) -> float:
    truth = kinds(tmp_path)
    return adjusted_rand_score([truth[m.image] for m in table], [m.domain for m in table])


@pytest.mark.usefixtures("source")
def test_a_pile_of_two_kinds_becomes_an_ordinary_pack(
    conf: Path, tmp_path: Path, pile: Callable[..., Path]
) -> None:
    folder = tmp_path / "run"
    settings = settings_of(
        conf, tmp_path, f"pile={pile(lines=12, flats=12)}", "groups=2", "data.augment=true"
    )
    summary = train(settings, folder)
    table = read_groups(folder)
    assert agreement(table, tmp_path) == 1
    groups = named_groups(table)
    codec = AdaptedCodec.load(folder / "pack")
    assert codec.domains == ("photos", *groups)
    assert {*summary["domains"]} == {"photos", *groups}
    assert {(m.domain, m.split) for m in table} == {
        (g, s) for g in groups for s in ("train", "val", "test")
    }
    assert {p.stem for p in (folder / "groups").glob("*.png")} == {*groups}
    assert json.loads((folder / "pile.json").read_text()) == summary["pile"]
    # It is a table that makes domains.
    rows = [(row["domain"], row["split"]) for row in read_table(folder / "groups.csv")]
    assert rows == [(m.domain, m.split) for m in table]
    # Another training goes on with what was moved by hand.
    image = next(m for m in table if m.domain == groups[0])
    done = CliRunner().invoke(
        app, ["data", "groups", str(folder), "--move", f"{image.image}={groups[1]}"]
    )
    assert done.exit_code == 0 and "1 by hand" in done.output
    again = tmp_path / "again"
    again.mkdir()
    found = find_groups(settings_of(conf, tmp_path, f"groups={folder}"), again, QUIET)
    assert len(found.names) == 3
    (there,) = [m for m in read_groups(again) if m.image == image.image]
    others = [m for m in read_groups(again) if m.domain == there.domain]
    assert there.by_hand
    assert Counter(kinds(tmp_path)[m.image] for m in others)[kinds(tmp_path)[image.image]] == 1


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize(("count", "most"), [(3, 1), (12, 4)])
def test_a_pile_of_one_kind_and_one_of_three_images_give_fewer_groups_in_words(
    conf: Path, tmp_path: Path, pile: Callable[..., Path], count: int, most: int
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    images = pile(lines=count)
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    found = find_groups(
        settings_of(conf, tmp_path, f"pile={images}", "groups=4", "rounds=1"), folder, QUIET
    )
    assert 1 <= len(found.domains) <= most
    told = json.loads((folder / "pile.json").read_text())
    assert sum(told["skipped"].values()) == 1 and "skipped 1" in told["notes"][0]
    assert (len(found.domains) < 4) == any("of 4 groups were found" in n for n in told["notes"])


@pytest.mark.usefixtures("source")
def test_a_search_that_was_killed_goes_on_where_it_was(
    conf: Path, tmp_path: Path, pile: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = pile(lines=6, flats=6)
    settings = settings_of(conf, tmp_path, f"pile={images}", "groups=2", "rounds=2")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    find_groups(settings, whole, QUIET)
    trained = rounds.train_briefly
    calls = []

    def once(*arguments: object) -> None:
        if calls:
            raise KeyboardInterrupt
        calls.append(arguments)
        trained(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(rounds, "train_briefly", once)
    with pytest.raises(KeyboardInterrupt):
        find_groups(settings, broken, QUIET)
    again = []
    monkeypatch.setattr(rounds, "train_briefly", lambda *a: again.append(trained(*a)))
    find_groups(settings, broken, QUIET)
    assert len(again) == 1
    assert read_groups(broken) == read_groups(whole)


def test_images_that_are_the_sources_too_stay_out_and_too_few_are_refused(
    folder_domain: Callable[..., Path], photographs: list[RGB], tmp_path: Path
) -> None:
    photos = folder_domain("photos", photo_crops(photographs, 12, side=96))
    with pytest.raises(
        UserError, match=r"All 12 usable images .* near-identical to images of photos"
    ):
        prepare_pile(photos, tmp_path / "data", "photos")
    few = tmp_path / "few"
    few.mkdir()
    for number, pixels in enumerate(scribbles(2, side=96)):
        save_png(few / f"{number}.png", pixels)
    with pytest.raises(UserError, match="at least three different images"):
        prepare_pile(few, tmp_path / "data", "photos")


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("pile=DIR", "groups=0"), "groups must be a whole number from 1 on"),
        (("pile=DIR", "method=finetune"), "leave out extend and method"),
        (("groups=NOWHERE",), "has no groups"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_words(
    conf: Path, tmp_path: Path, overrides: tuple[str, ...], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        settings_of(conf, tmp_path, *(o.replace("DIR", str(tmp_path)) for o in overrides))


def table_of(**groups: int) -> list[Member]:
    splits = ("train", "val", "test")
    return [
        Member(f"{group}/{n}.png", f"/{group}/{n}.png", group, splits[n % 3], False, f"{group}{n}")
        for group, count in groups.items()
        for n in range(count)
    ]


def test_moves_by_hand_are_kept_and_those_that_leave_too_few_are_refused(tmp_path: Path) -> None:
    write_groups(table_of(a=6, b=3), tmp_path)

    def move(*moves: str) -> str:
        words = [word for text in moves for word in ("--move", text)]
        done = CliRunner().invoke(app, ["data", "groups", str(tmp_path), "--names", *words])
        return done.output + str(done.exception or "")

    assert "would have 2 images" in move("b/0.png=a")
    assert "Unknown group 'c'" in move("a/0.png=c")
    assert "Unknown image" in move("z.png=b")
    assert "IMAGE=GROUP" in move("z.png")
    assert read_groups(tmp_path) == table_of(a=6, b=3)


def test_groups_that_decode_each_other_as_well_are_one_and_empty_ones_are_begun_anew() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2, 2])
    gains = np.full((7, 3), 2.0)
    gains[:5, 2] = gains[5:, :2] = 1.5
    assert rounds.merged(labels, gains).tolist() == [0, 0, 0, 0, 0, 2, 2]
    moved = gains.copy()
    moved[0, 1], moved[1, 1] = 2.5, 4
    fixed = np.zeros(7, bool)
    assert rounds.reassigned(labels, moved, fixed).tolist() == [0, 1, 0, 1, 1, 2, 2]
    assert rounds.reassigned(labels, moved, ~fixed).tolist() == labels.tolist()
    features = np.array([[0.0], [0.1], [9.0], [9.1], [4.0], [5.0]])
    anew = rounds.reseeded(np.zeros(6, int), features, 2, 3, np.zeros(6, bool))
    assert sorted(Counter(anew.tolist()).values()) == [3, 3]


def test_no_two_groups_have_one_name() -> None:
    assert _names(["sketch", None, "sketch"]) == ["pile-sketch", "pile-2", "pile-sketch-2"]
    found = _names(["sketch-2", "sketch", "sketch", "3", None])
    assert len(set(found)) == 5


def test_kinds_of_images_are_told_apart_and_known_ones_by_name(photographs: list[RGB]) -> None:
    made = {
        "lines": scribbles(24, side=128),
        "flats": flats(24),
        "photos": photo_crops(photographs, 24, side=128),
    }
    blocks = [describe(pixels) for images in made.values() for pixels in images]
    truth = np.repeat([0, 1, 2], 24)
    again = [describe(pixels) for pixels in scribbles(6, side=128, seed=9)]
    features, known = clusters.word_shares(blocks, again, seed=0)
    labels = clusters.clustered(features, 3, seed=0)
    assert adjusted_rand_score(truth, labels) == 1
    own = features[truth == 0], features[truth == 1]
    assert clusters.most_like(own[0], {"sketch": known}) == "sketch"
    assert clusters.most_like(own[1], {"sketch": known}) is None
