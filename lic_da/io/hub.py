"""The Hugging Face Hub, asked so that there is an answer soon, or a sentence that says why not."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

REPLY_S = 5.0
"""The Hub's time to answer a request."""
_REACHED_S = 10.0  # and to have answered, whatever resolvers and proxies do


class Unreachable(Exception):
    """Something cannot be had from the Hub; the message says why."""


def ask(question: Callable[[], T]) -> T:
    """What the Hub answers, asked once and shortly: its client would try for half a minute.

    Args:
        question: asks it, by a request that waits for ``REPLY_S`` at most.

    Raises:
        Unreachable: there is no answer. What else the question raises is raised as it is.
    """
    outcome: list[T | Exception] = []

    def run() -> None:
        try:
            outcome.append(question())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_REACHED_S)
    if not outcome:
        raise Unreachable(f"the Hub has not answered for {_REACHED_S:.0f} s")
    answer = outcome[0]
    if not isinstance(answer, Exception):
        return answer
    if is_of_the_network(answer):
        raise Unreachable(f"the Hub cannot be reached: {first_line(answer)}") from answer
    raise answer


def is_of_the_network(error: BaseException) -> bool:
    """Whether an error of the Hub's client says that there was no connection, or that it was lost."""
    names = " ".join(cls.__name__ for cls in type(error).__mro__)
    return re.search("Connect|Timeout|Transport", names) is not None


def first_line(error: BaseException) -> str:
    """The first line of what an error says, without its full stop."""
    return next(iter(str(error).strip().splitlines()), "no message").rstrip(".")
