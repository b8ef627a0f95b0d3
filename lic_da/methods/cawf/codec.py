"""A codec with more channels, in which the base codec lives on (Katakol et al. 2021)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from compressai.models import CompressionModel

from lic_da.codecs.spatial import tiling
from lic_da.codecs.spec import CodecSpec
from lic_da.io.bitstream import Stream
from lic_da.methods.cawf.counts import widened_counts
from lic_da.methods.cawf.model import WidenedFactorizedPrior
from lic_da.methods.retrained import RetrainedCodec


class WidenedCodec(RetrainedCodec):
    """New channels are trained beside those of a factorized prior (``width``, ``cross``).

    ``adapted`` writes streams of its own and opens those of the base codec as well (source mode).
    """

    @staticmethod
    def make_trainable(
        base: CompressionModel, config: CodecSpec, own: Mapping[str, Any]
    ) -> CompressionModel:
        return WidenedFactorizedPrior(base, own["width"], own["cross"])

    def is_trained(self, name: str) -> bool:
        return WidenedFactorizedPrior.is_new(name)

    def pieces(self, stream: Stream) -> Iterator[tiling.Piece]:
        source = stream.fingerprint == self._base_name
        return self.base.pieces(stream) if source else super().pieces(stream)

    def added_parameters(self) -> dict[str, Any]:
        return {
            **super().added_parameters(),
            **widened_counts(self.base.codec, self.codec, self.own["cross"]),
        }
