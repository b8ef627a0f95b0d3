"""Packs that travel: ``lic-da push`` and ``pull``, to folders and to a stand-in of the Hub."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import yaml
from huggingface_hub import constants

from lic_da.errors import UserError
from lic_da.io.images import RGB, read_rgb
from lic_da.io.lossless import save_png
from lic_da.methods import pack
from lic_da.methods.adapters.codec import AdaptedCodec
from lic_da.travel.folder import Folder
from lic_da.travel.hub import Hub
from lic_da.travel.places import place_of
from tests.conftest import CODEC, DOMAINS, codec_config, disturb, scribbles
from tests.hub_stand_in import TOKEN, Repository, StandIn, stand_in
from tests.test_cli import call
from tests.test_files_of_others import OLD
from tests.test_start import TORCH, imported

METRICS = {
    "run": "run",
    "metrics": [
        {"name": "psnr", "title": "PSNR", "unit": "dB", "digits": 2},
        {"name": "ms_ssim", "title": "MS-SSIM", "unit": "", "digits": 4},
    ],
    "domains": {
        "sketch": {
            "images": 38,
            "seen": True,
            "bpp": 0.3512,
            "psnr": {"weighted": 34.031, "base": 30.424},
            "ms_ssim": {"weighted": float("nan"), "base": float("nan")},
        },
        "clip|art": {"images": 26, "seen": False, "bpp": 0.276, "psnr": {"base": 30.124}},
    },
}
FILES = ("adapters.safetensors", "config.yaml", "metrics.json")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack, an image and its stream, and in ``pushed`` the pack as it was pushed to a folder."""
    folder = tmp_path_factory.mktemp("made")
    pack.save(disturb(AdaptedCodec.build(codec_config(), DOMAINS)), folder / "pack", METRICS)
    save_png(folder / "a.png", scribbles(1, 96)[0])
    call("compress", folder / "a.png", folder / "a.lic", "--pack", folder / "pack")
    call("push", folder / "pack", folder / "pushed")
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that; the working directory is there."""
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """The stand-in, whose owner is logged in; the Hub's client asks it."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()
    with stand_in() as running:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, running.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        yield running
    huggingface_hub.close_session()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def manifest_of(files: dict[str, bytes]) -> dict[str, Any]:
    return {
        "format": 1,
        "files": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in files.items()
        },
    }


def on_the_hub(hub: StandIn, folder: Path, name: str = "me/pack") -> Repository:
    """A repository that holds what was pushed to a folder."""
    hub.repositories[name] = Repository(contents(folder), messages=["one"])
    return hub.repositories[name]


def decoded(stream: Path, folder: Path) -> RGB:
    assert call("decompress", stream, "d.png", "--pack", folder, "--overwrite").startswith("0")
    return read_rgb("d.png")


@pytest.mark.parametrize("where", ["shared/mine/", "hf://me/pack"])
def test_a_pack_arrives_as_it_left_byte_for_byte_and_decodes_the_same(
    where: str, here: Path, hub: StandIn
) -> None:
    out = call("push", "pack", where)
    assert out.startswith("0") and "Pushed pack to" in out and "3 files" in out
    out = call("pull", where, "pulled")
    assert out.startswith("0") and "3 files" in out and "hashes compared" in out
    assert set(contents(here / "pulled")) == {*FILES, "hashes.json"}
    for name in FILES:
        assert (here / "pulled" / name).read_bytes() == (here / "pack" / name).read_bytes()
    expected = decoded(here / "a.lic", here / "pack")
    assert np.array_equal(decoded(here / "a.lic", here / "pulled"), expected)
    assert not np.array_equal(expected, decoded_by_base(here / "a.lic"))
    umask = os.umask(0)
    os.umask(umask)
    assert (here / "pulled").stat().st_mode & 0o777 == 0o777 & ~umask
    assert (here / "pulled" / "config.yaml").stat().st_mode & 0o777 == 0o666 & ~umask


def decoded_by_base(stream: Path) -> RGB:
    call("decompress", stream, "base.png", "--mode", "base")
    return read_rgb("base.png")


def test_a_pushed_folder_is_a_pack_and_a_pulled_one_can_be_pushed_again(here: Path) -> None:
    assert set(contents(here / "pushed")) == {*FILES, "hashes.json", "README.md"}
    expected = decoded(here / "a.lic", here / "pack")
    assert np.array_equal(decoded(here / "a.lic", here / "pushed"), expected)
    call("pull", "pushed", "pulled")
    call("push", "pulled", "./again")
    assert contents(here / "again") == contents(here / "pushed")


def test_only_the_packs_own_files_are_sent(here: Path, hub: StandIn) -> None:
    (here / "pack" / "token.json").write_text("secret")
    (here / "pack" / "README.md").write_text("my notes")
    (here / "pack" / "sub").mkdir()
    call("push", "pack", "me/pack")
    repository = hub.repositories["me/pack"]
    assert repository.files.keys() == {*FILES, "hashes.json", "README.md", ".gitattributes"}
    assert repository.files["README.md"] == (here / "pushed" / "README.md").read_bytes().replace(
        b"pull FOLDER", b"pull me/pack"
    )
    assert not any(b"secret" in content for content in repository.files.values())
    assert (here / "pack" / "README.md").read_text() == "my notes"
    assert (here / "pack" / "adapters.safetensors").read_bytes() in hub.large.values()


@pytest.mark.parametrize("name", ["adapters", "cawf", "extended"])
def test_packs_of_older_formats_and_other_methods_travel(name: str, here: Path) -> None:
    call("push", OLD / name, "./old")
    call("pull", "old", "pulled")
    stream = OLD / name / f"{name}.lic"
    assert np.array_equal(decoded(stream, here / "pulled"), decoded(stream, OLD / name))
    card = (here / "old" / "README.md").read_text()
    assert ("Streams are this pack's own" in card) == (name == "cawf")
    assert "Measured" not in card  # nothing was


# --- the card -------------------------------------------------------------------------------------------


def test_the_card_tells_what_the_pack_is_and_what_was_measured(here: Path) -> None:
    text = (here / "pushed" / "README.md").read_text()
    card = huggingface_hub.ModelCard(text)
    assert card.data.library_name == "lic_da" and "image-compression" in card.data.tags
    assert card.data.license is None
    config = yaml.safe_load((here / "pack" / "config.yaml").read_text())
    for told in (CODEC, "| quality | 3 |", "natural, sketch, comic", config["base_fingerprint"]):
        assert told in text
    assert "| domain | images | bpp | PSNR, base (dB) | PSNR, weighted (dB) |" in text  # no MS-SSIM
    assert "| sketch | 38 | 0.351 | 30.42 | 34.03 |" in text
    assert "| clip_art * | 26 | 0.276 | 30.12 | – |" in text
    assert "lic-da pull FOLDER pack/" in text and "decompress image.lic decoded.png --pack" in text
    call("push", "pack", "./licensed", "--license", "cc-by-4.0")
    licensed = huggingface_hub.ModelCard((here / "licensed" / "README.md").read_text())
    assert licensed.data.license == "cc-by-4.0"


def test_the_card_of_a_pack_for_all_rates_has_a_table_for_each(here: Path) -> None:
    from lic_da.travel.card import card

    config = pack.read_config(here / "pack")
    object.__setattr__(config, "base_fingerprints", {2: "22", 3: "33"})
    rates = {str(q): {**METRICS, "quality": q} for q in (2, 3)}
    text = card(config, {**METRICS, "rates": rates}, "me/pack", None)
    assert "| qualities | 2, 3 |" in text and "| base weights, quality 2 | `22` |" in text
    assert text.count("| sketch | 38 |") == 2 and "Quality 2:" in text and "Quality 3:" in text


@pytest.mark.parametrize(
    "metrics", [[], {"domains": 3}, {"metrics": [3], "domains": {"a": 1}}, {"rates": {"1": None}}]
)
def test_metrics_that_are_not_understood_are_left_out_of_the_card(metrics: Any, here: Path) -> None:
    (here / "pack" / "metrics.json").write_text(json.dumps(metrics))
    assert call("push", "pack", "./odd").startswith("0")
    assert "Measured" not in (here / "odd" / "README.md").read_text()


def test_paths_of_this_machine_in_a_pack_are_told_of(here: Path) -> None:
    metrics = {**METRICS, "pile": {"asked": {"folder": "/home/somebody/pile"}}}
    (here / "pack" / "metrics.json").write_text(json.dumps(metrics))
    out = call("push", "pack", "./told")
    assert "note: the pack names paths of this machine" in out and "/home/somebody/pile" in out
    assert "note:" not in call("push", "pushed", "./silent")


# --- before anything is sent ----------------------------------------------------------------------------


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda p: flip(p / "adapters.safetensors"), "are not those that config.yaml names"),
        (lambda p: (p / "adapters.safetensors").write_bytes(b"x" * 99), "adapters.safetensors"),
        (lambda p: (p / "adapters.safetensors").unlink(), "has no adapters.safetensors"),
        (lambda p: (p / "config.yaml").unlink(), "has no config.yaml"),
        (lambda p: (p / "metrics.json").write_text("{"), "metrics.json cannot be read"),
        (lambda p: shutil.rmtree(p), "There is no folder"),
    ],
)
def test_a_pack_that_does_not_open_is_not_sent(
    spoil: Callable[[Path], None], words: str, here: Path, hub: StandIn
) -> None:
    spoil(here / "pack")
    for where in ("./new", "me/pack"):
        with pytest.raises(UserError, match=words):
            call("push", "pack", where)
    assert not (here / "new").exists() and not hub.requests


def test_a_class_of_another_package_travels_and_needs_trust_where_it_is_opened(here: Path) -> None:
    settings = yaml.safe_load((here / "pushed" / "config.yaml").read_text())
    settings["how"]["adapter"] = {"_target_": "somebody.Adapter"}
    files = {n: (here / "pushed" / n).read_bytes() for n in FILES}
    files["config.yaml"] = yaml.safe_dump(settings).encode()
    (here / "pushed" / "config.yaml").write_bytes(files["config.yaml"])
    (here / "pushed" / "hashes.json").write_text(json.dumps(manifest_of(files)))
    assert call("pull", "pushed", "pulled").startswith("0")
    with pytest.raises(UserError, match="--trust somebody"):
        call("decompress", "a.lic", "x.png", "--pack", "pulled")
    with pytest.raises(UserError, match="--trust somebody"):
        call("push", "pulled", "./again")


# --- what is there already ------------------------------------------------------------------------------


def test_what_is_there_is_kept_unless_told_and_other_files_always(here: Path) -> None:
    for folder in ("pushed", "there"):
        (here / folder).mkdir(exist_ok=True)
        (here / folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="there exists; --overwrite"):
        call("pull", "pushed", "there")
    with pytest.raises(UserError, match=r"pushed has README\.md, adapters.* already; --overwrite"):
        call("push", "pack", "pushed")
    assert set(contents(here / "there")) == {"notes.txt"}
    assert call("pull", "pushed", "there", "--overwrite").startswith("0")
    assert call("push", "pack", "pushed", "--overwrite").startswith("0")
    for folder in ("pushed", "there"):
        assert (here / folder / "notes.txt").read_text() == "mine"
        assert (here / folder / "config.yaml").read_bytes() == (
            here / "pack/config.yaml"
        ).read_bytes()
        assert not [p for p in (here / folder).iterdir() if p.is_dir()]


def test_another_pack_leaves_nothing_of_the_earlier_one_but_what_the_user_changed(
    here: Path,
) -> None:
    call("pull", "pushed", "there")
    (here / "there" / "metrics.json").write_text("my own")
    call("push", OLD / "cawf", "./cawf")
    call("pull", "cawf", "there", "--overwrite")
    assert set(contents(here / "there")) == {
        *("config.yaml", "weights.safetensors", "hashes.json", "metrics.json")
    }
    assert (here / "there" / "metrics.json").read_text() == "my own"


def test_a_folder_in_the_place_of_a_file_is_told_before_anything_is_replaced(here: Path) -> None:
    (here / "there" / "config.yaml").mkdir(parents=True)
    (here / "file").write_text("mine")
    for command in (("pull", "pushed"), ("push", "pack")):
        with pytest.raises(UserError, match=r"config\.yaml is a folder, where a file"):
            call(*command, "there", "--overwrite")
        with pytest.raises(UserError, match="file is a file, not a folder"):
            call(*command, "file", "--overwrite")
    assert [p.name for p in (here / "there").iterdir()] == ["config.yaml"]


# --- what arrives damaged, incomplete or made to do harm ------------------------------------------------


def renamed(name: str) -> Callable[[Path], None]:
    """Let the manifest name one more file."""

    def spoil(folder: Path) -> None:
        content = json.loads((folder / "hashes.json").read_text())
        content["files"][name] = {"bytes": 3, "sha256": hashlib.sha256(b"new").hexdigest()}
        (folder / "hashes.json").write_text(json.dumps(content))

    return spoil


def rewritten(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Change what the manifest says."""

    def spoil(folder: Path) -> None:
        content = json.loads((folder / "hashes.json").read_text())
        change(content)
        (folder / "hashes.json").write_text(json.dumps(content))

    return spoil


def with_config(text: str) -> Callable[[Path], None]:
    """Replace ``config.yaml``, and its hash."""

    def spoil(folder: Path) -> None:
        (folder / "config.yaml").write_text(text)
        content = manifest_of({"config.yaml": text.encode()})["files"]
        rewritten(lambda m: m["files"].update(content))(folder)

    return spoil


def entry(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda m: m["files"]["metrics.json"].update(changes)


OUTSIDE = (
    *("../x.json", "/tmp/x.json", "a/b.json", ".x.json", "..json", "x..json", "a\\b.json"),
    *("x\n.json", f"{'x' * 200}.json", ""),
)
OTHER_KINDS = ("a.py", "a.pt", "a.json.exe", "README.md", "json")

SPOILED: list[tuple[Callable[[Path], Any], str]] = [
    (lambda p: flip(p / "adapters.safetensors"), "adapters.safetensors of .* has not the hash"),
    (lambda p: flip(p / "metrics.json"), "metrics.json of .* has not the hash"),
    (lambda p: (p / "metrics.json").write_text("{}"), "metrics.json of .* has 2 bytes, and"),
    (lambda p: (p / "adapters.safetensors").unlink(), "there is no adapters.safetensors"),
    (lambda p: (p / "hashes.json").unlink(), "no pack that lic-da push wrote"),
    (lambda p: (p / "hashes.json").write_text("{"), "hashes.json of .* is damaged"),
    (lambda p: (p / "hashes.json").write_text("[" * 9999), "hashes.json of .* is damaged"),
    (lambda p: (p / "hashes.json").write_text("[1]"), "hashes.json of .* is damaged"),
    (lambda p: (p / "hashes.json").write_text(" " * 70_000), "has 70000 bytes, and 65536 is the"),
    (rewritten(lambda m: m.update(format=2)), "has format 2, .* install a newer"),
    (rewritten(lambda m: m.update(format=True)), "hashes.json of .* is damaged"),
    (rewritten(lambda m: m.update(files=[1])), "hashes.json of .* is damaged"),
    (rewritten(lambda m: m["files"].clear()), "does not name a config.yaml"),
    (rewritten(lambda m: m["files"].pop("config.yaml")), "does not name a config.yaml"),
    (rewritten(entry(bytes=-1)), "hashes.json of .* is damaged"),
    (rewritten(entry(bytes=1e300)), "hashes.json of .* is damaged"),
    (rewritten(entry(sha256="0")), "hashes.json of .* is damaged"),
    (rewritten(entry(bytes=1 << 60)), "metrics.json of .* bytes, and hashes.json says"),
    (
        rewritten(lambda m: m["files"].update({f"{i}.json": m["files"]["config.yaml"] for i in range(99)})),
        "names 102 files, and packs have 64 at most",
    ),
    *((renamed(name), "lie in its folder itself") for name in OUTSIDE),
    *((renamed(name), "a pack has .safetensors, .yaml, .json files only") for name in OTHER_KINDS),
    (renamed("hashes.json"), "files only"),
    (with_config("format: 99"), "it has format 99"),
    (with_config("a: &a [1]\nb: *a"), "is no pack's, or damaged"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "words"), SPOILED)
def test_what_is_damaged_or_made_to_do_harm_is_refused_and_leaves_nothing(
    spoil: Callable[[Path], Any], words: str, here: Path, hub: StandIn
) -> None:
    spoil(here / "pushed")
    on_the_hub(hub, here / "pushed")
    before = contents(here.parent)
    for where in ("pushed", "me/pack"):
        with pytest.raises(UserError, match=words) as refused:
            call("pull", where, "new/deep/pulled")
        assert "\n" not in str(refused.value)
        (here / "there").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=words):
            call("pull", where, "there", "--overwrite")
        assert not [*(here / "there").iterdir()]
    assert contents(here.parent) == before
    assert not (here / "new").exists()


def test_a_hub_that_serves_other_files_than_it_lists_is_not_believed(
    here: Path, hub: StandIn
) -> None:
    on_the_hub(hub, here / "pushed")
    for name in FILES:
        listed = (here / "pushed" / name).read_bytes()
        for served in (listed[:-1] + b"?", listed + b"?", listed[:-1]):
            hub.served = {name: served}
            with pytest.raises(UserError, match=f"{name}|size"):
                call("pull", "me/pack", "pulled")
    assert not (here / "pulled").exists() and not [*here.glob(".*")]


def test_a_download_that_breaks_off_leaves_nothing(
    here: Path, hub: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    on_the_hub(hub, here / "pushed")
    hub.cut = {"adapters.safetensors"}
    with pytest.raises(UserError, match=r"the Hub cannot be reached|client says"):
        call("pull", "me/pack", "pulled")
    assert not (here / "pulled").exists() and not [*here.glob(".*")]
    hub.cut.clear()
    assert call("pull", "me/pack", "pulled").startswith("0")


def test_a_full_disk_is_told_in_a_sentence(
    here: Path, hub: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_the_hub(hub, here / "pushed")

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("Error while downloading") from OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(huggingface_hub.HfApi, "hf_hub_download", full)
        with pytest.raises(UserError, match=r"There is no room for the files of me/pack"):
            call("pull", "me/pack", "pulled")
    usage = shutil.disk_usage(here)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"The pack has .* MB, and there is room for 0\.0 MB"):
        call("pull", "pushed", "pulled")
    assert not (here / "pulled").exists() and not [*here.glob(".*")]


# --- the Hub --------------------------------------------------------------------------------------------


def test_all_files_reach_the_hub_in_one_commit(here: Path, hub: StandIn) -> None:
    out = call("push", "pack", "me/pack", "--private", "--message", "Sketches and comics")
    assert f"{hub.url}/me/pack (commit " in out
    repository = hub.repositories["me/pack"]
    assert repository.private and repository.messages == ["initial commit", "Sketches and comics"]
    call("push", "pack", "me/other")
    assert not hub.repositories["me/other"].private


def test_a_repository_keeps_its_other_files_and_its_own_card_unless_told(
    here: Path, hub: StandIn
) -> None:
    hub.repositories["me/pack"] = Repository(
        {"README.md": b"mine", "x.txt": b"too"}, messages=["1"]
    )
    with pytest.raises(UserError, match=r"me/pack has README\.md already; --overwrite replaces it"):
        call("push", "pack", "me/pack")
    assert hub.repositories["me/pack"].files["README.md"] == b"mine"
    assert call("push", "pack", "me/pack", "--overwrite").startswith("0")
    files = hub.repositories["me/pack"].files
    assert files["x.txt"] == b"too" and b"library_name" in files["README.md"]
    assert files["config.yaml"] == (here / "pack" / "config.yaml").read_bytes()
    with pytest.raises(UserError, match="me/pack is there already, and everybody sees it"):
        call("push", "pack", "me/pack", "--overwrite", "--private")


def test_a_revision_is_pulled_and_one_that_is_not_there_is_told(here: Path, hub: StandIn) -> None:
    commit = on_the_hub(hub, here / "pushed").commit
    for arguments in ((f"me/pack@{commit}",), ("me/pack", "--revision", commit)):
        assert call("pull", *arguments, "pulled", "--overwrite").startswith("0")
    assert {r.split("/")[4] for r in hub.requests if "/resolve/" in r} == {commit}
    with pytest.raises(UserError, match="me/pack has no revision v9"):
        call("pull", "me/pack@v9", "other")
    with pytest.raises(UserError, match="pushed to the main branch: leave out @v9"):
        hub.repositories.clear()
        call("push", "pack", "me/pack@v9")


def test_who_may_not_is_told_why(here: Path, hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="There is no me/pack on the Hub, or it is private"):
        call("pull", "me/pack", "pulled")
    with monkeypatch.context() as patched:
        patched.delenv("HF_TOKEN")
        with pytest.raises(UserError, match="log in with 'hf auth login', or set HF_TOKEN"):
            call("push", "pack", "me/pack")
        on_the_hub(hub, here / "pushed", "me/secret").private = True
        with pytest.raises(UserError, match="There is no me/secret on the Hub, or it is private"):
            call("pull", "me/secret", "pulled")
    with monkeypatch.context() as patched:
        patched.setenv("HF_TOKEN", "hf_wrong")
        with pytest.raises(UserError, match="The Hub does not accept your token for me/pack"):
            call("push", "pack", "me/pack")
    hub.refused = {("POST", "/repos/create"): 403}
    with pytest.raises(UserError, match="Your token may not do this with other/pack"):
        call("push", "pack", "other/pack")
    hub.refused = {("POST", "/commit/"): 412}
    with pytest.raises(UserError, match="me/pack has changed while it was pushed to"):
        call("push", "pack", "me/pack")
    hub.refused = {("GET", "/api/models/"): 503}
    with pytest.raises(UserError, match=r"me/pack: the Hub's client says: .*503"):
        call("pull", "me/pack", "pulled")
    hub.refused = {}
    with pytest.raises(UserError, match=r"me/a--b: the Hub's client says: .*a--b"):
        call("pull", "me/a--b", "pulled")
    assert not (here / "pulled").exists()


def process(*arguments: str, **environment: str) -> tuple[int, str]:
    """Exit code and what ``lic-da`` prints on stderr as a process; it has a minute."""
    done = subprocess.run(
        [sys.executable, "-m", "lic_da.cli", *arguments],
        env={**os.environ, "NO_PROXY": "127.0.0.1", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stderr


def test_where_nobody_answers_there_is_a_sentence_soon(here: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for port in (9, silent.getsockname()[1]):
            code, told = process(
                "pull", "me/pack", "pulled", HF_ENDPOINT=f"http://127.0.0.1:{port}"
            )
            assert code == 2 and told.startswith("error: me/pack: the Hub cannot be reached: ")
            assert told.count("\n") == 1
    code, told = process("pull", "me/pack", "pulled", HF_HUB_OFFLINE="1")
    assert (
        code == 2 and told == "error: HF_HUB_OFFLINE is set, and me/pack is on the Hub: unset it.\n"
    )
    assert not (here / "pulled").exists()


def test_the_environment_says_which_hub_is_asked(here: Path, hub: StandIn) -> None:
    on_the_hub(hub, here / "pushed")
    code, told = process("pull", "me/pack", "pulled", HF_ENDPOINT=hub.url, HF_HUB_DISABLE_XET="1")
    assert (code, told) == (0, "") and (here / "pulled" / "config.yaml").is_file()


# --- which place is meant -------------------------------------------------------------------------------


def test_a_folder_and_a_name_on_the_hub_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "pack").mkdir(parents=True)
    for text in (
        "./me/pack",
        "../pack",
        "/me/pack",
        "~/pack",
        "me/pack/",
        ".",
        "outputs",
        "outputs/pack",
    ):
        assert isinstance(place_of(text), Folder), text
    for text in ("me/pack", "hf://me/pack", "hf://outputs/pack"):
        assert place_of(text) == Hub(text.removeprefix("hf://"))
    assert place_of("me/pack@v1") == place_of("hf://me/pack", "v1") == Hub("me/pack", "v1")
    for text, words in (
        ("outputs/new", r"write \./outputs/new or hf://outputs/new"),
        ("pack", r"on the Hub names are owner/name\. A new folder is \./pack"),
        ("a/b/c", "on the Hub names are owner/name"),
        ("hf://pack", "is no name on the Hub"),
        ("", "is empty"),
    ):
        with pytest.raises(UserError, match=words):
            place_of(text)
    with pytest.raises(UserError, match="--revision is for the Hub"):
        place_of("outputs", "v1")
    with pytest.raises(UserError, match="not both"):
        place_of("me/pack@v1", "v2")


def test_what_is_for_the_hub_is_refused_for_a_folder(here: Path) -> None:
    for option in (("--private",), ("--message", "x")):
        with pytest.raises(UserError, match=f"new is a folder: {option[0]} is for the Hub"):
            call("push", "pack", "./new", *option)
    with pytest.raises(UserError, match="There is no folder nowhere"):
        call("pull", "./nowhere", "pulled")
    assert not (here / "new").exists()


def test_pulling_imports_no_torch_and_other_commands_no_client_of_the_hub(here: Path) -> None:
    modules = imported("pull", here / "pushed", here / "pulled")
    assert (here / "pulled" / "hashes.json").is_file()
    assert not (TORCH | {"huggingface_hub", "datasets"}) & modules
    assert "huggingface_hub" not in imported("info", here / "a.lic")
    assert "huggingface_hub" not in imported("push", here / "pack", here / "new")
