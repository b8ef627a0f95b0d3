"""Training with ``extend=PACK``: the codec that is trained, and what became of the pack's domains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from lic_da.codecs import zoo
from lic_da.data.datamodule import LabelledImage
from lic_da.errors import UserError
from lic_da.evaluation.measure import (
    Point,
    mean,
    measure,
    read_points,
    write_points,
)
from lic_da.methods.adapters.codec import AdaptedCodec, adapter_state
from lic_da.methods.adapters.extension import extend
from lic_da.training.settings import EvaluationSettings, Extension, RunSettings

MODES = ("weighted", "top1", "oracle")
BEFORE = "rd_points_before.csv"


def extended_codec(settings: RunSettings) -> AdaptedCodec:
    """The codec of the pack that is extended, frozen, with untrained adapters for the new domains."""
    extension = settings.extension
    assert extension is not None
    return extend(_earlier(extension), settings.domains, extension.own_features)


def _earlier(extension: Extension) -> AdaptedCodec:
    return AdaptedCodec.load(extension.pack, trust=extension.trust, in_memory=True)


def before_and_after(
    extension: Extension,
    asked: EvaluationSettings,
    qualities: Sequence[int],
    folder: Path,
    images: Sequence[LabelledImage],
    console: Console,
) -> dict[str, Any]:
    """What the extension has done to the test images of the pack's own domains.

    The pack codes and decodes them again; its points go to ``rd_points_before.csv``.

    Args:
        extension: of the run.
        asked: what the run has measured, and how.
        qualities: at which it has; figures are means over them.
        folder: of the run, which holds ``rd_points.csv`` already.
        images: test images; those of other domains are left out.
        console: where progress is shown.

    Returns:
        ``{domain: {mode: {"before": …, "after": …, "difference": …}}}``, mean PSNR in dB.
    """
    earlier = _earlier(extension)
    if zoo.fingerprint(adapter_state(earlier.codec)) != extension.fingerprint:
        raise UserError(f"The pack {extension.pack} has changed while it was extended.")
    modes = [b for b in asked.modes or MODES if b in MODES]
    points: list[Point] = []
    for quality in qualities:
        with earlier.at_quality(quality):
            points += measure(
                earlier,
                [p for p in images if p.domain in earlier.domains],
                run=folder.name,
                modes=modes,
                metrics=["psnr"],
                effort=asked.effort,
                console=console,
            )
    write_points(points, folder / BEFORE, earlier.domains)
    before, after = (read_points(folder / name) for name in (BEFORE, "rd_points.csv"))
    return {
        domain: {mode: _compared(before, after, domain, mode) for mode in modes}
        for domain in earlier.domains
    }


def _compared(
    before: Sequence[Point], after: Sequence[Point], domain: str, mode: str
) -> dict[str, float]:
    earlier, now = (
        mean(p.psnr for p in points if (p.domain, p.blend) == (domain, mode))
        for points in (before, after)
    )
    return {"before": earlier, "after": now, "difference": now - earlier}


def table(before_after: dict[str, Any]) -> Table:
    """What :func:`before_and_after` says, for the terminal: a row a domain."""
    rich = Table(
        title="The domains of the extended pack: PSNR in dB before, and what has changed",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    rich.add_column("domain", no_wrap=True)
    for mode in next(iter(before_after.values())):
        rich.add_column(mode, justify="right", no_wrap=True)
        rich.add_column("change", justify="right", no_wrap=True)
    for domain, modes in before_after.items():
        values = (
            text
            for b in modes.values()
            for text in (f"{b['before']:.2f}", f"{b['difference']:+.3f}")
        )
        rich.add_row(domain, *values)
    return rich
