"""``lic-da bulk``: every image once, whatever is killed in between, and nothing outside of OUT."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lic_da.errors import NotWritable, UserError
from lic_da.files.bulk import cluster, outputs, run
from lic_da.files.bulk.cluster import Cluster
from lic_da.files.bulk.names import safe_name, stems
from lic_da.files.bulk.outputs import FORMS
from lic_da.files.bulk.work import MOST_DEATHS, Done, Task
from lic_da.io.bitstream import Stream
from lic_da.io.images import read_rgb
from lic_da.io.lossless import save_png
from lic_da.methods import pack
from lic_da.methods.adapters.codec import AdaptedCodec
from tests.conftest import CODEC, DOMAINS, codec_config, disturb, scribbles
from tests.test_cli import call

ALONE = ("--codec", CODEC)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with 22 images in three folders, and two files that only look like images."""
    for number, pixels in enumerate(scribbles(22, 96)):
        save_png(tmp_path / "in" / ("", "a", "a/b")[number % 3] / f"{number:02d}.png", pixels)
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    (tmp_path / "in" / "a" / "cut.png").write_bytes((tmp_path / "in" / "00.png").read_bytes()[:500])
    (tmp_path / "in" / "notes.txt").write_text("not counted")
    return tmp_path / "in"


@pytest.fixture
def alone() -> AdaptedCodec:
    """The base codec without a pack."""
    return AdaptedCodec.build(codec_config(), ("natural",))


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts are done one after the other, without Ray."""

    def done(task: Task, parts: Sequence[int], where: Cluster) -> Iterator[Done]:
        return (task.do(number) for number in parts)

    monkeypatch.setattr(cluster, "done", done)


def bulk(*arguments: object) -> str:
    """Exit code and what was printed, as :func:`tests.test_cli.call`."""
    return call("bulk", *arguments)


def rows(out: Path, table: str = "index") -> list[dict]:
    return pq.read_table(out / f"{table}.parquet").to_pylist()


def members(out: Path) -> dict[str, bytes]:
    """Files in the tar shards of an output; each is there once."""
    found: dict[str, bytes] = {}
    for path in sorted((out / "shards").glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                assert member.name not in found
                content = archive.extractfile(member)
                assert content is not None
                found[member.name] = content.read()
    return found


def serial(images: Path, folder: Path) -> dict[str, bytes]:
    """Streams as ``lic-da compress`` writes them."""
    call("compress", images, folder, *ALONE)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.lic")}


def journals(out: Path) -> list[list[str]]:
    """Lines that the workers of a run that goes on have written, part by part."""
    return [
        path.read_text().splitlines()
        for path in (out / ".work").glob("*.log")
        if path.stem.isdigit()
    ]


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lic_da.cli", "bulk", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_until(process: subprocess.Popen[str], condition: Callable[[], object]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)


def test_nothing_is_lost_or_doubled_when_the_run_and_then_a_worker_are_killed(
    images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = (images, out, *ALONE, "--shard", 2, "--jobs", 2, "--object-store", 100)
    manifest = out / "manifest.jsonl"
    first = start(*arguments)
    wait_until(first, lambda: manifest.is_file() and manifest.read_bytes().count(b"\n") >= 2)
    first.kill()
    first.communicate()
    before = manifest.read_bytes().count(b"\n")

    second = start(*arguments)
    runs = {line.split()[1] for lines in journals(out) for line in lines if "start" in line}

    def workers() -> list[int]:
        return [
            int(line.split()[2])
            for lines in journals(out)
            for line in lines
            if line.startswith("start") and line.split()[1] not in runs
        ]

    wait_until(second, workers)
    os.kill(workers()[0], signal.SIGKILL)
    said = second.communicate()[0]

    assert second.returncode == 2, said  # two of the images are none
    assert f"Going on: {before} of 12 parts are done" in said
    assert "Compressed 22 of 24 images" in said and "2 failed, see errors.parquet" in said
    expected = serial(images, tmp_path / "serial")
    assert members(out) == expected
    assert {row["name"] for row in rows(out)} == {p.removesuffix("lic") + "png" for p in expected}
    assert len(rows(out)) == 22
    errors = {row["name"]: row["error"] for row in rows(out, "errors")}
    assert errors == {"bad.png": "not an image", "a/cut.png": "truncated or damaged"}
    assert sorted(p.name for p in out.iterdir() if p.name.startswith(".")) == []


def test_the_index_says_what_the_streams_are(
    images: Path, tmp_path: Path, adapted: AdaptedCodec, in_this_process: None
) -> None:
    pack.save(disturb(adapted), tmp_path / "pack", {})
    out = tmp_path / "out"
    assert bulk(images, out, "--pack", tmp_path / "pack", "--to", "parquet").startswith("2")
    (shard,) = (out / "shards").iterdir()
    streams = {row["name"]: row["lic"] for row in pq.read_table(shard).to_pylist()}
    assert len(streams) == 22
    for row in rows(out):
        data = streams[row["file"]]
        stream = Stream.from_bytes(data)
        assert data == adapted.compress(read_rgb(images / row["name"]))
        assert (row["width"], row["height"], row["bytes"]) == (
            stream.width,
            stream.height,
            len(data),
        )
        assert row["bpp"] == stream.bpp
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
        gate = list(adapted.gate_weights(stream).values())
        assert row["v"] == np.array(gate, np.float32).tolist()
        assert row["shard"] == f"shards/{shard.name}"
    told = pq.read_schema(out / "index.parquet").metadata
    assert json.loads(told[b"domains"]) == list(DOMAINS)


@pytest.mark.parametrize("form", ["tar", "parquet", "files"])
def test_back_from_every_form_come_the_images_that_decompress_gives(
    form: str, images: Path, tmp_path: Path, alone: AdaptedCodec, in_this_process: None
) -> None:
    bulk(images, tmp_path / "lic", *ALONE, "--to", form, "--shard", 5)
    said = bulk(tmp_path / "lic", tmp_path / "back", *ALONE, "--to", "files", "--shard", 9)
    assert said.startswith("0") and "Decompressed 22 of 22 images" in said
    back = tmp_path / "back" / "files"
    names = {p.relative_to(images) for p in images.rglob("??.png")}
    assert {p.relative_to(back) for p in back.rglob("*") if p.is_file()} == names
    for name in names:
        expected = alone.decompress(alone.compress(read_rgb(images / name)))
        assert np.array_equal(read_rgb(back / name), expected), name


def test_images_come_from_tars_tables_and_saved_data_sets_alike(
    images: Path, tmp_path: Path, alone: AdaptedCodec, in_this_process: None
) -> None:
    paths = sorted(p for p in images.rglob("??.png"))
    (tmp_path / "tars").mkdir()
    for number in range(2):
        with tarfile.open(tmp_path / "tars" / f"{number}.tar", "w") as archive:
            for path in paths[number::2]:
                archive.add(path, path.relative_to(images).as_posix())
            archive.add(images / "notes.txt", "notes.txt")
    files = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    pq.write_table(pa.table({"image": files}), tmp_path / "table.parquet", row_group_size=5)
    features = datasets.Features({"picture": datasets.Image()})
    saved = datasets.Dataset.from_dict({"picture": [str(p) for p in paths]}, features=features)
    saved.save_to_disk(str(tmp_path / "saved"))
    expected = sorted(hashlib.sha256(alone.compress(read_rgb(p))).hexdigest() for p in paths)
    for source in ("tars", "tars/*.tar", "table.parquet", "saved"):
        out = tmp_path / "out" / source.replace("/*", "")
        said = bulk(tmp_path / source, out, *ALONE, "--shard", 4)
        assert said.startswith("0") and "Compressed 22 of 22 images" in said, said
        assert sorted(row["sha256"] for row in rows(out)) == expected
    assert {n.split("/")[0] for n in members(tmp_path / "out" / "tars")} == {"0", "1"}


def test_names_of_others_stay_inside_of_the_output(tmp_path: Path, in_this_process: None) -> None:
    names = ["../../up.png", "/root.png", "a/../../b.png", "C:\\x\\y.png", "..", "", "x\n.png"]
    png = io.BytesIO()
    Image.fromarray(scribbles(1, 64)[0]).save(png, format="PNG")
    table = pa.table({"name": names, "image": [png.getvalue()] * len(names)})
    inside = tmp_path / "deep" / "down"
    inside.mkdir(parents=True)
    pq.write_table(table, tmp_path / "t.parquet")
    said = bulk(tmp_path / "t.parquet", inside / "out", *ALONE, "--to", "files")
    assert said.startswith("0")
    assert len(list((inside / "out" / "files").rglob("*.lic"))) == len(names)
    assert {p.name for p in tmp_path.rglob("*.lic")} == {
        p.name for p in (inside / "out" / "files").rglob("*.lic")
    }

    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        for name in ("../up.png", "../up.png", "/etc/up.png"):
            member = tarfile.TarInfo(name)
            member.size = len(png.getvalue())
            archive.addfile(member, io.BytesIO(png.getvalue()))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    said = bulk(tmp_path / "evil.tar", inside / "tar", *ALONE)
    assert "Compressed 3 of 3 images" in said
    assert all(not n.startswith("/") and ".." not in n.split("/") for n in members(inside / "tar"))


def test_a_path_in_a_table_is_not_opened(
    images: Path, tmp_path: Path, in_this_process: None
) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    files = pa.array([{"bytes": None, "path": str(images / "00.png")}], kind)
    pq.write_table(pa.table({"image": files}), tmp_path / "t.parquet")
    assert bulk(tmp_path / "t.parquet", tmp_path / "out", *ALONE).startswith("2")
    assert [row["error"] for row in rows(tmp_path / "out", "errors")] == ["the row has no image"]


def test_a_data_set_gives_its_own_files_and_no_others(
    images: Path, tmp_path: Path, in_this_process: None
) -> None:
    saved, own = tmp_path / "set" / "saved", tmp_path / "set" / "saved" / "own.png"
    made = datasets.Dataset.from_dict({"image": [str(images / "00.png")] * 2})
    made.cast_column("image", datasets.Image()).save_to_disk(saved)
    shutil.copy(images / "00.png", own)
    (file,) = saved.glob("*.arrow")  # rewritten with paths instead of contents
    with pa.ipc.open_stream(file) as stream:
        schema = stream.schema
    paths = [{"bytes": None, "path": str(path)} for path in (own, images / "00.png")]
    with pa.ipc.new_stream(file, schema) as writer:
        writer.write_table(pa.table([paths], schema))
    assert bulk(saved, tmp_path / "out", *ALONE).startswith("2")
    assert len(rows(tmp_path / "out")) == 1
    assert [row["error"] for row in rows(tmp_path / "out", "errors")] == ["the row has no image"]


def test_a_table_may_end_with_a_file_that_fills_a_group(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    with FORMS["parquet"](tmp_path, "0") as write:
        write("a.png", b"x" * (17 << 20))
    assert pq.read_table(tmp_path / "shards" / "0.parquet")["name"].to_pylist() == ["a.png"]


@pytest.mark.parametrize(
    "name", ["a/b.png", "ä/ö.jpg", ".hidden.png", "a" * 300, "x/" * 90 + "y", "\0/|"]
)
def test_a_safe_name_is_relative_and_fits_file_systems(name: str) -> None:
    safe = safe_name(name)
    assert safe and not safe.startswith("/") and safe == safe_name(safe)
    for part in safe.split("/"):
        assert part not in ("", ".", "..") and not part.startswith(".") and len(part.encode()) < 220


def test_no_two_stems_are_alike() -> None:
    names = ["a.png", "A.PNG", "a.jpg", "a.png", "b.webp", "b", "c/d.png", "a.png~3", "../c/d.png"]
    found = stems(names)
    assert len({stem.casefold() for stem in found}) == len(names)
    assert stems(["x/a.png", "x/b.JPG", "v1.2"]) == ["x/a", "x/b", "v1.2"]


def test_an_image_that_kills_its_worker_again_and_again_is_an_error(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journals of workers that died, as they are found by those that come after them."""

    def done(task: Task, parts: Sequence[int], where: Cluster) -> Iterator[Done]:
        log = task.folder / ".work" / "000000.log"
        log.parent.mkdir()
        deaths = [f"start {task.run} 1", "0", "-", "1"]  # while the second item was worked on
        log.write_text("\n".join([f"start {task.run} 1", "2", *deaths * MOST_DEATHS, ""]))
        return (task.do(number) for number in parts)

    monkeypatch.setattr(cluster, "done", done)
    said = bulk(images, tmp_path / "out", *ALONE, "--shard", 100)
    assert "Compressed 21 of 24 images" in said
    errors = {row["name"]: row["error"] for row in rows(tmp_path / "out", "errors")}
    assert errors["03.png"] == "the process that worked on it died, probably for want of memory"


def test_another_command_does_not_go_on_with_an_output(
    images: Path, tmp_path: Path, in_this_process: None
) -> None:
    out = tmp_path / "out"
    bulk(images, out, *ALONE)
    shard = (out / "shards" / "000000.tar").read_bytes()
    with pytest.raises(UserError, match=r"begun with shard 256.*; now it is shard 7"):
        bulk(images, out, *ALONE, "--shard", 7)
    with pytest.raises(UserError, match="begun with coder"):
        bulk(images, out, *ALONE, "--quality", 1)
    kept = (images / "00.png").read_bytes()
    for change in (
        (images / "00.png").unlink,
        lambda: (images / "00.png").write_bytes(kept[::-1]),  # of the same size
    ):
        change()
        with pytest.raises(
            UserError, match=r"changed since .* begun with 24 items: 00\.png \(now 2"
        ):
            bulk(images, out, *ALONE)
    assert (out / "shards" / "000000.tar").read_bytes() == shard
    with pytest.raises(UserError, match="holds other files"):
        bulk(images, tmp_path, *ALONE)


def test_an_output_is_not_gone_on_with_from_another_table_or_by_other_weights(
    images: Path, tmp_path: Path, in_this_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, table = tmp_path / "out", tmp_path / "in.parquet"

    def write(*names: str) -> None:
        data = [(images / name).read_bytes() for name in names]
        columns = pa.table({"name": ["a", "b"], "image": data})
        pq.write_table(columns, table, compression="none")

    write("00.png", "03.png")
    size = table.stat().st_size
    bulk(table, out, *ALONE)
    bulk(table, out, *ALONE)
    for names in (("00.png", "06.png"), ("03.png", "00.png")):
        write(*names)
        with pytest.raises(UserError, match=r"changed since .* begun with 2 items \(now 2"):
            bulk(table, out, *ALONE)
    assert table.stat().st_size == size  # the order alone is another one
    write("00.png", "03.png")
    other = AdaptedCodec.build(codec_config(4), ("natural",))  # as if it were that of today
    monkeypatch.setattr(run, "alone", lambda *_: other)
    with pytest.raises(UserError, match=r"begun with coder .*weights.*now it is .*weights"):
        bulk(table, out, *ALONE)


def test_a_shard_that_was_lost_is_made_again(
    images: Path, tmp_path: Path, in_this_process: None
) -> None:
    out = tmp_path / "out"
    bulk(images, out, *ALONE, "--shard", 8)
    before = members(out)
    (out / "shards" / "000001.tar").unlink()
    said = bulk(images, out, *ALONE, "--shard", 8)
    assert "Going on: 2 of 3 parts are done" in said and members(out) == before


def test_single_files_that_were_lost_are_made_again(
    images: Path, tmp_path: Path, in_this_process: None
) -> None:
    out = tmp_path / "out"
    bulk(images, out, *ALONE, "--shard", 8, "--to", "files")
    before = {path: path.read_bytes() for path in (out / "files").rglob("*.lic")}
    lost, *_, cut = sorted(before)
    lost.unlink()
    cut.write_bytes(before[cut][:10])
    said = bulk(images, out, *ALONE, "--shard", 8, "--to", "files")
    assert "Going on: 1 of 3 parts are done" in said
    assert {path: path.read_bytes() for path in (out / "files").rglob("*.lic")} == before


def test_only_one_process_works_at_an_output(
    images: Path, tmp_path: Path, in_this_process: None
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with open(out / run.LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"Another bulk works at .*out: wait for it"):
            bulk(images, out, *ALONE)
    assert "Compressed 22 of 24" in bulk(images, out, *ALONE)
    assert not (out / run.LOCK).exists()


def test_a_folder_that_cannot_be_written_is_no_fault_of_the_images(
    images: Path, tmp_path: Path, in_this_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> AbstractContextManager[Path]:
        raise NotWritable(f"{path} cannot be written (Permission denied).")

    monkeypatch.setattr(outputs, "atomic_path", refuse)
    with pytest.raises(UserError, match=r"Permission denied.*The same command goes on"):
        bulk(images, tmp_path / "out", *ALONE, "--to", "files")


def test_its_help_names_the_extra_that_it_needs() -> None:
    assert "pip install 'lic-da[bulk]'" in " ".join(call("bulk", "--help").split())


def test_what_cannot_be_done_is_said_before_anything_is_written(
    images: Path, tmp_path: Path, in_this_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(images / "00.png", tmp_path / "one.png")
    (tmp_path / "mixed").mkdir()
    shutil.copy(images / "00.png", tmp_path / "mixed" / "a.png")
    tarfile.open(tmp_path / "mixed" / "b.tar", "w").close()
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.tar").write_bytes(b"no tar" * 200)
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    for source, options, message in (
        ("mixed", (), "is a mixture"),
        ("empty", (), "There are no images or streams"),
        ("bad.tar", (), "cannot be read as a tar file"),
        ("x.parquet", (), "Say --column"),
        ("one.png", ("--to", "zip"), "Unknown form of output 'zip'"),
        ("one.png", ("--object-store", 10), "takes 80 MB or more"),
        ("one.png", ("--decode",), "There are no streams"),
        ("one.png", ("--pack", "p"), "either --pack or --codec"),
        ("one.png", ("--domain", "natural"), "alone has no adapters for --domain"),
        ("in/00.png", ("--mode", "weighted"), "is for decompress"),
        (".", (), "out lies in .* and would be taken for a part of it"),
    ):
        with pytest.raises(UserError, match=message):
            bulk(tmp_path / source, tmp_path / "out", *ALONE, *options)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'lic-da\[bulk\]'"):
        bulk(tmp_path / "one.png", tmp_path / "out", *ALONE)
    assert not (tmp_path / "out").exists()
