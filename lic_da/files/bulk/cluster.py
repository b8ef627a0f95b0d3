"""Parts handed out by Ray Data, here or on a cluster."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from lic_da.errors import UserError
from lic_da.files.batch import share_cores
from lic_da.files.bulk.work import WORK, Done, Task
from lic_da.surroundings import granted_cpus

LOCAL = "local"
LOG = "ray.log"
LEAST_STORE = 80
"""MB of the object store that Ray takes at least."""


@dataclass(frozen=True)
class Cluster:
    """Where workers run.

    Attributes:
        address: ``local``: on this machine, started for this run; else of a cluster that runs.
        workers: how many; None: one for each processor.
        object_store: MB of Ray's object store on this machine, which holds numbers of parts alone.
    """

    address: str = LOCAL
    workers: int | None = None
    object_store: int = 200

    def __post_init__(self) -> None:
        """Raise a UserError if the object store is too small."""
        if self.object_store < LEAST_STORE:
            raise UserError(f"--object-store takes {LEAST_STORE} MB or more.")


def check_installed() -> None:
    """Raise a UserError unless Ray is there; it is not imported yet."""
    if importlib.util.find_spec("ray") is None:
        raise UserError("lic-da bulk needs Ray: pip install 'lic-da[bulk]'.")


def done(task: Task, parts: Sequence[int], cluster: Cluster) -> Iterator[Done]:
    """Do parts; what became of each as soon as it is known.

    A worker that dies is started anew, with the part that it was at, as Ray Data does by itself.

    Args:
        task: what to do.
        parts: their numbers.
        cluster: where.

    Raises:
        UserError: Ray cannot be started, or has given up.
    """
    ray = _ray()
    with _stderr_into(task.folder / WORK / LOG), _connected(ray, cluster) as workers:
        data = ray.data.from_items([{"part": n} for n in parts], override_num_blocks=len(parts))
        results = data.map_batches(
            _Worker,
            fn_constructor_args=(task, workers if cluster.address == LOCAL else None),
            batch_size=1,
            batch_format="numpy",
            # One part at a time and nothing waiting for a certain worker, so that all end together.
            compute=ray.data.ActorPoolStrategy(
                size=min(workers, len(parts)), max_tasks_in_flight_per_actor=1
            ),
            num_cpus=1,
        )
        try:
            for row in results.iter_rows():
                yield Done(**row)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"Ray has given up ({reason}). The same command goes on.") from error


class _Worker:
    """A process that does parts; the codec stays loaded between them.

    Args:
        task: what to do.
        workers: processes that share this machine's cores; None: Ray has said how many threads.
    """

    def __init__(self, task: Task, workers: int | None) -> None:
        share_cores(max(1, granted_cpus() // workers) if workers else 1)
        self._task = task

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        rows = [asdict(self._task.do(int(number))) for number in batch["part"]]
        return {name: [row[name] for row in rows] for name in rows[0]}


@contextmanager
def _stderr_into(path: Path) -> Iterator[None]:
    """Let what Ray's libraries write to stderr go to a file, and what this program writes go on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.flush()
    kept, own = os.dup(2), sys.stderr
    try:
        with open(path, "ab") as file:
            os.dup2(file.fileno(), 2)
        with open(kept, "w", closefd=False, encoding=own.encoding, errors="lic_da.plain") as real:
            sys.stderr = real if _is_fd_2(own) else own
            yield
    finally:
        sys.stderr = own
        os.dup2(kept, 2)
        os.close(kept)


def _is_fd_2(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 2
    except (OSError, ValueError):  # in memory
        return False


@contextmanager
def _connected(ray: Any, cluster: Cluster) -> Iterator[int]:
    """Ray inside the block; yields the number of workers."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    workers = cluster.workers or granted_cpus()
    try:
        if cluster.address == LOCAL:
            ray.init(
                address="local",
                num_cpus=workers,
                object_store_memory=cluster.object_store * 1_000_000,
                include_dashboard=False,
                _node_ip_address="127.0.0.1",  # nobody else's business
                **quiet,
            )
        else:
            ray.init(address=cluster.address, **quiet)
            workers = cluster.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"Ray cannot be reached at {cluster.address} ({reason}).") from error
    try:
        yield workers
    finally:
        ray.shutdown()


def _ray() -> Any:
    """Ray with its part for data, without reports to its makers and without bars of its own."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    return ray
