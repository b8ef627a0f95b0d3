"""Piles of images without labels: groups are found, may be moved by hand, and become an ordinary pack."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
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
from lic_da.data.pile import (
    Member,
    members,
    named_groups,
    prepare_pile,
    read_groups,
    write_groups,
)
from lic_da.data.sources.tables import read_table
from lic_da.errors import UserError
from lic_da.io.images import RGB
from lic_da.io.lossless import save_png
from lic_da.methods.adapters.codec import AdaptedCodec
from lic_da.training.pile import rounds
from lic_da.training.pile.grouping import _names, began_from_others, find_groups
from lic_da.training.run import train
from lic_da.training.settings import RunSettings
from tests.conftest import CODEC, photo_crops, scribbles

QUICK = (
    f"codec={CODEC}",
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
        (("pile=DIR", "groups=0"), "groups must be a whole number of at least 1"),
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
        Member(
            image=f"{group}/{n}.png",
            path=f"/{group}/{n}.png",
            domain=group,
            split=splits[n % 3],
            by_hand=False,
            sha256=f"{group}{n}",
            series=f"{group}{n}",
        )
        for group, count in groups.items()
        for n in range(count)
    ]


def groups_command(folder: Path, *words: str) -> str:
    """What ``lic-da data groups`` prints, or the sentence in which it refuses."""
    done = CliRunner().invoke(app, ["data", "groups", str(folder), *words])
    assert done.exception is None or isinstance(done.exception, UserError), done.exception
    return done.output + str(done.exception or "")


def drawn(table: list[Member], folder: Path) -> list[Member]:
    """The table with a file for each image."""
    there = [replace(m, path=str(folder / m.image)) for m in table]
    for member, pixels in zip(there, scribbles(len(there), side=32), strict=True):
        Path(member.path).parent.mkdir(parents=True, exist_ok=True)
        save_png(Path(member.path), pixels)
    return there


def test_moves_by_hand_are_kept_and_those_that_leave_too_few_are_refused(tmp_path: Path) -> None:
    write_groups(table_of(a=6, b=3), tmp_path)

    def move(text: str) -> str:
        return groups_command(tmp_path, "--names", "--move", text)

    assert "would have 2 different images" in move("b/0.png=a")
    assert "Unknown group 'c'" in move("a/0.png=c")
    assert "Unknown image" in move("z.png=b")
    assert "IMAGE=GROUP" in move("z.png")
    assert read_groups(tmp_path) == table_of(a=6, b=3)


def test_near_identical_images_count_once_where_a_move_would_leave_too_few(tmp_path: Path) -> None:
    table = [replace(m, series="same") if m.image > "a/3" else m for m in table_of(a=6, b=3)]
    write_groups(table, tmp_path)
    told = groups_command(tmp_path, "--move", "a/[0-2].png=b")
    assert "Group a would have 1 different images" in told
    assert read_groups(tmp_path) == sorted(table, key=lambda m: m.image)


def test_tables_of_earlier_versions_are_read(tmp_path: Path) -> None:
    write_groups(table_of(a=3), tmp_path)
    rows = (tmp_path / "groups.csv").read_text().splitlines()
    shorter = [row.rpartition(",")[0] for row in rows]
    (tmp_path / "groups.csv").write_text("\n".join(shorter) + "\n")
    assert shorter[0].endswith("sha256") and read_groups(tmp_path) == table_of(a=3)


def test_pictures_beside_the_sheets_stay_and_sheets_of_groups_that_are_no_more_go(
    tmp_path: Path,
) -> None:
    table = drawn(table_of(a=6, b=3), tmp_path / "images")
    write_groups(table, tmp_path)
    (tmp_path / "groups").mkdir()
    (tmp_path / "groups" / "mine.png").write_bytes(b"mine")
    for words in (("--sheets",), ("--move", "a/0.png=b")):
        groups_command(tmp_path, *words)
        assert {p.name for p in (tmp_path / "groups").iterdir()} == {"a.png", "b.png", "mine.png"}
    write_groups([replace(m, domain="a") for m in table], tmp_path)  # as a later search does
    assert {p.name for p in (tmp_path / "groups").iterdir()} == {"a.png", "mine.png"}


@pytest.mark.parametrize("words", [("--move", "a/1.png=b"), ("--sheets",)])
def test_images_that_are_gone_are_named_before_anything_is_changed(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    table = drawn(table_of(a=6, b=3), tmp_path / "images")
    write_groups(table, tmp_path)
    Path(table[0].path).unlink()
    assert "names 1 images that are gone from disk, such as a/0.png" in groups_command(
        tmp_path, *words
    )
    assert read_groups(tmp_path) == table and not (tmp_path / "groups").exists()


def put_by_hand(images: Path, tmp_path: Path, alike: int) -> Path:
    """A run that has found two groups, with three images in the second by hand.

    Args:
        images: the pile; near-identical ones are added.
        tmp_path: the run's folder and the prepared images are there.
        alike: how many of the three are near-identical to each other.
    """
    first, *others = scribbles(3, side=96, seed=77)
    for number in range(3):
        pixels = first.copy() if number < alike else others[number - 1]
        pixels[number, 0] = 200
        save_png(images / f"by-hand-{number}.png", pixels)
    folder, data_dir = tmp_path / "earlier", tmp_path / "data"
    folder.mkdir()
    (folder / "config.yaml").write_text(f"pile: {images}\n")
    found = prepare_pile(images, data_dir, "photos")
    chosen = {p.sha256 for p in found.entries if p.name.startswith("by-hand")}
    assert len({p.series for p in found.entries if p.sha256 in chosen}) == 4 - max(alike, 1)
    groups = {p.sha256: "b" if p.sha256 in chosen else "a" for p in found.entries}
    write_groups(members(found, groups, chosen), folder)
    return folder


@pytest.mark.usefixtures("source")
def test_a_search_does_not_break_up_a_group_by_hand_but_says_what_to_do(
    conf: Path, tmp_path: Path, pile: Callable[..., Path]
) -> None:
    earlier = put_by_hand(pile(lines=8), tmp_path, alike=3)
    again = tmp_path / "again"
    again.mkdir()
    settings = settings_of(conf, tmp_path, f"groups={earlier}")
    with pytest.raises(UserError, match=r"Group b of .*by-hand-\d.png was put by hand, has fewer"):
        find_groups(settings, again, QUIET)
    groups_command(earlier, "--move", "000.png=b", "--move", "001.png=b")
    assert len(find_groups(settings, again, QUIET).domains) == 2


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize("count", [1, 2])
def test_images_moved_by_hand_stay_through_rounds_in_which_all_others_would_leave(
    conf: Path,
    tmp_path: Path,
    pile: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    count: int,
) -> None:
    earlier = put_by_hand(pile(lines=8), tmp_path, alike=2)
    groups_command(earlier, "--move", "000.png=b")
    table = [replace(m, by_hand=m.by_hand and m.image != "000.png") for m in read_groups(earlier)]
    write_groups(table, earlier)
    monkeypatch.setattr(rounds, "train_briefly", lambda *_: None)
    monkeypatch.setattr(
        rounds, "decoded_by_each", lambda _, images, *__: np.tile([5.0, 0.0], (len(images), 1))
    )
    again = tmp_path / "again"
    again.mkdir()
    find_groups(settings_of(conf, tmp_path, f"groups={earlier}", f"rounds={count}"), again, QUIET)
    kept = {m.domain for m in read_groups(again) if m.by_hand}
    assert len(named_groups(read_groups(again))) == 2 and len(kept) == 1
    assert {m.image for m in read_groups(again) if m.domain in kept} == {
        m.image for m in table if m.domain == "b"
    }


@pytest.mark.usefixtures("source")
def test_a_search_begins_anew_where_the_groups_that_it_went_on_from_have_changed(
    conf: Path, tmp_path: Path, pile: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = put_by_hand(pile(lines=8), tmp_path, alike=1)
    again = tmp_path / "again"
    again.mkdir()
    settings = settings_of(conf, tmp_path, f"groups={earlier}")
    looked_at = []
    shares = clusters.word_shares
    monkeypatch.setattr(
        clusters, "word_shares", lambda *a, **k: looked_at.append(a) or shares(*a, **k)
    )
    find_groups(settings, again, QUIET)
    searched = len(looked_at)
    find_groups(settings, again, QUIET)
    assert searched == len(looked_at)

    def of_image(name: str) -> Member:
        return next(m for m in read_groups(again) if m.image == name)

    assert of_image("000.png").domain != of_image("by-hand-0.png").domain
    assert not began_from_others(settings, again)
    groups_command(earlier, "--move", "000.png=b")
    assert began_from_others(settings, again)
    with pytest.raises(UserError, match="have changed since"):
        find_groups(settings.resumed(again / "checkpoints" / "last.ckpt"), again, QUIET)
    find_groups(settings, again, QUIET)
    assert of_image("000.png").domain == of_image("by-hand-0.png").domain
    assert of_image("000.png").by_hand


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
