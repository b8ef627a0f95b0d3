"""The bundled codecs and their weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from compressai.models import CompressionModel, FactorizedPrior, ScaleHyperprior
from safetensors.torch import load_file, save_file
from torch import Tensor

from lic_da.codecs import zoo
from lic_da.codecs.latents import decoder_latent
from lic_da.codecs.spec import LAMBDAS
from lic_da.errors import UserError
from lic_da.io.images import RGB
from lic_da.methods.adapters.codec import pad
from lic_da.pretraining.module import code, coder_of
from tests.conftest import BUNDLED, CODEC, MEAN_SCALE, QUALITIES, codec_config
from tests.test_adaptation import as_batch


@pytest.mark.parametrize(("name", "quality"), BUNDLED)
def test_bundled_weights_really_code_what_they_estimate(
    name: str, quality: int, photographs: list[RGB]
) -> None:
    config = codec_config(quality, name)
    codec = zoo.build(config)
    recipe = json.loads((zoo.WEIGHTS / name / f"q{quality}.json").read_text())
    assert recipe["lmbda"] == LAMBDAS[quality]
    size = (zoo.WEIGHTS / name / f"q{quality}.safetensors").stat().st_size
    assert size < {CODEC: 2_700_000, MEAN_SCALE: 6_000_000}[name]
    for pixels in photographs:
        x = pad(as_batch(pixels), config.stride)
        with torch.inference_mode():
            coded = codec.compress(x)
            x_hat = codec.decompress(coded["strings"], coded["shape"])["x_hat"]
            out = codec(x)
        torch.testing.assert_close(x_hat, out["x_hat"].clamp(0, 1), rtol=0, atol=1e-5)
        # 16-bit tables and escape codes for rare values cost a little more than the estimate; tables of
        # Gaussians are those of the next larger of 64 scales, which may fit better than the scale itself.
        least = {CODEC: 0.995, MEAN_SCALE: 0.98}[name]
        bits = 8 * sum(len(string) for strings in coded["strings"] for string in strings)
        estimate = -sum(p.log2().sum().item() for p in out["likelihoods"].values())
        assert least * estimate < bits < 1.04 * estimate


@pytest.mark.parametrize("name", [CODEC, MEAN_SCALE])
def test_quality_orders_rate_and_distortion(name: str, photographs: list[RGB]) -> None:
    rates, errors = [], []
    for quality in QUALITIES[name]:
        config = codec_config(quality, name)
        codec = zoo.build(config)
        x = pad(as_batch(photographs[2]), config.stride)
        with torch.inference_mode():
            coded = codec.compress(x)
            x_hat = codec.decompress(coded["strings"], coded["shape"])["x_hat"]
        rates.append(sum(len(strings[0]) for strings in coded["strings"]))
        errors.append(((x - x_hat) ** 2).mean().item())
    assert rates == sorted(rates) and errors == sorted(errors, reverse=True)


def test_a_stronger_codec_needs_fewer_bits_at_the_same_loss(photographs: list[RGB]) -> None:
    x = pad(as_batch(photographs[2]), 64)
    losses = []
    for name in (CODEC, MEAN_SCALE):
        config = codec_config(3, name)
        losses.append(code(coder_of(zoo.build(config), config), x)["loss"])
    assert losses[1] < losses[0]


def test_weights_of_another_shape_are_refused_by_key(
    tmp_path: Path, base: CompressionModel
) -> None:
    path = tmp_path / "w.safetensors"
    zoo.save_weights(FactorizedPrior(32, 64), path, {})
    with pytest.raises(UserError, match=r"other shape: .*g_a\.0\.weight is \(32, 3, 5, 5\)"):
        zoo.load_weights(base, path)
    state = load_file(path)
    del state["g_a.0.bias"]
    save_file(state, path)
    with pytest.raises(UserError, match=r"missing: g_a\.0\.bias"):
        zoo.load_weights(FactorizedPrior(32, 64), path)
    path.write_bytes(b"no")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        zoo.load_weights(base, path)


def test_tables_travel_with_the_weights(tmp_path: Path, base: CompressionModel) -> None:
    zoo.save_weights(base, tmp_path / "w.safetensors", {})
    again = FactorizedPrior(64, 64)
    zoo.load_weights(again, tmp_path / "w.safetensors")
    assert torch.equal(
        again.entropy_bottleneck._quantized_cdf, base.entropy_bottleneck._quantized_cdf
    )


def test_the_latent_of_a_codec_with_hyperprior_is_found_too() -> None:
    torch.manual_seed(0)
    codec = ScaleHyperprior(16, 24).eval()
    x = torch.rand(1, 3, 64, 64)
    given: list[Tensor] = []
    with torch.no_grad():
        y_hat = decoder_latent(codec, x)
        codec.g_s.register_forward_pre_hook(lambda _, args: given.append(args[0]))
        codec(x)
    assert torch.equal(y_hat, given[0])
