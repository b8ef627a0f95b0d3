"""A hundred images as files: what was measured is what people get (``make test-slow``)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from compressai.models import CompressionModel

from lic_da.config import CONF
from lic_da.data.datamodule import LabelledImage
from lic_da.data.domains import prepare
from lic_da.evaluation.measure import read_points, score
from lic_da.evaluation.summary import measure_into
from lic_da.io.bitstream import Stream
from lic_da.io.images import read_rgb
from lic_da.methods import pack
from lic_da.methods.adapters.codec import AdaptedCodec, pad
from tests.conftest import DOMAINS, disturb
from tests.test_adaptation import as_batch

COUNT = 100


def lic_da(*arguments: object) -> str:
    """What the command printed; it must end well."""
    command = [sys.executable, "-m", "lic_da.cli", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_files_of_a_hundred_images_score_as_measured(
    base: CompressionModel, adapted: AdaptedCodec, tmp_path: Path
) -> None:
    disturb(adapted)
    pack.save(adapted, tmp_path / "pack", {})
    entries = []
    for label, domain in enumerate((*DOMAINS, "clipart")):
        images = prepare(domain, CONF.parent / "data")
        seen = label if domain in DOMAINS else -1
        entries += [LabelledImage(p, images.path(p), domain, seen) for p in images.split("test")]
    entries = sorted(entries, key=lambda entry: entry.info.name)[:COUNT]
    assert len(entries) == COUNT
    assert len({entry.domain for entry in entries}) == len(DOMAINS) + 1
    names: dict[str, Path] = {}
    for number, entry in enumerate(entries):
        name = f"{entry.domain}/{number:03d}{entry.path.suffix}"
        names[name] = entry.path
        (tmp_path / "in" / entry.domain).mkdir(parents=True, exist_ok=True)
        shutil.copy(entry.path, tmp_path / "in" / name)
    measure_into(tmp_path / "run", adapted, entries, modes=["base", "weighted"], metrics=["psnr"])
    expected = {(p.image, p.blend): p.psnr for p in read_points(tmp_path / "run" / "rd_points.csv")}

    said = lic_da("compress", tmp_path / "in", tmp_path / "lic", "--pack", tmp_path / "pack")
    assert f"Compressed {COUNT} of {COUNT} images" in said
    lic_da("decompress", tmp_path / "lic", tmp_path / "weighted", "--pack", tmp_path / "pack")
    lic_da("decompress", tmp_path / "lic", tmp_path / "base", "--blend", "base")  # no pack

    for (name, path), entry in zip(names.items(), entries, strict=True):
        original = torch.from_numpy(read_rgb(path)).permute(2, 0, 1)
        for mode in ("base", "weighted"):
            decoded = read_rgb((tmp_path / mode / name).with_suffix(".png"))
            psnr, _ = score(torch.from_numpy(decoded).permute(2, 0, 1), original, ms_ssim=False)
            assert f"{psnr:.6g}" == f"{expected[entry.info.name, mode]:.6g}", name
        stream = Stream.read((tmp_path / "lic" / name).with_suffix(".lic"))
        with torch.inference_mode():
            coded = base.compress(pad(as_batch(read_rgb(path)), 16))
        assert list(stream.strings) == [strings[0] for strings in coded["strings"]]
