"""Streams are read back as written, and anything else is refused."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from lic_da.adaptation.codec import AdaptedCodec
from lic_da.bitstream import Stream, StreamError
from lic_da.data.images import RGB

STREAM = Stream(b"12345678", 395, 301, (19, 25), (b"strings", b"of two latents"), 0xDEADBEEF)


def test_layout_is_the_documented_one() -> None:
    data = STREAM.to_bytes()
    assert data[:6] == b"LICD\x01\x00"
    assert data[6:14] == b"12345678"
    assert data[14:26].hex() == "8b010000" + "2d010000" + "1300" + "1900"
    assert data[26] == 2
    assert data[27:38] == b"\x07\x00\x00\x00strings"
    assert data[-8:-4].hex() == "efbeadde"
    assert Stream.from_bytes(data) == STREAM


def test_every_changed_byte_and_every_cut_is_an_error() -> None:
    data = STREAM.to_bytes()
    for i in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[i] ^= 1 << bit
            with pytest.raises(StreamError):
                Stream.from_bytes(bytes(damaged))
        with pytest.raises(StreamError):
            Stream.from_bytes(data[:i])
    with pytest.raises(StreamError):
        Stream.from_bytes(data + b"\0")


@pytest.mark.parametrize("change", [{"width": 0}, {"shape": (0, 4)}, {"strings": ()}])
def test_impossible_headers_are_refused_even_with_a_right_checksum(change: dict) -> None:
    with pytest.raises(StreamError):
        Stream.from_bytes(dataclasses.replace(STREAM, **change).to_bytes())


def test_a_stream_of_other_base_weights_is_refused(
    adapted: AdaptedCodec, photographs: list[RGB]
) -> None:
    stream = Stream.from_bytes(adapted.compress(photographs[0]))
    other = dataclasses.replace(stream, fingerprint=b"otherone")
    with pytest.raises(StreamError, match=f"{b'otherone'.hex()}.*{adapted.fingerprint[:16]}"):
        adapted.decompress(other.to_bytes())


def test_latents_that_decode_differently_are_an_error_not_a_picture(
    adapted: AdaptedCodec, photographs: list[RGB]
) -> None:
    data = adapted.compress(photographs[0])
    adapted.codec.entropy_bottleneck._offset[5] += 1  # another machine's tables
    with pytest.raises(StreamError, match="decode to other values"):
        adapted.decompress(data)


def test_round_trip_of_sizes_that_are_no_multiple_of_the_stride(
    adapted: AdaptedCodec, photographs: list[RGB]
) -> None:
    for height, width in ((301, 395), (16, 16), (17, 64), (100, 31)):
        pixels = np.ascontiguousarray(photographs[2][:height, :width])
        assert adapted.decompress(adapted.compress(pixels)).shape == pixels.shape


def test_reading_streams_needs_no_torch() -> None:
    code = "import sys, lic_da.bitstream, lic_da.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
