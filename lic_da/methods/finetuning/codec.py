"""Codecs of which all or half was trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

from compressai.models import CompressionModel

from lic_da.codecs import zoo
from lic_da.codecs.spec import CodecSpec
from lic_da.errors import unknown
from lic_da.methods.retrained import RetrainedCodec

STARTS = ("base", "random")
"""Weights that fine-tuning starts from: the base codec's, or random ones (training from scratch)."""


class FinetunedCodec(RetrainedCodec):
    """All weights are trained, from those of the base codec or from random ones (``start``)."""

    @staticmethod
    def make_trainable(
        base: CompressionModel, config: CodecSpec, own: Mapping[str, Any]
    ) -> CompressionModel:
        start = own["start"]
        if start not in STARTS:
            raise unknown("method.start", start, STARTS)
        model = copy.deepcopy(base) if start == "base" else zoo.build(config, weights=False)
        return model.requires_grad_(True)


class FinetunedDecoderCodec(RetrainedCodec):
    """The synthesis transform is trained; encoder, entropy model and strings are the base codec's."""

    stored_under: ClassVar[str] = "g_s."

    @staticmethod
    def make_trainable(
        base: CompressionModel, config: CodecSpec, own: Mapping[str, Any]
    ) -> CompressionModel:
        model = copy.deepcopy(base)
        model.g_s.requires_grad_(True)
        return model

    def is_trained(self, name: str) -> bool:
        return name.startswith(self.stored_under)

    def finish(self) -> None:
        """Nothing: the strings are the base codec's."""

    def _name_weights(self) -> None:
        """The name stays: streams are those of the base codec."""
