"""Processes that work on many things, where a process that dies costs one of them.

Decoders of images are code in C that reads files of strangers: one of them may end its process.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from enum import Enum
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Died(Enum):
    """What stands for the result of something whose process died."""

    DIED = "the process that worked on it died"


DIED: Literal[Died.DIED] = Died.DIED


class Workers:
    """A number of processes; each is started when there is something to do for it.

    Every process is a pool of its own and works on one thing at a time: it is known what it died of.

    Args:
        count: of processes, at least 1.
        initializer: is called in each process before anything else.
        arguments: of the initializer.
    """

    def __init__(
        self, count: int, initializer: Callable[..., None] | None = None, arguments: Any = ()
    ) -> None:
        self._initializer = initializer
        self._arguments = arguments
        self._pools = [self._pool() for _ in range(count)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pool in self._pools:
            pool.shutdown(wait=True, cancel_futures=True)

    def outcomes(
        self, function: Callable[[T], R], items: Iterable[T]
    ) -> Iterator[tuple[int, R | Literal[Died.DIED]]]:
        """Results as they come, each with the number of its item, counted from 0.

        Args:
            function: is called with each item, in some process; both have to be picklable.
            items: what for. One whose process died beside others, perhaps for want of memory, is tried
                again alone.
        """
        queue = deque(enumerate(items))
        again: list[tuple[int, T]] = []
        idle = deque(range(len(self._pools)))
        pending: dict[Future[R], tuple[int, int, T]] = {}
        while queue or pending:
            while queue and idle:
                number, item = queue.popleft()
                pool = idle.popleft()
                pending[self._pools[pool].submit(function, item)] = pool, number, item
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                pool, number, item = pending.pop(future)
                result = self._result(future, pool)
                idle.append(pool)
                if result is DIED and len(self._pools) > 1:
                    again.append((number, item))
                else:
                    yield number, result
        for number, item in again:
            yield number, self._result(self._pools[0].submit(function, item), 0)

    def _result(self, future: Future[R], pool: int) -> R | Literal[Died.DIED]:
        try:
            return future.result()
        except BrokenProcessPool:
            self._pools[pool].shutdown()
            self._pools[pool] = self._pool()
            return DIED

    def _pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            1,
            mp_context=multiprocessing.get_context("spawn"),  # threads do not survive a fork
            initializer=self._initializer,
            initargs=self._arguments,
        )
