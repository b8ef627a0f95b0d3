"""Writing files so that nothing is half written, and reading text the same in every locale.

Files are UTF-8 whatever the surroundings prefer. A new file has the mode that the user's umask gives, one
that is replaced keeps its own; what is no regular file (a device, a named pipe) is written into.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lic_da.errors import NotWritable, UserError


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its name when the block ends without an error.

    A link is followed. Where ``path`` is a device, a named pipe or a socket, the temporary file lies
    elsewhere, and its bytes are written into what is there.

    Example:
        >>> with atomic_path("table.csv") as temporary:
        ...     write_text(temporary, "a,b")

    Raises:
        UserError: ``path`` is a folder.
        NotWritable: nothing can be written there.
    """
    path = Path(os.path.realpath(path))
    mode = _mode_of(path)
    if mode is not None and stat.S_ISDIR(mode):
        raise UserError(f"{path} is a folder, not a file.")
    if mode is not None and not stat.S_ISREG(mode):
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder, f"file{path.suffix}")
            yield temporary
            with open(temporary, "rb") as source, open(path, "wb", buffering=0) as target:
                shutil.copyfileobj(source, target)
        return
    # Made by open, so that it has the mode that the umask gives.
    temporary = path.with_name(f".{secrets.token_hex(6)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.open("xb").close()
    except OSError as error:
        raise NotWritable(f"{path} cannot be written ({error.strerror}).") from error
    mode = _mode_of(temporary) if mode is None else mode
    try:
        yield temporary
        if mode is not None:  # some write a file of their own in its place
            with contextlib.suppress(OSError):  # file systems without modes refuse
                temporary.chmod(stat.S_IMODE(mode))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def appearing(folder: Path, last: str, outdated: Collection[str] = ()) -> Iterator[Path]:
    """A temporary folder whose files are those of ``folder`` when the block ends without an error.

    A new folder appears whole. In one that is there files are replaced one by one, and others stay; where
    that is broken off, ``last``, which has hashes of the others, tells, and it can be done again.

    Args:
        folder: with links resolved.
        last: name of the file that goes into a folder that is there after all others.
        outdated: names of files that are removed there if there are none to replace them.

    Raises:
        NotWritable: nothing can be written there.
    """
    new = not folder.exists()
    # Where the folders above are new too, none of them is made before there is something to hold.
    nearest = next(above for above in (folder, *folder.parents) if above.exists())
    temporary = nearest / f".{folder.name}.{secrets.token_hex(6)}"
    try:
        temporary.mkdir()
    except OSError as error:
        raise NotWritable(f"{folder} cannot be written ({error.strerror}).") from error
    try:
        yield temporary
        if new:
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(folder)
            return
        files = sorted(temporary.iterdir(), key=lambda file: file.name == last)
        for name in {*outdated} - {file.name for file in files}:
            (folder / name).unlink(missing_ok=True)
        for file in files:
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


STDOUT = Path("-")
"""Where a user names a file to write: standard output."""


@contextmanager
def output_path(path: Path) -> Iterator[Path]:
    """As :func:`atomic_path`; what is written for :data:`STDOUT` goes there when the block ends."""
    if path != STDOUT:
        with atomic_path(path) as temporary:
            yield temporary
        return
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder, "file")
        yield temporary
        sys.stdout.buffer.write(temporary.read_bytes())
        sys.stdout.buffer.flush()


def _mode_of(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except OSError:
        return None


def write_text(path: Path | str, text: str) -> None:
    """Write a text; the file appears whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


def write_json(path: Path | str, content: Any) -> None:
    """Write JSON; the file appears whole or not at all."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def read_text(path: Path | str) -> str:
    """The text of a file; bytes that are no UTF-8 survive until it is written again."""
    return Path(path).read_text(encoding="utf-8", errors="surrogateescape")


def read_json(path: Path | str) -> Any:
    """The content of a JSON file.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is empty, damaged or cannot be read.
    """
    try:
        return json.loads(read_text(path))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}).") from error


def new_folder(path: Path) -> Path:
    """Make a folder that nobody else has: ``path``, or where that is there, ``path_2`` and so on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = path if number == 1 else path.with_name(f"{path.name}_{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            break
    return folder


def user_path(path: Path | str) -> Path:
    """A path as a user writes it: ``~`` is their home."""
    return Path(path).expanduser()


def given_path(text: str) -> Path:
    """A path on a command line; ``~`` is the user's home.

    Raises:
        UserError: it is empty, as where a variable of a script is not set.
    """
    if not text:
        raise UserError("The name of a file or folder is empty.")
    return user_path(text)
