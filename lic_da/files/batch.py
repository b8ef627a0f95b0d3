"""One thing done for a file or for every file of a folder, with a progress bar and a summary.

A file that fails is reported, and the others go on. With several workers every one is a process with
its own share of the cores.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lic_da.errors import UserError
from lic_da.io.files import STDOUT, given_path
from lic_da.io.listing import Rule, files_of
from lic_da.surroundings import granted_cpus, printable
from lic_da.workers import DIED, Workers


@dataclass(frozen=True)
class Job:
    """A file to read and the file to write."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        job: the job.
        pixels: of the image.
        bits: of the image's strings, which bpp counts.
        error: what went wrong, in one line; None: nothing.
    """

    job: Job
    pixels: int = 0
    bits: int = 0
    error: str | None = None


Work = Callable[[Job], Outcome]
"""Does a job; it goes to other processes, so it can be pickled."""


def plan(source: Path, target: Path | str, rule: Rule, new_suffix: str) -> list[Job]:
    """Jobs for a file, or for all files below a folder that a rule takes.

    Subfolders are kept. Where two files would get one name, such as ``a.png`` and ``a.jpg``, they
    keep their suffixes: ``a.png.lic`` and ``a.jpg.lic``. What is left out is told of on stderr.

    Args:
        source: a file or a folder.
        target: likewise; a file goes into a folder that is there, or whose name ends in ``/``.
        rule: which files of a folder count.
        new_suffix: of the files that are written.

    Raises:
        UserError: no such file or folder, nothing to do in it, or it would be written over itself.
    """
    meant = str(target).endswith(os.sep)  # a folder, whether it is there or not
    target = given_path(str(target))
    if source.is_dir() and target == STDOUT:
        raise UserError(f"{source} is a folder: only a single file can go to standard output.")
    if source.is_dir() and target.is_file():
        raise UserError(f"{source} is a folder, so {target} must be one, but it is a file.")
    files = inputs(source, rule)
    if not source.is_dir():
        inside = meant or target.is_dir()
        jobs = [Job(source, target / f"{source.stem}{new_suffix}" if inside else target)]
    else:
        jobs = _jobs(source, [file.relative_to(source) for file in files], target, new_suffix)
    for job in jobs:
        if job.target != STDOUT and job.target.exists() and job.target.samefile(job.source):
            raise UserError(f"{job.target} is {job.source} itself: name another file to write.")
    return jobs


def inputs(source: Path, rule: Rule) -> list[Path]:
    """A file, or all files below a folder that a rule takes; what is left out is told of on stderr.

    Raises:
        UserError: no such file or folder, or nothing to do in it.
    """
    if not source.exists():
        raise UserError(f"There is no file or folder {source}.")
    if not source.is_dir():
        return [source]
    listing = files_of(source, rule)
    if not listing.names:
        raise UserError(
            f"There are no files to work on in {source}"
            + (f"; left out: {listing.told()}." if listing.left_out else ".")
        )
    if listing.left_out:
        print(f"Left out: {listing.told()}", file=sys.stderr)
    return [source / name for name in listing.names]


def _jobs(source: Path, names: Sequence[Path], target: Path, new_suffix: str) -> list[Job]:
    """Jobs for files below a folder, whose names in the target differ."""
    short = [str(name.with_suffix(new_suffix)) for name in names]
    count = Counter(name.casefold() for name in short)
    new = [
        a if count[a.casefold()] == 1 else f"{b}{new_suffix}"
        for a, b in zip(short, names, strict=True)
    ]
    twice = [name for name, n in Counter(name.casefold() for name in new).items() if n > 1]
    if twice:
        raise UserError(f"Several files in {source} would become {twice[0]}; rename one of them.")
    return [Job(source / a, target / b) for a, b in zip(names, new, strict=True)]


def run(
    work: Work,
    jobs: Sequence[Job],
    verb: str,
    *,
    overwrite: bool,
    workers: int,
    images: bool = False,
) -> bool:
    """Do jobs, with a progress bar on stderr, and print a line that sums up.

    Args:
        work: what to do.
        jobs: what for.
        verb: what is done, for the summary: ``"Compressed"``.
        overwrite: replace files that exist. Else they are kept, which is an error for a single file.
        workers: processes; 1: this one.
        images: are read, by decoders that may end their process: several are then never read in this
            one, so that one of them cannot take the others with it.

    Returns:
        Whether all went well.
    """
    there = [not overwrite and job.target.is_file() for job in jobs]
    if there == [True]:
        raise UserError(f"{jobs[0].target} exists; --overwrite replaces it.")
    todo = [job for job, exists in zip(jobs, there, strict=True) if not exists]
    began = time.perf_counter()
    outcomes = _outcomes(functools.partial(_attempt, work, overwrite), todo, workers, images)
    good = [o for o in _told(outcomes, verb, len(todo)) if o.error is None]
    seconds = time.perf_counter() - began
    told = sys.stderr if any(job.target == STDOUT for job in jobs) else sys.stdout
    print(_summary(verb, good, len(jobs), sum(there), seconds), file=told, flush=True)
    return len(good) == len(todo)


def _told(outcomes: Iterator[Outcome], verb: str, total: int) -> Iterator[Outcome]:
    """The outcomes, with what failed told on stderr, and a progress bar for several."""
    if total < 2:  # rich takes a while to import
        for outcome in outcomes:
            if outcome.error is not None:
                print(printable(f"error: {outcome.error}"), file=sys.stderr, flush=True)
            yield outcome
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (TextColumn(verb), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(verb, total=total)
        for outcome in outcomes:
            progress.advance(task)
            if outcome.error is not None:
                message = printable(f"error: {outcome.error}")
                console.print(message, markup=False, highlight=False, soft_wrap=True)
            yield outcome


def _summary(verb: str, good: Sequence[Outcome], total: int, kept: int, seconds: float) -> str:
    bits, pixels = sum(o.bits for o in good), sum(o.pixels for o in good)
    parts = [f"{verb} {len(good)} of {total} images"]
    if pixels:
        parts.append(f"{pixels / 1e6:.1f} megapixels")
        parts.append(f"{bits / pixels:.3f} bpp")
    parts.append(f"{seconds:.1f} s")
    line = ", ".join(parts)
    if kept:
        line += f"; {kept} existed and were kept (--overwrite replaces them)"
    failed = total - kept - len(good)
    return line + (f"; {failed} failed" if failed else "")


def _outcomes(attempt: Work, jobs: Sequence[Job], workers: int, images: bool) -> Iterator[Outcome]:
    size = min(workers, len(jobs))
    if size <= 1 and not (images and len(jobs) > 1):
        yield from map(attempt, jobs)
        return
    with Workers(size, share_cores, (_threads_each(size),)) as processes:
        for number, outcome in processes.outcomes(attempt, jobs):
            if outcome is DIED:
                reason = "the process that worked on it died, probably for want of memory"
                outcome = Outcome(jobs[number], error=f"{jobs[number].source}: {reason}")
            yield outcome


def _threads_each(processes: int) -> int:
    """Threads of each of some processes: their share of the cores, or fewer where the user has said so."""
    share = max(1, granted_cpus() // processes)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(asked)) if asked.isdigit() and int(asked) else share


def share_cores(threads: int) -> None:
    """For a process beside others: use this many threads."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # of what is imported from now on
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _attempt(work: Work, overwrite: bool, job: Job) -> Outcome:
    """Do a job; whatever goes wrong with one file is told and does not stop the others."""
    try:
        if not overwrite and job.target.is_file():  # since the work began
            raise UserError(f"{job.target} exists now; --overwrite replaces it.")
        return work(job)
    except UserError as error:
        message = str(error)
        named = str(job.source) in message or str(job.target) in message
        return Outcome(job, error=message if named else f"{job.source}: {message}")
    except Exception as error:
        return Outcome(job, error=f"{job.source}: {type(error).__name__}: {error}")
