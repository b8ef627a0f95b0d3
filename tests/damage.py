"""Damage to streams, the same for the same seed."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable

_COUNT = 26  # offsets in a stream without v
_LENGTH = 27
_HUGE = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFF, 1 << 20)


def checksummed(data: bytes) -> bytes:
    """The stream with the checksum that its bytes call for, as somebody who means harm would write."""
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


def _flipped(data: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _cut(data: bytearray, rng: random.Random) -> bytes:
    return bytes(data[: rng.randrange(len(data))])


def _extended(data: bytearray, rng: random.Random) -> bytes:
    at = rng.choice((len(data), len(data) - 8, rng.randrange(len(data))))
    return bytes(data[:at]) + rng.randbytes(rng.choice((1, 4, 100))) + bytes(data[at:])


def _swapped(data: bytearray, rng: random.Random) -> bytes:
    """Two of the header's fields change places."""
    a, b = rng.sample((14, 18, 22, 24, _LENGTH), 2)
    size = 2 if {a, b} & {22, 24} else 4
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]
    return bytes(data)


def _huge(data: bytearray, rng: random.Random) -> bytes:
    """A size or length takes an extreme value."""
    at, kind = rng.choice(((14, "<I"), (18, "<I"), (22, "<H"), (24, "<H"), (_LENGTH, "<I")))
    value = rng.choice((*_HUGE, rng.getrandbits(32))) & (0xFFFF if kind == "<H" else 0xFFFFFFFF)
    data[at : at + struct.calcsize(kind)] = struct.pack(kind, value)
    return bytes(data)


def _larger(data: bytearray, rng: random.Random) -> bytes:
    """Picture and latent grow together, the strings do not."""
    rows, columns = rng.choice((1, 4, 64, 400)), rng.choice((1, 4, 64, 700))
    data[14:26] = struct.pack("<IIHH", 16 * columns, 16 * rows, rows, columns)
    return bytes(data)


def _flagged(data: bytearray, rng: random.Random) -> bytes:
    data[rng.choice((4, 5, _COUNT))] = rng.randrange(256)
    return bytes(data)


def _restrung(data: bytearray, rng: random.Random) -> bytes:
    """Another string with the right length before it."""
    string = bytes(data[_LENGTH + 4 : -8])
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
    return bytes(data[:_LENGTH]) + struct.pack("<I", len(other)) + other + bytes(data[-8:])


def _random(data: bytearray, rng: random.Random) -> bytes:
    noise = rng.randbytes(rng.randrange(2 * len(data)))
    return rng.choice((b"", b"LICD\1\0", bytes(data[:14]))) + noise


KINDS: tuple[Callable[[bytearray, random.Random], bytes], ...] = (
    _flipped,
    _cut,
    _extended,
    _swapped,
    _huge,
    _larger,
    _flagged,
    _restrung,
    _random,
)


def damaged(data: bytes, seed: int, *, right_checksum: bool) -> bytes:
    """A damaged copy of a stream that holds one string; never the stream itself.

    Args:
        data: a stream of one string, without v.
        seed: the damage.
        right_checksum: the checksum at the end fits, so that the damage must be found elsewhere.
    """
    rng = random.Random(seed)
    while True:
        result = KINDS[seed % len(KINDS)](bytearray(data), rng)
        if right_checksum and len(result) > 8:
            result = checksummed(result)
        if result != data:
            return result
