"""Domains that are tested only, kinds of sources, tables, and the commands that look at domains."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image
from typer.testing import CliRunner

import lic_da.data.overview
import lic_da.data.sources.tables
from lic_da.cli import app
from lic_da.config import available
from lic_da.data.check import check
from lic_da.data.datamodule import DomainsDataModule
from lic_da.data.domains import load_domain, prepare, unseen_domains
from lic_da.data.sources.base import SourceUnavailable
from lic_da.data.sources.huggingface import HuggingFaceSource
from lic_da.errors import UserError
from lic_da.io.images import RGB, read_rgb
from lic_da.io.lossless import save_png
from lic_da.training.settings import RunSettings
from tests.conftest import photo_crops, scribbles

MakeDomain = Callable[..., Path]
TWELVE = (
    *("natural", "sketch", "comic", "clipart", "quickdraw", "screenshot", "document", "painting"),
    *("chart", "map", "astronomy", "emoji"),
)


def splits(name: str, data: Path) -> dict[str, str]:
    return {p.sha256: p.split for p in prepare(name, data).entries}


def says(conf: Path, name: str, settings: str) -> None:
    """Add settings to a domain's file."""
    with open(conf / "domain" / f"{name}.yaml", "a") as file:
        file.write(settings)


def test_there_are_twelve_domains_and_more_to_test_with() -> None:
    assert {*TWELVE} <= {*available("domain")}
    more = {name: load_domain(name).more_of for name in available("domain")}
    assert {"natural", "comic", "sketch", "clipart"} == {of for of in more.values() if of}
    for name, of in more.items():
        assert all(source.test_only == (of is not None) for source in load_domain(name).sources)


def test_the_page_says_the_counts_of_the_committed_list() -> None:
    docs = Path(__file__).parents[1] / "docs"
    page = (docs / "domains.md").read_text()
    with open(docs / "domains.csv", encoding="utf-8") as file:
        rows = {row["domain"]: row for row in csv.DictReader(file)}
    for name, row in rows.items():
        assert re.search(
            rf"^\| `{name}` \|.*\| {row['train']} \| {row['val']} \| {row['test']} \|$", page, re.M
        )
    tests = {name: int(row["test"]) for name, row in rows.items()}
    for name in TWELVE:
        enough = 100 if name in ("natural", "comic") else 60
        assert tests[name] + tests.get(f"{name}_more", 0) >= enough


def test_the_committed_check_finds_no_test_image_in_its_own_domain_or_beside_one_only_tested() -> (
    None
):
    docs = Path(__file__).parents[1] / "docs"
    with open(docs / "domains_check.csv", encoding="utf-8") as file:
        pairs = [row for row in csv.DictReader(file) if row["mirrored"] == "False"]
    leaks = [row for row in pairs if "test" in (row["split"], row["other_split"])]
    between = Counter((row["domain"], row["other_domain"]) for row in leaks)
    assert between == {("clipart", "sketch"): 3}
    assert "Three pairs remain between `sketch` and `clipart`" in (docs / "domains.md").read_text()


def test_images_that_are_only_tested_move_no_other_image(
    folder_domain: MakeDomain, conf: Path, tmp_path: Path
) -> None:
    folder_domain("mine", scribbles(40))
    before = splits("mine", tmp_path / "data")
    extra = tmp_path / "extra"
    for number, pixels in enumerate([*scribbles(40)[:8], *scribbles(10, seed=4)]):
        extra.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(extra / f"{number}.jpg", quality=70)  # eight of them twice
    says(
        conf,
        "mine",
        f"  - {{kind: folder, path: {extra}, test_only: true}}\n",
    )
    after = prepare("mine", tmp_path / "data")
    found = {p.sha256: p.split for p in after.entries}
    assert {key: found[key] for key in before} == before
    added = [p for p in after.entries if p.sha256 not in before]
    assert {p.split for p in added} == {"test"}
    learnt = sum(before[p.sha256] != "test" for p in after.entries if int(p.name[:3].strip(".jpng")) < 8
                 and p.source.endswith("mine"))  # fmt: skip
    assert after.skipped == {"near-identical to images of other splits": learnt}
    assert check([after]).leaks == []


@pytest.mark.parametrize("way", ["copied", "mirrored", "smaller"])
def test_more_test_images_show_nothing_of_the_domain_they_belong_to(
    folder_domain: MakeDomain, conf: Path, tmp_path: Path, photographs: list[RGB], way: str
) -> None:
    drawn = photo_crops(photographs, 24)
    folder_domain("mine", drawn)
    changed = {
        "copied": lambda p: p,
        "mirrored": lambda p: p[:, ::-1],
        "smaller": lambda p: np.asarray(Image.fromarray(p).resize((100, 100))),
    }[way]
    repeated = [np.ascontiguousarray(changed(p)) for p in drawn[:5]]
    more = folder_domain("mine_more", scribbles(6))
    for number, pixels in enumerate(repeated):
        Image.fromarray(pixels).save(more / f"again{number}.jpg", quality=80)
    says(conf, "mine_more", "more_of: mine\ntest_only: true\n")
    images = prepare("mine_more", tmp_path / "data")
    assert Counter(p.split for p in images.entries) == {"test": 6}
    assert images.skipped == {"near-identical to images of mine": 5}


def test_more_tests_are_tested_with_the_domain_if_one_asks_for_it(
    folder_domain: MakeDomain, conf: Path, tmp_path: Path
) -> None:
    folder_domain("mine", scribbles(12))
    folder_domain("mine_more", scribbles(7, seed=2))
    says(conf, "mine_more", "more_of: mine\ntest_only: true\n")

    def tested(**settings: bool) -> int:
        module = DomainsDataModule([], source="mine", data_dir=tmp_path / "data", **settings)
        module.prepare_data()
        module.setup()
        return len(module.labelled("mine", "test"))

    assert tested(more_tests=True) == tested() + 7


def test_all_unseen_domains_are_those_that_are_prepared_and_none_is_fetched(
    folder_domain: MakeDomain, conf: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    for number, name in enumerate(("mine", "other", "mine_more", "later", "gone")):
        folder_domain(name, scribbles(6, seed=number))
    says(conf, "mine_more", "more_of: mine\ntest_only: true\n")
    for name in ("mine", "other", "mine_more", "gone"):
        prepare(name, data)
    shutil.rmtree(tmp_path / "pictures" / "gone")

    def unseen(*asked: str, trained: tuple[str, ...] = ()) -> tuple[str, ...]:
        return unseen_domains(asked, trained, data)

    assert unseen("all") == ("mine", "other")
    assert unseen("all", trained=("mine",)) == ("other",)
    assert unseen("later", "all", "other", trained=("mine",)) == ("later", "other")
    assert not (data / "domains" / "later").exists()
    assert unseen() == ()
    with pytest.raises(UserError, match="Unknown domain 'nothing'"):
        unseen("all", "nothing")


def test_a_training_with_all_unseen_domains_notes_their_names(
    folder_domain: MakeDomain, conf: Path, tmp_path: Path
) -> None:
    for number, name in enumerate(("mine", "other", "third")):
        folder_domain(name, scribbles(6, seed=number))
        prepare(name, tmp_path / "data")
    asked = ("domains=[other]", "unseen=all", "data.source=mine", f"data.data_dir={tmp_path}/data")
    with initialize_config_dir(str(conf), version_base="1.3"):
        settings = RunSettings.from_config(compose("train", list(asked)))
    assert settings.config["unseen"] == settings.data["unseen"] == ["third"]


def test_of_unseen_domains_as_many_images_are_tested_as_one_asks_for(
    folder_domain: MakeDomain, tmp_path: Path
) -> None:
    folder_domain("mine", scribbles(40))
    folder_domain("other", scribbles(40, seed=2))

    def tested(most: int | None) -> dict[str, list[str]]:
        module = DomainsDataModule(
            [], ["other"], source="mine", data_dir=tmp_path / "data", unseen_images=most
        )
        module.prepare_data()
        module.setup()
        names: dict[str, list[str]] = {"mine": [], "other": []}
        for image in module.tested():
            names[image.domain].append(image.info.name)
        assert [b["file"] for b in module.test_dataloader()] == [
            str(p.path) for p in module.tested()
        ]
        return names

    everything, two = tested(None), tested(2)
    assert len(everything["other"]) > 2
    assert two == {"mine": everything["mine"], "other": everything["other"][:2]}


def test_a_domain_that_is_only_tested_cannot_be_trained_on(
    folder_domain: MakeDomain, conf: Path, tmp_path: Path
) -> None:
    folder_domain("mine", scribbles(12))
    folder_domain("held", scribbles(7, seed=2))
    says(conf, "held", "test_only: true\n")
    module = DomainsDataModule(["held"], source="mine", data_dir=tmp_path / "data")
    with pytest.raises(UserError, match=r"'held' has no images to train with.*test_only"):
        module.setup()


def test_shares_say_how_large_the_splits_are(
    folder_domain: MakeDomain, conf: Path, tmp_path: Path
) -> None:
    folder_domain("mine", scribbles(60))
    says(conf, "mine", "shares: [0.2, 0.1, 0.7]\n")
    counts = Counter(splits("mine", tmp_path / "data").values())
    assert counts["test"] > 33 > counts["train"] > 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("shares: [0.5, 0.6, 0.1]", "three numbers whose sum is 1"),
        ("apart_from: natural", "apart_from is a list of names"),
        ("more_of: mine", "cannot be apart from itself"),
        ("apart_from: [nothing]", "Unknown domain 'nothing'"),
    ],
)
def test_a_wrong_setting_of_splits_is_told_in_words(
    folder_domain: MakeDomain, conf: Path, tmp_path: Path, settings: str, message: str
) -> None:
    folder_domain("mine", scribbles(4))
    says(conf, "mine", settings + "\n")
    with pytest.raises(UserError, match=message):
        prepare("mine", tmp_path / "data")


def test_domains_apart_from_each_other_are_refused(
    folder_domain: MakeDomain, conf: Path, tmp_path: Path
) -> None:
    for name, other in (("one", "two"), ("two", "one")):
        folder_domain(name, scribbles(4))
        says(conf, name, f"apart_from: [{other}]\n")
    with pytest.raises(UserError, match="'one' is to be kept apart from itself, by way of two"):
        prepare("one", tmp_path / "data")


def test_halved_images_are_prepared_at_half_their_size(
    folder_domain: MakeDomain, conf: Path, tmp_path: Path
) -> None:
    folder_domain("mine", scribbles(5, side=161))
    says(conf, "mine", "    halve: true\n")
    images = prepare("mine", tmp_path / "data")
    assert {(p.width, p.height) for p in images.entries} == {(80, 80)}
    assert {read_rgb(images.path(p)).shape for p in images.entries} == {(80, 80, 3)}


def test_pages_of_pdf_files_become_images(conf: Path, tmp_path: Path) -> None:
    folder = tmp_path / "papers"
    folder.mkdir()
    pages = [Image.fromarray(p) for p in scribbles(6, side=144)]
    pages[0].save(folder / "book.pdf", save_all=True, append_images=pages[1:], resolution=72)
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 and no more")
    (conf / "domain" / "paper.yaml").write_text(
        "sources:\n  - _target_: lic_da.data.sources.pdf_pages.PdfPages\n    dpi: 144\n"
        f"    of: {{kind: folder, path: {folder}}}\n"
    )
    images = prepare("paper", tmp_path / "data")
    assert {p.name for p in images.entries} == {f"book-{n:04d}.png" for n in range(1, 7)}
    assert {(p.width, p.height) for p in images.entries} == {(288, 288)}
    assert images.skipped == {"PDF files that cannot be read": 1}
    first = next(p for p in images.entries if p.name == "book-0001.png")
    drawn = np.asarray(Image.fromarray(read_rgb(images.path(first))).resize((144, 144)))
    assert np.abs(drawn.astype(int) - scribbles(6, side=144)[0]).mean() < 25


def test_icon_sets_become_drawings(
    conf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "data" / "packages" / "npm-iconify-json-mine-1.0.0" / "package"
    package.mkdir(parents=True)
    body = '<path fill="{}" d="M2 2h{}v9H2z"/>'
    icons = {f"bar-{n}": {"body": body.format("currentColor", n)} for n in range(3, 9)}
    icons["wide"] = {"body": body.format("red", 30), "width": 40}
    (package / "icons.json").write_text(json.dumps({"icons": icons, "width": 24, "height": 24}))
    (package / "package.json").write_text(json.dumps({"version": "1.0.0"}))
    (package / "info.json").write_text(
        json.dumps({"license": {"spdx": "CC-BY-4.0"}, "author": {"name": "A. Nyone"}})
    )
    (conf / "domain" / "icons.yaml").write_text(
        "sources:\n  - _target_: lic_da.data.sources.icon_sets.IconSetSource\n"
        "    package: '@iconify-json/mine'\n    version: 1.0.0\n"
    )
    images = prepare("icons", tmp_path / "data")
    assert len(images.entries) >= 6
    wide = next(p for p in images.entries if p.name == "wide.svg")
    pixels = read_rgb(images.path(wide))
    assert (pixels[0, 0] == 255).all() and ((pixels == (255, 0, 0)).all(axis=2)).mean() > 0.1
    (row,) = lic_da.data.overview.overview(["icons"], tmp_path / "data")
    assert row.licences == "CC-BY-4.0"


def run(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and output of ``lic-da data …``."""
    done = CliRunner().invoke(app, ["data", *map(str, arguments)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout


def test_list_tells_counts_of_prepared_domains_and_prepares_none(
    folder_domain: MakeDomain, tmp_path: Path
) -> None:
    folder_domain("mine", scribbles(12))
    folder_domain("later", scribbles(3))
    images = prepare("mine", tmp_path / "data")
    code, text = run("list", "mine", "later", "--data-dir", tmp_path / "data", "--csv", "-")
    rows = {row["domain"]: row for row in csv.DictReader(io.StringIO(text))}
    assert code == 0
    assert [int(rows["mine"][s]) for s in ("train", "val", "test")] == [
        len(images.split(s)) for s in ("train", "val", "test")
    ]
    assert rows["mine"]["width"] == "160" and rows["later"]["train"] == ""
    assert not (tmp_path / "data" / "domains" / "later").exists()


def test_check_finds_what_is_unreadable_and_what_was_learnt_and_is_tested(
    folder_domain: MakeDomain, conf: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    images = scribbles(30)
    folder_domain("mine", images)
    held = folder_domain("held", scribbles(5, seed=8))
    says(conf, "held", "test_only: true\n")
    prepare("mine", data)
    prepare("held", data)
    assert run("check", "mine", "held", "--data-dir", data)[0] == 0
    trained = next(p for p in prepare("mine", data).split("train"))
    Image.fromarray(images[int(trained.name[:3])]).save(held / "learnt.jpg", quality=85)
    cut = prepare("held", data)
    code, _ = run("check", "mine", "held", "--data-dir", data, "--csv", tmp_path / "pairs.csv")
    assert code == 2
    (pair,) = csv.DictReader((tmp_path / "pairs.csv").open())
    assert {pair["image"], pair["other_image"]} == {trained.name, "learnt.jpg"}
    (held / "learnt.jpg").unlink()
    broken = next(p for p in cut.entries if p.name == "000.png")
    prepare("held", data)
    content = cut.path(broken).read_bytes()
    state = cut.path(broken).stat()
    cut.path(broken).write_bytes(content[:300] + bytes(len(content) - 300))
    os.utime(cut.path(broken), ns=(state.st_atime_ns, state.st_mtime_ns))
    code, text = run("check", "mine", "held", "--data-dir", data)
    assert code == 2 and "held: 000.png: truncated or damaged" in text


def test_a_sheet_shows_one_split(folder_domain: MakeDomain, tmp_path: Path) -> None:
    folder_domain("mine", scribbles(20))
    sheet = tmp_path / "sheet.png"
    options = ("--data-dir", tmp_path / "data", "--split", "val", "-o", sheet)
    assert run("sheet", "mine", *options)[0] == 0
    height = Image.open(sheet).height
    assert run("sheet", "mine", "--data-dir", tmp_path / "data", "-o", sheet)[0] == 0
    assert Image.open(sheet).height > height


@pytest.fixture
def tables(conf: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(lic_da.data.sources.tables, "CONF", conf)
    return conf


def listed(folder: Path) -> list[dict[str, str]]:
    """Files of two domains, as rows of a table."""
    rows = []
    for domain, seed in (("lines_a", 1), ("lines_b", 2)):
        for number, pixels in enumerate(scribbles(5, side=64, seed=seed)):
            name = f"files/{domain}-{number}.png"
            (folder / "files").mkdir(parents=True, exist_ok=True)
            save_png(folder / name, pixels)
            rows.append(
                {"path": name, "domain": domain, "split": "test" if number < 2 else "train"}
            )
    return rows


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_of_paths_makes_several_domains(tables: Path, tmp_path: Path, kind: str) -> None:
    import pandas as pd

    rows = [*listed(tmp_path), {"path": "files/missing.png", "domain": "lines_a", "split": ""}]
    missing = tmp_path / "files" / "missing.png"
    save_png(missing, scribbles(1, side=64, seed=9)[0])
    table = tmp_path / f"all.{kind}"
    frame = pd.DataFrame(rows)
    frame.to_csv(table, index=False) if kind == "csv" else frame.to_parquet(table)
    code, text = run("add", table)
    assert code == 0 and "lines_b: 5 images" in text
    missing.unlink()
    images = prepare("lines_a", tmp_path / "data")
    assert {p.name: p.split for p in images.entries} == {
        r["path"]: r["split"] for r in rows if r["domain"] == "lines_a" and r["split"]
    }
    assert images.skipped == {"rows without a file": 1}
    with pytest.raises(UserError, match="There is a domain 'lines_a' already"):
        run("add", table)


def test_a_parquet_data_set_with_a_domain_column_makes_domains(
    tables: Path, tmp_path: Path
) -> None:
    import datasets

    images = {"lines_a": scribbles(6), "lines_b": scribbles(4, seed=3)}
    rows = [(Image.fromarray(p), name) for name, own in images.items() for p in own]
    table = datasets.Dataset.from_dict(
        {"image": [i for i, _ in rows], "domain": [d for _, d in rows]}
    )
    table.cast_column("image", datasets.Image()).to_parquet(str(tmp_path / "set.parquet"))
    assert run("add", tmp_path / "set.parquet")[0] == 0
    module = DomainsDataModule(
        ["lines_b"], source="lines_a", data_dir=tmp_path / "data", crop=64, num_workers=0
    )
    module.setup()
    assert [len(module.images[n].entries) for n in ("lines_a", "lines_b")] == [6, 4]
    batch = next(iter(module.train_dataloader()))
    assert batch["image"].shape[1:] == (3, 64, 64) and {*batch["label"].tolist()} == {0, 1}


def test_a_table_without_the_columns_is_refused_with_those_it_has(
    tables: Path, tmp_path: Path
) -> None:
    (tmp_path / "odd.csv").write_text("file,kind\na.png,b\n")
    with pytest.raises(UserError, match=r"needs a column 'domain'.*Columns: file, kind"):
        run("add", tmp_path / "odd.csv")
    (tmp_path / "odd.csv").write_text("path,domain\na.png,../up\n")
    with pytest.raises(UserError, match=r"'\.\./up' in .* cannot be a domain"):
        run("add", tmp_path / "odd.csv")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("a.png,all\n", "'all' in .* means something else"),
        ("a.png,Null\n", "'Null' in .* means something else"),
        ("a.png,foo\nb.png,foo\n,foo\nc.png,\n", "names 2 files that are not there, .* 'b.png'"),
        ("", "has no rows that name a domain"),
        ("a.png,\n", "has no rows that name a domain"),
    ],
)
def test_tables_that_make_no_domain_are_refused_in_words(
    tables: Path, tmp_path: Path, rows: str, said: str
) -> None:
    save_png(tmp_path / "a.png", scribbles(1, side=64)[0])
    (tmp_path / "odd.csv").write_text(f"path,domain\n{rows}")
    before = sorted((tables / "domain").iterdir())
    with pytest.raises(UserError, match=said):
        run("add", tmp_path / "odd.csv")
    assert sorted((tables / "domain").iterdir()) == before


def test_local_data_sets_of_every_kind_are_read_with_a_filter(tmp_path: Path) -> None:
    import datasets

    images = scribbles(6, side=48)
    for number, pixels in enumerate(images):
        (tmp_path / "folder" / f"class{number % 2}").mkdir(parents=True, exist_ok=True)
        save_png(tmp_path / "folder" / f"class{number % 2}" / f"{number}.png", pixels)
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for number, pixels in enumerate(images):
            save_png(tmp_path / "one.png", pixels)
            tar.add(tmp_path / "one.png", f"{number:03d}.png")
    table = datasets.load_dataset(str(tmp_path / "folder"), split="train")
    table.to_parquet(str(tmp_path / "set.parquet"))
    (tmp_path / "arrow").mkdir()
    table.save_to_disk(str(tmp_path / "saved"))
    (next((tmp_path / "saved").glob("*.arrow"))).rename(tmp_path / "arrow" / "part.arrow")
    expected = {p.tobytes() for p in images}
    halves = {p.tobytes() for p in images[1::2]}
    for name in ("folder", "shard.tar", "set.parquet", "arrow", "*.parquet"):
        found = HuggingFaceSource(name=str(tmp_path / name)).files(tmp_path / "store")
        assert {read_rgb(f.path).tobytes() for f in found} == expected, name
    for name in ("folder", "set.parquet", "arrow"):
        source = HuggingFaceSource(name=str(tmp_path / name), where={"label": "class1"})
        assert {read_rgb(f.path).tobytes() for f in source.files(tmp_path / "store")} == halves
    few = HuggingFaceSource(name=str(tmp_path / "folder"), count=2).files(tmp_path / "store")
    assert len(few) == 2
    with pytest.raises(UserError, match=r"has no label 'class7'\. There are class0, class1"):
        HuggingFaceSource(name=str(tmp_path / "folder"), where={"label": "class7"}).files(tmp_path)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_hub_name_without_network_fails_soon_and_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from lic_da.data.sources import HuggingFaceSource, SourceUnavailable\n"
        f"source = HuggingFaceSource(name='owner/name', streaming={streaming})\n"
        "try: source.files(Path(sys.argv[1]))\n"
        "except SourceUnavailable as error: print(error)\n"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        capture_output=True,
        text=True,
        timeout=15,
        env={**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9"},
    )
    assert time.monotonic() - start < 15
    assert done.stdout.startswith(
        "Hugging Face data set owner/name (train) cannot be loaded (the Hub cannot be reached"
    )
    assert done.stdout.count("\n") == 1
    assert issubclass(SourceUnavailable, UserError)


def test_attribution_names_licences_and_where_they_stand_in_full(
    conf: Path, tmp_path: Path
) -> None:
    package = tmp_path / "data" / "packages" / "debian-images" / "usr" / "share"
    (package / "doc" / "images").mkdir(parents=True)
    (package / "doc" / "images" / "copyright").write_text(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"
        "Source: https://example.org/images\n\nFiles: *\nCopyright: 2020, A. Nyone\n"
        "           2021, S. Omeone\nLicense: CC-BY-SA-4.0\n"
    )
    for number, pixels in enumerate(scribbles(5)):
        save_png(package / f"{number}.png", pixels)
    (conf / "domain" / "packed.yaml").write_text(
        "sources:\n  - {_target_: lic_da.data.sources.DebianSource, package: images}\n"
    )
    prepare("packed", tmp_path / "data")
    from lic_da.data.attribution import write_attribution

    text = write_attribution((tmp_path / "data").resolve()).read_text()
    assert "## Debian package images\n" in text and "images: 5 of packed" in text
    assert "licences: CC-BY-SA-4.0" in text and "by: 2020, A. Nyone; 2021, S. Omeone" in text
    assert "in full: packages/debian-images/usr/share/doc/images/copyright" in text
