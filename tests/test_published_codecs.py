"""Published codecs, with random weights: what the decoder swap leaves alone, and what it learns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from compressai.entropy_models import EntropyBottleneck
from compressai.layers import GDN
from compressai.models import CompressionModel
from compressai.models.utils import conv, deconv, remap_old_keys
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor, nn

import lic_da.config
from lic_da.adapters.kinds import LowRank
from lic_da.adapters.synthesis import MODES
from lic_da.codecs import fingerprints, zoo
from lic_da.codecs.latents import decoder_latent
from lic_da.codecs.models.fast import ChannelsLast
from lic_da.codecs.models.zou2022 import WACNN
from lic_da.codecs.spec import CodecSpec, MethodSpec
from lic_da.config import plain
from lic_da.describe import describe
from lic_da.errors import UserError
from lic_da.io.bitstream import Stream, StreamError
from lic_da.io.images import RGB
from lic_da.methods.adapters.codec import (
    AdaptedCodec,
    base_state,
    pad,
)
from lic_da.methods.adapters.module import DecoderAdaptation
from lic_da.registry import MODELS
from tests.conftest import DOMAINS, by_formula, codec_config, disturb, scribbles
from tests.test_adaptation import as_batch, mode_domain

PUBLISHED = (
    "bmshj2018_factorized",
    "bmshj2018_hyperprior",
    "mbt2018_mean",
    "cheng2020_attn",
    "zou2022",
)
FIXTURE = Path(__file__).parent / "fixtures" / "zou2022_wacnn_reference"


def configured(codec: str, *overrides: str, quality: int = 1) -> DictConfig:
    """The configuration of ``python -m lic_da.train codec=…``."""
    with initialize_config_dir(str(lic_da.config.CONF), version_base="1.3"):
        return compose("train", [f"codec={codec}", f"codec.quality={quality}", *overrides])


@pytest.fixture(scope="module", params=PUBLISHED)
def published(request: pytest.FixtureRequest) -> AdaptedCodec:
    """A published codec with random weights and untrained adapters; its latent is not all zeros."""
    config = configured(request.param, "codec.weights=random")
    adapted = AdaptedCodec.build(config.codec, DOMAINS)
    last = [m for m in adapted.codec.g_a.modules() if isinstance(m, nn.Conv2d)][-1]
    with torch.no_grad():
        last.weight.mul_(30)
    return adapted


def untouched(adapted: AdaptedCodec) -> CompressionModel:
    """CompressAI's own codec with the same weights."""
    codec: CompressionModel = MODELS.make(plain(adapted.config.model))
    codec.load_state_dict(base_state(adapted.codec))
    return codec.eval()


@pytest.mark.parametrize(
    ("codec", "quality", "adapters", "gate", "total"),
    [
        ("zou2022", 3, 3_804_489, 184_579, 75_235_779),
        ("cheng2020_attn", 6, 4_045_860, 110_851, None),
        ("cheng2020_attn", 1, 1_812_516, 48_555, None),
        ("mbt2018_mean", 6, 3_804_489, 184_579, None),
    ],
)
def test_counts_of_published_codecs(
    codec: str, quality: int, adapters: int, gate: int, total: int | None
) -> None:
    params = describe(configured(codec, quality=quality))["params"]
    assert (params["adapters"]["total"], params["gate"]) == (adapters, gate)
    assert params["trainable"] == adapters + gate
    assert total is None or params["base"]["total"] == total


def filled(shape: list[int], rule: dict[str, Any]) -> Tensor:
    """A parameter as the reference fills it; the rule stands in the fixture."""
    count = int(np.prod(shape))
    if "constant" in rule:
        return torch.full(shape, rule["constant"])
    wave = np.sin(np.arange(1, count + 1) * 12.9898 + rule["index"] * 78.233) * 43758.5453
    values = 2 * rule["scale"] * (wave - np.floor(wave) - 0.5) + rule.get("offset", 0.0)
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def test_zou2022_computes_what_the_published_architecture_does(tmp_path: Path) -> None:
    rules = json.loads(FIXTURE.with_suffix(".json").read_text())["parameters"]
    expected = np.load(FIXTURE.with_suffix(".npz"))
    codec = WACNN().eval()
    kept = {k.replace("matrices.", "_matrix"): v for k, v in codec.state_dict().items()}
    state = {
        f"module.{name}": kept[name] if "keep" in rule else filled(rule["shape"], rule)
        for name, rule in rules.items()
    }
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "published.pth.tar")
    zoo.load_weights(codec, tmp_path / "published.pth.tar")
    assert sum(p.numel() for p in codec.parameters()) == 75_235_779
    x = torch.from_numpy(expected["x"])
    with torch.no_grad():
        out = codec(x)
        y = codec.g_a(x)
        coded = codec.compress(x)
        decoded = codec.decompress(coded["strings"], coded["shape"])["x_hat"]
    for got, name in ((y, "y"), (out["x_hat"], "x_hat")):
        reference = torch.from_numpy(expected[name])
        assert (got - reference).abs().max() < 1e-4 * reference.abs().max()
    bits = -out["likelihoods"]["y"].double().log2().sum().item()
    assert bits == pytest.approx(expected["y_bits"].item(), rel=1e-3)
    torch.testing.assert_close(decoded, out["x_hat"].clamp(0, 1), rtol=0, atol=1e-5)
    assert 8 * len(coded["strings"][0][0]) == pytest.approx(bits, rel=0.01)


def test_untrained_adapters_leave_published_codecs_alone(
    published: AdaptedCodec, photographs: list[RGB]
) -> None:
    """Strings and images are those of CompressAI's codec, for an image of 90 × 75 pixels."""
    base = untouched(published)
    pixels = np.ascontiguousarray(photographs[0][100:190, 100:175])
    published.fingerprint = zoo.fingerprint(base_state(published.codec))
    stream = Stream.from_bytes(published.compress(pixels))
    with torch.inference_mode():
        coded = base.compress(pad(as_batch(pixels), published.stride))
        expected = base.decompress(coded["strings"], coded["shape"])["x_hat"]
    assert list(stream.strings) == [strings[0] for strings in coded["strings"]]
    assert stream.string_bytes > 50  # more than an empty latent
    images = []
    for mode in MODES:
        with published.synthesis.in_mode(mode, mode_domain(mode)):
            images.append(published.decode(stream))
    assert all(torch.equal(image, images[0]) for image in images)
    # Layers that are known to be are computed in another order (lic_da.codecs.models.fast); of the others
    # the last bit depends on where in memory their weights lie, which differs from codec to codec.
    rounding = 1e-5 if isinstance(published.synthesis.base, ChannelsLast) else 1e-6
    torch.testing.assert_close(images[0], expected[..., :90, :75], rtol=0, atol=rounding)


def test_latents_that_decode_differently_are_noticed(
    published: AdaptedCodec, photographs: list[RGB]
) -> None:
    stream = published.encode(as_batch(photographs[0][:64, :64]))
    other = Stream(**{**vars(stream), "latent_crc": stream.latent_crc ^ 1})
    with pytest.raises(StreamError, match="other values than were encoded"):
        published.decode(other)


def test_training_lowers_the_loss_of_published_codecs(
    published: AdaptedCodec, photographs: list[RGB], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Afterwards: merged, apart and by the formula the trained adapters give the same image."""
    module = DecoderAdaptation(published, gamma=0.5, lr=1e-3, gate_lr=1e-3, bf16=False)
    monkeypatch.setattr(module, "log_dict", lambda *a, **k: None)
    monkeypatch.setattr(module, "log", lambda *a, **k: None)
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=1e-3)
    images = [photographs[0][:64, :64], scribbles(1, side=64)[0], photographs[1][80:144, 80:144]]
    batch = {
        "image": torch.cat([as_batch(i) for i in images]),
        "label": torch.tensor([0, 1, 2]),
        "file": ["photograph", "scribble", "cat"],
    }
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = module.training_step(batch, 0)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    synthesis = published.synthesis
    assert all(p.grad is not None and p.grad.any() for p in synthesis.gate.parameters())
    disturb(published, scale=1e-3)
    y_hat = decoder_latent(published.codec, batch["image"])
    v = torch.tensor([[0.2, 0.5, 0.3], [0.0, 1.0, 0.0], [0.6, 0.4, 0.0]])
    with torch.no_grad():
        apart = synthesis(y_hat, v)
        merged = torch.cat([synthesis(y_hat[i : i + 1], v[i : i + 1]) for i in range(3)])
        with by_formula():
            branches = synthesis(y_hat, v)
        plain = synthesis.base(y_hat)
    assert (branches - plain).abs().max() > 1e-4
    torch.testing.assert_close(merged, branches, rtol=0, atol=1e-5)
    torch.testing.assert_close(apart, branches, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_checkpoint_of_the_class_itself_loads(name: str, tmp_path: Path) -> None:
    """As people save them: bare, nested, from DataParallel, from a wrapper, with old names."""
    config = configured(name, f"codec.weights={tmp_path}/of_%q.pth").codec
    original: CompressionModel = MODELS.make(plain(config.model))
    state = original.state_dict()
    bottlenecks = [n for n, m in original.named_modules() if isinstance(m, EntropyBottleneck)]
    (bottleneck,) = bottlenecks
    old = {
        key.replace("matrices.", "_matrix")
        .replace("biases.", "_bias")
        .replace("factors.", "_factor")
        if key.startswith(bottleneck)
        else key: value
        for key, value in state.items()
    }
    assert remap_old_keys(bottleneck, old).keys() == state.keys() != old.keys()
    for content in (
        state,
        {"state_dict": {f"module.{k}": v for k, v in old.items()}, "epoch": 7},
        {"state_dict": {f"net.{k}": v for k, v in state.items()} | {"loss.w": torch.ones(1)}},
    ):
        torch.save(content, tmp_path / "of_1.pth")
        loaded = zoo.build(config)
        assert all(torch.equal(p, loaded.get_parameter(n)) for n, p in original.named_parameters())
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    original.eval().update(force=True)
    with torch.no_grad():
        same = (original(x)["x_hat"] - loaded(x)["x_hat"]).abs().max()
        assert same < 1e-5  # in another order of additions: lic_da.codecs.models.fast
        assert original.compress(x)["strings"] == loaded.compress(x)["strings"]


def test_checkpoints_that_do_not_fit_are_refused_in_words(tmp_path: Path) -> None:
    config = configured("bmshj2018_hyperprior", f"codec.weights={tmp_path}/w.pth", quality=6).codec
    with pytest.raises(UserError, match=r"no weights at .*w\.pth"):
        zoo.build(config)
    small = MODELS.make(plain(configured("bmshj2018_hyperprior").codec.model))
    torch.save(small.state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"other shape: .*\.0 is \(128, 3, 1\), not \(192, 3, 1\)"):
        zoo.build(config)
    torch.save({"state_dict": {"encoder.weight": torch.ones(1)}}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"missing: .* and \d+ more; unknown: encoder.weight"):
        zoo.build(config)
    torch.save({"state_dict": small}, tmp_path / "w.pth")  # a pickled object, not tensors
    with pytest.raises(UserError, match="cannot be read as plain tensors"):
        zoo.build(config)
    (tmp_path / "w.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="cannot be read as plain tensors"):
        zoo.build(config)
    with pytest.raises(UserError, match=r"codec\.weights=PATH.*github\.com/Googolxx/STF"):
        zoo.build(configured("zou2022").codec)


def test_weights_of_the_zoo_come_from_its_cache_or_say_where_they_belong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def no_network(*args: Any, **kwargs: Any) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    config = configured("bmshj2018_factorized").codec
    with pytest.raises(UserError, match=r"Fetch https://.*446d5c7f.*put it at .*checkpoints"):
        zoo.build(config)
    original = MODELS.make(plain(config.model))
    cached = tmp_path / "checkpoints" / "bmshj2018-factorized-prior-1-446d5c7f.pth.tar"
    torch.save(original.state_dict(), cached)
    assert torch.equal(zoo.build(config).g_s[6].weight, original.g_s[6].weight)


class TwoBranches(nn.Module):
    """A synthesis transform that is no sequence."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up = deconv(channels, 24)
        self.act = GDN(24, inverse=True)
        self.fine = deconv(24, 3)
        self.coarse = nn.Sequential(conv(24, 12, stride=1), nn.PixelShuffle(2))

    def forward(self, y_hat: Tensor) -> Tensor:
        u = self.act(self.up(y_hat))
        out: Tensor = self.fine(u) + self.coarse(u)
        return out


class UsersCodec(CompressionModel):
    """Somebody's codec, of which lic_da knows nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.M = width
        self.g_a = nn.Sequential(conv(3, 24), GDN(24), conv(24, width))
        self.g_s = TwoBranches(width)
        self.entropy_bottleneck = EntropyBottleneck(width)

    def forward(self, x: Tensor) -> dict[str, Any]:
        y_hat, likelihoods = self.entropy_bottleneck(self.g_a(x))
        return {"x_hat": self.g_s(y_hat), "likelihoods": {"y": likelihoods}}

    def compress(self, x: Tensor) -> dict[str, Any]:
        y = self.g_a(x)
        return {"strings": [self.entropy_bottleneck.compress(y)], "shape": y.shape[-2:]}

    def decompress(self, strings: Any, shape: Any) -> dict[str, Any]:
        return {"x_hat": self.g_s(self.entropy_bottleneck.decompress(strings[0], shape))}


def test_a_codec_nobody_here_has_heard_of_is_adapted_by_its_config(
    conf: Path, photographs: list[RGB], monkeypatch: pytest.MonkeyPatch
) -> None:
    (conf / "codec" / "users.yaml").write_text(
        """
name: users
model: {_target_: tests.test_published_codecs.UsersCodec, width: 10}
qualities: [1]
quality: 1
weights: random
stride: 4
sites:
  - {_target_: lic_da.adapters.sites.Serial, at: act}
  - {_target_: lic_da.adapters.sites.Parallel, at: fine}
  - {_target_: lic_da.adapters.sites.Parallel, at: coarse.0}
gate: {mid: 8}
training: {steps: 1, batch_size: 1, crop: 32, gamma: 0.1, lr: 1.0e-4, gate_lr: 1.0e-4}
"""
    )
    adapted = AdaptedCodec.build(configured("users").codec, DOMAINS)
    pixels = photographs[1][:50, :70]
    data = adapted.compress(pixels)
    plain = adapted.decompress(data, "base")
    assert plain.shape == pixels.shape
    assert np.array_equal(adapted.decompress(data), plain)
    assert not np.array_equal(disturb(adapted).decompress(data), plain)
    assert np.array_equal(adapted.decompress(data, "base"), plain)


def built(config: DictConfig, domains: Sequence[str]) -> AdaptedCodec:
    """The untrained codec of a command's configuration."""
    codec, method = CodecSpec.from_settings(config.codec), MethodSpec.from_settings(config)
    return AdaptedCodec.new(codec, method, domains)


def test_sites_can_be_every_convolution_of_the_decoder(photographs: list[RGB]) -> None:
    config = configured("zou2022", "codec.weights=random", "sites=all")
    adapted = built(config, ("natural", "sketch"))
    convolutions = [
        m for m in adapted.synthesis.base.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)
    ]
    assert len(adapted.synthesis.sites) == len(convolutions) == 42
    y_hat = torch.randn(1, 320, 4, 4).round()
    with torch.no_grad():
        assert torch.equal(adapted.synthesis(y_hat), adapted.synthesis.base(y_hat))
    with pytest.raises(UserError, match=r"Unknown sites 'some'.*paper, all"):
        built(configured("zou2022", "sites=some"), DOMAINS)


def test_low_rank_adapters_have_few_parameters_and_the_rank_they_say(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    adapted = built(
        configured("bmshj2018_factorized_n64", "adapter=lowrank", "adapter.rank=5"), DOMAINS
    )
    synthesis = adapted.synthesis
    adapters = synthesis.bank.adapters["sketch"]
    counts = {k: sum(p.numel() for p in a.parameters()) for k, a in adapters.items()}
    # 3×3 serial and 5×5 parallel: r·(C_in·k² + C_out) + biases; 64 → 3 has no rank above 3
    assert counts == {"3": 5 * 640 + 64, "4": 5 * 1664 + 64, "6": 4803}
    y_hat = torch.randn(2, 64, 5, 4).round()
    with torch.no_grad():
        assert torch.equal(synthesis(y_hat), synthesis.base(y_hat))
    disturb(adapted, scale=0.1)
    for path, dim in (("3", 0), ("4", 1)):
        kernel = adapters[path].weight.transpose(0, dim).flatten(1)
        assert torch.linalg.matrix_rank(kernel) == 5
    v = torch.tensor([[0.5, 0.2, 0.3], [0.1, 0.1, 0.8]])
    with torch.no_grad():
        merged = torch.cat([synthesis(y_hat[i : i + 1], v[i : i + 1]) for i in range(2)])
        with by_formula():
            torch.testing.assert_close(merged, synthesis(y_hat, v), rtol=0, atol=1e-4)
    with pytest.raises(UserError, match=r"adapter\.rank must be at least 1"):
        LowRank(rank=0)


def test_one_file_of_weights_codes_at_six_rates_that_read_anywhere(photographs: list[RGB]) -> None:
    """Real streams of ``zou2022_n64``: rates and quality rise, and other threads decode the same."""
    image = photographs[0][:192, :192]
    points, prints = [], set()
    for quality in range(1, 7):
        config = codec_config(quality, "zou2022_n64")
        codec = AdaptedCodec.build(config, ["natural"])
        prints.add(codec.fingerprint)
        data = codec.compress(image)
        before = torch.get_num_threads()
        torch.set_num_threads(2 if before == 1 else 1)
        decoded = codec.decompress(data)
        torch.set_num_threads(before)
        mse = np.mean((decoded.astype(float) - image) ** 2)
        points.append((len(data), -mse))
    assert points == sorted(points) and len(prints) == 6
    assert {str(fingerprints.find(bytes.fromhex(p))) for p in prints} == {
        f"zou2022_n64, quality {q}" for q in range(1, 7)
    }
