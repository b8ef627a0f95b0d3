"""CAwF: a widened factorized prior in which the source codec is not forgotten."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from lic_da.codecs import zoo
from lic_da.codecs.image_codec import ModelCodec
from lic_da.codecs.spatial import tiling
from lic_da.describe import describe
from lic_da.errors import UserError
from lic_da.io.bitstream import StreamError
from lic_da.io.images import RGB
from lic_da.methods import pack
from lic_da.methods.cawf.codec import WidenedCodec
from lic_da.methods.retraining import RateDistortionTraining
from lic_da.methods.steps import ExactSteps
from tests.conftest import codec_config, scribbles
from tests.method_steps import DOMAINS, composed, crops, specs, train_steps


def source_codec(quality: int = 3) -> ModelCodec:
    """The source codec by itself, built anew."""
    model = zoo.build(codec_config(quality))
    return ModelCodec(model, codec_config(quality), zoo.fingerprint(model.state_dict()))


def widened(cross: str = "zero") -> WidenedCodec:
    torch.manual_seed(0)
    return WidenedCodec.new(*specs("cawf", f"method.cross={cross}"), DOMAINS)


def as_input(pixels: RGB) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float().div(255)


@pytest.fixture(scope="module", params=["zero", "trained"])
def trained(request: pytest.FixtureRequest) -> WidenedCodec:
    """A widened codec after steps of real training on lines."""
    codec = widened(request.param)
    train_steps(RateDistortionTraining(codec, lr=1e-3, bf16=False), steps=4, lr=1e-3)
    codec.finish()
    return codec


@pytest.mark.parametrize(("cross", "trainable"), [("zero", 202_288), ("trained", 362_032)])
def test_describe_counts_what_is_published(cross: str, trainable: int) -> None:
    params = describe(composed("cawf", f"method.cross={cross}", "domains=[sketch]"))["params"]
    assert (params["base"]["encoder"], params["base"]["decoder"]) == (324_736, 324_675)
    assert (params["widened"]["encoder"], params["widened"]["decoder"]) == (505_760, 505_683)
    assert params["growth"] == {"encoder": 181_024, "decoder": 181_008}
    assert params["new_to_old"] == {"encoder": 79_872, "decoder": 79_872}
    assert params["trained"]["encoder_and_decoder"] == trainable
    assert params["trainable"] == trainable + 16 * (58 + 3)
    assert params["frozen"] == params["base"]["total"]
    assert params["as_published"] == {
        "base": {"entropy": 6_208, "total": 655_619},
        "widened": {"entropy": 7_760, "total": 1_019_203},
    }


@pytest.mark.parametrize("cross", ["zero", "trained"])
def test_it_starts_at_exactly_the_sources_image(cross: str, photographs: list[RGB]) -> None:
    codec, source = widened(cross), source_codec()
    x = as_input(photographs[0])[..., :160, :224]
    with torch.no_grad():
        ours, theirs = codec.codec(x), source.codec(x)
    assert torch.equal(ours["x_hat"], theirs["x_hat"])
    assert torch.equal(ours["likelihoods"]["y_old"], theirs["likelihoods"]["y"])


def test_the_source_is_not_forgotten(trained: WidenedCodec, photographs: list[RGB]) -> None:
    source = source_codec()
    trained.check_base_unchanged()
    for pixels in (*photographs[:2], scribbles(1, side=96)[0]):
        x = as_input(pixels[:144, :210])
        expected = source.encode(x)
        with trained.in_mode("base"):
            assert trained.encode(x).to_bytes() == expected.to_bytes()
        for mode in trained.modes:  # one pack opens the streams of both modes
            with trained.in_mode(mode):
                with torch.inference_mode():
                    ((_, _, image),) = source.pieces(expected)
                assert torch.equal(trained.decode(expected), image[..., : x.shape[2], : x.shape[3]])


def test_the_old_channels_of_a_target_stream(trained: WidenedCodec) -> None:
    x = as_input(scribbles(1, side=96)[0])
    old, new = source_codec().encode(x), trained.encode(x)
    assert len(new.strings) == 2 and new.fingerprint != old.fingerprint
    zero = trained.own["cross"] == "zero"
    assert (new.strings[0] == old.strings[0]) == zero
    # training did something: there is another image and the new channels are not all alike
    assert not torch.equal(trained.decode(new), trained.decode(old))
    # what was coded is what the model computes
    with torch.no_grad():
        y = trained.codec.g_a(x)[:, 64:]
        medians = trained.codec.entropy_bottleneck._get_medians()
        medians = medians.reshape(1, -1, 1, 1)
        y_hat = trained.codec.entropy_bottleneck.quantize(y, "dequantize", medians)
    torch.testing.assert_close(trained.adapted.latent(new)[:, 64:], y_hat)


def test_frozen_blocks_do_not_move_by_weight_decay_or_momentum(photographs: list[RGB]) -> None:
    codec = widened("trained")
    before = {k: v.clone() for k, v in codec.base_weights().items()}
    module = RateDistortionTraining(codec, lr=1e-2, warmup=1, bf16=False)
    module._trainer = SimpleNamespace(  # type: ignore[assignment]
        callbacks=[ExactSteps(10)], current_epoch=0, global_rank=0, precision="32-true"
    )
    (optimizer,), _ = module.configure_optimizers()
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.5
    module.log = module.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign]
    module.train()
    for step in range(3):
        optimizer.zero_grad()
        module.training_step(crops(4), step).backward()
        module.configure_gradient_clipping(optimizer, 1.0)
        optimizer.step()
    after = codec.base_weights()
    assert all(torch.equal(before[k], after[k]) for k in before.keys() | after.keys())
    assert all(p.grad is None for p in codec.base.codec.parameters())
    moved = [p for p in codec.codec.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in moved)


def test_a_pack_holds_the_new_blocks_and_opens_both_kinds_of_streams(
    trained: WidenedCodec, photographs: list[RGB], tmp_path: Path
) -> None:
    pack.save(trained, tmp_path / "pack", {})
    again = pack.load(tmp_path / "pack")
    assert isinstance(again, WidenedCodec) and again.method == "cawf"
    pixels = photographs[2][:96, :130]
    target = trained.compress(pixels)
    with trained.in_mode("base"):
        source = trained.compress(pixels)
    assert again.compress(pixels) == target
    for data in (target, source):
        assert np.array_equal(again.decompress(data), trained.decompress(data))
    assert not any("source" in name for name in trained.trained_state())
    with pytest.raises(StreamError, match="leave out the mode base"):
        again.decompress(target, "base")
    with pytest.raises(
        StreamError, match=r"bmshj2018_factorized_n64, quality 2 .*as adapted by cawf"
    ):
        again.decompress(source_codec(2).encode(as_input(pixels)).to_bytes())
    text = (tmp_path / "pack" / "config.yaml").read_text()
    other = text.replace(
        f"base_fingerprint: {trained.fingerprint}", f"base_fingerprint: {'f' * 64}"
    )
    (tmp_path / "pack" / "config.yaml").write_text(other)
    with pytest.raises(UserError, match=f"was trained on base weights {'f' * 64}"):
        pack.load(tmp_path / "pack")


@torch.inference_mode()
def test_large_images_go_in_tiles(trained: WidenedCodec, photographs: list[RGB]) -> None:
    """With the counted halo tiles are the whole but for the order of additions; without, they are not."""
    pixels = as_input(photographs[2])[..., :288, :384].double()
    g_a, g_s = (copy.deepcopy(part).double() for part in (trained.codec.g_a, trained.codec.g_s))
    analysis, synthesis = trained.adapted.analysis_geometry, trained.adapted.synthesis_geometry
    assert analysis.halo == synthesis.halo == 2 and analysis.scale == synthesis.scale == 16
    y = g_a(pixels)
    for halo, equal in ((2, True), (1, False)):
        geometry = dataclasses.replace(synthesis, halo=halo)
        memory = (8 + 2 * halo) ** 2 * geometry.bytes_each
        tiled = torch.empty_like(pixels)
        for rows, columns, piece in tiling.synthesise(g_s, y, geometry, memory):
            tiled[..., rows, columns] = piece
        assert torch.allclose(tiled, g_s(y), atol=1e-9) == equal
        geometry = dataclasses.replace(analysis, halo=halo)
        memory = (8 + 2 * halo) ** 2 * geometry.bytes_each
        y_tiled = tiling.TiledAnalysis(g_a, geometry, memory)(pixels)
        assert torch.allclose(y_tiled, y, atol=1e-9) == equal


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("codec=bmshj2018_hyperprior", "codec.weights=random"), "widens factorized priors"),
        (
            ("method.width=64",),
            "must be a whole number above the 64 channels of the source, not 64",
        ),
        (("method.width=80.5",), "must be a whole number above"),
        (("method.width=null",), "must be a whole number above"),
        (("method.cross=some",), "Unknown method.cross 'some'. Available: zero, trained"),
    ],
)
def test_what_cannot_be_widened_is_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        WidenedCodec.new(*specs("cawf", *overrides), DOMAINS)


def test_any_width() -> None:
    codec = WidenedCodec.new(*specs("cawf", "method.width=72"), DOMAINS)
    codec.finish()
    x = crops(1)["image"]
    assert codec.adapted.latent(codec.encode(x)).shape == (1, 72, 4, 4)
