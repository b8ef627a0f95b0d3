"""Training with ``extend=PACK``: settings that come from the pack, and what became of its domains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from rich import box
from rich.console import Console
from rich.table import Table

from lic_da.codecs import zoo
from lic_da.data.datamodule import LabelledPicture, domain_names, listed
from lic_da.errors import UserError
from lic_da.evaluation.measure import (
    Point,
    mean,
    measure,
    read_points,
    write_points,
)
from lic_da.methods import pack
from lic_da.methods.adapters.codec import PAPER, AdaptedCodec, adapter_state
from lic_da.methods.adapters.extension import extend

BLENDS = ("weighted", "top1", "oracle")
BEFORE = "rd_points_before.csv"

_OF_THE_PACK = ("codec", "data.source", *PAPER)
_MAY_DIFFER = ("codec.training", "codec.weights")  # where they are given


def pack_folder(config: DictConfig) -> Path:
    """Folder of the pack to extend; ``%q`` in it stands for the quality."""
    return Path(str(config.extend).replace("%q", str(config.codec.quality))).expanduser()


def take_settings(config: DictConfig) -> tuple[str, ...]:
    """Let codec, sites, adapters, gate and source domain be those of the pack that is extended.

    Settings of the training are the pack's too, unless they are given on the command line. Of a pack
    that is not there yet (``extend`` null) nothing is taken. Done twice it changes nothing more.

    Args:
        config: composed from ``conf/train.yaml``; it is changed, and gets the pack's fingerprint.

    Returns:
        Domains of the pack, the source first; none without a pack.

    Raises:
        UserError: there is no such pack, the command line names another codec than the pack's, or a
            domain that the pack has.
    """
    if config.extend is None:
        return ()
    folder = pack_folder(config)
    taken = pack.read_config(folder, trust=_trusted(config))
    if taken.get("method", AdaptedCodec.method) != AdaptedCodec.method:
        raise UserError(
            f"{folder} is a pack of method {taken.method}: only packs of adapters can be extended."
        )
    earlier = tuple(taken.domains)
    new = domain_names(config.domains, earlier[0])[1:]
    if not new or set(new) & set(earlier):
        raise UserError(
            f"The pack {folder} has the domains {', '.join(earlier)} already. Name new ones only, such "
            "as domains=[mine]."
        )
    theirs = OmegaConf.create(
        {"codec": taken.codec, "data": {"source": earlier[0]}, **taken.get("how", PAPER)}
    )
    for key in _given():
        given = OmegaConf.select(config, key)
        if _is_of(key, _MAY_DIFFER):
            OmegaConf.update(theirs, key, given, force_add=True)
        elif _is_of(key, _OF_THE_PACK) and given != OmegaConf.select(theirs, key):
            raise UserError(
                f"{key} is that of the pack {folder} and cannot be another one: leave it out, or extend "
                "another pack."
            )
    with open_dict(config):
        config.data.source = earlier[0]
        for key in ("codec", *PAPER):
            config[key] = theirs[key]
        config.extended_from = zoo.fingerprint(pack.read_tensors(folder, trust=_trusted(config)))
    return earlier


def _given() -> list[str]:
    """Keys that are on the command line; of a codec by its name, that name."""
    if not HydraConfig.initialized():
        return []
    keys = [o.lstrip("+~").split("=", 1)[0] for o in HydraConfig.get().overrides.task]
    return ["codec.name" if key == "codec" else key for key in keys]


def _is_of(key: str, parts: Sequence[str]) -> bool:
    return any(key == part or key.startswith(f"{part}.") for part in parts)


def extended_codec(config: DictConfig) -> AdaptedCodec:
    """The pack's codec, frozen, with untrained adapters for the configured domains."""
    return extend(_earlier(config), list(config.domains), config.own_features)


def _earlier(config: DictConfig) -> AdaptedCodec:
    return AdaptedCodec.load(pack_folder(config), trust=_trusted(config))


def _trusted(config: DictConfig) -> tuple[str, ...]:
    return listed(config.get("trust"))


def before_and_after(
    config: DictConfig, folder: Path, pictures: Sequence[LabelledPicture], console: Console
) -> dict[str, Any]:
    """What the extension has done to the test pictures of the pack's own domains.

    The pack codes and decodes them again; its points go to ``rd_points_before.csv``.

    Args:
        config: of the run.
        folder: of the run, which holds ``rd_points.csv`` already.
        pictures: test pictures; those of other domains are left out.
        console: where progress is shown.

    Returns:
        ``{domain: {blend: {"before": …, "after": …, "difference": …}}}``, mean PSNR in dB.
    """
    earlier = _earlier(config)
    if zoo.fingerprint(adapter_state(earlier.codec)) != config.extended_from:
        raise UserError(f"The pack {pack_folder(config)} has changed while it was extended.")
    blends = [b for b in config.evaluation.blends or BLENDS if b in BLENDS]
    points = measure(
        earlier,
        [p for p in pictures if p.domain in earlier.domains],
        run=folder.name,
        blends=blends,
        metrics=["psnr"],
        console=console,
    )
    write_points(points, folder / BEFORE, earlier.domains)
    before, after = (read_points(folder / name) for name in (BEFORE, "rd_points.csv"))
    return {
        domain: {blend: _compared(before, after, domain, blend) for blend in blends}
        for domain in earlier.domains
    }


def _compared(
    before: Sequence[Point], after: Sequence[Point], domain: str, blend: str
) -> dict[str, float]:
    earlier, now = (
        mean(p.psnr for p in points if (p.domain, p.blend) == (domain, blend))
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
    for blend in next(iter(before_after.values())):
        rich.add_column(blend, justify="right", no_wrap=True)
        rich.add_column("change", justify="right", no_wrap=True)
    for domain, blends in before_after.items():
        values = (
            text
            for b in blends.values()
            for text in (f"{b['before']:.2f}", f"{b['difference']:+.3f}")
        )
        rich.add_row(domain, *values)
    return rich
