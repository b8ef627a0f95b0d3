"""``lic-da`` on files and folders."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from compressai.models import CompressionModel
from PIL import Image
from typer.testing import CliRunner

from lic_da.cli import app
from lic_da.errors import UserError
from lic_da.files.batch import Job, Outcome, plan
from lic_da.files.coder import Coder
from lic_da.io.bitstream import Stream
from lic_da.io.images import RGB, read_rgb
from lic_da.io.listing import image
from lic_da.io.lossless import save_png
from lic_da.methods import pack
from lic_da.methods.adapters.codec import AdaptedCodec, pad, to_8_bit
from tests.conftest import CODEC, codec_config, disturb
from tests.test_adaptation import as_batch


@pytest.fixture
def folder(
    adapted: AdaptedCodec, photographs: list[RGB], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A run's pack under outputs/, and images under in/; the working directory is there."""
    monkeypatch.chdir(tmp_path)
    pack.save(disturb(adapted), tmp_path / "outputs" / "run" / "pack", {})
    for i, pixels in enumerate(photographs):
        save_png(tmp_path / "in" / f"{i}.png", pixels)
    return tmp_path


def call(*arguments: object) -> str:
    """Exit code, a line break, and what was printed."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return f"{result.exit_code}\n{result.output}"


def test_there_and_back_with_the_pack_of_the_last_run(
    folder: Path, adapted: AdaptedCodec, photographs: list[RGB]
) -> None:
    out = call("compress", "in", "lic")
    assert out.startswith("0") and "Compressed 3 of 3 images, 0.4 megapixels, " in out
    out = call("decompress", "lic", "out", "--pack", "outputs/run/pack")
    assert out.startswith("0") and "Decompressed 3 of 3 images" in out and " bpp, " in out
    for i, pixels in enumerate(photographs):
        expected = adapted.decompress(adapted.compress(pixels))
        assert np.array_equal(read_rgb(folder / "out" / f"{i}.png"), expected)
    assert sorted(p.name for p in (folder / "lic").iterdir()) == ["0.lic", "1.lic", "2.lic"]


@pytest.mark.slow  # every worker imports torch and CompressAI
def test_several_workers_write_the_same_files(folder: Path) -> None:
    call("compress", "in", "one")
    (folder / "in" / "bad.png").write_bytes(b"no image")
    out = call("compress", "in", "two", "--jobs", "2")
    assert out.startswith("2") and "Compressed 3 of 4 images" in out
    assert "bad.png: not an image" in out.replace("\n", " ")
    for file in (folder / "one").iterdir():
        assert file.read_bytes() == (folder / "two" / file.name).read_bytes()


def test_folders_in_folders_and_all_kinds_of_files(folder: Path, photographs: list[RGB]) -> None:
    image = Image.fromarray(photographs[0])
    (folder / "in" / "sub" / "sub").mkdir(parents=True)
    image.save(folder / "in" / "sub" / "0.JPG", format="JPEG")
    image.convert("L").save(folder / "in" / "sub" / "sub" / "grey.webp")
    image.save(folder / "in" / "0.tiff")
    (folder / "in" / ".hidden.png").write_bytes(b"no")
    (folder / "in" / "notes.txt").write_text("no image")
    assert call("compress", "in", "lic").startswith("0")
    names = {str(p.relative_to(folder / "lic")) for p in (folder / "lic").rglob("*.lic")}
    # 0.png and 0.tiff would be one file, so they keep their suffixes
    assert names == {
        "0.png.lic", "0.tiff.lic", "1.lic", "2.lic", "sub/0.lic", "sub/sub/grey.lic"
    }  # fmt: skip


def test_one_bad_file_does_not_stop_the_rest(folder: Path) -> None:
    (folder / "in" / "bad.png").write_bytes(b"no image")
    out = call("compress", "in", "lic")
    assert out.startswith("2") and "Compressed 3 of 4 images" in out and "; 1 failed" in out
    assert "bad.png: not an image" in out
    assert len(list((folder / "lic").iterdir())) == 3  # no temporary files either
    data = bytearray((folder / "lic" / "1.lic").read_bytes())
    data[100] ^= 1
    (folder / "lic" / "1.lic").write_bytes(data)
    out = call("decompress", "lic", "out")
    assert out.startswith("2") and "Decompressed 2 of 3 images" in out
    assert "1.lic: The stream is damaged" in out.replace("\n", " ")
    assert sorted(p.name for p in (folder / "out").iterdir()) == ["0.png", "2.png"]


def test_existing_files_are_kept_unless_told(folder: Path) -> None:
    target = folder / "x.lic"
    target.write_bytes(b"precious")
    with pytest.raises(UserError, match=r"x\.lic exists; --overwrite replaces it"):
        call("compress", "in/0.png", target)
    assert target.read_bytes() == b"precious"
    assert call("compress", "in/0.png", target, "--overwrite").startswith("0")
    assert target.read_bytes().startswith(b"LICD")
    (folder / "lic").mkdir()
    (folder / "lic" / "0.lic").write_bytes(b"precious")
    out = call("compress", "in", "lic")
    assert out.startswith("0") and "2 of 3 images" in out and "1 existed and were kept" in out
    assert (folder / "lic" / "0.lic").read_bytes() == b"precious"


def test_files_that_appear_while_others_are_coded_are_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Coder.decompress

    def decompress(self: Coder, job: Job) -> Outcome:
        Path("png/2.png").write_text("somebody's")
        return original(self, job)

    call("compress", "in", "lic")
    Path("png").mkdir()
    monkeypatch.setattr(Coder, "decompress", decompress)
    out = call("decompress", "lic", "png")
    assert "png/2.png exists now" in out and "Decompressed 2 of 3 images" in out
    assert Path("png/2.png").read_text() == "somebody's"
    assert read_rgb("png/1.png").shape == read_rgb("in/1.png").shape


def test_base_images_need_no_pack(
    folder: Path, base: CompressionModel, photographs: list[RGB]
) -> None:
    """A plain base codec decodes the file, found by its fingerprint or named."""
    call("compress", "in/0.png", "x.lic")
    stream = Stream.read("x.lic")
    with torch.inference_mode():
        coded = base.compress(pad(as_batch(photographs[0]), 16))
        assert [s[0] for s in coded["strings"]] == list(stream.strings)
        x_hat = base.decompress(coded["strings"], coded["shape"])["x_hat"]
    expected = to_8_bit(x_hat[0, :, :301, :395]).permute(1, 2, 0).numpy()
    with_pack = ("--pack", "outputs/run/pack", "--mode", "base")
    shutil.copytree(folder / "outputs", folder / "elsewhere")
    assert call("decompress", "x.lic", "a.png", *with_pack).startswith("0")
    shutil.rmtree(folder / "outputs")
    assert call("decompress", "x.lic", "b.png", "--mode", "base").startswith("0")
    assert call("decompress", "x.lic", "c.png", "--codec", CODEC, "--quality", 3).startswith("0")
    for name in "abc":
        assert np.array_equal(read_rgb(f"{name}.png"), expected)
    out = call("decompress", "x.lic", "d.png", "--codec", CODEC, "--quality", 2)
    assert out.startswith("2") and f"made with the base codec {CODEC}, quality 3" in out
    assert call("compress", "in/0.png", "y.lic", "--codec", CODEC, "--quality", 3).startswith("0")
    assert Path("y.lic").read_bytes() == Path("x.lic").read_bytes()
    with pytest.raises(UserError, match="There is no run under outputs/ yet"):
        call("decompress", "x.lic", "e.png")


def test_modes_reach_the_decoder(folder: Path, adapted: AdaptedCodec) -> None:
    call("compress", "in/0.png", "x.lic")
    data = Path("x.lic").read_bytes()
    for mode, domain in (("top1", None), ("oracle", "comic")):
        extra = ("--domain", domain) if domain else ()
        call("decompress", "x.lic", f"{mode}.png", "--blend", mode, *extra)
        assert np.array_equal(read_rgb(f"{mode}.png"), adapted.decompress(data, mode, domain))


def test_png_and_webp_hold_the_same_pixels(folder: Path) -> None:
    call("compress", "in", "lic")
    call("decompress", "lic", "png")
    call("decompress", "lic", "webp", "--format", "webp")
    call("decompress", "lic/0.lic", "one.webp")
    for i in range(3):
        assert np.array_equal(read_rgb(f"png/{i}.png"), read_rgb(f"webp/{i}.webp"))
    assert np.array_equal(read_rgb("one.webp"), read_rgb("png/0.png"))
    with pytest.raises(UserError, match=r"one\.jpg should end in \.png or \.webp"):
        call("decompress", "lic/0.lic", "one.jpg")
    for name in ("one.png", "one.jpg"):
        with pytest.raises(UserError, match=r"should end in \.webp, as --format says"):
            call("decompress", "lic/0.lic", name, "--format", "webp")
    call("decompress", "lic/0.lic", "one.v2", "--format", "webp")
    assert Path("one.v2").read_bytes() == Path("one.webp").read_bytes()
    with pytest.raises(UserError, match=r"Unknown format 'bmp'\. Available: png, webp"):
        call("decompress", "lic", "out", "--format", "bmp")


def test_info_tells_what_a_stream_is(folder: Path, adapted: AdaptedCodec) -> None:
    call("compress", "in", "lic")
    told = call("info", "lic/0.lic")
    stream = Stream.read("lic/0.lic")
    assert "395×301" in told and adapted.fingerprint[:16] in told and f"{stream.bpp:.3f}" in told
    assert (
        f"codec        {CODEC}\nquality      3\n" in told
        and "not signalled; --pack outputs/run/pack shows it" in told
    )
    told = call("info", "lic/0.lic", "--pack", "outputs/run/pack")
    v = adapted.gate_weights(stream)
    assert ", ".join(f"{name} {value:.3f}" for name, value in v.items()) + " (by the pack)" in told
    signalled = dataclasses.replace(stream, v=bytes([51, 204, 0]))
    Path("lic/v.lic").write_bytes(signalled.to_bytes())
    named = "natural 0.200, sketch 0.800, comic 0.000 (signalled; names from outputs/run/pack)"
    assert named in call("info", "lic/v.lic")
    for other in ({"v": bytes([51, 204])}, {"fingerprint": b"otherone"}):
        Path("other.lic").write_bytes(dataclasses.replace(signalled, **other).to_bytes())
        told = call("info", "other.lic")
        assert "gate's v     0.200 0.800" in told and "--pack DIR gives the names" in told
    Path("lic/bad.lic").write_bytes(b"LICD")
    out = call("info", "lic")
    assert out.startswith("2") and out.count("codec ") == 4 and "bad.lic: This is not" in out


def test_help_and_info_import_no_torch(folder: Path) -> None:
    call("compress", "in/0.png", "x.lic")
    code = (
        "import sys, lic_da.cli as cli\n"
        "try: cli.app(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'PIL', 'omegaconf')))"
    )
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    for arguments in (["--help"], ["compress", "--help"], ["info", "x.lic"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=environment,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0 and done.stdout, done.stderr


def test_the_default_pack_is_the_last_runs_unless_named(
    folder: Path, adapted: AdaptedCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = AdaptedCodec.build(codec_config(), ("natural", "clipart"))
    pack.save(other, folder / "outputs" / "sweeps" / "sketch_0" / "q3" / "pack", {})
    os.utime(folder / "outputs" / "run" / "pack" / "adapters.safetensors", (1, 1))
    assert "outputs/sweeps/sketch_0/q3/pack" in call("compress", "in/0.png", "x.lic")
    monkeypatch.setenv("LIC_DA_PACK", "outputs/run/pack")
    assert "Pack: outputs/run/pack" in call("decompress", "x.lic", "x.png")
    expected = adapted.decompress(Path("x.lic").read_bytes())
    assert np.array_equal(read_rgb("x.png"), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compress", "in/0.png", "in/1.png", "--overwrite"), r"in/1\.png should end in \.lic"),
        (("compress", "nothing", "lic"), "There is no file or folder nothing"),
        (("compress", "in", "in/0.png"), "is a folder, so in/0.png must be one"),
        (("decompress", "in", "o"), "no files to work on in in; left out: 3 not .lic."),
        (("compress", "in", "lic", "--pack", "in"), "in is not an adapter pack"),
        (
            ("compress", "in", "lic", "--codec", "none"),
            "Unknown codec 'none'. Available: .*" + CODEC,
        ),
        (("compress", "in", "lic", "--codec", CODEC, "--quality", 9), "Unknown quality '9'"),
        (("compress", "in", "lic", "--quality", 2), f"is for quality 3 of {CODEC}, not for 2"),
        (("compress", "in", "lic", "--pack", "p", "--codec", CODEC), "either --pack or --codec"),
        (("decompress", "lic", "o", "--blend", "best"), "Unknown mode 'best'"),
        (("decompress", "lic", "o", "--mode", "chosen"), "compress --v best chooses v"),
        (("decompress", "lic", "o", "--blend", "oracle"), "needs the name of a domain"),
        (("decompress", "lic", "o", "--domain", "cosmic"), "Unknown domain 'cosmic'. Did you mean"),
        (("decompress", "lic", "o", "--codec", CODEC, "--blend", "top1"), "alone has no adapters"),
        (("decompress", "lic", "o", "--domain", "natural"), "for --mode oracle: give both"),
    ],
)
def test_mistakes_end_in_one_line(folder: Path, arguments: tuple, message: str) -> None:
    (folder / "lic").mkdir()
    (folder / "lic" / "x.lic").write_bytes(b"LICD")
    with pytest.raises(UserError, match=message):
        call(*arguments)


def test_prepared_kinds_of_images_keep_what_a_viewer_shows(
    folder: Path, adapted: AdaptedCodec, photographs: list[RGB]
) -> None:
    """EXIF orientation, alpha and a colour profile are applied before coding."""
    pixels = photographs[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    Image.fromarray(np.rot90(pixels)).save("in/turned.png", exif=exif)
    rgba = Image.fromarray(np.dstack([pixels, np.full(pixels.shape[:2], 128, np.uint8)]))
    rgba.save("in/alpha.png")
    call("compress", "in", "lic")
    assert Path("lic/turned.lic").read_bytes() == Path("lic/0.lic").read_bytes()
    on_white = np.array(
        Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    )
    assert Path("lic/alpha.lic").read_bytes() == adapted.compress(on_white)


def test_two_images_that_would_become_one_file_are_refused(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "a.png.webp"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"Several files .* would become a\.png\.lic"):
        plan(tmp_path, tmp_path / "out", image, ".lic")


def test_a_file_is_not_written_over_itself(folder: Path) -> None:
    before = (folder / "in" / "0.png").read_bytes()
    (folder / "link.lic").symlink_to(folder / "in" / "0.png")
    for target in ("in/0.png", "link.lic"):
        with pytest.raises(UserError, match="itself: name another file"):
            call("compress", "in/0.png", target, "--overwrite")
    shutil.copy("in/0.png", "in/3.lic")  # a picture, whatever it is called
    with pytest.raises(UserError, match="itself"):
        call("compress", "in", "in", "--overwrite")
    assert (folder / "in" / "0.png").read_bytes() == before


def test_paths_are_those_of_the_user(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert call("compress", "~/in/0.png", "~/a.lic", "--pack", "~/outputs/run/pack")[0] == "0"
    assert (folder / "a.lic").is_file() and "size" in call("info", "~/a.lic")
    for arguments in (("", "b.lic"), ("in", "")):
        with pytest.raises(UserError, match="is empty"):
            call("compress", *arguments)


def test_info_tells_of_a_stream_what_a_pack_that_cannot_read_it_leaves(folder: Path) -> None:
    call("compress", "in/0.png", "a.lic", "--codec", CODEC, "--quality", 4)
    told = call("info", "a.lic", "--pack", "outputs/run/pack")
    assert told.startswith("2") and "written by   neither the pack nor its base codec" in told
    assert "size" in told and "bpp" in told
    (folder / "lic").mkdir()
    for name in ("a.lic", "A.LIC"):
        shutil.copy("a.lic", folder / "lic" / name)
    assert call("info", "lic").count("size") == 2  # nothing is written, so no names can clash
    piped = subprocess.run(
        [sys.executable, "-m", "lic_da.cli", "info", "/dev/stdin"],
        input=Path("a.lic").read_bytes(),
        capture_output=True,
    )
    assert f"/dev/stdin, {Path('a.lic').stat().st_size} bytes".encode() in piped.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compress", "in/0.png", f"{'n' * 300}.lic"), "File name too long"),
        (("compress", "in/0.png", "/proc/no.lic"), "cannot be written"),
        (("export", "outputs/run/pack", "/proc/no"), "cannot be written"),
    ],
)
def test_what_the_machine_refuses_is_one_line(
    folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lic_da.cli", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: ")
    assert message in done.stderr and "Traceback" not in done.stderr


def test_modes_that_a_codec_alone_has_not_are_refused(folder: Path) -> None:
    call("compress", "in/0.png", "a.lic", "--codec", CODEC)
    for mode in ("weighted", "top1"):
        with pytest.raises(UserError, match=f"no adapters for --mode {mode}"):
            call("decompress", "a.lic", "a.png", "--codec", CODEC, "--mode", mode)
    said = call("decompress", "a.lic", "a.png", "--mode", "base", "--quality", 0)
    assert "Unknown quality '0'" in said and not Path("a.png").exists()
    for command in ("decompress", "bulk"):
        with pytest.raises(UserError, match="either --pack or --codec"):
            call(command, "a.lic", "a.png", "--codec", CODEC, "--pack", "outputs/run/pack")
    with pytest.raises(UserError, match="no adapters for --mode weighted"):
        call("bulk", "a.lic", "all", "--codec", CODEC, "--mode", "weighted")
    with pytest.raises(UserError, match="leave out --runtime onnx"):
        call("decompress", "a.lic", "a.png", "--runtime", "onnx", "--spatial", "nonsense")
