"""Parameters of a widened codec, counted as in the publication (Katakol et al. 2021)."""

from __future__ import annotations

from typing import Any

from compressai.models import CompressionModel

from lic_da.codecs import zoo
from lic_da.methods.cawf.model import PUBLISHED_ENTROPY_PARAMETERS, WidenedFactorizedPrior

_SIDES = {"encoder": "g_a", "decoder": "g_s"}


def widened_counts(
    source: CompressionModel, widened: CompressionModel, cross: str
) -> dict[str, Any]:
    """Counts of a widened codec, in the publication's terms.

    ``encoder`` and ``decoder`` are those of a codec with so many channels, with the weights from new to
    old channels, ``new_to_old`` on each side, whether they are zero or trained. The publication's entropy
    model has another number of parameters a channel: its counts stand beside.

    Args:
        source: the base codec.
        widened: the codec with more channels.
        cross: whether weights from new to old channels are trained or zero.
    """
    width = int(widened.M)
    old, plain = zoo.parameters_by_part(source), zoo.parameters_by_part(type(source)(width, width))
    without_cross = WidenedFactorizedPrior(type(source)(source.N, source.M), width, cross="zero")
    growth = {side: plain[side] - old[side] for side in _SIDES}
    trained = {side: zoo.count_trainable(getattr(widened, name)) for side, name in _SIDES.items()}
    published = {"base": (old, source.M), "widened": (plain, width)}
    return {
        "widened": plain,
        "growth": growth,
        "new_to_old": {
            side: growth[side] - zoo.count_trainable(getattr(without_cross, name))
            for side, name in _SIDES.items()
        },
        "cross": cross,
        "trained": {
            **trained,
            "encoder_and_decoder": sum(trained.values()),
            "entropy": zoo.count_parameters(widened.entropy_bottleneck),
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
