"""Streams are read back as written, and anything else is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from compressai.ans import RansDecoder
from compressai.models import CompressionModel, ScaleHyperprior

from lic_da.codecs import fingerprints, zoo
from lic_da.codecs.entropy import decode
from lic_da.errors import UserError
from lic_da.io.bitstream import (
    MAX_PIXELS,
    Stream,
    StreamError,
    chosen_bytes,
)
from lic_da.io.images import RGB
from lic_da.methods.adapters.codec import AdaptedCodec
from tests.conftest import BUNDLED, CODEC, DOMAINS, codec_config, disturb, hyperprior_config
from tests.damage import checksummed

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


def test_whatever_holds_bytes_is_read_and_other_things_are_refused_in_words() -> None:
    data = STREAM.to_bytes()
    for held in (bytearray(data), memoryview(data), memoryview(b"x" + data)[1:]):
        assert Stream.from_bytes(held) == STREAM
    for other in (None, 5, data.hex(), np.frombuffer(data, np.uint8), Path("a.lic")):
        with pytest.raises(StreamError, match=r"A stream is the bytes of a \.lic file, .*, not "):
            Stream.from_bytes(other)  # type: ignore[arg-type]


def test_weights_of_the_adapters_follow_the_latent_shape() -> None:
    v = bytes([250, 5, 0])
    data = dataclasses.replace(STREAM, v=v).to_bytes()
    assert data[5] == 1 | 2 << 1  # there is a v, and K is 2
    assert data[26:29] == v and data[29] == 2
    assert len(data) == len(STREAM.to_bytes()) + 3
    read = Stream.from_bytes(data)
    assert read.v == v and dataclasses.replace(read, v=None) == STREAM
    assert read.bpp == 8 * (read.string_bytes + 3) / (395 * 301)


CHOSEN = {
    "dense": ((-40, 0, 17), b"\x04", b"\xd8\x00\x11"),
    "sparse": ((0,) * 5 + (127,) + (0,) * 57 + (-128,), b"\x05", b"\x3f\x05\x3f\x7f\x80"),
    "base": ((0,) * 3, b"\x01", b"\x02"),
    "one domain": ((33,), b"\x00", b"\x21"),
    "most": ((1,) * 8 + (0,) * 248, b"\x11", b"\xff" + bytes(range(8)) + b"\x01" * 8),
}


@pytest.mark.parametrize("kind", CHOSEN)
def test_a_chosen_v_is_stored_as_documented(kind: str) -> None:
    chosen, flags, block = CHOSEN[kind]
    stream = dataclasses.replace(STREAM, chosen=chosen)
    plain, data = STREAM.to_bytes(), stream.to_bytes()
    assert data[4:6] == b"\x02" + flags
    assert data[26 : 26 + len(block)] == block
    assert data[6:26] == plain[6:26] and data[26 + len(block) : -4] == plain[26:-4]
    assert Stream.from_bytes(data) == stream
    assert stream.v_bytes == len(block) == chosen_bytes(chosen)
    assert stream.bpp == 8 * (stream.string_bytes + len(block)) / (395 * 301)
    for i in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[i] ^= 1 << bit
            with pytest.raises(StreamError):
                Stream.from_bytes(bytes(damaged))
        with pytest.raises(StreamError):
            Stream.from_bytes(data[:i])


@pytest.mark.parametrize(
    ("flags", "block"),
    [
        (0x7E, bytes([1] * 64)),  # 64 in a row, all other than zero
        (0x04, bytes(3)),  # dense, but sparse is shorter
        (0x05, b"\x02\x00\x01\x05\x06"),  # sparse, but dense is as short
        (0x05, b"\x3f\x05\x05\x01\x01"),  # one place twice
        (0x05, b"\x3f\x06\x05\x01\x01"),  # places that fall
        (0x05, b"\x3f\x05\x40\x01\x01"),  # a place beyond K
        (0x05, b"\x3f\x05\x06\x01\x00"),  # an entry that is zero
        (0x13, b"\x3f" + bytes(range(9)) + b"\x01" * 9),  # nine entries
        (0xFF, b"\xff" + bytes(range(127)) + b"\x01" * 127),
    ],
)
def test_a_chosen_v_in_another_form_is_refused_even_with_a_right_checksum(
    flags: int, block: bytes
) -> None:
    data = STREAM.to_bytes()
    forged = data[:4] + bytes([2, flags]) + data[6:26] + block + data[26:]
    with pytest.raises(
        StreamError, match=r"weights of the adapters are not in the form|chosen v has"
    ):
        Stream.from_bytes(checksummed(forged))


def test_a_version_that_is_not_known_is_refused_by_its_number() -> None:
    data = STREAM.to_bytes()
    with pytest.raises(
        StreamError, match=r"version 3 and flags 0; .* Use a newer version of lic_da"
    ):
        Stream.from_bytes(checksummed(data[:4] + b"\x03" + data[5:]))


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0},
        {"width": 1 << 21},
        {"width": 12_000, "height": MAX_PIXELS // 12_000 + 1},
        {"shape": (0, 4)},
        {"shape": (302, 25)},
        {"strings": ()},
        {"strings": (b"x",) * 17},
        {"v": b""},
        {"v": bytes(3)},
        {"v": b"x" * 129},
        {"chosen": ()},
        {"chosen": (128,)},
        {"chosen": (0, -129)},
        {"chosen": (1,) * 18},
        {"chosen": (0,) * 257},
        {"v": b"abc", "chosen": (1, 2, 3)},
        {"fingerprint": b"short"},
    ],
)
def test_values_outside_the_limits_cannot_be_written(change: dict) -> None:
    with pytest.raises(StreamError):
        dataclasses.replace(STREAM, **change)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (4, b"\x02"),  # version
        (5, b"\x02"),  # flags without the lowest bit
        (14, struct.pack("<I", 0)),
        (14, struct.pack("<I", 0xFFFFFFFF)),
        (18, struct.pack("<I", 0x7FFFFFFF)),
        (22, struct.pack("<H", 0)),
        (24, struct.pack("<H", 0xFFFF)),
        (26, b"\x00"),
        (26, b"\x01"),  # bytes are left over
        (26, b"\xff"),
        (27, struct.pack("<I", 0xFFFFFFFF)),
        (27, struct.pack("<I", 0x80000000)),
        (27, struct.pack("<I", 8)),
    ],
)
def test_impossible_headers_are_refused_even_with_a_right_checksum(at: int, value: bytes) -> None:
    data = STREAM.to_bytes()
    with pytest.raises(StreamError):
        Stream.from_bytes(checksummed(data[:at] + value + data[at + len(value) :]))


def test_a_file_that_is_too_large_or_no_stream_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "huge.lic"
    with open(file, "wb") as huge:
        huge.write(b"LICD")
        huge.truncate(1 << 40)  # a hole; a reader that took it in would die
    with pytest.raises(StreamError, match="at most 512 MiB"):
        Stream.read(file)
    with pytest.raises(UserError, match="cannot be read"):
        Stream.read(tmp_path / "none.lic")
    file.write_bytes(STREAM.to_bytes())
    assert Stream.read(file) == STREAM


@pytest.fixture(scope="module")
def small() -> tuple[AdaptedCodec, bytes, RGB]:
    """A codec, a stream of one string, and its image."""
    import skimage

    from lic_da.io.images import read_rgb

    codec = disturb(AdaptedCodec.build(codec_config(), DOMAINS))
    astronaut = read_rgb(Path(skimage.__file__).parent / "data" / "astronaut.png")
    data = codec.compress(np.ascontiguousarray(astronaut[40:104, 60:156]))
    return codec, data, codec.decompress(data)


@pytest.mark.parametrize(
    ("count", "seconds"),
    [(1_500, 20), pytest.param(10_000, 2, marks=pytest.mark.slow, id="ten_thousand")],
)
def test_damaged_streams_end_in_the_documented_error(count: int, seconds: int) -> None:
    """Factorized, hyperprior, signalled and chosen v; half of the corpus is forged, with a right checksum.

    The child has 1 GiB of memory and so many seconds a stream, beside other tests more than it needs
    alone; a crash, another exception or an image that the undamaged latents do not have ends it.
    """
    child = subprocess.run(
        [sys.executable, "-m", "tests.damage", str(count), str(seconds)],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    told = json.loads(child.stdout)
    assert set(told) == {"factorized", "hyperprior", "signalled", "chosen", "sparse"}
    assert sum(of["errors"] + of["pictures"] for of in told.values()) == count
    assert all(of["errors"] > 0.9 * count / len(told) for of in told.values())


def test_the_entropy_decoder_never_reads_what_lies_behind_the_padding(
    base: CompressionModel,
) -> None:
    """What it reads there would change the result; without padding it does."""
    rng = random.Random(0)
    model = base.entropy_bottleneck
    tables = [t.tolist() for t in (model.quantized_cdf, model.cdf_length, model.offset)]
    escape = bytes(4) + b"\xff" * 4 + b"\xff\xff\xff\xff"
    for number in range(60):
        symbols = rng.choice((64, 640, 20_000))
        indexes = [i * 64 // symbols for i in range(symbols)]
        string = rng.choice((b"", bytes(8), escape, b"\xff" * 4000, rng.randbytes(number * 4)))
        padded = decode.pad_string(string, symbols)
        results = [
            RansDecoder().decode_with_indexes(padded + tail, indexes, *tables)
            for tail in (bytes(1000), b"\xff" * 1000, rng.randbytes(1000))
        ]
        assert results[0] == results[1] == results[2]
    tails = (b"\xff" * 100_000, b"\x55" * 100_000)
    bare = [RansDecoder().decode_with_indexes(escape + t, indexes, *tables) for t in tails]
    assert bare[0] != bare[1]


def test_a_few_bytes_cannot_claim_a_hundred_megapixels(
    small: tuple[AdaptedCodec, bytes, RGB],
) -> None:
    codec, data, _ = small
    stream = dataclasses.replace(
        Stream.from_bytes(data), width=10_000, height=10_000, shape=(625, 625)
    )
    with pytest.raises(StreamError, match="too short for the size"):
        codec.decompress(stream.to_bytes())
    with pytest.raises(StreamError, match="does not have the size that its image needs"):
        codec.decompress(dataclasses.replace(stream, shape=(4, 6)).to_bytes())
    with pytest.raises(StreamError, match="2 strings; this codec writes 1"):
        codec.decompress(
            dataclasses.replace(stream, shape=(625, 625), strings=stream.strings * 2).to_bytes()
        )


def test_gaussian_tables_count_in_the_least_number_of_bytes() -> None:
    """With a hyperprior the strings of a plain image pass, and what is shorter does not."""
    codec = AdaptedCodec.build(hyperprior_config(), DOMAINS)
    model = codec.codec.gaussian_conditional
    least = decode.least_bits(codec.codec, (10, 10), 24 * 1600)
    without = decode.least_bits(codec.codec, (10, 10), 0)
    likeliest = model.quantized_cdf.diff(dim=1)[0].max() / (1 << 16)
    assert least - without == pytest.approx(-24 * 1600 * float(likeliest.log2()), rel=1e-2)
    data = codec.compress(np.full((512, 512, 3), 255, np.uint8))
    assert codec.decompress(data).shape == (512, 512, 3)
    stream = dataclasses.replace(
        Stream.from_bytes(data), width=10_880, height=10_880, shape=(170, 170)
    )
    with pytest.raises(StreamError, match="too short for the size"):
        codec.decompress(stream)


def test_decoding_ends_where_the_string_does(base: CompressionModel) -> None:
    """A string that is long enough by its tables' likeliest symbols, but holds others."""
    symbols = 64 * 300 * 300
    string = bytes(7) + b"\1" + random.Random(0).randbytes(400_000)
    decode.check_strings(base, [string], (300, 300), symbols)
    with pytest.raises(StreamError, match="end before the latent"):
        decode.decode_latent(base, [string], (300, 300), symbols)


@pytest.mark.parametrize("value", [0, 255])
def test_a_plain_image_is_not_too_short_for_its_size(adapted: AdaptedCodec, value: int) -> None:
    """The shortest strings that the codec writes pass the test that damaged ones must not pass."""
    pixels = np.full((512, 512, 3), value, np.uint8)
    assert adapted.decompress(adapted.compress(pixels)).shape == pixels.shape


def test_damaged_strings_of_a_codec_with_hyperprior_are_errors_too() -> None:
    torch.manual_seed(0)
    codec = ScaleHyperprior(16, 24).eval()
    codec.update(force=True)
    with torch.inference_mode():
        coded = codec.compress(torch.rand(1, 3, 128, 64))
    strings, shape = [s[0] for s in coded["strings"]], tuple(coded["shape"])
    y_hat, checksum = decode.decode_latent(codec, strings, shape, 24 * 8 * 4)
    assert y_hat.shape == (1, 24, 8, 4)
    rng = random.Random(0)
    refused = 0
    for number in range(200):
        other = list(strings)
        other[number % 2] = strings[0][:7] + b"\1" + rng.randbytes(4 * rng.randrange(40))
        try:
            y, found = decode.decode_latent(codec, other, shape, 24 * 8 * 4)
        except StreamError:
            refused += 1
            continue
        refused += found != checksum
        assert found != checksum or torch.equal(y, y_hat)
    assert refused > 50


def test_signalled_weights_take_the_place_of_the_gate(
    small: tuple[AdaptedCodec, bytes, RGB],
) -> None:
    codec, data, _ = small
    stream = dataclasses.replace(Stream.from_bytes(data), v=bytes([0, 200, 0]))
    assert codec.gate_weights(stream) == {"natural": 0.0, "sketch": 1.0, "comic": 0.0}
    sketch = codec.decompress(data, "oracle", "sketch")
    assert np.array_equal(codec.decompress(stream.to_bytes()), sketch)
    assert np.array_equal(
        codec.decompress(stream.to_bytes(), "base"), codec.decompress(data, "base")
    )
    with pytest.raises(StreamError, match="weights for 2 domains, but this pack has 3: natural"):
        codec.decompress(dataclasses.replace(stream, v=b"ab").to_bytes())


def test_with_the_mode_base_the_stream_is_the_base_codecs_own(photographs: list[RGB]) -> None:
    codec = AdaptedCodec.build(codec_config(), DOMAINS, {"gate": {"input": "signalled"}})
    pixels = photographs[0][:64, :64]
    assert Stream.from_bytes(codec.compress(pixels)).v is not None
    with codec.in_mode("base"):
        assert codec.compress(pixels) == AdaptedCodec.build(codec_config(), DOMAINS).compress(
            pixels
        )


def test_the_packages_own_weights_are_known_by_name() -> None:
    for name, quality in BUNDLED:
        fingerprint = zoo.fingerprint(zoo.build(codec_config(quality, name)).state_dict())
        assert fingerprints.find(bytes.fromhex(fingerprint)[:8]) == (name, quality)
    assert fingerprints.find(bytes(8)) is None


def test_a_stream_of_another_quality_is_refused_by_name(photographs: list[RGB]) -> None:
    data = AdaptedCodec.build(codec_config(2), DOMAINS).compress(photographs[0][:64, :64])
    decoder = AdaptedCodec.build(codec_config(3), DOMAINS)
    with pytest.raises(
        StreamError, match=f"made with .* {CODEC}, quality 2 .* this is {CODEC}, quality 3"
    ):
        decoder.decompress(data)


def test_a_stream_of_another_codec_is_refused_by_name(photographs: list[RGB]) -> None:
    data = AdaptedCodec.build(codec_config(2), DOMAINS).compress(photographs[0][:64, :64])
    decoder = AdaptedCodec.build(hyperprior_config(), DOMAINS)
    own = rf"this is bmshj2018_hyperprior, quality 3 \({decoder.fingerprint[:16]}"
    with pytest.raises(StreamError, match=rf"{CODEC}, quality 2 \(.*{own}"):
        decoder.decompress(data)


def test_a_stream_is_refused_when_one_base_weight_has_changed(photographs: list[RGB]) -> None:
    config = codec_config()
    data = AdaptedCodec.build(config, DOMAINS).compress(photographs[0][:64, :64])
    other = AdaptedCodec.build(config, DOMAINS)
    with torch.no_grad():
        other.synthesis.base[0].bias[3] += 1e-6
    fingerprint = zoo.fingerprint(
        {
            k.replace("g_s.base.", "g_s."): v
            for k, v in other.codec.state_dict().items()
            if not k.startswith(("g_s.bank.", "g_s.gate."))
        }
    )
    other = AdaptedCodec(other.codec, config, fingerprint)
    with pytest.raises(StreamError, match=rf"{CODEC}, quality 3 \(3ae33fba.*but this"):
        other.decompress(data)


def test_another_pack_of_the_same_base_opens_a_stream(photographs: list[RGB]) -> None:
    """The gate of the pack that decodes looks at the latent; the stream knows of no pack."""
    data = AdaptedCodec.build(codec_config(), DOMAINS).compress(photographs[0][:64, :64])
    other = AdaptedCodec.build(codec_config(), ("natural", "clipart"))
    assert other.decompress(data).shape == (64, 64, 3)


def test_a_stream_of_other_base_weights_is_refused(
    adapted: AdaptedCodec, photographs: list[RGB]
) -> None:
    stream = Stream.from_bytes(adapted.compress(photographs[0]))
    other = dataclasses.replace(stream, fingerprint=b"otherone")
    with pytest.raises(
        StreamError, match=f"weights {b'otherone'.hex()}.*{adapted.fingerprint[:16]}"
    ):
        adapted.decompress(other.to_bytes())


def test_latents_that_decode_differently_are_an_error_not_a_image(
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
    code = "import sys, lic_da.io.bitstream, lic_da.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
