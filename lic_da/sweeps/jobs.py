"""Jobs of a sweep: which are done, which failed or were killed, and why."""

from __future__ import annotations

import datetime
import json
import os
import socket
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from lic_da.errors import UserError
from lic_da.io.files import read_json, write_json
from lic_da.io.run_folder import CONFIG, FAILURE, RUNNING, SUMMARY


class InUse(UserError):
    """A job that another process is at."""


@contextmanager
def running(folder: Path) -> Iterator[None]:
    """Mark a job as running as long as the block does; the mark stays if the process is killed.

    What is known of an earlier failure is removed.

    Args:
        folder: of the job.

    Raises:
        InUse: another process of this machine is at it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / RUNNING).is_file() and _is_alive_here(folder / RUNNING):
        raise InUse(f"{folder} is in use: {_why_unfinished(folder / RUNNING)}.")
    (folder / FAILURE).unlink(missing_ok=True)
    _write(folder / RUNNING, _mark())
    try:
        yield
    finally:
        (folder / RUNNING).unlink(missing_ok=True)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """As :func:`running`, for a folder that no other process may be at.

    Raises:
        UserError: another one is.
    """
    path = folder / RUNNING
    try:
        with open(path, "x", encoding="utf-8") as file:
            json.dump(_mark(), file)
    except FileExistsError:
        if _may_be_alive(path):
            raise UserError(
                f"{folder} is in use: {_why_unfinished(path)}. Choose another name=…; if nobody is at it "
                f"any more, remove {path}."
            ) from None
        _write(path, _mark())  # of a process that was killed
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _mark() -> dict[str, object]:
    """Who is at a job."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process_started": psutil.Process().create_time(),
        "begun": f"{datetime.datetime.now():%Y-%m-%d %H:%M}",
    }


def write_failure(folder: Path, error: Exception) -> None:
    """Write down why a job failed; to be called while the error is handled."""
    _write(folder / FAILURE, {"reason": reason_of(error), "traceback": traceback.format_exc()})


def _write(path: Path, content: dict[str, object]) -> None:
    write_json(path, content)


def reason_of(error: Exception) -> str:
    """An error as one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


@dataclass(frozen=True)
class JobState:
    """Where a job of a sweep stands.

    Attributes:
        folder: of the job.
        state: ``done``, ``failed`` or ``unfinished`` (killed, stopped, or still running).
        reason: why it is not done; empty if it is.
    """

    folder: Path
    state: str
    reason: str = ""


def states(sweep: Path) -> list[JobState]:
    """All jobs of a sweep that were begun, by name; of a run alone that run.

    Raises:
        UserError: there is no such folder, or there are no jobs in it.
    """
    if not sweep.is_dir():
        raise UserError(f"There is no sweep {sweep}.")
    folders = [sweep]
    if not (sweep / CONFIG).is_file():
        folders = sorted(p for p in sweep.iterdir() if p.is_dir() and not p.name.startswith("."))
    found = [state for folder in folders if (state := _state(folder)) is not None]
    if not found:
        raise UserError(f"{sweep} is not the folder of a sweep: there are no jobs in it.")
    return found


def _state(folder: Path) -> JobState | None:
    """Where a job stands; None: it was not begun."""
    if (folder / FAILURE).is_file():
        try:
            reason = read_json(folder / FAILURE)["reason"]
        except (UserError, KeyError, TypeError):
            reason = f"{folder / FAILURE} says no more"
        return JobState(folder, "failed", reason)
    if (folder / SUMMARY).is_file():
        return JobState(folder, "done")
    if (folder / RUNNING).is_file():
        return JobState(folder, "unfinished", _why_unfinished(folder / RUNNING))
    if (folder / CONFIG).is_file():
        return JobState(folder, "unfinished", "it was stopped before its end")
    return None


def _why_unfinished(path: Path) -> str:
    try:
        mark = read_json(path)
        who = f"process {mark['pid']} on {mark['host']}, begun {mark['begun']}"
    except (UserError, KeyError, TypeError):  # of a process that was killed while it wrote it
        return f"it was killed, and {path} says no more"
    if mark["host"] != socket.gethostname():
        return f"it is still running, or was killed ({who})"
    if _is_alive(mark["pid"], mark["process_started"]):
        return f"it is still running ({who})"
    return f"it was killed: by hand, by a time limit or for want of memory ({who})"


def _may_be_alive(path: Path) -> bool:
    """Whether the process that wrote a mark may live: on another machine nobody can tell."""
    try:
        return read_json(path)["host"] != socket.gethostname() or _is_alive_here(path)
    except (UserError, OSError, KeyError, TypeError):
        return False


def _is_alive_here(path: Path) -> bool:
    """Whether the process that wrote a mark lives on this machine, and is another one than this."""
    try:
        mark = read_json(path)
        here = mark["host"] == socket.gethostname() and mark["pid"] != os.getpid()
        return here and _is_alive(mark["pid"], mark["process_started"])
    except (UserError, OSError, KeyError, TypeError):
        return False


def _is_alive(pid: int, started: float) -> bool:
    """Whether this very process lives; its number may have been given to another one since."""
    try:
        process = psutil.Process(pid)
        alive = process.status() != psutil.STATUS_ZOMBIE
        return alive and abs(process.create_time() - started) < 1
    except psutil.Error:
        return False


def report(found: Sequence[JobState]) -> bool:
    """Say how many jobs are done and name those that are not; True if all are."""
    done = sum(s.state == "done" for s in found)
    print(f"{done} of {len(found)} jobs done.")
    for job in found:
        if job.state != "done":
            print(f"error: {job.folder.name} {job.state}: {job.reason}", file=sys.stderr)
    return done == len(found)
