"""``lic-da`` on files and folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lic_da.adaptation import pack
from lic_da.adaptation.codec import AdaptedCodec
from lic_da.cli import app
from lic_da.data.images import RGB, read_rgb, save_png
from lic_da.errors import UserError
from tests.conftest import disturb


@pytest.fixture
def folder(adapted: AdaptedCodec, photographs: list[RGB], tmp_path: Path) -> Path:
    pack.save(disturb(adapted), tmp_path / "pack", {})
    for i, pixels in enumerate(photographs):
        save_png(tmp_path / "in" / f"{i}.png", pixels)
    return tmp_path


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return f"{result.exit_code}\n{result.output}"


def test_there_and_back(folder: Path, adapted: AdaptedCodec, photographs: list[RGB]) -> None:
    assert call("compress", folder / "in", folder / "lic", "--pack", folder / "pack").startswith(
        "0"
    )
    out = call("decompress", folder / "lic", folder / "out", "--pack", folder / "pack")
    assert out.startswith("0") and "3 of 3 files done" in out
    for i, pixels in enumerate(photographs):
        expected = adapted.decompress(adapted.compress(pixels))
        assert np.array_equal(read_rgb(folder / "out" / f"{i}.png"), expected)
    told = call("info", folder / "lic" / "0.lic")
    assert "395×301" in told and adapted.fingerprint[:16] in told


def test_one_bad_file_does_not_stop_the_rest(folder: Path) -> None:
    (folder / "in" / "bad.png").write_bytes(b"no picture")
    out = call("compress", folder / "in", folder / "lic", "--pack", folder / "pack")
    assert out.startswith("2") and "3 of 4 files done" in out and "bad.png: not a picture" in out
    assert len(list((folder / "lic").iterdir())) == 3


def test_existing_files_are_kept_unless_told(folder: Path) -> None:
    target = folder / "x.lic"
    target.write_bytes(b"precious")
    arguments = ("compress", folder / "in" / "0.png", target, "--pack", folder / "pack")
    assert "exists" in call(*arguments) and target.read_bytes() == b"precious"
    assert call(*arguments, "--overwrite").startswith("0")
    assert target.read_bytes().startswith(b"LICD")


def test_wrong_names_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="There is no file or folder"):
        call("compress", folder / "nothing", folder / "lic", "--pack", folder / "pack")
    with pytest.raises(UserError, match="Unknown blend 'best'"):
        call(
            "decompress", folder / "in", folder / "o", "--pack", folder / "pack", "--blend", "best"
        )
    with pytest.raises(UserError, match="needs the name of a domain"):
        call(
            "decompress",
            folder / "in",
            folder / "o",
            "--pack",
            folder / "pack",
            "--blend",
            "oracle",
        )
