"""What all commands share: their configuration, plain output, and mistakes that end in one line."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException

from lic_da.config import CONF, available
from lic_da.errors import UserError, unknown
from lic_da.migrations import override
from lic_da.surroundings import ensure_home, printable, use_plain_output

_INTERRUPTED = 130  # exit code of what the user has stopped with Ctrl-C
_SWEEP = ("-m", "--multirun")
_SHOWN = ("--help", "-h", "--cfg", "-c", "--info", "-i", "--resolve", "job", "hydra", "all")
"""Arguments by which Hydra shows settings and runs nothing."""
_OVERRIDDEN = re.compile(r"Could not override '([\w.]+)'")
"""How Hydra names a setting that there is not."""


def command(name: str) -> Callable[[Callable[..., Any]], Callable[[], Any]]:
    """Decorator: a command that is configured by ``conf/<name>.yaml``.

    A :class:`UserError` ends it with one line on stderr and exit code 2, not with a traceback.
    """

    def decorate(function: Callable[..., Any]) -> Callable[[], Any]:
        begun: list[bool] = []
        configured = hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(
            _in_words(function, begun)
        )

        @functools.wraps(function)
        def main() -> Any:
            use_plain_output()
            ensure_home()
            sys.argv[1:] = [override(argument) for argument in sys.argv[1:]]
            try:
                check_groups(sys.argv[1:])
                # Where Hydra only shows settings, its objections are tracebacks.
                shown = any(map(_only_shows, sys.argv[1:]))
                if shown and (unfit := unknown_setting(name, sys.argv[1:])):
                    raise unfit
            except UserError as error:
                _refuse(error)
            try:
                return configured()
            except SystemExit as end:
                # Hydra has said why it cannot compose the settings, but not what there is instead.
                if end.code == 1 and not begun and (unfit := unknown_setting(name, sys.argv[1:])):
                    _refuse(unfit)
                raise

        return main

    return decorate


def _in_words(function: Callable[..., Any], begun: list[bool]) -> Callable[..., Any]:
    """A function that ends with a line where it raises a UserError, and says when it has begun."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        begun.append(True)
        try:
            return function(*args, **kwargs)
        except UserError as error:
            _refuse(error)
        except InstantiationException as error:  # Hydra's wrapping of what a constructor has raised
            if not isinstance(error.__cause__, UserError):
                raise
            _refuse(error.__cause__)
        except KeyboardInterrupt:
            print("Stopped.", file=sys.stderr)
            sys.exit(_INTERRUPTED)

    return wrapped


def check_groups(arguments: Sequence[str]) -> None:
    """Refuse the name of a codec, a method or the like that does not exist, before Hydra does.

    Raises:
        UserError: there is no such file in ``conf/<group>``; the message lists those there are.
    """
    if any(a.startswith(("--config-dir", "-cd", "hydra.searchpath")) for a in arguments):
        return  # there may be more than in ``conf``
    groups = _groups()
    for argument in arguments:
        group, _, values = argument.partition("=")
        if group not in groups or not values or set(values) & set("${}()[]'\""):
            continue
        for value in values.split(","):
            name = value.strip()
            if name and name != "null" and name not in available(group):
                raise unknown(group, name, available(group))


def _groups() -> set[str]:
    """Folders of ``conf``, from each of which one file is chosen."""
    return {path.name for path in CONF.iterdir() if path.is_dir()} if CONF.is_dir() else set()


def unknown_setting(name: str, arguments: Sequence[str]) -> UserError | None:
    """Error for the setting on a command line that Hydra finds none of.

    Args:
        name: of the command's settings, ``conf/<name>.yaml``.
        arguments: Hydra's overrides, those of a sweep too.

    Returns:
        It lists what stands beside the setting that was meant; None: Hydra objects to something else.
    """
    arguments = [a for a in arguments if not _only_shows(a)]
    if any(a.startswith("-") and a not in _SWEEP for a in arguments):
        return None  # Hydra is told to do something else, or to read other files
    GlobalHydra.instance().clear()
    try:
        overrides = [a for a in arguments if not a.startswith(("-", "hydra"))]
        if any(a in _SWEEP for a in arguments):
            overrides = [_first_of_sweep(a) for a in overrides]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            complaint = _complaint(name, overrides)
            key = _OVERRIDDEN.search(complaint)
            if key is None:
                return None
            rest = [a for a in overrides if a.partition("=")[0] != key[1]]
            place: Any = compose(name, rest if not _complaint(name, rest) else [])
            for depth, part in enumerate(parts := key[1].split(".")):
                if part not in list(place):
                    where = ".".join(parts[:depth])
                    return unknown("setting", part, place, f"of {where}" if where else "")
                place = place[part]
    except Exception:  # Hydra has said in words of its own what is wrong
        return None
    return None


def _only_shows(argument: str) -> bool:
    """Whether an argument, or what stands behind it, asks Hydra to show settings."""
    return argument.partition("=")[0] in _SHOWN


def _complaint(name: str, overrides: Sequence[str]) -> str:
    """What Hydra says of overrides of a command's settings; empty: nothing."""
    try:
        compose(name, list(overrides))
    except HydraException as error:
        return str(error)
    return ""


def _first_of_sweep(override: str) -> str:
    """An override of a sweep with the first of its values; the same if it has one."""
    parsed = OverridesParser.create().parse_override(override)
    if not parsed.is_sweep_override():
        return override
    return f"{parsed.get_key_element()}={next(parsed.sweep_string_iterator())}"


def _refuse(error: UserError) -> NoReturn:
    print(printable(f"error: {error}"), file=sys.stderr)
    sys.exit(2)
