"""``python -m lic_da.describe``: parameter counts of a codec and its adapters, as one JSON object."""

from __future__ import annotations

import json
from typing import Any

import torch
from compressai.entropy_models import EntropyModel
from compressai.models import CompressionModel
from omegaconf import DictConfig

from lic_da.adaptation.codec import AdaptedCodec
from lic_da.adaptation.pack import codec_class
from lic_da.adaptation.retrained import WidenedCodec
from lic_da.codecs import zoo
from lic_da.codecs.picture_codec import PictureCodec
from lic_da.codecs.widened import PUBLISHED_ENTROPY_PARAMETERS, WidenedFactorizedPrior
from lic_da.codecs.zoo import count_parameters
from lic_da.command import command
from lic_da.data.datamodule import domain_names
from lic_da.data.domains import load_domain
from lic_da.training.optimisers import check_optimiser

_SIDES = {"encoder": "g_a", "decoder": "g_s"}


def describe(config: DictConfig) -> dict[str, Any]:
    """Counts of parameters; needs no weights.

    ``entropy`` is everything that is neither ``g_a`` nor ``g_s``, hyperprior included. Parameters of
    CompressAI's entropy bottleneck include three quantiles a channel, which only the auxiliary loss trains.
    """
    check_optimiser(config)
    names = domain_names(config.domains)
    for name in names:
        load_domain(name)
    base = base_counts(zoo.build(config.codec, weights=False))
    made = codec_class(config.method.codec).new(config, names, weights=False)
    added = _added_counts(made, len(names))
    return {
        "codec": config.codec.name,
        "method": made.method,
        "domains": list(names),
        "params": {
            "base": base,
            **added,
            "trainable": _trainable(made.codec),
            "frozen": count_parameters(made.codec) - _trainable(made.codec),
        },
    }


def _added_counts(made: PictureCodec, domains: int) -> dict[str, Any]:
    """Parameters that a method puts beside those of the base codec."""
    adapters = gate = 0
    if isinstance(made, AdaptedCodec):
        adapters, gate = (
            count_parameters(made.synthesis.bank),
            count_parameters(made.synthesis.gate),
        )
    counts = {"adapters": {"per_domain": adapters // domains, "total": adapters}, "gate": gate}
    return counts | (widened_counts(made) if isinstance(made, WidenedCodec) else {})


def widened_counts(made: WidenedCodec) -> dict[str, Any]:
    """Counts of a widened codec, in the publication's terms.

    ``encoder`` and ``decoder`` are those of a codec with so many channels, with the weights from new to
    old channels, ``new_to_old`` on each side, whether they are zero or trained. The publication's entropy
    model has another number of parameters a channel: its counts stand beside.
    """
    source, width = made.base.codec, int(made.codec.M)
    old, plain = base_counts(source), base_counts(type(source)(width, width))
    without_cross = WidenedFactorizedPrior(type(source)(source.N, source.M), width, cross="zero")
    growth = {side: plain[side] - old[side] for side in _SIDES}
    trained = {side: _trainable(getattr(made.codec, name)) for side, name in _SIDES.items()}
    published = {"base": (old, source.M), "widened": (plain, width)}
    return {
        "widened": plain,
        "growth": growth,
        "new_to_old": {
            side: growth[side] - _trainable(getattr(without_cross, name))
            for side, name in _SIDES.items()
        },
        "cross": made.how.cross,
        "trained": {
            **trained,
            "encoder_and_decoder": sum(trained.values()),
            "entropy": count_parameters(made.codec.entropy_bottleneck),
        },
        "as_published": {
            name: {
                "entropy": PUBLISHED_ENTROPY_PARAMETERS * channels,
                "total": counts["encoder"]
                + counts["decoder"]
                + PUBLISHED_ENTROPY_PARAMETERS * channels,
            }
            for name, (counts, channels) in published.items()
        },
    }


def _trainable(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def base_counts(codec: CompressionModel) -> dict[str, int]:
    """Parameters of a codec's encoder, decoder, entropy model, and all of it."""
    encoder, decoder = count_parameters(codec.g_a), count_parameters(codec.g_s)
    total = count_parameters(codec)
    assert any(isinstance(m, EntropyModel) for m in codec.modules())
    return {
        "encoder": encoder,
        "decoder": decoder,
        "entropy": total - encoder - decoder,
        "total": total,
    }


@command("describe")
def main(config: DictConfig) -> None:
    """Print the description."""
    print(json.dumps(describe(config)))


if __name__ == "__main__":
    main()
