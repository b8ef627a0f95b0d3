"""``python -m lic_da.describe``: parameter counts of a codec and its adapters, as one JSON object."""

from __future__ import annotations

import json
from typing import Any

import hydra
from compressai.entropy_models import EntropyModel
from compressai.models import CompressionModel
from omegaconf import DictConfig

from lic_da.adaptation.codec import adapt, how_adapted
from lic_da.codecs import zoo
from lic_da.codecs.zoo import count_parameters
from lic_da.command import command
from lic_da.config import CONF
from lic_da.data.datamodule import domain_names
from lic_da.data.domains import load_domain


def describe(config: DictConfig) -> dict[str, Any]:
    """Counts of parameters; needs no weights.

    ``entropy`` is everything that is neither ``g_a`` nor ``g_s``, hyperprior included. Parameters of
    CompressAI's entropy bottleneck include three quantiles a channel, which only the auxiliary loss trains.
    """
    names = domain_names(config.domains)
    for name in names:
        load_domain(name)
    codec = zoo.build(config.codec, weights=False)
    base = base_counts(codec)
    synthesis = adapt(codec, config.codec, names, how_adapted(config))
    adapters = count_parameters(synthesis.bank)
    gate = count_parameters(synthesis.gate)
    return {
        "codec": config.codec.name,
        "domains": list(names),
        "params": {
            "base": base,
            "adapters": {"per_domain": adapters // len(names), "total": adapters},
            "gate": gate,
            "trainable": sum(p.numel() for p in codec.parameters() if p.requires_grad),
            "frozen": sum(p.numel() for p in codec.parameters() if not p.requires_grad),
        },
    }


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


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="describe")
@command
def main(config: DictConfig) -> None:
    """Print the description."""
    print(json.dumps(describe(config)))


if __name__ == "__main__":
    main()
