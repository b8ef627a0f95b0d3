"""What all commands share: mistakes of the user end in one line, not in a traceback."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from lic_da.errors import UserError


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: print a :class:`UserError` as one line on stderr and leave with exit code 2."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    return wrapped
