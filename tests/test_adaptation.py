"""The decoder swap: what it must leave alone, and what it adds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from compressai.models import CompressionModel
from PIL import Image
from torch import Tensor, nn

from lic_da.adapters.convolve import convolve
from lic_da.adapters.formula import AdapterSum
from lic_da.adapters.gate import Gate
from lic_da.adapters.merge import MergedSum
from lic_da.adapters.synthesis import MODES
from lic_da.codecs import zoo
from lic_da.codecs.latents import decoder_latent
from lic_da.codecs.spec import CodecSpec
from lic_da.errors import UserError
from lic_da.io.bitstream import MAX_DOMAINS, Stream, StreamError
from lic_da.io.images import RGB, read_rgb
from lic_da.methods import pack
from lic_da.methods.adapters.codec import (
    AdaptedCodec,
    base_state,
    pad,
)
from tests.conftest import DOMAINS, by_formula, codec_config, disturb


def as_batch(pixels: RGB) -> Tensor:
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float().div(255)


def mode_domain(mode: str) -> str | None:
    return "sketch" if mode == "oracle" else None


@pytest.mark.parametrize("mode", MODES)
def test_untrained_adapters_leave_the_decoder_bit_identical(
    base: CompressionModel, adapted: AdaptedCodec, photographs: list[RGB], mode: str
) -> None:
    for pixels in photographs:
        x = pad(as_batch(pixels), 16)
        with torch.inference_mode():
            coded = base.compress(x)
            expected = base.decompress(coded["strings"], coded["shape"])["x_hat"]
        with torch.inference_mode(), adapted.synthesis.in_mode(mode, mode_domain(mode)):
            got = adapted.codec.decompress(coded["strings"], coded["shape"])["x_hat"]
        assert torch.equal(got, expected)


def test_threads_may_share_a_codec(adapted: AdaptedCodec, photographs: list[RGB]) -> None:
    disturb(adapted)
    crops = [np.ascontiguousarray(p[:64, : 64 + 16 * n]) for n, p in enumerate(photographs)]
    streams = [adapted.compress(crop) for crop in crops]
    images = [[adapted.decompress(s, mode) for s in streams] for mode in ("weighted", "base")]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(4):
            coded = threads.map(adapted.compress, crops)
            with_v = threads.map(adapted.compress_with_v, crops)
            weighted = threads.map(adapted.decompress, streams)
            base = threads.map(lambda stream: adapted.decompress(stream, "base"), streams)
            assert list(coded) == [stream for stream, _ in with_v] == streams
            for got, wanted in zip((weighted, base), images, strict=True):
                assert all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_a_pil_image_is_taken_as_its_file_is_read(
    adapted: AdaptedCodec, photographs: list[RGB], tmp_path: Path
) -> None:
    colours = Image.fromarray(photographs[0][:64, :80])
    lying = Image.Exif()
    lying[0x0112] = 6
    see_through = colours.copy()
    see_through.putalpha(Image.linear_gradient("L").resize(colours.size))
    deep = Image.fromarray(np.arange(64 * 80, dtype=np.uint16).reshape(64, 80) * 13)
    for name, image, options in (
        ("plain.png", colours, {}),
        ("lying.png", colours, {"exif": lying}),
        ("alpha.png", see_through, {}),
        ("deep.png", deep, {}),
        ("grey.png", colours.convert("L"), {}),
        ("palette.png", see_through.quantize(16), {}),
    ):
        image.save(tmp_path / name, **options)
        with Image.open(tmp_path / name) as opened:
            assert adapted.compress(opened) == adapted.compress(read_rgb(tmp_path / name)), name
    with pytest.raises(UserError, match="The image: floating-point samples"):
        adapted.compress(colours.convert("F"))


def test_arrays_may_lie_in_memory_in_any_order(
    adapted: AdaptedCodec, photographs: list[RGB]
) -> None:
    pixels = photographs[0][:64, :80]
    for view in (pixels[:, :, ::-1], pixels[::-1], np.rot90(pixels), np.asfortranarray(pixels)):
        assert adapted.compress(view) == adapted.compress(np.ascontiguousarray(view))


def test_a_domain_goes_with_the_mode_oracle_alone(
    adapted: AdaptedCodec, photographs: list[RGB]
) -> None:
    data = adapted.compress(photographs[0][:64, :64])
    with pytest.raises(UserError, match="for --mode oracle: give both"):
        adapted.decompress(data, domain="sketch")


def test_more_domains_than_a_stream_has_weights_for_are_refused() -> None:
    names = [f"d{n}" for n in range(MAX_DOMAINS + 1)]
    with pytest.raises(UserError, match=r"room for the weights of 128 domains, and these are 129"):
        AdaptedCodec.build(codec_config(), names, {"gate": {"input": "signalled"}})


def test_strings_are_those_of_an_untouched_codec(
    base: CompressionModel, adapted: AdaptedCodec, photographs: list[RGB]
) -> None:
    disturb(adapted)
    for pixels in photographs:
        stream = Stream.from_bytes(adapted.compress(pixels))
        with torch.inference_mode():
            coded = base.compress(pad(as_batch(pixels), 16))
        assert list(stream.strings) == [strings[0] for strings in coded["strings"]]
        assert stream.shape == tuple(coded["shape"])


def test_trained_adapters_change_the_image_and_base_does_not(
    base: CompressionModel, adapted: AdaptedCodec, photographs: list[RGB]
) -> None:
    disturb(adapted)
    data = adapted.compress(photographs[0])
    stream = Stream.from_bytes(data)
    with torch.inference_mode():
        plain = base.decompress([[s] for s in stream.strings], stream.shape)["x_hat"]
    height, width = photographs[0].shape[:2]
    expected = plain[0, :, :height, :width].mul(255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(adapted.decompress(data, "base"), expected)
    assert np.array_equal(adapted.decompress(data, blend="base"), expected)  # as it was called
    images = [adapted.decompress(data, "oracle", d) for d in DOMAINS]
    assert all(not np.array_equal(p, expected) for p in images)
    assert not np.array_equal(images[0], images[1])


def test_merged_adapters_equal_the_formula(adapted: AdaptedCodec) -> None:
    disturb(adapted)
    synthesis = adapted.synthesis
    u = torch.randn(2, 64, 9, 7)
    v = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    for site in synthesis.sites:
        adapters = synthesis.bank.at(site)
        expected = AdapterSum(adapters, v)(u)
        with torch.no_grad():
            each = MergedSum(adapters, v)(u)
            shared = torch.cat([MergedSum(adapters, v[i : i + 1])(u[i : i + 1]) for i in range(2)])
        torch.testing.assert_close(each, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(shared, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gradients", [False, True])
def test_every_way_of_merging_equals_the_formula(adapted: AdaptedCodec, gradients: bool) -> None:
    """One v for all images (merged), a v an image (decoding), and an image's own kernel (training)."""
    disturb(adapted)
    synthesis = adapted.synthesis
    y_hat = torch.randn(2, 64, 6, 5).round()
    v = torch.tensor([[0.5, 0.3, 0.2], [0.0, 0.1, 0.9]])
    with torch.set_grad_enabled(gradients):
        apart = synthesis(y_hat, v.requires_grad_(gradients)).detach()
        alone = torch.cat([synthesis(y_hat[i : i + 1], v[i : i + 1]) for i in range(2)]).detach()
    with torch.no_grad(), by_formula():
        expected = synthesis(y_hat, v)
    torch.testing.assert_close(apart, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(alone, expected, rtol=0, atol=1e-5)


def test_adapter_formula_at_each_site(adapted: AdaptedCodec) -> None:
    """U + A(u) after layer 3; W(u) + A(u) at 4 and 6."""
    disturb(adapted)
    g_s, bank = adapted.synthesis.base, adapted.synthesis.bank.adapters["sketch"]
    x = torch.randn(1, 64, 4, 4).round()
    with torch.no_grad():
        u = g_s[:4](x)
        u = u + bank["3"](u)
        u = g_s[5](g_s[4](u) + convolve(g_s[4], u, bank["4"].weight, bank["4"].bias))
        expected = g_s[6](u) + bank["6"](u)
        got = adapted.synthesis(x, torch.tensor([[0.0, 1.0, 0.0]]))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 2), (3, 7)])
def test_gate_works_on_latents_of_any_size(size: tuple[int, int]) -> None:
    logits = Gate(latent_channels=64, mid=64, domains=3)(torch.randn(2, 64, *size))
    assert logits.shape == (2, 3)
    assert torch.isfinite(logits).all()


def test_modes(adapted: AdaptedCodec) -> None:
    y_hat = torch.randn(3, 64, 4, 4).round()
    synthesis = adapted.synthesis
    with torch.no_grad():
        weighted = synthesis.mode_weights(y_hat)
        with synthesis.in_mode("top1"):
            top1 = synthesis.mode_weights(y_hat)
        with synthesis.in_mode("oracle", "comic"):
            oracle = synthesis.mode_weights(y_hat)
        with synthesis.in_mode("base"):
            assert synthesis.mode_weights(y_hat) is None
    assert weighted is not None and top1 is not None and oracle is not None
    torch.testing.assert_close(weighted.sum(dim=1), torch.ones(3))
    assert torch.equal(top1.argmax(dim=1), weighted.argmax(dim=1))
    assert torch.equal(top1.sum(dim=1), torch.ones(3))
    assert oracle.tolist() == [[0, 0, 1]] * 3


def test_decoder_latent_is_what_decompress_decodes(
    adapted: AdaptedCodec, photographs: list[RGB]
) -> None:
    x = pad(as_batch(photographs[0]), 16)
    given: list[Tensor] = []
    hook = adapted.codec.g_s.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    with torch.inference_mode():
        coded = adapted.codec.compress(x)
        adapted.codec.decompress(coded["strings"], coded["shape"])
    hook.remove()
    assert torch.equal(decoder_latent(adapted.codec, x), given[0])


def test_nothing_frozen_is_trainable(adapted: AdaptedCodec) -> None:
    trainable = {n for n, p in adapted.codec.named_parameters() if p.requires_grad}
    assert trainable == {
        n for n, _ in adapted.codec.named_parameters() if n.startswith(("g_s.bank.", "g_s.gate."))
    }
    adapted.codec.train()
    assert not adapted.synthesis.base.training


def test_fingerprint_is_that_of_the_plain_codec_and_sees_every_weight(
    base: CompressionModel, adapted: AdaptedCodec
) -> None:
    assert adapted.fingerprint == zoo.fingerprint(base.state_dict())
    assert zoo.fingerprint(base_state(adapted.codec)) == adapted.fingerprint
    adapted.check_base_unchanged()
    with torch.no_grad():
        adapted.codec.g_a[0].bias[0] += 1e-6
    with pytest.raises(RuntimeError, match="base weights have changed"):
        adapted.check_base_unchanged()


def test_pack_round_trip(
    adapted: AdaptedCodec,
    photographs: list[RGB],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    disturb(adapted)
    pack.save(adapted, tmp_path / "pack", {"psnr": 30.0})
    assert sorted(p.name for p in (tmp_path / "pack").iterdir()) == [
        "adapters.safetensors",
        "config.yaml",
        "metrics.json",
    ]
    again = AdaptedCodec.load("~/pack")
    data = adapted.compress(photographs[1])
    assert again.compress(photographs[1]) == data
    assert np.array_equal(again.decompress(data), adapted.decompress(data))


def test_pack_on_other_base_weights_is_refused_by_both_fingerprints(
    adapted: AdaptedCodec, tmp_path: Path
) -> None:
    pack.save(adapted, tmp_path, {})
    text = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace(adapted.fingerprint, "f" * 64))
    with pytest.raises(UserError, match=f"{'f' * 64}.*{adapted.fingerprint}"):
        AdaptedCodec.load(tmp_path)


def test_a_pack_finds_its_base_weights_from_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine_q3.safetensors").write_bytes(zoo.weights_path(codec_config()).read_bytes())
    config = codec_config(weights="mine_q%q.safetensors")
    pack.save(AdaptedCodec.build(config, DOMAINS), tmp_path / "pack", {})
    assert config.weights == "mine_q%q.safetensors"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert pack.load(tmp_path / "pack").domains == DOMAINS
    (tmp_path / "mine_q3.safetensors").unlink()
    with pytest.raises(UserError, match=rf"no weights at {tmp_path}/mine_q3.* config.yaml: codec"):
        pack.load(tmp_path / "pack")


def test_a_folder_that_is_no_pack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not an adapter pack.*adapters\.safetensors"):
        AdaptedCodec.load(tmp_path)


def test_adapters_go_into_any_convolution() -> None:
    """Strides, paddings and both kinds of convolution, against the modules themselves."""
    for conv in (
        nn.Conv2d(5, 7, 3, stride=2, padding=1),
        nn.Conv2d(5, 7, 5, dilation=2, padding=4),
        nn.ConvTranspose2d(5, 7, 5, stride=2, padding=2, output_padding=1),
    ):
        u = torch.randn(2, 5, 8, 9)
        merged = MergedSum([conv, conv], torch.tensor([[0.25, 0.75], [1.0, 0.0]]))
        torch.testing.assert_close(merged(u), conv(u), rtol=1e-4, atol=1e-5)


def test_sites_are_configuration() -> None:
    def at(kind: str, path: int) -> CodecSpec:
        return codec_config(sites=[{"_target_": f"lic_da.adapters.sites.{kind}", "at": path}])

    adapted = AdaptedCodec.build(at("Serial", 1), ("natural", "sketch"))
    assert sum(p.numel() for p in adapted.synthesis.bank.parameters()) == 2 * (64 * 64 * 9 + 64)
    with pytest.raises(UserError, match=r"needs a plain convolution.*g_s\.3 is \w*GDN"):
        AdaptedCodec.build(at("Parallel", 3), ("natural",))
    with pytest.raises(UserError, match=r"no module at .9.; it consists of 0, 1"):
        AdaptedCodec.build(at("Serial", 9), ("natural",))


def test_a_gate_that_reads_y_sends_v_and_counts_it(photographs: list[RGB], tmp_path: Path) -> None:
    signalled = {"gate": {"input": "signalled"}}
    adapted = disturb(AdaptedCodec.build(codec_config(), DOMAINS, signalled))
    data = adapted.compress(photographs[0])
    stream = Stream.from_bytes(data)
    with torch.no_grad():
        y = adapted.codec.g_a(pad(as_batch(photographs[0]), 16))
        v = adapted.synthesis.gate(y).softmax(dim=1)
    assert stream.v is not None and len(stream.v) == len(DOMAINS)
    assert list(stream.v) == v[0].mul(255).round().int().tolist()
    pixels = stream.width * stream.height
    assert stream.bpp == 8 * (stream.string_bytes + len(DOMAINS)) / pixels
    adapted.decode(stream)
    sent = torch.tensor([list(stream.v)]) / sum(stream.v)
    torch.testing.assert_close(adapted.synthesis.last_v, sent)
    assert (sent - v).abs().max() < 1 / 255
    pack.save(adapted, tmp_path, {})
    assert np.array_equal(AdaptedCodec.load(tmp_path).decompress(data), adapted.decompress(data))
    plain = Stream(**{**vars(stream), "v": None})
    with pytest.raises(StreamError, match="carries no weights of the adapters"):
        adapted.decode(plain)
    with adapted.synthesis.in_mode("base"):
        adapted.decode(plain)
    with pytest.raises(UserError, match=r"Unknown gate\.input 'sent'.*latent, signalled"):
        AdaptedCodec.build(codec_config(), DOMAINS, {"gate": {"input": "sent"}})
