"""Preparing domains: bad files, splits, series, repeatability."""

from __future__ import annotations

import dataclasses
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lic_da.config
from lic_da.data.domains import load_domain, prepare, refuse_shared_files
from lic_da.data.selection import is_colour_drawing, is_ink_drawing
from lic_da.data.sources.dicebear import DiceBearSource
from lic_da.data.sources.huggingface import HuggingFaceSource
from lic_da.data.sources.packages import DebianSource, PypiSource
from lic_da.errors import UserError
from lic_da.io.images import RGB
from lic_da.io.lossless import save_png
from tests.conftest import photo_crops, scribbles

MakeDomain = Callable[..., Path]


def test_bad_files_are_counted_by_reason_and_good_ones_used(
    folder_domain: MakeDomain, tmp_path: Path
) -> None:
    folder = folder_domain("mine", scribbles(12))
    png = io.BytesIO()
    Image.fromarray(scribbles(1, seed=9)[0]).save(png, "PNG")
    (folder / "cut.png").write_bytes(png.getvalue()[:400])
    (folder / "text.jpg").write_text("hello")
    Image.new("CMYK", (64, 64), (10, 200, 30, 0)).save(folder / "cmyk.jpg")
    Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16).save(
        folder / "16bit.png"
    )
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    images = prepare("mine", tmp_path / "data")
    assert images.skipped == {
        "truncated or damaged": 1,
        "not an image": 1,
        "smaller than 16 pixels": 1,
    }
    names = {p.name for p in images.entries}
    assert len(images.entries) == 14 and {"cmyk.jpg", "16bit.png"} <= names
    assert "skipped 1 not an image" in images.summary()
    assert (images.folder / "contact_sheet.png").is_file()


def test_a_domain_says_that_its_test_images_are_few(
    folder_domain: MakeDomain, tmp_path: Path
) -> None:
    folder_domain("mine", scribbles(12))
    images = prepare("mine", tmp_path / "data")
    tests = len(images.split("test"))
    assert 0 < tests < 10 and f"; figures of {tests} test images say little" in images.summary()
    shown = dataclasses.replace(images.entries[0], split="test")
    enough = dataclasses.replace(images, entries=(shown,) * 10)
    assert "say little" not in enough.summary()
    without = dataclasses.replace(shown, split="train")
    assert "say little" not in dataclasses.replace(images, entries=(without,)).summary()


def test_an_empty_folder_is_an_error_with_its_name(
    folder_domain: MakeDomain, tmp_path: Path
) -> None:
    folder = folder_domain("mine", [])
    with pytest.raises(UserError, match=f"'mine' has no usable images in folder {folder}"):
        prepare("mine", tmp_path / "data")


def test_a_missing_folder_and_an_unknown_domain(folder_domain: MakeDomain, tmp_path: Path) -> None:
    folder_domain("mine", []).rmdir()
    with pytest.raises(UserError, match="There is no folder"):
        prepare("mine", tmp_path / "data")
    with pytest.raises(UserError, match=r"Unknown domain 'minne'. Did you mean 'mine'\? Available"):
        load_domain("minne")


def test_a_mistake_in_a_domain_file_names_the_file(conf: Path) -> None:
    (conf / "domain" / "odd.yaml").write_text("sources:\n  - _target_: lic_da.nothing\n")
    with pytest.raises(UserError, match=r"odd\.yaml does not describe a domain"):
        load_domain("odd")


def test_splits_depend_on_content_alone(folder_domain: MakeDomain, tmp_path: Path) -> None:
    images = scribbles(60)
    folder_domain("one", images)
    folder_domain("two", images[::-1])
    first = {p.sha256: p.split for p in prepare("one", tmp_path / "data").entries}
    second = {p.sha256: p.split for p in prepare("two", tmp_path / "data").entries}
    assert first == second
    counts = [list(first.values()).count(s) for s in ("train", "val", "test")]
    assert counts[0] > 35 and min(counts) >= 1


def test_few_images_still_fill_every_split(folder_domain: MakeDomain, tmp_path: Path) -> None:
    folder_domain("few", scribbles(3))
    images = prepare("few", tmp_path / "data")
    assert [len(images.split(s)) for s in ("train", "val", "test")] == [1, 1, 1]


def test_near_identical_images_share_a_split(
    folder_domain: MakeDomain, tmp_path: Path, photographs: list[RGB]
) -> None:
    folder = folder_domain("mine", photo_crops(photographs, 30))
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as image:
            image.save(folder / f"{path.stem}-again.jpg", quality=60)
    images = prepare("mine", tmp_path / "data")
    split = {p.name: p.split for p in images.entries}
    assert len(split) == 60
    assert all(split[f"{n:03d}.png"] == split[f"{n:03d}-again.jpg"] for n in range(30))
    assert len({p.series for p in images.entries}) > 15


def test_mirror_images_share_a_split(
    folder_domain: MakeDomain, tmp_path: Path, photographs: list[RGB]
) -> None:
    crops = photo_crops(photographs, 20)
    folder_domain("mine", [pixels for crop in crops for pixels in (crop, crop[:, ::-1].copy())])
    images = prepare("mine", tmp_path / "data")
    split = {int(Path(p.name).stem): p.split for p in images.entries}
    assert len(split) == 40 and len(set(split.values())) == 3
    assert all(split[n] == split[n + 1] for n in range(0, 40, 2))


def test_images_of_one_name_in_several_sources_get_names_of_their_own(
    folder_domain: MakeDomain, conf: Path, tmp_path: Path
) -> None:
    first, second = (folder_domain(f"{n}/scans", scribbles(6, seed=n)) for n in (0, 1))
    third = folder_domain("prints", scribbles(7, seed=2))
    sources = "".join(f"  - kind: folder\n    path: {f}\n" for f in (first, second, third))
    (conf / "domain" / "mine.yaml").write_text(f"sources:\n{sources}")
    images = prepare("mine", tmp_path / "data")
    names = {p.name for p in images.entries}
    assert len(names) == len(images.entries) == 19
    assert {"prints/000.png", "prints/005.png", "006.png"} <= names
    hashed = {f"{p.sha256[:16]}/{Path(p.file).name}" for p in images.entries if "scans" in p.file}
    assert hashed == {name for name in names if not name.startswith("prints")} - {"006.png"}
    index = images.folder / "index.csv"  # as it was written before names were told apart
    index.write_text(index.read_text().replace(",prints/000.png,", ",006.png,"))
    assert {p.name for p in prepare("mine", tmp_path / "data").entries} == names


def test_prepared_once_and_again_when_the_folder_changes(
    folder_domain: MakeDomain, tmp_path: Path
) -> None:
    folder = folder_domain("mine", scribbles(10))
    index = prepare("mine", tmp_path / "data").folder / "index.csv"
    before = index.stat().st_mtime_ns
    assert len(prepare("mine", tmp_path / "data").entries) == 10
    assert index.stat().st_mtime_ns == before
    save_png(folder / "new.png", scribbles(1, seed=5)[0])
    assert len(prepare("mine", tmp_path / "data").entries) == 11
    index.write_text("damaged")
    assert len(prepare("mine", tmp_path / "data").entries) == 11


def test_domains_that_share_files_are_refused(folder_domain: MakeDomain, tmp_path: Path) -> None:
    drawn = scribbles(8)
    folder_domain("one", drawn)
    folder_domain("two", drawn[:2] + scribbles(6, seed=3))
    images = [prepare(n, tmp_path / "data") for n in ("one", "two")]
    with pytest.raises(UserError, match="'one' and 'two' share 2 files"):
        refuse_shared_files(images)


def test_a_source_out_of_reach_is_replaced_and_that_is_said(
    conf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    (conf / "domain" / "drawn.yaml").write_text(
        "sources:\n  - {_target_: lic_da.data.sources.DebianSource, package: openclipart-svg}\n"
        "fallback:\n  - {_target_: lic_da.data.sources.DiceBearSource, style: croodles, count: 6}\n"
    )
    images = prepare("drawn", tmp_path / "data")
    assert len(images.entries) >= 5
    assert "needs the program 'apt-get', which is not here" in images.notes[0]
    assert images.notes[1] == "drawn: using DiceBear style croodles instead"


def test_packages_are_searched_by_glob(tmp_path: Path) -> None:
    source = PypiSource(
        package="scikit-image", module="skimage", include=["data/*"], exclude=["*coffee*"]
    )
    names = [f.name for f in source.files(tmp_path)]
    assert "data/astronaut.png" in names and "data/coffee.png" not in names
    assert names == sorted(names)


def test_hugging_face_folders_are_read(tmp_path: Path) -> None:
    import datasets

    images = [Image.fromarray(p) for p in scribbles(4)]
    table = datasets.Dataset.from_dict({"image": images}).cast_column("image", datasets.Image())
    table.save_to_disk(str(tmp_path / "set"))
    found = HuggingFaceSource(name=str(tmp_path / "set")).files(tmp_path / "store")
    assert [f.name for f in found] == [f"{i:06d}.png" for i in range(4)]
    with Image.open(found[2].path) as image:
        assert np.array_equal(np.asarray(image), scribbles(4)[2])


def test_version_in_a_package_name_is_looked_for() -> None:
    class Apt:
        def run(self, *_: object) -> str:
            return "wesnoth-1.8-data\nwesnoth-1.16-data\nwesnoth-1.16-core\n"

    assert DebianSource(package="wesnoth-*-data")._resolve(Apt()) == "wesnoth-1.16-data"  # type: ignore[arg-type]


def test_series_by_name() -> None:
    source = DiceBearSource(series=r"[_0-9]+(?=\.svg$)")
    assert source.series_of("people/man_01.svg") == source.series_of("people/man_02.svg")
    assert source.series_of("people/man_01.svg") != source.series_of("animals/man_01.svg")


def test_rules_tell_ink_from_colour(photographs: list[RGB]) -> None:
    assert is_ink_drawing(scribbles(1, side=256)[0])
    assert not is_colour_drawing(scribbles(1, side=256)[0])
    assert is_colour_drawing(photographs[0]) and not is_ink_drawing(photographs[0])
    assert not is_ink_drawing(np.full((256, 256, 3), 255, np.uint8))


def test_a_misspelt_setting_of_a_source_is_named_with_the_right_one(conf: Path) -> None:
    (conf / "domain" / "mine.yaml").write_text("sources: [{kind: folder, paht: images}]\n")
    with pytest.raises(
        UserError, match=r"Unknown setting 'paht' of folder, .*Did you mean 'path'\?"
    ):
        load_domain("mine")


def test_a_domain_is_prepared_again_when_one_that_it_is_kept_apart_from_has_changed(
    folder_domain: MakeDomain, tmp_path: Path
) -> None:
    pictures = scribbles(24)
    first = folder_domain("first", pictures[:12])
    folder_domain("second", pictures[12:])
    config = lic_da.config.CONF / "domain" / "second.yaml"
    config.write_text(f"{config.read_text()}apart_from: [first]\n")
    before = prepare("second", tmp_path / "data")
    assert len(before.entries) == 12
    shown = before.split("test")[0]
    Image.open(before.path(shown)).save(first / "again.jpg", quality=95)
    after = prepare("second", tmp_path / "data")
    assert after.skipped == {"near-identical to images of first": 1}
    assert shown.sha256 not in {entry.sha256 for entry in after.entries}
