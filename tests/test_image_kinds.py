"""Every kind of image is read to the pixel, as an independent reading has them, or refused by name."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from lic_da.io.images import ImageProblem, read_rgb
from lic_da.io.lossless import save_png
from tests import damaged_images
from tests.image_files import Samples, chunk, exif, png, shown, turned

ORIENTATIONS = range(1, 9)
SHORT = 3


def noise(most: int, channels: int, seed: int = 0, size: tuple[int, int] = (20, 33)) -> Samples:
    """Random samples up to ``most``."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, most + 1, (*size, channels)).astype(np.uint16)


def short(orientation: int, order: str = "<") -> bytes:
    """EXIF data that states an orientation as it should."""
    return exif(struct.pack(f"{order}H", orientation), SHORT, order)


def assert_read(path: Path, expected: np.ndarray) -> None:
    """The file is read, and as these pixels."""
    pixels = read_rgb(path)
    assert pixels.shape == expected.shape and pixels.dtype == np.uint8
    assert np.array_equal(pixels, expected)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize(
    ("depth", "channels"),
    [*((d, 1) for d in (1, 2, 4, 8, 16)), *((d, c) for d in (8, 16) for c in (2, 3, 4))],
)
def test_png_of_all_depths_colours_and_orientations(
    depth: int, channels: int, orientation: int, tmp_path: Path
) -> None:
    samples, path = noise((1 << depth) - 1, channels), tmp_path / "a.png"
    expected = turned(shown(samples, (1 << depth) - 1), orientation)
    path.write_bytes(png(samples, depth, before=[(b"eXIf", short(orientation, ">"))]))
    assert_read(path, expected)
    # After the pixels, and as ImageMagick keeps it, in a comment of its own.
    path.write_bytes(png(samples, depth, after=[(b"eXIf", short(orientation))]))
    assert_read(path, expected)
    digits = (b"Exif\0\0" + short(orientation)).hex().encode()
    raw = b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n      44\n" + digits + b"\n")
    path.write_bytes(png(samples, depth, after=[(b"zTXt", raw)]))
    assert_read(path, expected)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_png_of_palettes(depth: int, tmp_path: Path) -> None:
    numbers = noise((1 << depth) - 1, 1)
    palette = noise(255, 3, seed=1, size=(1, 1 << depth))[0].astype(np.uint8)
    alpha = noise(255, 1, seed=2, size=(1, 1 << depth))[0].astype(np.uint8)
    path = tmp_path / "a.png"
    path.write_bytes(png(numbers, depth, palette=palette.tobytes()))
    assert_read(path, palette[numbers[..., 0]])
    path.write_bytes(
        png(numbers, depth, palette=palette.tobytes(), before=[(b"tRNS", alpha.tobytes())])
    )
    assert_read(path, shown(np.concatenate([palette, alpha], 1)[numbers[..., 0]], 255))


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_transparent_colour_of_a_png_is_white(
    depth: int, channels: int, tmp_path: Path
) -> None:
    samples, most = noise((1 << depth) - 1, channels), (1 << depth) - 1
    samples[5:9, 4:] = 77
    samples[9, 4:] = 76
    alpha = np.where((samples == 77).all(2, keepdims=True), 0, most).astype(np.uint16)
    transparent = struct.pack(f">{channels}H", *[77] * channels)
    (tmp_path / "a.png").write_bytes(png(samples, depth, before=[(b"tRNS", transparent)]))
    assert_read(tmp_path / "a.png", shown(np.concatenate([samples, alpha], 2), most))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(
    ("kind", "channels", "photometric"),
    [
        *((np.uint8, c, "minisblack") for c in (1, 2)),
        *((kind, 1, "miniswhite") for kind in (np.uint8, np.uint16)),
        (np.uint16, 1, "minisblack"),
        *((kind, c, "rgb") for kind in (np.uint8, np.uint16) for c in (3, 4)),
    ],
)
def test_tiff_of_all_samples_and_orientations(
    kind: type[np.unsignedinteger],
    channels: int,
    photometric: str,
    compression: str | None,
    order: str,
    orientation: int,
    tmp_path: Path,
) -> None:
    most = np.iinfo(kind).max
    samples, path = noise(most, channels).astype(kind), tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        samples[..., 0] if channels == 1 else samples,
        photometric=photometric,
        compression=compression,
        byteorder=order,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        extratags=[(274, "H", 1, orientation, True)],
        metadata=None,
    )
    seen = most - samples if photometric == "miniswhite" else samples
    try:
        pixels = read_rgb(path)
    except ImageProblem as problem:
        assert "a kind of TIFF that is not read" in str(problem)
        # Pillow knows no big-endian samples of 16 bits of which white is the least.
        assert (kind, photometric, order) == (np.uint16, "miniswhite", ">")
        return
    assert np.array_equal(pixels, turned(shown(seen, most), orientation))


@pytest.mark.parametrize(
    ("samples", "options"),
    [
        (np.zeros((20, 20), np.float32), {}),
        (np.zeros((20, 20), np.int16), {}),
        (np.zeros((20, 20), np.int8), {}),
        (np.zeros((20, 20), np.uint32), {}),
        (np.zeros((20, 20, 2), np.uint16), {"extrasamples": ["unassalpha"]}),
        (np.zeros((2, 20, 20), np.uint8), {"planarconfig": "separate"}),
        (np.zeros((3, 20, 20), np.uint16), {"planarconfig": "separate", "photometric": "rgb"}),
        (np.zeros((20, 20, 3), np.uint8), {"photometric": "ycbcr", "subsampling": (1, 1)}),
        (np.zeros((20, 20, 3), np.uint8), {"photometric": "cielab"}),
    ],
)
def test_tiff_that_would_come_out_wrong_is_refused(
    samples: np.ndarray, options: dict[str, object], tmp_path: Path
) -> None:
    settings = {"photometric": "minisblack", **options}
    tifffile.imwrite(tmp_path / "a.tif", samples, metadata=None, **settings)
    with pytest.raises(ImageProblem, match=r"a\.tif: (a kind of TIFF|LAB|floating|integer)"):
        read_rgb(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF", "TIFF"])
def test_compressed_images_are_turned(orientation: int, kind: str, tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(24) * 6, np.arange(40) * 2).astype(np.uint8)
    pixels = np.stack([smooth, smooth[::-1], smooth[:, ::-1]], axis=2)
    tag = Image.Exif()
    tag[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100}
    path = tmp_path / "a"
    Image.fromarray(pixels).save(path, kind, exif=tag, **({} if kind == "TIFF" else options))
    difference = read_rgb(path).astype(int) - turned(pixels, orientation)
    assert np.abs(difference).max() <= (0 if kind in ("WEBP", "TIFF") else 12)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("kind", "value"),
    [(1, b"\6"), (6, b"\6"), (2, b"6\0"), (4, None), (8, None), (9, None), (3, None)],
)
def test_orientation_is_read_whatever_type_it_has(
    kind: int, value: bytes | None, order: str, tmp_path: Path
) -> None:
    packed = value or struct.pack(order + {3: "H", 4: "I", 8: "h", 9: "i"}[kind], 6)
    image = Image.fromarray(noise(255, 3, size=(24, 40)).astype(np.uint8))
    image.save(tmp_path / "plain.jpg")
    data = b"Exif\0\0" + exif(packed, kind, order)
    content = (tmp_path / "plain.jpg").read_bytes()
    segment = b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data
    (tmp_path / "a.jpg").write_bytes(content[:2] + segment + content[2:])
    assert_read(tmp_path / "a.jpg", turned(read_rgb(tmp_path / "plain.jpg"), 6))


def test_exif_that_makes_no_sense_is_passed_over(tmp_path: Path) -> None:
    image = Image.fromarray(noise(255, 3, size=(24, 40)).astype(np.uint8))
    image.save(tmp_path / "plain.png")
    rng = np.random.default_rng(0)
    for number in range(50):
        data = bytearray(short(6) if number else b"II")
        for _ in range(rng.integers(1, 6)):
            data[rng.integers(len(data))] = rng.integers(256)
        content = image_with(tmp_path / "plain.png", bytes(data))
        (tmp_path / "a.png").write_bytes(content)
        assert sorted(read_rgb(tmp_path / "a.png").shape) == [3, 24, 40]


def image_with(path: Path, data: bytes) -> bytes:
    """A PNG file with EXIF data before its last chunk."""
    content = path.read_bytes()
    return content[:-12] + chunk(b"eXIf", data) + content[-12:]


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("rows", [0, 1, 10, 19])
def test_png_without_all_of_its_rows_is_refused(depth: int, rows: int, tmp_path: Path) -> None:
    for channels in (1, 2, 3, 4):
        content = png(noise((1 << depth) - 1, channels), depth, rows=rows)
        (tmp_path / "half.png").write_bytes(content)
        with pytest.raises(ImageProblem, match=r"half\.png: truncated or damaged"):
            read_rgb(tmp_path / "half.png")


def test_half_a_image_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    """Whatever a decoder would do with it: the process lives, and a hundred others are read."""
    whole, half = png(noise(65535, 3), 16), png(noise(65535, 3), 16, rows=10)
    for number in range(120):
        (tmp_path / f"{number:03d}.png").write_bytes(half if number % 6 == 3 else whole)
    code = (
        "import sys; from pathlib import Path; from lic_da.io.images import *\n"
        "good = bad = 0\n"
        "for path in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    try: read_rgb(path); good += 1\n"
        "    except ImageProblem: bad += 1\n"
        "print(good, bad)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "100 20\n"), done.stderr


def test_png_comments_play_no_part(tmp_path: Path) -> None:
    samples = noise(255, 3)
    large = zlib.compress(b"x" * 1_500_000, 0)
    comments = [(b"zTXt", b"Comment\0\0" + large), (b"tEXt", b"Comment\0" + b"y" * 1_500_000)]
    content = png(samples, 8, before=comments)
    (tmp_path / "large.png").write_bytes(content)
    assert_read(tmp_path / "large.png", samples.astype(np.uint8))
    at = content.index(b"tEXt") + 4
    (tmp_path / "crc.png").write_bytes(content[:at] + b"c" + content[at + 1 :])
    assert_read(tmp_path / "crc.png", samples.astype(np.uint8))
    at = content.index(b"IDAT") + 20
    (tmp_path / "pixels.png").write_bytes(content[:at] + b"\0\0" + content[at + 2 :])
    with pytest.raises(ImageProblem, match="truncated or damaged"):
        read_rgb(tmp_path / "pixels.png")


def test_a_grey_profile_counts_beside_alpha_too(tmp_path: Path) -> None:
    profile = (Path(__file__).parent / "data" / "grey_gamma_1.icc").read_bytes()
    ImageCms.ImageCmsProfile(io.BytesIO(profile))
    grey = Image.fromarray(np.arange(1024, dtype=np.uint16).reshape(32, 32).astype(np.uint8))
    grey.save(tmp_path / "grey.png", icc_profile=profile)
    both = Image.merge("LA", (grey, Image.new("L", grey.size, 255)))
    both.save(tmp_path / "both.png", icc_profile=profile)
    assert_read(tmp_path / "both.png", read_rgb(tmp_path / "grey.png"))
    assert (
        np.abs(read_rgb(tmp_path / "grey.png").astype(int) - np.asarray(grey)[..., None]).max() > 30
    )
    # The same in 16 bits: the levels are those of 8.
    deep = np.asarray(grey).astype(np.uint16)[..., None] * 257
    packed = b"gamma\0\0" + zlib.compress(profile)
    (tmp_path / "deep.png").write_bytes(png(deep, 16, before=[(b"iCCP", packed)]))
    assert_read(tmp_path / "deep.png", read_rgb(tmp_path / "grey.png"))


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path, Path("/dev/zero")):
        with pytest.raises(ImageProblem, match="not a regular file"):
            read_rgb(path)


def test_a_jpeg_whose_scan_ends_early_is_refused(tmp_path: Path) -> None:
    """Its end mark is there, so that Pillow would hand on grey for what is missing."""
    Image.fromarray(noise(255, 3, size=(160, 160)).astype(np.uint8)).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "b.jpg").write_bytes(content[: len(content) // 2] + b"\xff\xd9")
    with pytest.raises(ImageProblem, match="truncated or damaged"):
        read_rgb(tmp_path / "b.jpg")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_png_is_read_to_the_pixel(data: st.DataObject, tmp_path: Path) -> None:
    """Pillow and libpng compress and filter as they like; what is read are the samples."""
    depth = data.draw(st.sampled_from([1, 2, 4, 8, 16]))
    channels = data.draw(st.sampled_from([1, 2, 3, 4] if depth >= 8 else [1]))
    height, width = data.draw(st.integers(16, 70)), data.draw(st.integers(16, 70))
    orientation = data.draw(st.integers(1, 8))
    samples = noise((1 << depth) - 1, channels, data.draw(st.integers(0, 99)), (height, width))
    content = png(samples, depth, after=[(b"eXIf", short(orientation))])
    if depth == 8 and data.draw(st.booleans()):
        file = io.BytesIO()
        flat = samples.astype(np.uint8)
        Image.fromarray(flat[..., 0] if channels == 1 else flat).save(
            file, "PNG", exif=short(orientation)
        )
        content = file.getvalue()
    path = tmp_path / "any.png"
    path.write_bytes(content)
    assert_read(path, turned(shown(samples, (1 << depth) - 1), orientation))
    cut = data.draw(st.integers(0, len(content) - 13))
    path.write_bytes(content[:cut])
    with pytest.raises(ImageProblem):
        read_rgb(path)


def test_memory_for_a_deep_image_is_bounded(tmp_path: Path) -> None:
    """Six megapixels of 16 bits: 36 MB of samples; the reader holds them a few times, not dozens."""
    samples = np.zeros((2000, 3000, 3), np.uint16)
    (tmp_path / "deep.png").write_bytes(png(samples, 16))
    code = (
        "import resource, sys; from lic_da.io.images import read_rgb\n"
        "from lic_da.io.lossless import save_png\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "read_rgb(sys.argv[1])\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "deep.png")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 250  # MiB


def test_lossless_files_come_back_as_they_were(tmp_path: Path) -> None:
    pixels = noise(255, 3).astype(np.uint8)
    save_png(tmp_path / "a.png", pixels)
    assert_read(tmp_path / "a.png", pixels)


def test_damaged_files_are_read_right_or_refused() -> None:
    """As ``python -m tests.damaged_images 5000``, of which benchmarks/results has what came out."""
    told = damaged_images.report(512, seed=1)
    assert told["wrong"] == []
