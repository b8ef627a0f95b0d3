"""``python -m lic_da.workspace``: set up the saved view of the W&B project, once a project.

Runs chart well without it, since their metrics have axes; the view puts what matters first: BD-rates and
gains of summary runs, then the validation of training runs, grouped by sweep.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

from lic_da.command import command
from lic_da.errors import UserError
from lic_da.surroundings import has_wandb_key

_MODES = ("weighted", "top1", "oracle")


def workspace(
    entity: str, project: str, seen: Sequence[str], unseen: Sequence[str], name: str = "lic_da"
) -> Any:
    """The view, not yet saved.

    Args:
        entity: user or team.
        project: name of the W&B project.
        seen: trained domains, the source first.
        unseen: domains that are only tested.
        name: of the view.

    Raises:
        UserError: the package wandb-workspaces is missing.
    """
    try:
        from wandb_workspaces.expr import Metric
        from wandb_workspaces.reports import v2 as panels
        from wandb_workspaces.workspaces import RunsetSettings, Section, Workspace
    except ImportError as error:
        raise UserError(
            "The view needs the package wandb-workspaces: pip install wandb-workspaces."
        ) from error
    domains = (*seen, *unseen)

    def bars(title: str, kind: str) -> Any:
        return panels.BarPlot(title=title, metrics=[f"{kind}/{d}/weighted" for d in domains])

    def over_quality(domain: str) -> Any:
        modes = _MODES if domain in seen else _MODES[:2]
        return panels.LinePlot(
            title=f"{domain}: gain over base, dB",
            x="quality",
            y=[f"gain/{domain}/{b}" for b in modes],
        )

    sections = [
        Section(
            name="What was saved",
            panels=[bars("BD-rate, %", "bd_rate"), bars("BD-PSNR, dB", "bd_psnr")],
            is_open=True,
        ),
        Section(name="Gain over quality", panels=[over_quality(d) for d in domains], is_open=True),
        Section(
            name="Training",
            panels=[
                panels.LinePlot(title=title, x="trainer/global_step", y=metrics)
                for title, metrics in _over_steps(seen).items()
            ],
            is_open=True,
        ),
    ]
    return Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=sections,
        runset_settings=RunsetSettings(groupby=[Metric("Group"), Metric("JobType")]),
        auto_generate_panels=True,  # rate-distortion charts, tables, images
    )


def _over_steps(seen: Sequence[str]) -> dict[str, list[str]]:
    """Titles of the charts over training steps, and their metrics."""
    return {
        "validation: mean gain, dB": ["val/gain"],
        "validation: gain per domain, dB": [f"val/gain_weighted/{d}" for d in seen],
        "validation: accuracy of the gate": ["val/gate_accuracy"],
        "training loss": ["train/loss"],
    }


def _entity(given: str | None) -> str:
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    if not has_wandb_key():
        raise UserError("There is no W&B API key here: set WANDB_API_KEY or run 'wandb login'.")
    return given or str(wandb.Api().default_entity)


@command("workspace")
def main(config: DictConfig) -> None:
    """Save the view and print its address."""
    view = workspace(
        _entity(config.entity),
        config.logger.project,
        (config.source, *config.domains),
        config.unseen,
        config.name,
    )
    print(view.save().url)


if __name__ == "__main__":
    main()
