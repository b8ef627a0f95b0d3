"""When two settings are the same: of runs, of the runs of one curve, and of pre-trainings.

Files hold all settings, and those of earlier versions too. Of them counts what a result depends on::

    settings ──► names of today ──► what was the case where older ones are silent ──► without the rest
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lic_da.config import ALL, flat, is_of
from lic_da.migrations import run_settings


@dataclass(frozen=True)
class Comparison:
    """What counts when settings are compared; all names are dotted, and stand for what is below them.

    Attributes:
        without_effect: does not count.
        unless: does not count where the setting that it is mapped to is off.
        once: what was the case where older settings are silent.
        of_codec: parts of ``codec`` that count; none: all of them.
        of_all_rates: does not count but with ``codec.quality=all``.
    """

    without_effect: tuple[str, ...]
    unless: Mapping[str, str] = field(default_factory=dict)
    once: Mapping[str, Any] = field(default_factory=dict)
    of_codec: tuple[str, ...] = ()
    of_all_rates: tuple[str, ...] = ()

    def counts(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What counts of settings, as dotted name and value.

        Args:
            settings: plain values, of whatever age.
        """
        values = flat(run_settings(settings))
        values |= {name: value for name, value in self.once.items() if values.get(name) is None}
        without = [
            *self.without_effect,
            *(k for k, on in self.unless.items() if not values.get(on)),
            *(self.of_all_rates if values.get("codec.quality") != ALL else ()),
        ]
        return {name: v for name, v in values.items() if not self._left_out(name, without)}

    def _left_out(self, name: str, without: list[str]) -> bool:
        part, _, rest = name.partition(".")
        if part == "codec" and self.of_codec and not is_of(rest, self.of_codec):
            return True
        return is_of(name, without)

    def differing(self, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
        """Dotted names of what differs and counts; none: the settings are the same.

        What is null is as if it was not there.
        """
        one, other = self.counts(ours), self.counts(theirs)
        return sorted(k for k in one.keys() | other.keys() if one.get(k) != other.get(k))


_OF_A_RUN = (
    *("name", "ckpt_path", "logger", "report", "trust"),
    *("data.num_workers", "data.cache_gb"),
)
_UNLESS = {
    "data.latent_pixels": "data.latent_cache",
    **dict.fromkeys(("groups", "rounds", "round_steps"), "pile"),
}
_ONCE = {
    "codec.training.optimizer": "adam",
    "method.training.optimizer": "adam",
    "method.training.clamp": True,
    "method.training.source_adapter": True,
}

RUN = Comparison((*_OF_A_RUN, "extend"), _UNLESS, _ONCE, of_all_rates=("codec.qualities",))
"""Of two runs. Beside the folder of a pack that is extended its fingerprint stands, which counts."""

RESUMED = Comparison(
    (
        *(*_OF_A_RUN, "extend", "evaluation", "unseen", "trainer"),
        *("codec.training.steps", "early_stopping", "data.val_images", "data.unseen"),
        *("domains", "data.domains", "codec.quality", "codec.weights"),
        *("codec.training.optimizer", "method.training.optimizer"),
    ),
    _UNLESS,
    _ONCE,
    of_all_rates=("codec.qualities",),
)
"""Of a run and of the training that it goes on with, which may end later and be measured otherwise; of
base weights, domains and optimizer the checkpoint itself tells."""

CURVE = Comparison(
    (*_OF_A_RUN, "extended_from"),
    _UNLESS,
    _ONCE,
    of_all_rates=("codec.quality", "codec.qualities"),
)
"""Of the runs of one curve, which differ in quality alone, and so in the pack that each extends; what is
for all qualities is another curve than what is for each."""

PRETRAINING = Comparison(
    ("folder", "export", "qualities", "started_from", "data._target_"),
    once={"data.photos": []},
    of_codec=("name", "quality", "model", "stride"),
)
"""Of two trainings of a base codec. What else is said of the codec is about adapters."""
