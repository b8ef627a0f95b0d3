"""``python -m lic_da.describe``: parameter counts of a codec and its adapters, as one JSON object."""

from __future__ import annotations

import json
from typing import Any

from omegaconf import DictConfig

from lic_da.codecs import zoo
from lic_da.codecs.spec import CodecSpec, MethodSpec
from lic_da.command import command
from lic_da.data.datamodule import domain_names
from lic_da.data.domains import load_domain
from lic_da.methods.optim import check_optimizer
from lic_da.methods.pack import codec_class


def describe(config: DictConfig) -> dict[str, Any]:
    """Counts of parameters; needs no weights.

    ``entropy`` is everything that is neither ``g_a`` nor ``g_s``, hyperprior included. Parameters of
    CompressAI's entropy bottleneck include three quantiles a channel, which only the auxiliary loss trains.
    """
    codec, method = CodecSpec.from_settings(config.codec), MethodSpec.from_settings(config)
    check_optimizer(codec.training, config.method.training)
    names = domain_names(config.domains)
    for name in names:
        load_domain(name)
    base = zoo.parameters_by_part(zoo.build(codec, weights=False))
    made = codec_class(method.codec).new(codec, method, names, weights=False)
    return {
        "codec": codec.name,
        "method": made.method,
        "domains": list(names),
        "params": {
            "base": base,
            **made.added_parameters(),
            "trainable": zoo.count_trainable(made.codec),
            "frozen": zoo.count_parameters(made.codec) - zoo.count_trainable(made.codec),
        },
    }


@command("describe")
def main(config: DictConfig) -> None:
    """Print the description."""
    print(json.dumps(describe(config)))


if __name__ == "__main__":
    main()
