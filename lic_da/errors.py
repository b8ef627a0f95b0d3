"""Errors that a user can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something in the user's input or surroundings is wrong; the message says what and what to do.

    The commands print the message as one line and leave with exit code 2, without a traceback.
    """


class NotWritable(UserError, OSError):
    """A file cannot be written where the user wants it."""


class Stopped(UserError):
    """The user stopped what was going on; nothing that was to follow should start."""


def check_domain(mode: str, domain: str | None, domains: Iterable[str]) -> None:
    """Raise a UserError unless a domain is named that there is, for ``oracle``, or none for other modes."""
    if mode == "oracle" and domain is None:
        raise UserError("The mode 'oracle' needs the name of a domain (--domain NAME).")
    if domain is None:
        return
    if domain not in (known := [*domains]):
        raise unknown("domain", domain, known)
    if mode != "oracle":
        raise UserError("--domain names the adapters for --mode oracle: give both.")


def unknown(kind: str, value: object, known: Iterable[object], where: str = "") -> UserError:
    """Error for a name or number that does not exist, listing what does.

    Args:
        kind: what was looked up, such as ``"domain"``.
        value: what the user wrote.
        known: everything that would have been accepted.
        where: what the choice depends on, such as ``"for codec x"``.
    """
    choices = [str(k) for k in known]
    close = difflib.get_close_matches(str(value), choices, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return UserError(
        f"Unknown {kind} '{value}'{f' {where}' if where else ''}.{hint} Available: {', '.join(choices)}."
    )
