"""Files that come from others: they are data, whatever they say, and old ones open as they did."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import lic_da
from lic_da.errors import UserError
from lic_da.evaluation.curves import Run
from lic_da.methods import pack
from lic_da.registry import ADAPTERS, MODELS, SITES
from lic_da.training.interruption import read_checkpoint
from tests.conftest import codec_config, scribbles

OLD = Path(__file__).parent / "fixtures" / "format1"
PACKS = ("adapters", "extended", "cawf", "zou")

TARGETS = [
    "os.system",
    "os.popen",
    "os.remove",
    "os.execv",
    "posix.system",
    "subprocess.run",
    "subprocess.Popen",
    "subprocess.check_output",
    "builtins.eval",
    "builtins.exec",
    "builtins.open",
    "builtins.__import__",
    "importlib.import_module",
    "runpy.run_path",
    "code.interact",
    "pickle.loads",
    "pickle.load",
    "joblib.load",
    "numpy.load",
    "pandas.read_pickle",
    "torch.load",
    "torch.hub.load",
    "torch.utils.cpp_extension.load",
    "torch.classes.load_library",
    "ctypes.CDLL",
    "shutil.rmtree",
    "pathlib.Path",
    "urllib.request.urlopen",
    "urllib.request.urlretrieve",
    "webbrowser.open",
    "antigravity.webbrowser.open",
    "hydra.utils.instantiate",
    "hydra.utils.get_method",
    "omegaconf.OmegaConf.register_new_resolver",
    "lic_da.io.files.write_text",
    "lic_da.data.sources.FolderSource",
    "lic_da.codecs.zoo.load_weights",
    "torch.nn.Conv2d",
    "of_the_attacker.Site",
]


def settings_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text())
    return content


def places(settings: dict[str, Any]) -> Iterator[tuple[str | int, ...]]:
    """Every place of a file's content: of each value, and a new key in each dictionary."""

    def walk(part: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
        if path:
            yield path
        if isinstance(part, dict):
            yield (*path, "added")
        if isinstance(part, dict | list):
            for key, value in part.items() if isinstance(part, dict) else enumerate(part):
                yield from walk(value, (*path, key))

    return walk(settings, ())


def put(settings: dict[str, Any], path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(settings)
    part: Any = changed
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return changed


@pytest.fixture
def old_pack(tmp_path: Path) -> Callable[..., Path]:
    """A copy of an old pack; ``old_pack("adapters", changed_settings)``."""

    def make(name: str, settings: dict[str, Any] | None = None) -> Path:
        folder = tmp_path / name
        if not folder.is_dir():
            shutil.copytree(OLD / name, folder)
        if settings is not None:
            (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        return folder

    return make


def new_pack(folder: Path) -> Path:
    """A pack as it is written today."""
    pack.save(lic_da.load(OLD / "adapters"), folder, {})
    return folder


@pytest.fixture
def nothing_happens(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Notes what Python reports of commands, connections, deletions, libraries and compiled code."""
    happened: list[str] = []
    watched = {
        "os.system",
        "subprocess.Popen",
        "os.exec",
        "os.remove",
        "shutil.rmtree",
        "os.posix_spawn",
    }
    watched |= {
        "socket.connect",
        "urllib.Request",
        "ctypes.dlopen",
        "pickle.find_class",
        "webbrowser.open",
    }
    active = [True]

    def note(event: str, arguments: Any) -> None:
        if active[0] and event in watched:
            happened.append(f"{event}{arguments}")

    sys.addaudithook(note)
    yield happened
    active[0] = False


@pytest.mark.parametrize("of_today", [False, True], ids=["old pack", "pack of today"])
def test_no_content_of_a_pack_chooses_what_is_imported_or_called(
    of_today: bool, old_pack: Callable[..., Path], tmp_path: Path, nothing_happens: list[str]
) -> None:
    folder = new_pack(tmp_path / "new") if of_today else old_pack("adapters")
    settings, marker = settings_of(folder), tmp_path / "marker"
    before = set(sys.modules)
    nothing_happens.clear()  # of making the pack
    tried = 0
    for number, path in enumerate(places(settings)):
        for target in TARGETS if of_today else TARGETS[number % 13 :: 13]:
            hostile = {"_target_": target, "_args_": [f"touch {marker}"], "filename": str(marker)}
            (folder / "config.yaml").write_text(json.dumps(put(settings, path, hostile)))
            with pytest.raises(UserError) as raised:
                pack.read_config(folder)
            assert "\n" not in str(raised.value)
            assert str(folder) in str(raised.value)
            tried += 1
    assert tried > 30 * (len(TARGETS) if of_today else 3)
    assert not marker.exists() and not nothing_happens
    modules = {name.partition(".")[0] for name in set(sys.modules) - before}
    assert not modules & {
        "joblib",
        "pandas",
        "antigravity",
        "webbrowser",
        "runpy",
        "of_the_attacker",
    }


@pytest.mark.parametrize(
    "place", ["kind", "codec.model.kind", "codec.sites.0.kind", "how.adapter.kind"]
)
def test_names_that_are_not_registered_are_refused_with_the_list_of_those_that_are(
    place: str, tmp_path: Path, nothing_happens: list[str]
) -> None:
    folder = new_pack(tmp_path / "pack")
    settings = settings_of(folder)
    path = tuple(int(key) if key.isdigit() else key for key in place.split("."))
    nothing_happens.clear()  # of making the pack
    known = {"kind": "adapters", "codec.model.kind": "wacnn", "codec.sites.0.kind": "serial"}
    for target in [*TARGETS, "nothing", "", 3, None, ["serial"]]:
        (folder / "config.yaml").write_text(json.dumps(put(settings, path, target)))
        with pytest.raises(UserError) as raised:
            lic_da.load(folder)
        assert "\n" not in str(raised.value)
    (folder / "config.yaml").write_text(json.dumps(put(settings, path, "nothing")))
    with pytest.raises(UserError, match=rf"nothing.*{known.get(place, 'lowrank')}"):
        lic_da.load(folder)
    assert not nothing_happens


def test_nothing_is_looked_up_for_a_pack(
    old_pack: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "0123")
    folder = old_pack("adapters")
    settings = settings_of(folder)
    for path in places(settings):
        (folder / "config.yaml").write_text(json.dumps(put(settings, path, "${oc.env:SECRET}")))
        with pytest.raises(UserError) as raised:
            lic_da.load(folder)
        assert "0123" not in str(raised.value)
    (folder / "config.yaml").write_text("a: &a [x, x]\nb: [*a, *a]\n")
    with pytest.raises(UserError, match="aliases"):
        lic_da.load(folder)
    for text in (
        "!!python/object/apply:os.system [ls]",
        "a: !!python/name:os.system",
        "- 1",
        "",
        "a: [",
    ):
        (folder / "config.yaml").write_text(text)
        with pytest.raises(UserError, match=r"config\.yaml"):
            lic_da.load(folder)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("codec.model.N", 10**9),
        ("codec.model.N", 10**400),
        ("codec.model.M", -(10**9)),
        ("codec.model.M", float("inf")),
        ("how.gate.mid", 10**8),
        ("how.adapter.rank", 10**8),
        ("codec.sites", [{"kind": "serial", "at": 3}] * 1100),
        ("domains", [f"d{i}" for i in range(300)]),
        ("domains", []),
        ("domains", [f"d{i}" for i in range(200_000)]),
        ("domains", ["../up"]),
        ("codec.name", "../../etc"),
        ("codec", []),
        ("codec.stride", 0),
        ("codec.qualities", 3),
        ("codec.sites", None),
        ("how", "paper"),
        ("how.gate", None),
        ("how.gate.mid", -1),
        ("how.gate.threshold", "high"),
        ("how.adapter.rank", 1.5),
        ("format", 3),
        ("format", 4),
        ("format", "2; rm"),
        ("format", True),
    ],
)
def test_sizes_that_no_codec_has_are_refused_before_anything_is_made(
    place: str, value: Any, tmp_path: Path
) -> None:
    folder = new_pack(tmp_path / "pack")
    settings = settings_of(folder)
    (folder / "config.yaml").write_text(json.dumps(put(settings, tuple(place.split(".")), value)))
    with pytest.raises(UserError) as raised:
        lic_da.load(folder)
    assert "\n" not in str(raised.value) and str(folder) in str(raised.value)


def test_a_checkpoint_is_read_without_executing_anything(tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    class Hostile:
        def __reduce__(self) -> Any:
            return (Path.touch, (marker,))

    for name, content in (("one", {"state_dict": Hostile()}), ("two", Hostile())):
        torch.save(content, tmp_path / f"{name}.ckpt")
        with pytest.raises(UserError, match=f"{name}.ckpt is not a checkpoint"):
            read_checkpoint(tmp_path / f"{name}.ckpt")
    (tmp_path / "three.ckpt").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(UserError, match=r"three\.ckpt is not a checkpoint"):
        read_checkpoint(tmp_path / "three.ckpt")
    assert not marker.exists()


USERS = '''
import pathlib
from dataclasses import dataclass
from subprocess import run
from lic_da.adapters.sites import Serial
from lic_da.adapters.kinds import Residual

pathlib.Path(__file__).with_name("imported").touch()

class Behind(Serial):
    """As serial sites."""

@dataclass(frozen=True)
class Plain:
    def __call__(self, conv):
        return Residual()(conv)
'''


def test_a_pack_over_somebodys_own_classes_opens_for_those_who_trust_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "path" / "users_own"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(USERS)
    monkeypatch.syspath_prepend(package.parent)
    sites = [{"_target_": "users_own.Behind", "at": 3}, *codec_config().sites[1:]]
    config = codec_config(sites=sites)
    adapted = lic_da.AdaptedCodec.build(config, ("natural", "sketch"))
    pack.save(adapted, tmp_path / "pack", {})
    (package / "imported").unlink()
    for name in [n for n in sys.modules if n.startswith("users_own")]:
        del sys.modules[name]

    with pytest.raises(UserError, match=r"asks for users_own\.Behind.*--trust users_own") as raised:
        lic_da.load(tmp_path / "pack")
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="users_own"):
        lic_da.load(tmp_path / "pack", trust=["users", "own", "users_own.part"])
    assert not (package / "imported").exists()

    opened = lic_da.load(tmp_path / "pack", trust=["users_own"])
    assert (package / "imported").exists()
    image = scribbles(1, 96)[0]
    assert opened.compress(image) == adapted.compress(image)
    # What the package has imported from elsewhere is none of it, and neither is something else in it.
    settings = settings_of(tmp_path / "pack")
    for target in (
        "users_own.run",
        "users_own.pathlib.Path",
        "users_own.Plain",
        "users_own.nothing",
    ):
        settings["codec"]["sites"][0] = {"_target_": target, "at": "3"}
        (tmp_path / "pack" / "config.yaml").write_text(json.dumps(settings))
        with pytest.raises(UserError, match=target):
            lic_da.load(tmp_path / "pack", trust=["users_own"])


def test_a_class_that_was_registered_is_named_as_the_packages_own(tmp_path: Path) -> None:
    from lic_da.adapters.kinds import Residual
    from lic_da.adapters.sites import Serial

    @SITES.register("outside_site")
    class Behind(Serial):
        """A site kind from outside."""

    @ADAPTERS.register("outside_adapter")
    class Full:
        """An adapter kind from outside."""

        def __call__(self, conv: Any) -> Any:
            return Residual()(conv)

    try:
        sites = [{"kind": "outside_site", "at": 3}, *codec_config().sites[1:]]
        config, how = codec_config(sites=sites), {"adapter": {"kind": "outside_adapter"}}
        adapted = lic_da.AdaptedCodec.build(config, ("natural", "sketch"), how)
        pack.save(adapted, tmp_path / "pack", {})
        opened = lic_da.load(tmp_path / "pack")
        assert isinstance(opened, lic_da.AdaptedCodec)
        assert type(opened.synthesis.sites[0]) is Behind
        with pytest.raises(UserError, match="'serial' already"):
            SITES.register("serial")(Behind)
    finally:
        SITES.remove("outside_site")
        ADAPTERS.remove("outside_adapter")
    with pytest.raises(UserError, match=r"Unknown kind of .* 'outside_.*'.*Available"):
        lic_da.load(tmp_path / "pack")


@pytest.mark.parametrize("name", PACKS)
def test_packs_from_before_names_were_registered_give_the_same_bytes_and_pixels(
    name: str, tmp_path: Path
) -> None:
    recorded = json.loads((OLD / "hashes.json").read_text())[name]
    old = lic_da.load(OLD / name)
    data = old.compress(scribbles(1, 128, 7)[0])
    assert hashlib.sha256(data).hexdigest() == recorded["stream"]
    assert data == (OLD / name / f"{name}.lic").read_bytes()
    decoded = np.asarray(old.decompress(data)).astype(int)
    pixels = np.asarray(Image.open(OLD / name / f"{name}.png")).astype(int)
    # The floats of another processor may round to the next level.
    assert np.abs(decoded - pixels).max() <= 1 and (decoded != pixels).mean() < 0.001

    pack.save(old, tmp_path / "saved", {})
    again = settings_of(tmp_path / "saved")
    assert again["format"] == 2
    assert "lic_da." not in json.dumps(again) and "compressai." not in json.dumps(again)
    assert np.array_equal(lic_da.load(tmp_path / "saved").decompress(data), old.decompress(data))


def test_a_run_from_before_names_were_registered_is_still_a_run() -> None:
    run = Run.read(OLD / "run")
    assert run.quality == 1
    assert "_target_" not in json.dumps(
        {k: str(v) for k, v in run.settings.items() if "codec.model" in k}
    )
    assert run.settings["adapter.kind"] == "lowrank"
    assert run.settings["codec.model.kind"] == "factorized_prior"


def test_every_name_is_that_of_a_class_and_every_old_path_has_a_name() -> None:
    from lic_da.migrations import NAMES, named
    from lic_da.registry import CODECS, MODULES, SOURCES

    registries = (MODELS, SITES, ADAPTERS, CODECS, MODULES)
    assert all(isinstance(SOURCES.find(name), type) for name in SOURCES)
    names = [name for registry in registries for name in registry]
    for registry in registries:
        assert all(isinstance(registry.find(name), type) for name in registry)
    old = [name for name in NAMES.values() if name not in SOURCES]
    assert sorted(names) == sorted(old)
    path = "lic_da.adaptation.adapters.LowRank"  # laid over the default, as older scripts do
    assert named({"kind": "residual", "_target_": path, "rank": 2}) == {
        "kind": "lowrank",
        "rank": 2,
    }
