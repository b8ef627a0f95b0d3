"""``python -m lic_da.summarize sweep=DIR``: what a sweep saved, as tables, a report and a W&B run.

A sweep does this by itself at its end; see :mod:`lic_da.sweeps.callback`.
"""

from __future__ import annotations

from omegaconf import DictConfig

from lic_da.command import command
from lic_da.errors import UserError
from lic_da.io.files import user_path
from lic_da.sweeps import jobs
from lic_da.sweeps.settings import ReportSettings
from lic_da.sweeps.summary import summarize
from lic_da.tracking.settings import LoggerSettings


@command("summarize")
def main(config: DictConfig) -> None:
    """Summarise a sweep."""
    if config.sweep is None:
        raise UserError("Give the folder of a sweep: sweep=outputs/sweeps/NAME.")
    sweep = user_path(config.sweep)
    if not sweep.name:  # such as ".": the name of the folder is that of the sweep
        sweep = sweep.resolve()
    jobs.report(jobs.states(sweep))
    report = ReportSettings.from_settings(config.report)
    summarize(sweep, report, LoggerSettings.from_settings(config.logger))


if __name__ == "__main__":
    main()
