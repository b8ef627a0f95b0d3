"""What all commands share: mistakes of the user end in one line, not in a traceback."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from hydra.errors import InstantiationException

from lic_da.errors import UserError
from lic_da.surroundings import ensure_home, printable, use_plain_output


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: print a :class:`UserError` as one line on stderr and leave with exit code 2."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        use_plain_output()
        ensure_home()
        try:
            return function(*args, **kwargs)
        except UserError as error:
            _refuse(error)
        except InstantiationException as error:  # Hydra's wrapping of what a constructor has raised
            if not isinstance(error.__cause__, UserError):
                raise
            _refuse(error.__cause__)

    return wrapped


def _refuse(error: UserError) -> NoReturn:
    print(printable(f"error: {error}"), file=sys.stderr)
    sys.exit(2)
