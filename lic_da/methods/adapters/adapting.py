"""How a codec is adapted in place, and which of its tensors are the base's and which are new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from compressai.models import CompressionModel
from torch import Tensor

from lic_da.adapters.sites import every_convolution
from lic_da.adapters.stored import StoredBank
from lic_da.adapters.synthesis import AdaptedSynthesis
from lic_da.codecs import zoo
from lic_da.codecs.spec import CodecSpec
from lic_da.errors import UserError
from lic_da.io.tensors import Lazy, TensorFile
from lic_da.methods.adapters.spec import PUBLISHED, AdapterSpec
from lic_da.registry import ADAPTERS, SITES

_BASE = "g_s.base."
ADDED = ("g_s.bank.", "g_s.gate.", "g_s.trust.", "g_s.points.")
"""What names of tensors begin with that adaptation has added."""


def adapt(
    codec: CompressionModel,
    config: CodecSpec,
    domains: Sequence[str],
    adapters: AdapterSpec = PUBLISHED,
    file: TensorFile | None = None,
) -> AdaptedSynthesis:
    """Freeze a codec and replace its ``g_s`` by an adapted one, in place.

    Encoder, entropy model and every bitstream stay what they are.

    Args:
        codec: any CompressAI codec.
        config: what it is; it lists sites and the size of the gate.
        domains: names of all domains, the source first.
        adapters: where and how it is adapted.
        file: of a pack, in which the adapters stay; None: they are new, and in memory.

    Returns:
        The new ``g_s``, with adapters at zero, or those of the file.

    Raises:
        UserError: the codec has no such sites, or says nothing of sites or the gate.
    """
    codec.requires_grad_(False).eval()
    listed = config.sites if isinstance(adapters.sites, str) else adapters.sites
    gate_mid = adapters.gate_mid or config.gate.get("mid")
    if (listed is None and adapters.sites != "all") or not gate_mid:
        raise UserError(
            f"The settings of codec {config.name} do not say where adapters act or how large their gate "
            "is: add sites: […] and gate: {mid: …}."
        )
    if adapters.sites == "all":
        sites = every_convolution(codec.g_s)
    else:
        sites = [SITES.make(site) for site in listed or ()]
    codec.g_s = AdaptedSynthesis(
        codec.g_s,
        latent_channels(codec),
        sites,
        domains,
        kind=ADAPTERS.make(adapters.adapter),
        gate_mid=gate_mid,
        gate_input=adapters.gate_input,
        threshold=adapters.threshold,
        calibration=adapters.calibration,
        file=file,
        spatial=adapters.spatial,
        window=adapters.window,
        points=adapters.points,
    )
    return codec.g_s


def latent_channels(codec: CompressionModel) -> int:
    """M, channels of the latent.

    Raises:
        UserError: the codec does not say.
    """
    if not isinstance(getattr(codec, "M", None), int):
        raise UserError(
            f"{type(codec).__name__} needs an attribute M, the number of channels of its latent."
        )
    return int(codec.M)


def base_state(codec: CompressionModel) -> dict[str, Tensor]:
    """State dict of the codec as it was before ``adapt``, by CompressAI's names."""
    return {
        key.replace(_BASE, "g_s.", 1): value
        for key, value in codec.state_dict().items()
        if not key.startswith(ADDED)
    }


def adapter_state(codec: CompressionModel) -> Mapping[str, Tensor]:
    """Tensors of bank and gate, ``bank.…`` and ``gate.…``; ``trust.…`` and ``points.…`` where there are.

    Adapters that stay in a file are read one by one.
    """
    own = {
        key.removeprefix("g_s."): value
        for key, value in codec.state_dict().items()
        if key.startswith(ADDED)
    }
    return with_stored(own, codec, "")


def with_stored(
    state: dict[str, Tensor], codec: CompressionModel, prefix: str
) -> Mapping[str, Tensor]:
    """The tensors of a state dict and those of a bank that stays in a file, by names behind a prefix."""
    bank = codec.g_s.bank
    if not isinstance(bank, StoredBank):
        return state
    held = {name: partial(state.__getitem__, name) for name in state}
    return Lazy({**held, **bank.readers(prefix)})


def base_fingerprints(codec: CompressionModel, config: CodecSpec) -> dict[int, str]:
    """SHA-256 of the base weights at each quality of a codec of variable rate."""
    found = {}
    for quality in config.served:
        zoo.select_rate(codec, config.coding_at(quality))
        found[quality] = zoo.fingerprint(base_state(codec))
    zoo.select_rate(codec, config)
    return found
