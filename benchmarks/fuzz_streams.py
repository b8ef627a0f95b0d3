"""Search for a stream that decoding does not survive, guided by coverage. Needs ``atheris`` (PyPI).

``python -m benchmarks.fuzz_streams -max_total_time=600 CORPUS_DIR`` (libFuzzer's options). The first byte
of an input names the codec, the others are the stream. Every stream is tried as it is and with its checksum
put right, so that the search gets behind the checksum. What may come out is a StreamError or the
image of the undamaged latents. The search starts from the corpus of ``tests/damage.py``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

try:
    import atheris
except ModuleNotFoundError:
    sys.exit("The fuzzer needs atheris: pip install atheris")
with atheris.instrument_imports(include=["lic_da"]):
    from lic_da.io import bitstream
    from lic_da.methods.adapters import codec as _  # noqa: F401

from tests import damage

SEEDS = 2_000
LONGEST_SEED = 4_095


def main() -> None:
    """Fuzz until libFuzzer's limit, or a crash."""
    torch.set_num_threads(1)
    made = list(damage.codecs().values())
    outcomes = {"error": 0, "image": 0, "slowest": 0.0}

    def attempt(which: int, data: bytes) -> None:
        codec, original = made[which]
        began = time.process_time()
        try:
            image = codec.decompress(data)
        except bitstream.StreamError:
            outcomes["error"] += 1
        else:
            outcomes["image"] += 1
            assert damage.legal(codec, original, data, image)
        seconds = time.process_time() - began
        outcomes["slowest"] = max(outcomes["slowest"], seconds)
        assert seconds < damage.SECONDS, "slow"

    def one(data: bytes) -> None:
        if len(data) < 6:
            return
        which = data[0] % len(made)
        attempt(which, data[1:])
        attempt(which, damage.checksummed(data[1:]))

    folder = Path(next((a for a in sys.argv[1:] if not a.startswith("-")), "."))
    for which, (_codec, original) in enumerate(made):
        (folder / f"whole_{which}").write_bytes(bytes([which]) + original)
    for number, (which, data) in enumerate(damage.corpus([data for _, data in made], SEEDS)):
        if len(data) <= LONGEST_SEED:
            (folder / f"damaged_{number}").write_bytes(bytes([which]) + data)
    atheris.Setup(sys.argv, one)
    try:
        atheris.Fuzz()
    finally:
        print(outcomes, flush=True)


if __name__ == "__main__":
    main()
