"""The runtime without torch decodes what torch decodes, and refuses what it cannot."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import runtime as benchmark
from lic_da.cli import main
from lic_da.codecs.spec import MethodSpec
from lic_da.errors import UserError
from lic_da.io.bitstream import CHOSEN_UNITS, Stream, StreamError
from lic_da.io.images import RGB, read_rgb
from lic_da.io.lossless import save_png
from lic_da.methods import pack
from lic_da.methods.adapters.codec import AdaptedCodec
from lic_da.methods.adapters.export import ExportError, export
from lic_da.runtime import Decoder, Encoder, ExportedFilesError
from lic_da.runtime.rans import RansDecoder, RansEncoder, Tables
from tests.conftest import CODEC, DOMAINS, MEAN_SCALE, codec_config, disturb, hyperprior_config

ZOU = pytest.param("zou2022_n64", marks=pytest.mark.slow)  # torch traces its attention for minutes
CODECS = (CODEC, MEAN_SCALE, ZOU)
ROOT = Path(__file__).parents[1]


class Packs(dict[str, tuple[AdaptedCodec, Path]]):
    """Bundled codecs with disturbed adapters and what was exported of them, made when first asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def __missing__(self, name: str) -> tuple[AdaptedCodec, Path]:
        codec = disturb(AdaptedCodec.build(codec_config(3, name), DOMAINS))
        export(codec, self.folder / name)
        self[name] = codec, self.folder / name
        return self[name]


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Packs:
    return Packs(tmp_path_factory.mktemp("exported"))


@pytest.fixture
def copied(packs: Packs, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packs[CODEC][1], tmp_path / "exported"))


def levels(a: RGB, b: RGB) -> int:
    """The largest difference of two images, in 8-bit levels."""
    return int(np.abs(a.astype(int) - b).max())


def edited(folder: Path, change: Callable[[dict], None]) -> None:
    file = folder / "manifest.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("name", CODECS)
def test_latents_are_those_of_torch_and_images_within_one_level(
    name: str, packs: Packs, photographs: list[RGB]
) -> None:
    codec, folder = packs[name]
    decoder = Decoder(folder)
    adapted = 0
    # Sides of one element of the latent, odd ones, and ones that need no padding.
    for image in (*photographs, photographs[0][:16, :16], photographs[1][:17, :130]):
        stream = Stream.from_bytes(codec.compress(image))
        # Symbols are those of the stream's checksum, or this raises; means are rounded once to float32.
        y_hat, theirs_too = decoder.latent(stream), codec.latent(stream)[0].numpy()
        assert np.abs(y_hat - theirs_too).max() <= (0 if name == CODEC else 1e-6)
        for mode, domain in (
            ("weighted", None),
            ("top1", None),
            ("oracle", "comic"),
            ("base", None),
        ):
            expected = codec.decompress(stream, mode, domain)
            assert levels(decoder.decompress(stream, mode, domain), expected) <= 1
            adapted = max(adapted, levels(expected, codec.decompress(stream, "base")))
        own, theirs = decoder.gate_weights(stream), codec.gate_weights(stream)
        assert own == pytest.approx(theirs, abs=1e-5)
    assert adapted > 1  # else modes could be mistaken for one another


@pytest.mark.parametrize("name", CODECS)
def test_tiles_change_no_image_by_more_than_a_level(
    name: str, packs: Packs, photographs: list[RGB]
) -> None:
    codec, folder = packs[name]
    image = np.tile(photographs[0], (2, 2, 1))
    data = codec.compress(image)
    whole, cut = Decoder(folder), Decoder(folder, memory=1)
    assert len(list(cut._tiles(*whole.latent(Stream.from_bytes(data)).shape[1:]))) > 4
    assert levels(cut.decompress(data), whole.decompress(data)) <= 1
    own = Encoder(folder, memory=1).compress(image)
    assert levels(codec.decompress(own), codec.decompress(data)) < 40


def test_tiles_of_a_codec_with_windows_lie_on_their_grid(
    copied: Path, packs: Packs, photographs: list[RGB]
) -> None:
    """What has none is exported so that readers of before open it."""
    whole = Decoder(copied)
    assert json.loads((copied / "manifest.json").read_text())["format"] == 1
    assert (whole.manifest.halo, whole.manifest.grid) == (3, 1)
    edited(copied, lambda content: content.update(format=2))
    edited(copied, lambda content: content["geometry"].update(halo=6, grid=6))
    cut = Decoder(copied, memory=1)
    data = packs[CODEC][0].compress(np.tile(photographs[0], (2, 2, 1)))
    rows, columns = whole.latent(Stream.from_bytes(data)).shape[1:]
    assert {span.start % 6 for tile in cut._tiles(rows, columns) for span in tile} == {0}
    assert levels(cut.decompress(data), whole.decompress(data)) <= 1
    edited(copied, lambda content: content["geometry"].update(halo=7))
    with pytest.raises(ExportedFilesError, match=r"7, not a multiple of geometry\.grid, 6"):
        Decoder(copied)


@pytest.mark.slow
def test_tiles_over_zou2022_are_on_the_grid_of_its_windows(packs: Packs) -> None:
    content = json.loads((packs["zou2022_n64"][1] / "manifest.json").read_text())
    assert (content["format"], content["geometry"]["grid"]) == (2, 4)


@pytest.mark.parametrize("name", CODECS)
def test_torch_decodes_what_the_runtime_encodes(
    name: str, packs: Packs, photographs: list[RGB]
) -> None:
    codec, folder = packs[name]
    for image in (photographs[2], photographs[0][:33, :16]):
        data, theirs = Encoder(folder).compress(image), codec.compress(image)
        decoded = codec.decompress(data)  # the checksum of the latents tells of any difference
        assert levels(Decoder(folder).decompress(data), decoded) <= 1
        assert abs(len(data) - len(theirs)) < 16
        error, best = (
            np.square(image - p.astype(float)).mean() for p in (decoded, codec.decompress(theirs))
        )
        assert error == pytest.approx(best, rel=0.01)


def test_what_the_benchmark_runs_decodes_without_torch(
    copied: Path, packs: Packs, photographs: list[RGB], tmp_path: Path
) -> None:
    streams = tmp_path / "streams"
    streams.mkdir()
    data = packs[CODEC][0].compress(photographs[0])
    (streams / "a.lic").write_bytes(data)
    script = [sys.executable, "-c", benchmark.DECODE, copied, streams]
    subprocess.run(script, check=True, cwd=ROOT)
    with np.load(streams / "a.npz") as decoded:
        assert levels(decoded["image"], Decoder(copied).decompress(data)) == 0


def test_a_signalled_v_is_written_and_used(tmp_path: Path, photographs: list[RGB]) -> None:
    how = {"gate": {"input": "signalled"}}
    codec = disturb(AdaptedCodec.build(codec_config(), DOMAINS, how))
    export(codec, tmp_path / "exported")
    decoder, encoder = Decoder(tmp_path / "exported"), Encoder(tmp_path / "exported")
    data = codec.compress(photographs[0])
    own = Stream.from_bytes(encoder.compress(photographs[0]))
    assert own.v is not None and own.v == Stream.from_bytes(data).v
    assert levels(decoder.decompress(data), codec.decompress(data)) <= 1
    with pytest.raises(StreamError, match="carries no weights"):
        decoder.decompress(encoder.compress(photographs[0], mode="base"), "weighted")


def test_a_v_that_the_encoder_has_chosen_is_used(packs: Packs, photographs: list[RGB]) -> None:
    codec, folder = packs[CODEC]
    stream = Stream.from_bytes(codec.compress(photographs[0], v="best"))
    assert stream.chosen is not None
    decoder = Decoder(folder)
    assert list(decoder.gate_weights(stream).values()) == [c / CHOSEN_UNITS for c in stream.chosen]
    assert levels(decoder.decompress(stream), codec.decompress(stream)) <= 1
    other = replace(stream, chosen=stream.chosen[:2])
    assert levels(decoder.decompress(other, "top1"), codec.decompress(other, "top1")) <= 1


def test_the_coder_writes_and_reads_the_strings_of_compressai() -> None:
    from compressai.ans import RansDecoder as TheirDecoder
    from compressai.ans import RansEncoder as TheirEncoder

    codec = AdaptedCodec.build(codec_config(name=MEAN_SCALE), DOMAINS).codec
    model = codec.gaussian_conditional
    cdf, lengths, offsets = (
        t.numpy() for t in (model.quantized_cdf, model.cdf_length, model.offset)
    )
    rng = np.random.default_rng(3)
    indexes = rng.integers(0, len(cdf), 20_000)
    symbols = np.rint(rng.laplace(size=indexes.size) * model.scale_table.numpy()[indexes])
    symbols[::500] = rng.integers(-(1 << 24), 1 << 24, 40)  # escapes of all lengths
    listed, numbers = symbols.astype(int).tolist(), indexes.tolist()
    theirs = TheirEncoder().encode_with_indexes(
        listed, numbers, cdf.tolist(), lengths.tolist(), offsets.tolist()
    )
    tables, encoder = Tables.of(cdf, lengths, offsets), RansEncoder()
    encoder.encode(tables, numbers, listed)
    assert encoder.flush() == theirs
    assert RansDecoder(theirs).decode(tables, numbers) == listed
    assert (
        TheirDecoder().decode_with_indexes(
            theirs, numbers, cdf.tolist(), lengths.tolist(), offsets.tolist()
        )
        == listed
    )
    with pytest.raises(StreamError, match="end before"):
        RansDecoder(theirs[: len(theirs) // 8 * 4]).decode(tables, numbers)


def test_strings_that_are_not_the_encoders_are_refused(
    packs: Packs, photographs: list[RGB]
) -> None:
    from dataclasses import replace

    codec, folder = packs[MEAN_SCALE]
    decoder, rng = Decoder(folder), np.random.default_rng(0)
    stream = Stream.from_bytes(codec.compress(photographs[0]))
    y, z = stream.strings
    garbage = bytearray(y)
    garbage[50:90] = rng.bytes(40)
    for strings in ((y[:400], z), (y, z[:12]), (bytes(garbage), z), (y,), (y[:-1], z), (b"", z)):
        with pytest.raises(StreamError):
            decoder.decompress(replace(stream, strings=strings))
    huge = replace(stream, width=8192, height=8192, shape=(128, 128))
    with pytest.raises(StreamError, match="too short"):
        decoder.decompress(replace(huge, strings=(y[:8], z[:8])))
    with pytest.raises(StreamError, match="Use the codec that wrote it"):
        Decoder(packs[CODEC][1]).decompress(stream)


def test_the_runtime_imports_neither_torch_nor_what_the_training_needs(
    packs: Packs, photographs: list[RGB], tmp_path: Path
) -> None:
    """And nothing of lic_da that its own distribution does not hold."""
    codec, folder = packs[MEAN_SCALE]
    (tmp_path / "a.lic").write_bytes(codec.compress(photographs[0]))
    settings = tomllib.loads((ROOT / "packaging/runtime/pyproject.toml").read_text())
    for source, target in settings["tool"]["hatch"]["build"]["targets"]["wheel"][
        "force-include"
    ].items():
        source = ROOT / "packaging/runtime" / source
        place = tmp_path / "site" / target
        place.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, place)
    script = (
        "import sys\n"
        f"sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "import runpy\n"
        f"sys.argv = ['x', 'a.lic', 'a.png', '--pack', {str(folder)!r}]\n"
        "try:\n    runpy.run_module('lic_da.runtime', run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code\n"
        "import lic_da\nprint(lic_da.__file__)\nprint(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    place, names = done.stdout.splitlines()
    assert Path(place).is_relative_to(tmp_path)
    assert not {
        "torch",
        "compressai",
        "scipy",
        "pandas",
        "yaml",
        "typer",
        "omegaconf",
        "onnx",
    } & set(names.split())
    assert (
        levels(read_rgb(tmp_path / "a.png"), codec.decompress((tmp_path / "a.lic").read_bytes()))
        <= 1
    )


def test_commands_export_and_decode(tmp_path: Path, photographs: list[RGB]) -> None:
    codec = disturb(AdaptedCodec.build(codec_config(), DOMAINS))
    pack.save(codec, tmp_path / "pack", {})
    run = [sys.executable, "-m", "lic_da.cli"]
    done = subprocess.run(
        [*run, "export", tmp_path / "pack", tmp_path / "exported", "--torch", "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = json.loads(done.stdout)
    assert told["exported"] and told["domains"] == list(DOMAINS)
    save_png(tmp_path / "a.png", photographs[0])
    (tmp_path / "streams").mkdir()
    onnx = ["--runtime", "onnx", "--pack", tmp_path / "exported"]
    subprocess.run(
        [*run, "compress", tmp_path / "a.png", tmp_path / "streams/a.lic", *onnx], check=True
    )
    shutil.copy(tmp_path / "streams/a.lic", tmp_path / "streams/b.lic")
    subprocess.run(
        [*run, "decompress", tmp_path / "streams", tmp_path / "out", *onnx, "--jobs", "2"],
        check=True,
    )
    expected = codec.decompress((tmp_path / "streams/a.lic").read_bytes())
    for name in ("a", "b"):
        assert levels(read_rgb(tmp_path / "out" / f"{name}.png"), expected) <= 1
    program = torch.export.load(tmp_path / "exported/synthesis.pt2").module()
    y_hat = codec.latent(Stream.read(tmp_path / "streams/a.lic"))
    v = torch.tensor([[0.2, 0.5, 0.3]])
    with torch.inference_mode():
        assert torch.allclose(program(y_hat, v), codec.synthesis(y_hat, v), atol=1e-5)


def test_packs_that_cannot_be_exported_are_refused_for_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = AdaptedCodec.build(hyperprior_config(), DOMAINS)
    pack.save(codec, tmp_path / "pack", {})
    monkeypatch.setattr(
        sys, "argv", ["lic-da", "export", str(tmp_path / "pack"), str(tmp_path / "out"), "--json"]
    )
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    told = json.loads(capsys.readouterr().out)
    assert told["exported"] is False and told["code"] == "entropy_model"
    assert "ScaleHyperprior" in told["message"]
    assert not (tmp_path / "out").exists()


def test_a_method_without_adapters_is_refused(tmp_path: Path) -> None:
    from lic_da.methods.finetuning.codec import FinetunedDecoderCodec

    method = MethodSpec("finetune_decoder", "finetuned_decoder", {"train_on": "targets"})
    with pytest.raises(ExportError) as refused:
        export(FinetunedDecoderCodec.new(codec_config(), method, DOMAINS), tmp_path / "out")
    assert refused.value.code == "method"


def test_an_export_is_not_written_over_what_is_there(copied: Path, tmp_path: Path) -> None:
    codec = AdaptedCodec.build(codec_config(), DOMAINS)
    with pytest.raises(ExportError, match="--overwrite") as refused:
        export(codec, copied)
    assert refused.value.code == "exists"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("mine")
    with pytest.raises(ExportError, match="exists"):
        export(codec, tmp_path / "mine", overwrite=True)


def test_an_export_replaces_its_own_files_and_no_others(copied: Path, tmp_path: Path) -> None:
    codec = AdaptedCodec.build(codec_config(), DOMAINS)
    (copied / "letter.txt").write_text("mine")
    (copied / "synthesis.pt2").write_bytes(b"of an export with --torch")
    (tmp_path / "link").symlink_to(copied)
    before = (copied / "manifest.json").stat().st_ino
    export(codec, tmp_path / "link", overwrite=True)
    assert (copied / "letter.txt").read_text() == "mine"
    assert not (copied / "synthesis.pt2").exists() and (tmp_path / "link").is_symlink()
    assert (copied / "manifest.json").stat().st_ino != before
    assert not [path for path in copied.iterdir() if path.name.startswith(".")]
    Decoder(copied)
    with pytest.raises(ExportError, match="cannot be written") as refused:
        export(codec, Path("/proc/exported"))
    assert refused.value.code == "not_writable"


def test_the_runtime_alone_keeps_files_that_exist(copied: Path, tmp_path: Path) -> None:
    codec = AdaptedCodec.build(codec_config(), DOMAINS)
    (tmp_path / "a.lic").write_bytes(codec.compress(np.full((32, 32, 3), 80, np.uint8)))
    command = [sys.executable, "-m", "lic_da.runtime", tmp_path / "a.lic", "--pack", copied]

    def run(*others: object) -> tuple[int, bytes]:
        done = subprocess.run([*map(str, (*command, *others))], capture_output=True)
        assert b"Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    out = tmp_path / "new" / "a.png"
    assert run(out)[0] == 0 and Image.open(out).size == (32, 32)
    code, told = run(out)
    assert code == 2 and b"--overwrite replaces it" in told
    assert run(out, "--overwrite")[0] == 0
    assert run("-")[1].startswith(b"\x89PNG") and not Path("-").exists()
    code, told = run(tmp_path / "a.jpg")
    assert code == 2 and b"should end in .png" in told


def test_damaged_folders_are_refused_in_words(copied: Path, tmp_path: Path) -> None:
    synthesis = copied / "synthesis.onnx"
    whole = synthesis.read_bytes()
    synthesis.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    codec = AdaptedCodec.build(codec_config(), DOMAINS)
    data = codec.compress(np.full((32, 32, 3), 80, np.uint8))
    with pytest.raises(ExportedFilesError, match="is not the file"):
        Decoder(copied).decompress(data)
    synthesis.unlink()
    with pytest.raises(ExportedFilesError, match="cannot be read"):
        Decoder(copied).decompress(data)
    (copied / "tables.npz").write_bytes(b"none")
    with pytest.raises(ExportedFilesError, match="is not the file"):
        Decoder(copied)
    with pytest.raises(ExportedFilesError, match="no exported pack"):
        Decoder(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("format", 99, "install a newer one"),
        ("format", "os", "no format"),
        ("domains", "natural", "a list of"),
        ("codec", {"name": "x"}, "codec.quality"),
        ("geometry", {"scale": 1 << 40}, "geometry.scale"),
        ("gate", {"input": "os.system", "threshold": 0}, "gate.input"),
        ("entropy", {"kind": "lic_da.cli"}, "has an entropy model"),
        ("entropy", {"kind": "mean_scale_hyperprior"}, "does not hold the tables"),
        ("files", {"../../secret": {}}, "no file of its"),
    ],
)
def test_manifests_that_nobody_wrote_are_refused_in_words(
    copied: Path, part: str, value: object, words: str
) -> None:
    edited(copied, lambda content: content.update({part: value}))
    with pytest.raises(ExportedFilesError, match=words):
        Decoder(copied)


def test_unknown_modes_and_domains_are_refused(copied: Path) -> None:
    decoder = Decoder(copied)
    for mode, domain, words in (
        ("mean", None, "Unknown mode"),
        ("oracle", None, "needs the name"),
        ("oracle", "clipart", "Unknown domain"),
        ("weighted", decoder.domains[0], "for --mode oracle: give both"),
    ):
        with pytest.raises(UserError, match=words):
            decoder.check_mode(mode, domain)
    with pytest.raises(UserError, match="Unknown mode 'bass'"):
        Encoder(copied).compress(np.zeros((32, 32, 3), np.uint8), mode="bass")
