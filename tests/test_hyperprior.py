"""The bundled mean-scale hyperprior: what its decoder computes must not depend on the machine."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from compressai import models
from torch import Tensor, nn

from lic_da.codecs import zoo
from lic_da.codecs.models import hyperprior
from lic_da.codecs.models.hyperprior import DoubleInEval
from lic_da.io.bitstream import StreamError
from lic_da.io.images import RGB
from lic_da.methods.adapters.codec import AdaptedCodec
from tests.conftest import DOMAINS, MEAN_SCALE, codec_config


@pytest.fixture
def mean_scale() -> AdaptedCodec:
    """The bundled mean-scale hyperprior with untrained adapters."""
    return AdaptedCodec.build(codec_config(3, MEAN_SCALE), DOMAINS)


class OtherSums(nn.Module):
    """A convolution that adds its products in another order, as other processors do."""

    def __init__(self, layer: nn.Module, seed: int) -> None:
        super().__init__()
        self.layer = copy.deepcopy(layer)
        transposed = isinstance(layer, nn.ConvTranspose2d)
        channels = layer.weight.shape[0 if transposed else 1]
        self.order = torch.from_numpy(np.random.default_rng(seed).permutation(channels))
        self.layer.weight.data = layer.weight.data.index_select(0 if transposed else 1, self.order)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x[:, self.order])
        return out


def on_another_machine(h_s: nn.Sequential, seed: int) -> list[nn.Module]:
    return [OtherSums(m, seed) if hasattr(m, "weight") else m for m in h_s]


def test_streams_are_decoded_whatever_rounds_the_sums(
    mean_scale: AdaptedCodec, photographs: list[RGB]
) -> None:
    streams = [mean_scale.compress(pixels) for pixels in photographs]
    images = [mean_scale.decompress(stream) for stream in streams]
    threads = torch.get_num_threads()
    codec = mean_scale.codec
    h_s = codec.h_s
    for seed in range(4):
        codec.h_s = DoubleInEval(*on_another_machine(h_s, seed)).eval()
        torch.set_num_threads(3 - threads)
        for stream, image in zip(streams, images, strict=True):
            difference = mean_scale.decompress(stream).astype(int) - image
            assert np.abs(difference).max() <= 1  # g_s rounds otherwise too


def test_double_precision_is_what_makes_scales_equal(photographs: list[RGB]) -> None:
    """Of scales that other sums give, thousands differ in single precision and none in double."""
    codec = zoo.build(codec_config(3, MEAN_SCALE))
    x = torch.from_numpy(photographs[0][:256, :256].copy()).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        z_hat = codec.entropy_bottleneck(codec.h_a(codec.g_a(x)))[0]
        layers = on_another_machine(codec.h_s, 1)
        exact = codec.h_s(z_hat), DoubleInEval(*layers).eval()(z_hat)
        single = nn.Sequential(*codec.h_s)(z_hat), nn.Sequential(*layers)(z_hat)
    assert (single[0] != single[1]).sum() > 1000
    assert (exact[0] != exact[1]).sum() <= 1  # float32 at last: a tie may be rounded otherwise


def test_a_decoder_of_lower_precision_is_an_error_not_a_image(
    mean_scale: AdaptedCodec, photographs: list[RGB]
) -> None:
    stream = mean_scale.compress(photographs[0])
    mean_scale.codec.h_s = nn.Sequential(*mean_scale.codec.h_s)
    for parameter in mean_scale.codec.h_s.parameters():
        parameter.data = parameter.data.bfloat16().float()
    with pytest.raises(StreamError):
        mean_scale.decompress(stream)


def test_weights_are_those_of_compressais_class(photographs: list[RGB]) -> None:
    ours = zoo.build(codec_config(3, MEAN_SCALE))
    theirs = models.MeanScaleHyperprior(64, 96).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.from_numpy(photographs[0][:256, :256].copy()).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        torch.testing.assert_close(ours(x)["x_hat"], theirs(x)["x_hat"], rtol=0, atol=1e-4)


def test_large_latents_are_computed_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    h_s = models.MeanScaleHyperprior(16, 24).h_s
    layers = DoubleInEval(*h_s).eval()
    z_hat = torch.randn(1, 16, 40, 31)
    with torch.inference_mode():
        whole = layers(z_hat)
        monkeypatch.setattr(hyperprior, "_TILE", 1 << 20)
        torch.testing.assert_close(layers(z_hat), whole, rtol=0, atol=1e-6)
        torch.testing.assert_close(whole, h_s(z_hat), rtol=0, atol=1e-5)


def test_training_is_in_single_precision() -> None:
    layers = DoubleInEval(nn.Conv2d(4, 4, 3, padding=1))
    x = torch.rand(1, 4, 8, 8)
    assert torch.equal(layers.train()(x), layers[0](x))
    assert layers.eval()(x).dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in layers.parameters())
