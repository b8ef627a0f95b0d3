"""Transforms outside of training: what they give is what CompressAI's own layers give, but for rounding."""

from __future__ import annotations

import copy

import pytest
import torch
from compressai.layers import GDN
from compressai.models import CompressionModel
from torch import nn

from lic_da.codecs import zoo
from lic_da.codecs.models.fast import (
    BlockConv2d,
    ChannelsLast,
    FastGDN,
    SubpixelConvTranspose2d,
    applies,
    quicken,
)
from lic_da.codecs.models.subpixel import convolve, convolve_blocks, suits_blocks
from lic_da.config import plain
from lic_da.io.images import RGB
from lic_da.methods.adapters.codec import AdaptedCodec, base_state
from lic_da.registry import MODELS
from tests.conftest import DOMAINS, codec_config

CODECS = ["bmshj2018_factorized_n64", "mbt2018_mean_n64"]


@pytest.fixture(scope="module", params=CODECS)
def codecs(request: pytest.FixtureRequest) -> tuple[CompressionModel, CompressionModel]:
    """A bundled codec as the package builds it, and CompressAI's with the same weights."""
    config = codec_config(3, request.param)
    fast = zoo.build(config)
    own: CompressionModel = MODELS.make(plain(config.model))
    own.load_state_dict(fast.state_dict())
    return fast, own.eval()


def test_latents_and_images_are_those_of_plain_layers(
    codecs: tuple[CompressionModel, CompressionModel], photographs: list[RGB]
) -> None:
    fast, own = codecs
    x = torch.from_numpy(photographs[0][:160, :224].copy()).permute(2, 0, 1)[None].float().div(255)
    for transform in (fast.g_a, fast.g_s):
        assert type(transform) is ChannelsLast
    with torch.inference_mode():
        y, expected = fast.g_a(x), own.g_a(x)
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-4)  # y is as large as 100
        y_hat = expected.round()
        torch.testing.assert_close(fast.g_s(y_hat), own.g_s(y_hat), rtol=0, atol=1e-5)


def test_latents_are_not_changed_by_decoding(
    codecs: tuple[CompressionModel, CompressionModel],
) -> None:
    y_hat = torch.randn(2, codecs[0].M, 4, 6).round()
    for given in (y_hat, y_hat.contiguous(memory_format=torch.channels_last)):
        before = given.clone()
        with torch.inference_mode():
            codecs[0].g_s(given)
        assert torch.equal(given, before)


def test_with_gradients_every_bit_is_that_of_plain_layers(
    codecs: tuple[CompressionModel, CompressionModel],
) -> None:
    fast, own = codecs
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(fast.g_a(x), own.g_a(x))
    assert torch.equal(fast.g_s(own.g_a(x)), own.g_s(own.g_a(x)))


def test_names_of_weights_stay(codecs: tuple[CompressionModel, CompressionModel]) -> None:
    fast, own = codecs
    assert list(fast.state_dict()) == list(own.state_dict())
    assert zoo.fingerprint(fast.state_dict()) == zoo.fingerprint(own.state_dict())


def test_new_weights_are_used_at_once(codecs: tuple[CompressionModel, CompressionModel]) -> None:
    fast, own = copy.deepcopy(codecs[0]), copy.deepcopy(codecs[1])
    y_hat = torch.randn(1, fast.M, 4, 4).round()
    with torch.no_grad():
        fast.g_s(y_hat)
        for codec in (fast, own):
            for parameter in codec.g_s.parameters():
                parameter.mul_(1.1)
        torch.testing.assert_close(fast.g_s(y_hat), own.g_s(y_hat), rtol=1e-5, atol=1e-5)


def test_exporters_see_plain_layers(codecs: tuple[CompressionModel, CompressionModel]) -> None:
    y_hat = torch.zeros(1, codecs[0].M, 4, 4)
    with torch.no_grad():
        graphs = [torch.jit.trace(c.g_s, y_hat, check_trace=False).inlined_graph for c in codecs]
    kinds = [sorted(node.kind() for node in graph.nodes()) for graph in graphs]
    assert kinds[0] == kinds[1]
    assert not any("mkldnn" in kind for kind in kinds[0])


@torch.no_grad()
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("shape", [(1, 6, 5, 7), (3, 6, 700, 90), (1, 6, 1, 50_000)])
def test_gdn_in_bands_is_gdn(inverse: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = GDN(6, inverse=inverse)
    layer.gamma.add_(0.3 * torch.rand(6, 6))  # not symmetric
    fast = copy.deepcopy(layer)
    fast.__class__ = FastGDN
    x = torch.randn(shape)
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        assert applies(given)
        before = given.clone()
        torch.testing.assert_close(fast(given), layer(x), rtol=1e-5, atol=1e-5)
        assert torch.equal(given, before)


@torch.no_grad()
@pytest.mark.parametrize(
    ("k", "stride", "padding"), [(5, 2, 2), (4, 2, 1), (2, 2, 0), (5, 3, 1), (9, 4, 4)]
)
def test_blocks_of_pixels_are_convolved_as_by_torch(k: int, stride: int, padding: int) -> None:
    conv = nn.Conv2d(3, 20, k, stride, padding)
    x = torch.randn(2, 3, 5 * stride, 8 * stride)
    uneven = torch.randn(1, 3, 5 * stride + 1, 8 * stride)
    expected = conv(x), conv(uneven)
    assert suits_blocks(conv)
    torch.testing.assert_close(convolve_blocks(conv, x), expected[0], rtol=1e-5, atol=1e-5)
    conv.__class__ = BlockConv2d
    assert torch.equal(conv(x), convolve_blocks(conv, x))
    assert torch.equal(conv(uneven), expected[1])


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(64, 64, 5, 2, 2),  # many channels
        nn.Conv2d(3, 64, 3, 2, 1),  # sees no block of pixels on the right
        nn.Conv2d(3, 64, 5, 2, 0),  # makes fewer outputs than there are blocks
        nn.Conv2d(3, 64, 3, 1, 1),
        nn.Conv2d(3, 64, 5, 2, 2, padding_mode="reflect"),
        nn.ConvTranspose2d(3, 64, 5, 2, 2, 1),
    ],
)
def test_other_first_layers_are_left_to_torch(conv: nn.Module) -> None:
    assert not suits_blocks(conv)


@torch.no_grad()
@pytest.mark.parametrize(
    ("k", "stride", "padding", "more"),
    [(5, 2, 2, 1), (4, 2, 1, 0), (5, 3, 2, 2), (2, 2, 0, 0), (5, 2, 2, 0), (3, 2, 0, 1)],
)
def test_one_kernel_for_all_images(k: int, stride: int, padding: int, more: int) -> None:
    conv = nn.ConvTranspose2d(40, 3, k, stride, padding, more)
    u = torch.randn(2, 40, 6, 9)
    out = convolve(conv, u, conv.weight, conv.bias)
    torch.testing.assert_close(out, conv(u), rtol=1e-5, atol=1e-5)
    conv.__class__ = SubpixelConvTranspose2d
    assert torch.equal(conv(u), out)


def test_transforms_of_other_layers_stay_what_they_are() -> None:
    codec = zoo.build(codec_config())
    codec.g_a = nn.Sequential(nn.Conv2d(3, 8, 5, 2, 2), nn.InstanceNorm2d(8))
    codec.g_s = nn.Sequential(nn.ConvTranspose2d(8, 3, 5, 2, 2, 1), nn.Sequential(nn.ReLU()))
    quicken(codec)
    assert {type(m) for m in codec.g_a} == {nn.Conv2d, nn.InstanceNorm2d}
    assert {type(m) for m in codec.g_s} == {nn.ConvTranspose2d, nn.Sequential}


@pytest.mark.parametrize("name", CODECS)
def test_strings_are_those_of_plain_layers_and_open(name: str, photographs: list[RGB]) -> None:
    """Symbols may differ where a latent lies halfway between two; here none does."""
    fast = AdaptedCodec.build(codec_config(3, name), DOMAINS)
    own: CompressionModel = MODELS.make(plain(fast.config.model))
    own.load_state_dict(base_state(fast.codec))
    pixels = torch.from_numpy(photographs[1][:128, :192].copy()).permute(2, 0, 1)[None]
    stream = fast.encode(pixels)
    with torch.inference_mode():
        coded = own.eval().compress(pixels.float().div(255))
        image = own.decompress(coded["strings"], stream.shape)["x_hat"]
        assert list(stream.strings) == [strings[0] for strings in coded["strings"]]
        torch.testing.assert_close(fast.decode(stream), image, rtol=0, atol=1e-5)
