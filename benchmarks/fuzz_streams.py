"""Search for a stream that decoding does not survive, guided by coverage. Needs ``atheris`` (PyPI).

``python benchmarks/fuzz_streams.py -max_total_time=600 CORPUS_DIR`` (libFuzzer's options). Every input is
tried as it is and with its checksum put right, so that the search gets behind the checksum. What may
come out is a StreamError or, where the latents have the checksum that is stated, a picture of its size.
"""

from __future__ import annotations

import struct
import sys
import time
import zlib
from pathlib import Path

import atheris
import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

with atheris.instrument_imports(include=["lic_da"]):
    from lic_da import bitstream
    from lic_da.adaptation.codec import AdaptedCodec

from lic_da.config import CONF

SLOW = 2.0  # seconds


def codec() -> AdaptedCodec:
    """The bundled codec with adapters for three domains."""
    config = OmegaConf.load(CONF / "codec" / "bmshj2018_factorized_n64.yaml")
    assert isinstance(config, DictConfig)
    return AdaptedCodec.build(config, ["natural", "sketch", "comic"])


def seeds(adapted: AdaptedCodec) -> list[bytes]:
    """Streams of small pictures, with and without v."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:80, :112]
    smooth = np.stack([2 * x, 3 * y, x + y], axis=-1).astype(np.uint8)
    noise = rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)
    streams = [adapted.encode(torch.from_numpy(p).permute(2, 0, 1)[None]) for p in (smooth, noise)]
    signalled = bitstream.Stream(**{**vars(streams[1]), "v": bytes([200, 50, 5])})
    return [stream.to_bytes() for stream in (*streams, signalled)]


def main() -> None:
    """Fuzz until libFuzzer's limit, or a crash."""
    torch.set_num_threads(1)
    adapted = codec()
    originals = seeds(adapted)
    outcomes = {"error": 0, "picture": 0}

    def attempt(data: bytes) -> None:
        began = time.perf_counter()
        try:
            picture = adapted.decompress(data)
        except bitstream.StreamError:
            outcomes["error"] += 1
        else:
            outcomes["picture"] += 1
            stream = bitstream.Stream.from_bytes(data)
            assert picture.shape == (stream.height, stream.width, 3)
        assert time.perf_counter() - began < SLOW, "slow"

    def one(data: bytes) -> None:
        attempt(data)
        if len(data) > 4:
            attempt(data[:-4] + struct.pack("<I", zlib.crc32(data[:-4])))

    corpus = Path(next((a for a in sys.argv[1:] if not a.startswith("-")), "."))
    for number, data in enumerate(originals):
        (corpus / f"seed_{number}").write_bytes(data)
    atheris.Setup(sys.argv, one)
    try:
        atheris.Fuzz()
    finally:
        print(outcomes)


if __name__ == "__main__":
    main()
