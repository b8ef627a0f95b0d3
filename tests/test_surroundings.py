"""What the machine, the shell and other processes do to the commands: each as a user would meet it."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lic_da import surroundings
from lic_da.codecs import zoo
from lic_da.data.domains import prepare
from lic_da.data.sources.huggingface import HuggingFaceSource
from lic_da.errors import NotWritable, UserError
from lic_da.io import listing
from lic_da.io.files import atomic_path, new_folder, write_text
from lic_da.io.images import RGB, read_rgb
from lic_da.io.lossless import save_png
from lic_da.methods import pack
from lic_da.methods.adapters.codec import AdaptedCodec
from lic_da.sweeps import jobs
from lic_da.tracking import loggers
from lic_da.train import claimed
from tests.conftest import CODEC, codec_config, photo_crops, scribbles

TINY = (
    f"codec={CODEC}",
    "domains=[2024]",
    "unseen=[]",
    "codec.training.steps=3",
    "codec.training.batch_size=4",
    "codec.training.crop=32",
    "data.val_images=1",
    "data.val_crop=64",
    "data.source=photos",
    "data.latent_cache=false",
    "evaluation.ms_ssim=false",
    "evaluation.examples=0",
    "evaluation.compatibility=1",
    "logger=none",
)
"""Three steps on the domain ``2024``, although an epoch has 250 batches."""


@pytest.fixture
def world(
    folder_domain: Callable[..., Path],
    photographs: list[RGB],
    conf: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A working directory where the domains ``photos`` and ``2024`` can be trained on."""
    folder_domain("photos", photo_crops(photographs, 8, side=64))
    folder_domain("2024", scribbles(8, side=64))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIC_DA_CONF", str(conf))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def command(*words: str, **options: object) -> subprocess.Popen[str]:
    """A command of the package as a process."""
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,  # type: ignore[call-overload]
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, standard output and error, lines unbroken."""
    out, err = process.communicate(timeout=300)
    return process.returncode, " ".join(out.split()), " ".join(err.split())


def test_runs_that_begin_together_have_folders_of_their_own_and_take_exact_steps(
    world: Path,
) -> None:
    """Over a codec of one's own with a quality that CompressAI's table of λ does not have."""
    weights = zoo.weights_path(codec_config())
    own = ("codec.qualities=[7]", "codec.quality=7", "+codec.lambdas={7: 0.09}")
    settings = (*TINY, *own, f"codec.weights={weights}")
    runs = [command("lic_da.train", *settings, f"seed={seed}") for seed in (0, 1)]
    for run in runs:
        code, _, err = finished(run)
        assert code == 0, err
    folders = sorted((world / "outputs").iterdir())
    assert len(folders) == 2 and all(
        (f / "pack" / "adapters.safetensors").is_file() for f in folders
    )
    for folder in folders:
        last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=False)
        assert last["global_step"] == 3
        summary = json.loads((folder / "summary.json").read_text())
        assert [*summary["domains"]] == ["photos", "2024"]
        points = (folder / "rd_points.csv").read_text(encoding="utf-8").splitlines()
        assert all(",7,0.09," in point for point in points[1:]) and len(points) > 1


def test_a_name_is_given_once_and_an_interrupted_run_goes_on_as_it_says(world: Path) -> None:
    """Ctrl-C, to the whole group and with worker processes, as SIGTERM; the line can be pasted."""
    long = [s for s in TINY if "steps" not in s]
    settings = (*long, "codec.training.steps=400", 'name="a=b c"', "data.num_workers=1")
    run = command("lic_da.train", *settings, start_new_session=True)
    deadline = time.monotonic() + 200
    log = world / "outputs" / "a=b c" / "logs"
    while not any(log.glob("*/metrics.csv")) and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(run.pid, signal.SIGINT)
    code, _, err = finished(run)
    assert code == 2 and "error: Stopped. To go on: python -m lic_da.train" in err, err
    last = world / "outputs" / "a=b c" / "checkpoints" / "last.ckpt"
    assert 0 < torch.load(last, weights_only=False)["global_step"] < 400
    code, _, err_again = finished(command("lic_da.train", *settings))
    assert code == 2 and "holds a run already" in err_again
    line = err[err.index("python -m") :]
    words = [w for w in shlex.split(line)[2:] if not w.startswith("codec.training.steps")]
    done = torch.load(last, weights_only=False)["global_step"]
    code, _, err = finished(command(*words, f"codec.training.steps={done + 2}"))
    assert code == 0, err
    assert torch.load(last, weights_only=False)["global_step"] == done + 2


def test_sigterm_to_the_whole_group_saves_although_workers_get_it_too(world: Path) -> None:
    long = [s for s in TINY if "steps" not in s]
    run = command(
        "lic_da.train",
        *long,
        "codec.training.steps=400",
        "name=group",
        "data.num_workers=2",
        start_new_session=True,
    )
    deadline = time.monotonic() + 200
    while not any(world.glob("outputs/group/logs/*/metrics.csv")) and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(run.pid, signal.SIGTERM)
    code, _, err = finished(run)
    assert code == 2 and "Stopped. To go on:" in err, err
    last = torch.load(world / "outputs/group/checkpoints/last.ckpt", weights_only=False)
    assert last["global_step"] > 0


def test_a_latin_1_locale_and_plain_ascii_do_no_harm(world: Path) -> None:
    plain = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    code, out, err = finished(command("lic_da.train", *TINY, "name=plain", env=plain))
    assert code == 0, err
    assert (world / "outputs/plain/pack/adapters.safetensors").is_file()
    save_png(world / "a.png", scribbles(1)[0])
    for words in (("compress", "a.png", "a.lic"), ("info", "a.lic")):
        code, out, err = finished(command("lic_da.cli", *words, env=plain))
        assert code == 0, err
    assert "160x160" in out
    (world / "outputs/plain/table.txt").read_text(encoding="utf-8")


def test_no_home_and_no_name_for_the_user(world: Path) -> None:
    """As in a container that is run as a number nobody has an entry for."""
    save_png(world / "a.png", scribbles(1)[0])
    bare = {k: v for k, v in os.environ.items() if k not in ("HOME", "USER", "LOGNAME")}
    nobody = "import pwd, sys\ndef unknown(*_): raise KeyError('uid not found')\npwd.getpwuid = unknown\n"
    code = nobody + (
        f"sys.argv = ['lic-da', 'compress', 'a.png', 'a.lic', '--codec', '{CODEC}']\n"
        "from lic_da.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True, text=True)
    assert done.returncode == 0 and (world / "a.lic").is_file(), done.stderr
    code = (
        nobody
        + f"sys.argv = ['train', *{[*TINY, 'name=bare']}]\nfrom lic_da.train import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("environment", "settings", "expected"),
    [
        ({}, "", "offline"),
        ({"WANDB_API_KEY": "k" * 40}, "", "online"),
        ({"WANDB_API_KEY": "k" * 40 + "\n"}, "", "offline"),
        ({"WANDB_API_KEY": "k" * 40, "WANDB_MODE": "dryrun"}, "", "offline"),
        ({"WANDB_API_KEY": "k" * 40, "WANDB_MODE": "offline"}, "", "offline"),
        ({"WANDB_API_KEY": "k" * 40, "WANDB_MODE": "disabled"}, "", "disabled"),
        ({"WANDB_API_KEY": "k" * 40, "WANDB_DISABLED": "true"}, "", "disabled"),
        ({"WANDB_API_KEY": "k" * 40}, "mode = offline", "offline"),
        ({"WANDB_API_KEY": "k" * 40, "WANDB_MODE": "online"}, "mode = offline", "online"),
        ({"WANDB_API_KEY": "k" * 40}, "disabled = true", "offline"),
    ],
)
def test_wandb_is_used_as_it_would_be_by_itself(
    environment: dict[str, str],
    settings: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_DISABLED", "WANDB_CONFIG_DIR", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if settings:  # as ``wandb offline`` writes it
        (tmp_path / "wandb").mkdir()
        (tmp_path / "wandb" / "settings").write_text(f"[default]\n{settings}\n")
    assert surroundings.wandb_mode("auto") == expected
    assert surroundings.wandb_mode("online") == "online"


def test_commands_refuse_what_does_not_exist_in_words(world: Path) -> None:
    for words, message in (
        (("lic_da.train", "codec=nope"), "Unknown codec 'nope'. Available: bmshj2018_factorized,"),
        (("lic_da.train", "method=adapter"), "Did you mean 'adapters'?"),
        (("lic_da.describe", "codec.training.optimizer=adan"), "Unknown optimizer 'adan'."),
        (("lic_da.describe", "codec.training.optimiser=adan"), "Unknown optimizer 'adan'."),
    ):
        code, _, err = finished(command(*words))
        assert code == 2 and message in err, err


def test_files_get_the_modes_that_the_user_wants(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_text(tmp_path / "new", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600
    with atomic_path(tmp_path / "weights.safetensors") as temporary:
        save_file({"a": torch.zeros(1)}, temporary)  # which leaves a file that others may not read
    assert stat.S_IMODE((tmp_path / "weights.safetensors").stat().st_mode) == 0o666 & ~before
    (tmp_path / "kept").write_text("old")
    (tmp_path / "kept").chmod(0o640)
    write_text(tmp_path / "kept", "new")
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o640
    (tmp_path / "link").symlink_to("kept")
    write_text(tmp_path / "link", "newer")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "kept").read_text() == "newer"


def test_what_cannot_be_written_is_named_and_not_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file" / "new.png", Path("/proc/new.png")):
        with pytest.raises(
            NotWritable, match=rf"{re.escape(str(path))} cannot be written \(\w"
        ) as raised:
            write_text(path, "x")
        assert isinstance(raised.value, OSError) and str(raised.value).endswith(").")


def test_devices_and_pipes_are_written_into(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", str(tmp_path / "pipe")], stdout=subprocess.PIPE)
    write_text(tmp_path / "pipe", "through")
    assert reader.communicate(timeout=20)[0] == b"through"
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    write_text("/dev/null", "gone")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_file_system_without_modes_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("old")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    for name in ("chmod", "fchmod"):
        monkeypatch.setattr(os, name, refuse)
    with atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "a").read_text() == "new"


@pytest.fixture
def codec_files(
    adapted: AdaptedCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, ...]:
    """A pack and an image, in a working directory."""
    monkeypatch.chdir(tmp_path)
    pack.save(adapted, tmp_path / "pack", {})
    save_png(tmp_path / "a.png", scribbles(1)[0])
    return tmp_path / "pack", tmp_path / "a.png"


def test_out_may_be_standard_output_or_a_folder_to_be_made(
    codec_files: tuple[Path, ...], tmp_path: Path
) -> None:
    words = [sys.executable, "-m", "lic_da.cli", "compress", "a.png"]
    whole = subprocess.run([*words, "-", "--pack", "pack"], capture_output=True, check=True)
    assert b"Compressed 1 of 1 images" in whole.stderr and not (tmp_path / "-").exists()
    subprocess.run([*words, "new/", "--pack", "pack"], capture_output=True, check=True)
    assert (tmp_path / "new" / "a.lic").read_bytes() == whole.stdout
    subprocess.run([*words, "/dev/null", "--pack", "pack"], capture_output=True, check=True)


def test_a_side_that_no_stream_can_state_is_refused_before_coding(
    adapted: AdaptedCodec,
) -> None:
    began = time.process_time()
    for shape in ((16, 1 << 20, 3), (1 << 20, 16, 3)):
        with pytest.raises(UserError, match=r"is too large: .* sides of up to 1048560"):
            adapted.compress(np.zeros(shape, np.uint8))
    assert time.process_time() - began < 10


@pytest.mark.parametrize("key", ["g_a.0.weight", "entropy_bottleneck.quantiles"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_key(
    key: str, value: float, tmp_path: Path
) -> None:
    config = codec_config()
    state = load_file(zoo.weights_path(config))
    state[key] = state[key].float().clone()
    state[key].view(-1)[3] = value
    save_file(state, tmp_path / "q3.safetensors")
    config = codec_config(weights=str(tmp_path / "q3.safetensors"))
    with pytest.raises(UserError, match=rf"cannot be used: {key} hold values that are no finite"):
        zoo.build(config)


def test_a_codec_of_ones_own_has_any_quality_and_lambda() -> None:
    changes: dict[str, Any] = {"qualities": [7], "weights": "random"}
    with pytest.raises(UserError, match=r"add lambdas: \{7: …\}"):
        codec_config(7, **changes)
    config = codec_config(7, **changes, lambdas={7: 0.09})
    zoo.build(config)
    assert config.lmbda() == 0.09


def test_the_commit_is_our_own_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed in the environment of somebody's repository, that repository is not ours."""
    place = tmp_path / "theirs" / ".venv" / "lib" / "lic_da"
    place.mkdir(parents=True)
    git = ["git", "-C", str(tmp_path / "theirs"), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    monkeypatch.setattr(loggers, "__file__", str(place / "tracking.py"))
    assert loggers.git_commit() == f"version {surroundings.package_version()}"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_processors_are_counted_as_they_are_granted(
    files: dict[str, str], expected: int | None, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    granted = len(os.sched_getaffinity(0))
    assert surroundings.granted_cpus(tmp_path) == min(granted, expected or granted)
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from lic_da.surroundings import granted_cpus; print(granted_cpus())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_new_folders_are_nobody_elses(tmp_path: Path) -> None:
    made = [new_folder(tmp_path / "runs" / "a") for _ in range(3)]
    assert [path.name for path in made] == ["a", "a_2", "a_3"]


def test_every_file_of_a_folder_counts_or_is_told_of(tmp_path: Path) -> None:
    """Loops of links, pipes, names that are no UTF-8, kinds that are not read: one rule for all."""
    folder = tmp_path / "pictures"
    pixels = scribbles(1, side=32)[0]
    for name in ("a.png", "deep/b.jfif.png", "other.tmp.png", ".hidden.png"):
        save_png(folder / name, pixels)
    (folder / "deep/b.jfif.png").rename(folder / "deep/b.jfif")
    (folder / "other.tmp.png").rename(folder / "scan.0001")
    (folder / "a.png").rename(folder / os.fsdecode(b"caf\xe9.png"))
    save_png(folder / "a.png?w=3.png", pixels)
    (folder / "a.png?w=3.png").rename(folder / "a.png?w=3")
    (folder / "loop").symlink_to(folder)
    (folder / "deep" / "up").symlink_to("..")
    (folder / "dangling.png").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.png")
    (folder / "notes.txt").write_text("x")
    (folder / "x.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0")
    found = listing.files_of(folder)
    assert found.names == ["a.png?w=3", "caf\udce9.png", "deep/b.jfif", "scan.0001"]
    assert dict(found.left_out) == {
        "links that lead nowhere": 1,
        "pipes or devices": 1,
        "no images": 1,
        "of a kind that is not read (.heic)": 1,
    }
    for name in found.names:
        assert np.array_equal(read_rgb(folder / name), pixels)


def test_a_domain_counts_what_it_leaves_out(
    folder_domain: Callable[..., Path], tmp_path: Path
) -> None:
    drawn = scribbles(5, side=32)
    folder = folder_domain("mine", drawn)
    (folder / "000.png").rename(folder / os.fsdecode(b"caf\xe9.png"))
    os.mkfifo(folder / "pipe.png")
    (folder / "notes.txt").write_text("x")
    images = prepare("mine", tmp_path / "data")
    assert len(images.entries) == 5
    assert images.skipped == {"pipes or devices": 1, "no images": 1}
    assert prepare("mine", tmp_path / "data").entries == images.entries


def test_a_folder_that_may_not_be_read_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_png(tmp_path / "a.png", scribbles(1, side=32)[0])
    (tmp_path / "locked").mkdir()
    own = os.scandir

    def locked(path: Path) -> object:  # as for users who are not root
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return own(path)

    monkeypatch.setattr(os, "scandir", locked)
    found = listing.files_of(tmp_path)
    assert found.names == ["a.png"] and found.told() == "1 folders that may not be read"


def test_rows_without_a_image_are_counted(tmp_path: Path) -> None:
    import datasets

    save_png(tmp_path / "a.png", scribbles(1, side=32)[0])
    data = (tmp_path / "a.png").read_bytes()
    rows = [
        {"bytes": data, "path": "scan.0001"},
        {"bytes": data, "path": "a.png?w=3"},
        None,
        {"bytes": None, "path": str(tmp_path / "not there.png")},
    ]
    features = datasets.Features({"image": datasets.Image(decode=False)})
    table = datasets.Dataset.from_dict({"image": rows[:3]}, features=features)
    table.save_to_disk(str(tmp_path / "set"))
    source = HuggingFaceSource(name=str(tmp_path / "set"))
    found = source.files(tmp_path / "store")
    assert [f.name for f in found] == ["000000.png", "000001.png"]
    assert dict(source.left_out) == {"rows without an image": 1}
    assert source.files(tmp_path / "store") == found and source.left_out.total() == 1


def test_home_is_home_in_every_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lic_da.data.datamodule import DomainsDataModule

    monkeypatch.setenv("HOME", str(tmp_path))
    assert DomainsDataModule(["sketch"], data_dir="~/d").data_dir == tmp_path / "d"


def test_a_batch_survives_what_one_of_its_files_does(
    codec_files: tuple[Path, ...], tmp_path: Path
) -> None:
    """Under load: a hundred small images among images of which half is missing."""
    from tests.image_files import png

    rng = np.random.default_rng(0)
    for number in range(60):
        samples = rng.integers(0, 65536, (32, 32, 3)).astype(np.uint16)
        rows = 16 if number % 4 == 1 else None
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{number:03d}.png").write_bytes(png(samples, 16, rows=rows))
    words = [sys.executable, "-m", "lic_da.cli", "compress", "in", "out", "--pack", "pack"]
    done = subprocess.run([*words, "--jobs", "2"], capture_output=True, text=True)
    assert done.returncode == 2 and "Compressed 45 of 60 images" in done.stdout
    assert done.stderr.count("truncated or damaged") == 15
    assert len([*(tmp_path / "out").iterdir()]) == 45


def test_memory_is_not_what_bounds_the_number_of_open_files(tmp_path: Path) -> None:
    """Listing a deep tree keeps no folder open."""
    folder = tmp_path
    for number in range(60):
        folder = folder / f"{number}"
    save_png(folder / "a.png", scribbles(1, side=32)[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(64, soft), hard))
    try:
        assert len(listing.files_of(tmp_path).names) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"pid": 1'])
def test_a_mark_that_was_cut_off_is_told_of_in_words(content: str, tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "running.json").write_text(content)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "failure.json").write_text(content)
    found = {state.folder.name: state for state in jobs.states(tmp_path)}
    assert found["job"].state == "unfinished" and "it was killed" in found["job"].reason
    assert found["other"].state == "failed" and "says no more" in found["other"].reason


def test_a_folder_belongs_to_one_process_at_a_time(tmp_path: Path) -> None:
    """Two that begin at once, what a killed one has left, and a run that was refused in between."""
    with claimed(tmp_path, None):
        code = (
            "import sys; from pathlib import Path; from lic_da.train import claimed\n"
            "with claimed(Path(sys.argv[1]), None): pass"
        )
        other = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True)
        assert other.returncode == 1 and b"is in use: it is still running" in other.stderr
    dead = {"host": socket.gethostname(), "pid": 1, "process_started": 0.0, "begun": "long ago"}
    (tmp_path / "running.json").write_text(json.dumps(dead))
    (tmp_path / "config.yaml").write_text("of a run that was refused")
    with claimed(tmp_path, None):
        (tmp_path / "checkpoints").mkdir()
    assert not (tmp_path / "running.json").exists()
    with pytest.raises(UserError, match="holds a run already"), claimed(tmp_path, "a/last.ckpt"):
        pass
    with claimed(tmp_path, f"{tmp_path}/checkpoints/last.ckpt"):
        pass


def test_codecs_of_a_folder_of_ones_own_are_found(world: Path) -> None:
    (world / "mine" / "codec").mkdir(parents=True)
    own = (Path(os.environ["LIC_DA_CONF"]) / "codec" / f"{CODEC}.yaml").read_text()
    (world / "mine" / "codec" / "own.yaml").write_text(own)
    code, out, err = finished(command("lic_da.describe", "--config-dir", "mine", "codec=own"))
    assert code == 0 and CODEC in out, err
