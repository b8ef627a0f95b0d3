"""Crops decoded out of a latent have the values that they have in the whole image."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from compressai.layers import AttentionBlock
from torch import nn

from lic_da.codecs.image_codec import pad
from lic_da.codecs.latents import decoder_latent
from lic_da.codecs.spatial.cropping import CannotBeCut, CropSynthesis
from lic_da.codecs.spatial.tiling import SideBranch
from lic_da.codecs.spec import CodecSpec
from lic_da.methods.adapters.codec import AdaptedCodec
from tests.conftest import DOMAINS, codec_config, disturb, hyperprior_config


def config_of(name: str, **model: int) -> CodecSpec:
    return codec_config(3, name, weights="random", model=model)


def crops_of(codec: AdaptedCodec, crop: int) -> CropSynthesis:
    transform, beside = codec.synthesis_parts
    return CropSynthesis(transform, codec.codec.M, crop, beside)


CASES = {
    "factorized": (codec_config(), {}),
    "factorized, all sites": (codec_config(), {"sites": "all"}),
    "factorized, low rank": (
        codec_config(),
        {"adapter": {"_target_": "lic_da.adapters.kinds.LowRank", "rank": 2}},
    ),
    "hyperprior": (hyperprior_config(), {}),
    "cheng": (config_of("cheng2020_attn", N=12), {}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("different_v", [False, True])
@torch.no_grad()
def test_crops_are_those_of_the_whole_image_at_its_borders_too(
    case: str, different_v: bool
) -> None:
    config, how = CASES[case]
    codec = disturb(AdaptedCodec.build(config, DOMAINS, how))
    crops = crops_of(codec, 64)
    generator = torch.Generator().manual_seed(2)
    x = pad(torch.rand(1, 3, 150, 200, generator=generator), codec.stride)
    y_hat = decoder_latent(codec.codec, x)
    rows, columns = y_hat.shape[2:]
    side, margin = crops.side, crops.margin
    places = [(0, 0), (rows - side, columns - side), (2, 3), (0, columns - side), (3, 1)]
    v = torch.rand(len(places) if different_v else 1, 3, generator=generator).softmax(dim=1)
    padded = F.pad(y_hat, (margin, margin, margin, margin))
    latents = torch.cat(
        [padded[..., r : r + side + 2 * margin, c : c + side + 2 * margin] for r, c in places]
    )
    inside = torch.tensor([[-r, rows - r, -c, columns - c] for r, c in places])
    with codec.synthesis.mixed_by(v) as transform:
        decoded = crops(transform, latents, inside)
    scale = x.shape[-1] // columns
    for number, (r, c) in enumerate(places):
        whole = codec.synthesis(y_hat, v[number if different_v else 0][None])
        expected = whole[0, :, r * scale : r * scale + 64, c * scale : c * scale + 64]
        torch.testing.assert_close(decoded[number], expected, rtol=0, atol=2e-5)


@torch.no_grad()
def test_the_margin_is_needed() -> None:
    codec = disturb(AdaptedCodec.build(codec_config(), DOMAINS))
    crops = crops_of(codec, 64)
    assert crops.margin == 3
    latent = torch.randn(1, 64, 10, 10)
    other = latent.clone()
    other[..., -1, :] += 5  # the outermost row of the margin
    inside = torch.tensor([[-9, 20, -9, 20]])
    with codec.synthesis.mixed_by(torch.tensor([[0.0, 1.0, 0.0]])) as transform:
        assert not torch.equal(crops(transform, latent, inside), crops(transform, other, inside))


def behind_a_convolution() -> tuple[nn.Module, Any]:
    g_s = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ConvTranspose2d(4, 3, 4, 2, 1))
    return g_s, [SideBranch("0", nn.Conv2d(4, 4, 3, padding=1))]  # of the same geometry


@pytest.mark.parametrize(
    ("g_s", "beside", "why"),
    [
        (nn.Conv2d(4, 3, 3, padding=1), (), "no sequence"),
        (
            nn.Sequential(nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(4)),
            (),
            "looks at more than its surroundings",
        ),
        (nn.Sequential(nn.ConvTranspose2d(4, 3, 4, 3, 1)), (), "multiple"),
        (*behind_a_convolution(), "sees its bias"),
    ],
)
def test_transforms_that_cannot_be_cut_are_refused(g_s: nn.Module, beside: Any, why: str) -> None:
    with pytest.raises(CannotBeCut, match=why):
        CropSynthesis(g_s, 4, 64, beside)


@torch.no_grad()
def test_blocks_of_several_layers_see_zeros_outside_of_the_image() -> None:
    g_s = nn.Sequential(AttentionBlock(4), nn.ConvTranspose2d(4, 3, 4, 2, 1)).eval()
    for parameter in g_s.parameters():
        nn.init.normal_(parameter, std=0.3)
    crops = CropSynthesis(g_s, 4, 16)
    y_hat = torch.randn(1, 4, 20, 20)
    margin = crops.margin
    latent = F.pad(y_hat, (margin, margin, margin, margin))[..., : 8 + 2 * margin, : 8 + 2 * margin]
    decoded = crops(g_s, latent, torch.tensor([[0, 20, 0, 20]]))
    torch.testing.assert_close(decoded, g_s(y_hat)[..., :16, :16], rtol=0, atol=1e-4)
