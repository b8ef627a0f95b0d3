"""Damage to streams, the same for the same seed, and what a decoder makes of it.

``python -m tests.damage COUNT [SECONDS]`` decodes a corpus in a process whose memory and time are
limited, and prints a line of JSON for each codec.
"""

from __future__ import annotations

import dataclasses
import json
import random
import resource
import signal
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SECONDS = 2.0
"""Of processor time that a stream may take, on a machine that does nothing else."""
MEMORY = 1 << 30
"""Bytes that decoding may take beside what the program has when it begins."""

_HEAD = 26  # bytes before v
_HUGE = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFF, 1 << 20)


class Layout:
    """Where things are in a whole stream."""

    def __init__(self, data: bytes) -> None:
        many = data[5] >> 1
        if data[4] == 1:
            self.v = many + 1 if data[5] else 0
        else:  # a chosen v
            self.v = 1 + 2 * many if data[5] & 1 else many + 1
        self.count = _HEAD + self.v
        self.lengths = []
        at = self.count + 1
        for _ in range(data[self.count]):
            self.lengths.append(at)
            at += 4 + struct.unpack_from("<I", data, at)[0]
        self.stride = struct.unpack_from("<I", data, 18)[0] // struct.unpack_from("<H", data, 22)[0]


Kind = Callable[[bytearray, Layout, random.Random], bytes]


def checksummed(data: bytes) -> bytes:
    """The stream with the checksum that its bytes call for, as somebody who means harm would write."""
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


def _flipped(data: bytearray, layout: Layout, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _cut(data: bytearray, layout: Layout, rng: random.Random) -> bytes:
    return bytes(data[: rng.randrange(len(data))])


def _extended(data: bytearray, layout: Layout, rng: random.Random) -> bytes:
    at = rng.choice((len(data), len(data) - 8, rng.randrange(len(data))))
    return bytes(data[:at]) + rng.randbytes(rng.choice((1, 4, 100))) + bytes(data[at:])


def _swapped(data: bytearray, layout: Layout, rng: random.Random) -> bytes:
    """Two of the header's fields change places."""
    a, b = rng.sample((14, 18, 22, 24, *layout.lengths), 2)
    size = 2 if {a, b} & {22, 24} else 4
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]
    return bytes(data)


def _huge(data: bytearray, layout: Layout, rng: random.Random) -> bytes:
    """A size or length takes an extreme value."""
    lengths = ((at, "<I") for at in layout.lengths)
    at, kind = rng.choice(((14, "<I"), (18, "<I"), (22, "<H"), (24, "<H"), *lengths))
    value = rng.choice((*_HUGE, rng.getrandbits(32))) & (0xFFFF if kind == "<H" else 0xFFFFFFFF)
    data[at : at + struct.calcsize(kind)] = struct.pack(kind, value)
    return bytes(data)


def _larger(data: bytearray, layout: Layout, rng: random.Random) -> bytes:
    """Image and latent grow together, the strings do not."""
    fine = 64 // layout.stride
    rows, columns = (fine * rng.choice((1, 2, 16, most)) for most in (100, 290))
    size = (layout.stride * columns, layout.stride * rows, rows, columns)
    data[14:_HEAD] = struct.pack("<IIHH", *size)
    return bytes(data)


def _inflated(data: bytearray, layout: Layout, rng: random.Random) -> bytes:
    """The largest image, with a first string of random bytes that is long enough for it."""
    if rng.random() > 0.03:
        return _larger(data, layout, rng)
    side = 10_880
    rows = side // layout.stride
    data[14:_HEAD] = struct.pack("<IIHH", side, side, rows, rows)
    string = bytes(7) + b"\1" + rng.randbytes(1 << 21)
    return _with_string(data, layout.lengths[0], string)


def _flagged(data: bytearray, layout: Layout, rng: random.Random) -> bytes:
    data[rng.choice((4, 5, layout.count))] = rng.randrange(256)
    return bytes(data)


def _restrung(data: bytearray, layout: Layout, rng: random.Random) -> bytes:
    """Another string with the right length before it."""
    at = rng.choice(layout.lengths)
    string = bytes(data[at + 4 : at + 4 + struct.unpack_from("<I", data, at)[0]])
    other = rng.choice(
        (
            rng.randbytes(len(string)),
            string[: 4 * rng.randrange(len(string) // 4)],
            string + rng.randbytes(4 * rng.randrange(64)),
            string[:8] + rng.randbytes(len(string) - 8),
            string[: len(string) // 2] + b"\xff" * (len(string) // 2),
            b"\xff" * 7 + b"\x7f" + b"\xff" * (len(string) - 8),
            bytes(4) + b"\1" + bytes(len(string) - 5),
        )
    )
    return _with_string(data, at, other)


def _with_string(data: bytearray, at: int, string: bytes) -> bytes:
    end = at + 4 + struct.unpack_from("<I", data, at)[0]
    return bytes(data[:at]) + struct.pack("<I", len(string)) + string + bytes(data[end:])


def _random(data: bytearray, layout: Layout, rng: random.Random) -> bytes:
    noise = rng.randbytes(rng.randrange(2 * len(data)))
    return rng.choice((b"", b"LICD\1\0", bytes(data[:14]))) + noise


KINDS: tuple[Kind, ...] = (
    _flipped,
    _cut,
    _extended,
    _swapped,
    _huge,
    _larger,
    _inflated,
    _flagged,
    _restrung,
    _random,
)


def damaged(data: bytes, seed: int, *, right_checksum: bool) -> bytes:
    """A damaged copy of a stream; never the stream itself.

    Args:
        data: a stream.
        seed: the damage.
        right_checksum: the checksum at the end fits, so that the damage must be found elsewhere.
    """
    rng, layout = random.Random(seed), Layout(data)
    while True:
        result = KINDS[seed % len(KINDS)](bytearray(data), layout, rng)
        if right_checksum and len(result) > 8:
            result = checksummed(result)
        if result != data:
            return result


def corpus(streams: list[bytes], count: int) -> Iterator[tuple[int, bytes]]:
    """Damaged streams, and which stream each was; every other one has a right checksum."""
    for number in range(count):
        which = number // 2 % len(streams)
        yield which, damaged(streams[which], number // 2, right_checksum=number % 2 == 1)


def codecs() -> dict[str, tuple[Any, bytes]]:
    """Codecs that have different kinds of streams, and a stream of each: name -> codec, stream."""
    import numpy as np
    import skimage
    import torch

    from lic_da.io.bitstream import Stream
    from lic_da.io.images import read_rgb
    from lic_da.methods.adapters.codec import AdaptedCodec
    from tests.conftest import DOMAINS, codec_config, disturb, hyperprior_config

    astronaut = read_rgb(Path(skimage.__file__).parent / "data" / "astronaut.png")
    image = np.ascontiguousarray(astronaut[40:104, 60:156])
    factorized = disturb(AdaptedCodec.build(codec_config(), DOMAINS))
    scaled = disturb(AdaptedCodec.build(hyperprior_config(), DOMAINS))
    with torch.no_grad():
        scaled.codec.g_a[-1].weight.mul_(30)  # a latent that is not all zeros; some symbols escape
    plain = factorized.compress(image)
    stream = Stream.from_bytes(plain)
    signalled = dataclasses.replace(stream, v=bytes([200, 50, 5])).to_bytes()
    return {
        "factorized": (factorized, plain),
        "hyperprior": (scaled, scaled.compress(image)),
        "signalled": (factorized, signalled),
        "chosen": (factorized, dataclasses.replace(stream, chosen=(20, -7, 64)).to_bytes()),
        "sparse": (factorized, dataclasses.replace(stream, chosen=(0, 0, 0)).to_bytes()),
    }


def legal(codec: Any, original: bytes, data: bytes, image: Any) -> bool:
    """Whether an image may come out: the true latents, cropped otherwise or with another v.

    The checksum of the latents is over their symbols in one row, so a codec whose strings decode to the
    same symbols in rows of another length, as a hyperprior may, shows them so.
    """
    import numpy as np

    from lic_da.io.bitstream import Stream

    stream = Stream.from_bytes(data)
    true = Stream.from_bytes(original)
    if stream.shape == true.shape[::-1] != true.shape:
        return stream.latent_crc == true.latent_crc
    height, width = (side * codec.stride for side in true.shape)
    whole = dataclasses.replace(true, v=stream.v, chosen=stream.chosen, height=height, width=width)
    expected = codec.decompress(whole)[: stream.height, : stream.width]
    return bool(np.array_equal(image, expected))


def main(count: int, seconds: float = SECONDS) -> None:
    """Decode the corpus; anything but an error or a legal image ends the process."""
    from lic_da.io.bitstream import StreamError

    made = codecs()
    for codec, data in made.values():
        codec.decompress(data)  # what is made at the first call is no stream's doing
    signal.signal(signal.SIGPROF, _too_slow)
    limit = _data_bytes() + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    told = {name: {"errors": 0, "pictures": 0, "slowest": 0.0} for name in made}
    names = list(made)
    for number, (which, data) in enumerate(corpus([data for _, data in made.values()], count)):
        codec, original = made[names[which]]
        of = told[names[which]]
        began = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            image = codec.decompress(data)
        except StreamError:
            image = None
        except BaseException as error:
            raise AssertionError(f"stream {number}, {names[which]}") from error
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        of["slowest"] = max(of["slowest"], round(time.process_time() - began, 3))
        if image is None:
            of["errors"] += 1
            continue
        of["pictures"] += 1
        assert number % 2 == 1, f"stream {number}, {names[which]}: an image under a wrong checksum"
        assert legal(codec, original, data, image), f"stream {number}, {names[which]}"
    print(json.dumps(told))


def _too_slow(*_: object) -> None:
    raise TimeoutError("the time is up")


def _data_bytes() -> int:
    """What RLIMIT_DATA counts of this process now."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmData:")[1].split()[0]) << 10


if __name__ == "__main__":
    main(int(sys.argv[1]), *map(float, sys.argv[2:]))
