"""What ``conf/report`` says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lic_da.config import plain


@dataclass(frozen=True)
class ReportSettings:
    """What the summary of a sweep shows beside the sweep.

    Attributes:
        anchors: names of classical codecs.
        classical: name -> settings of classical codecs that are the user's own.
        examples: images a domain to look at.
        worst: images with the smallest gain, of all domains.
        resamples: how often images are drawn for the 95 % intervals; 0: there are none.
        thumbnails: longest side, in pixels, of what the report shows of an image whose point is clicked;
            0: its figures alone.
        anchor_ms_ssim: measure MS-SSIM of classical codecs too.
    """

    anchors: tuple[str, ...]
    classical: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    examples: int = 0
    worst: int = 0
    resamples: int = 0
    thumbnails: int = 0
    anchor_ms_ssim: bool = False

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> ReportSettings:
        """The settings of ``conf/report``; those of an earlier sweep do not say all of them."""
        values = plain(settings)
        return cls(
            anchors=tuple(values["anchors"]),
            classical=values.get("classical") or {},
            examples=values["examples"],
            worst=values["worst"],
            resamples=values.get("resamples", 0),
            thumbnails=values.get("thumbnails", 0),
            anchor_ms_ssim=values.get("anchor_ms_ssim", False),
        )
