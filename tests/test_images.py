"""Any image becomes 8-bit RGB, or is refused by name."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torchvision.io import write_png

from lic_da.io.files import atomic_path
from lic_da.io.images import (
    RGB,
    ImageProblem,
    rasterise_svg,
    read_rgb,
)
from lic_da.io.lossless import save_png
from tests.conftest import scribbles


def gradient(side: int = 32) -> np.ndarray:
    return np.tile(np.linspace(0, 65535, side).round().astype(np.uint16), (side, 1))


def test_16_bit_grey_is_scaled_not_cut(tmp_path: Path) -> None:
    path = tmp_path / "grey16.png"
    Image.fromarray(gradient()).save(path)
    expected = np.rint(gradient() / 257).astype(np.uint8)
    assert np.array_equal(read_rgb(path), np.repeat(expected[..., None], 3, axis=2))


def colour_16(exif: bytes = b"") -> tuple[np.ndarray, bytes]:
    """Samples (32, 32, 3) uint16, and a PNG file of them."""
    rgb = np.stack([gradient(), gradient()[:, ::-1], gradient().T], axis=2)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rgb)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 32, 16, 2, 0, 0, 0))
    png += chunk(b"eXIf", exif) if exif else b""
    return rgb, png + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_16_bit_colour_is_scaled_not_cut(tmp_path: Path) -> None:
    rgb, png = colour_16()
    (tmp_path / "rgb16.png").write_bytes(png)
    assert np.array_equal(read_rgb(tmp_path / "rgb16.png"), np.rint(rgb / 257).astype(np.uint8))


@pytest.mark.parametrize("orientation", [3, 5, 6, 8])
def test_16_bit_images_are_turned_as_exif_says(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    rgb, png = colour_16(exif.tobytes().removeprefix(b"Exif\0\0"))
    (tmp_path / "rgb16.png").write_bytes(png)
    Image.fromarray(np.rint(rgb / 257).astype(np.uint8)).save(tmp_path / "rgb8.png", exif=exif)
    assert np.array_equal(read_rgb(tmp_path / "rgb16.png"), read_rgb(tmp_path / "rgb8.png"))
    Image.fromarray(gradient()).save(tmp_path / "grey16.png", exif=exif)
    grey = np.rint(gradient() / 257).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey8.png", exif=exif)
    assert np.array_equal(read_rgb(tmp_path / "grey16.png"), read_rgb(tmp_path / "grey8.png"))


def test_cmyk_grey_palette_and_alpha_become_rgb(tmp_path: Path) -> None:
    image = Image.fromarray(scribbles(1)[0])
    for mode in ("CMYK", "L", "P", "1"):
        path = tmp_path / f"{mode}.tif"
        image.convert(mode).save(path)
        pixels = read_rgb(path)
        assert pixels.shape == (160, 160, 3) and pixels.dtype == np.uint8
    cmyk = tmp_path / "cmyk.jpg"
    Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(cmyk, quality=100)
    assert np.abs(read_rgb(cmyk).astype(int) - [255, 0, 0]).max() <= 2


def test_alpha_is_composed_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    image.putpixel((3, 4), (0, 0, 255, 255))
    image.save(tmp_path / "a.png")
    pixels = read_rgb(tmp_path / "a.png")
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[4, 3].tolist() == [0, 0, 255]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), "red")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_rgb(tmp_path / "turned.jpg").shape == (40, 20, 3)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("text.jpg", b"not an image at all", "not an image"),
        ("empty.png", b"", "not an image"),
        ("missing.png", None, "file not found"),
    ],
)
def test_what_is_no_image_is_named(
    tmp_path: Path, name: str, content: bytes | None, reason: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageProblem, match=f"{name}: {reason}"):
        read_rgb(tmp_path / name)


def test_truncated_images_are_refused(tmp_path: Path) -> None:
    for kind in ("PNG", "JPEG"):
        file = io.BytesIO()
        Image.fromarray(scribbles(1)[0]).save(file, kind)
        path = tmp_path / f"cut.{kind.lower()}"
        path.write_bytes(file.getvalue()[: file.tell() // 2])
        with pytest.raises(ImageProblem, match="truncated or damaged"):
            read_rgb(path)


def test_size_limits(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    with pytest.raises(ImageProblem, match="smaller than 16 pixels"):
        read_rgb(tmp_path / "dot.png")
    write_png(torch.zeros(3, 64, 64, dtype=torch.uint8), str(tmp_path / "large.png"))
    with pytest.raises(ImageProblem, match="more than"):
        read_rgb(tmp_path / "large.png", max_pixels=64 * 63)


def test_svg_is_drawn_on_white() -> None:
    head = b'<svg xmlns="http://www.w3.org/2000/svg" width="20" height="10">'
    svg = head + b'<rect width="10" height="10"/></svg>'
    pixels = rasterise_svg(svg, size=64)
    assert pixels.shape == (32, 64, 3)
    assert pixels[16, 8].tolist() == [0, 0, 0] and pixels[16, 48].tolist() == [255, 255, 255]
    with pytest.raises(ImageProblem, match="cannot be drawn"):
        rasterise_svg(b"<svg")


def test_nothing_is_left_of_a_file_that_failed(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("old")
    with pytest.raises(ValueError), atomic_path(tmp_path / "table.csv") as temporary:
        temporary.write_text("half")
        raise ValueError
    assert (tmp_path / "table.csv").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]
    save_png(tmp_path / "a" / "b.png", scribbles(1)[0])
    assert np.array_equal(read_rgb(tmp_path / "a" / "b.png"), scribbles(1)[0])


def test_colour_profiles_become_srgb(tmp_path: Path, photographs: list[RGB]) -> None:
    """An image in another colour space looks the same, and one in sRGB keeps every bit."""
    srgb = ImageCms.createProfile("sRGB")
    lab = ImageCms.createProfile("LAB")
    image = Image.fromarray(photographs[0])
    same = ImageCms.ImageCmsProfile(srgb).tobytes()
    image.save(tmp_path / "srgb.png", icc_profile=same)
    assert np.array_equal(read_rgb(tmp_path / "srgb.png"), photographs[0])
    swapped = with_primaries_swapped(same)
    Image.fromarray(photographs[0][..., ::-1]).save(tmp_path / "bgr.png", icc_profile=swapped)
    difference = read_rgb(tmp_path / "bgr.png").astype(int) - photographs[0]
    assert np.abs(difference).mean() < 1 and np.abs(difference).max() <= 3
    rgba = Image.fromarray(
        np.dstack([photographs[0][..., ::-1], np.full((301, 395), 255, np.uint8)])
    )
    rgba.save(tmp_path / "alpha.png", icc_profile=swapped)
    assert np.array_equal(read_rgb(tmp_path / "alpha.png"), read_rgb(tmp_path / "bgr.png"))
    for broken in (b"no profile", ImageCms.ImageCmsProfile(lab).tobytes()):
        image.save(tmp_path / "broken.png", icc_profile=broken)
        assert np.array_equal(read_rgb(tmp_path / "broken.png"), photographs[0])


def with_primaries_swapped(profile: bytes) -> bytes:
    """A matrix profile whose red is blue: the tags of the two primaries change places."""
    return profile.replace(b"rXYZ", b"?XYZ").replace(b"bXYZ", b"rXYZ").replace(b"?XYZ", b"bXYZ")
