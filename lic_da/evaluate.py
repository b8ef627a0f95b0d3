"""``python -m lic_da.evaluate pack=DIR``: measure a pack on test images, by real coding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from rich.console import Console

from lic_da.command import command
from lic_da.config import plain
from lic_da.errors import UserError, unknown
from lic_da.io.files import user_path, write_json
from lic_da.io.run_folder import CONFIG
from lic_da.migrations import metric_names, mode_names

if TYPE_CHECKING:
    from lic_da.data.datamodule import LabelledImage


@command("evaluate")
def main(config: DictConfig) -> None:
    """Write ``rd_points.csv`` and ``summary.json``, print the table."""
    from lic_da.codecs.refine import Effort
    from lic_da.data.datamodule import listed
    from lic_da.evaluation.measure import check_qualities
    from lic_da.evaluation.metrics import METRICS
    from lic_da.evaluation.summary import at_each_quality, measure_into, metrics_table, table
    from lic_da.methods.pack import load
    from lic_da.training.numbers import Number

    console = Console(stderr=True)
    if config.pack is None:
        raise UserError("Give the folder of a pack: pack=outputs/NAME/pack.")
    pack = user_path(config.pack)
    folder = user_path(config.output) if config.output else pack.resolve().parent / "evaluation"
    if (folder / CONFIG).exists():
        raise UserError(f"{folder} holds a run, or a pack: name another folder by output.")
    adapted = load(pack, trust=listed(config.trust), spatial=config.spatial)
    qualities = [config.quality] if isinstance(config.quality, int) else plain(config.quality)
    check_qualities(qualities, "quality", adapted.config)
    names_of_metrics = metric_names(config)
    METRICS.chosen(names_of_metrics)
    modes = mode_names(config)
    known = (*adapted.modes, *adapted.modes_on_request)
    if modes is not None and not modes:
        raise UserError(f"Name ways to decode, such as modes=[{','.join(known[:2])}].")
    for mode in modes or ():
        if mode not in known:
            raise unknown("mode", mode, known)
    Number(0, optional=True).check("unseen_images", config.unseen_images)
    with adapted.refining(Effort(config.effort)):
        pass  # refused before anything is coded
    entries = _tested(config, adapted.domains, console)
    summary = measure_into(
        *(folder, adapted, entries),
        modes=modes,
        metrics=names_of_metrics,
        qualities=qualities,
        effort=config.effort,
        console=console,
    )
    write_json(folder / "summary.json", summary)
    for own in at_each_quality(summary):
        Console().print(table(own))
        if others := metrics_table(own):
            Console().print(others)
    print(f"Tables rd_points.csv and summary.json are in {folder}")


def _tested(config: DictConfig, known: Sequence[str], console: Console) -> list[LabelledImage]:
    """The test images that are asked for, labelled by their place among the pack's domains."""
    from lic_da.data.datamodule import LabelledImage, listed
    from lic_da.data.domains import (
        load_domain,
        more_tests,
        prepare,
        refuse_shared_files,
        unseen_domains,
    )

    seen = tuple(known) if config.domains is None else listed(config.domains)
    for name in seen:
        load_domain(name)
    data_dir = user_path(config.data_dir)
    unseen = unseen_domains(listed(config.unseen), seen, data_dir)
    prepared = {n: prepare(n, data_dir, console=console) for n in dict.fromkeys((*seen, *unseen))}
    if config.more_tests:
        prepared = {n: more_tests(i, data_dir) for n, i in prepared.items()}
    refuse_shared_files(prepared.values())
    entries = []
    for name, images in prepared.items():
        label = known.index(name) if name in known else -1
        tested = images.split("test")[: config.unseen_images if name in unseen else None]
        entries += [LabelledImage(p, images.path(p), name, label) for p in tested]
    return entries


if __name__ == "__main__":
    main()
