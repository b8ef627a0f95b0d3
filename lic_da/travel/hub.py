"""Repositories on the Hugging Face Hub, through its own client."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lic_da.errors import UserError
from lic_da.io.hub import REPLY_S, Unreachable, ask, first_line, is_of_the_network
from lic_da.surroundings import package_version
from lic_da.travel.place import Listing

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_LOG_IN = "log in with 'hf auth login', or set HF_TOKEN"


@dataclass(frozen=True)
class Hub:
    """A model repository on the Hub.

    Args:
        name: ``owner/name``.
        revision: commit, tag or branch; None: the main one.
    """

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"

    @property
    def absent(self) -> str:
        return f"There is no {self.name} on the Hub, or it is private: then {_LOG_IN}."

    def listing(self) -> Listing | None:
        from huggingface_hub import constants, errors

        if constants.HF_HUB_OFFLINE:
            raise UserError(f"HF_HUB_OFFLINE is set, and {self} is on the Hub: unset it.")
        api = _api()
        try:
            with self._in_words():
                found = ask(
                    lambda: api.model_info(
                        self.name, revision=self.revision, timeout=REPLY_S, files_metadata=True
                    )
                )
        except UserError as error:
            cause = error.__cause__
            if isinstance(cause, errors.RepositoryNotFoundError) and not isinstance(
                cause, errors.GatedRepoError
            ):
                return None
            raise
        sizes = {file.rfilename: file.size for file in found.siblings or ()}
        return Listing(sizes, found.sha, found.private)

    def fetch(self, name: str, listing: Listing, folder: Path) -> None:
        with self._in_words():
            _api().hf_hub_download(
                self.name, name, revision=listing.commit, local_dir=folder, etag_timeout=REPLY_S
            )
        shutil.rmtree(folder / ".cache", ignore_errors=True)  # what the client notes of a download

    def store(
        self,
        files: Mapping[str, Path | bytes],
        listing: Listing | None,
        *,
        private: bool,
        message: str | None,
    ) -> str:
        from huggingface_hub import CommitOperationAdd, get_token

        if self.revision is not None:
            raise UserError(f"A pack is pushed to the main branch: leave out @{self.revision}.")
        if private and listing is not None and not listing.private:
            raise UserError(
                f"{self.name} is there already, and everybody sees it: --private is for new ones."
            )
        with self._in_words():
            if not ask(get_token):
                raise UserError(f"To push to the Hub, {_LOG_IN}.")
            api = _api()
            if listing is None:
                ask(lambda: api.create_repo(self.name, private=True if private else None))
            commit = api.create_commit(
                self.name,
                [CommitOperationAdd(name, content) for name, content in files.items()],
                commit_message=message or "Push a pack",
                parent_commit=listing.commit if listing is not None else None,
            )
        return f"{api.endpoint}/{self.name} (commit {commit.oid[:8]})"

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        """Say in a sentence what the Hub's client raises.

        Raises:
            UserError: it has raised something; its cause is that.
        """
        try:
            yield
        except UserError:
            raise
        except Unreachable as error:
            raise UserError(f"{self}: {error}.") from error
        except Exception as error:  # the Hub's client has no common base of its errors
            raise UserError(self._sentence(error)) from error

    def _sentence(self, error: Exception) -> str:
        from huggingface_hub import errors

        if isinstance(error, errors.GatedRepoError):
            return (
                f"{self.name} is given on request only: ask on its page on the Hub, and {_LOG_IN}."
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return f"{self.name} has no revision {self.revision}."
        if isinstance(error, errors.RepositoryNotFoundError):
            return self.absent
        status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
        if status == 401:
            return f"The Hub does not accept your token for {self.name}: {_LOG_IN} anew."
        if status == 403:
            return f"Your token may not do this with {self.name}: take one with the right to write."
        if status == 412:
            return f"{self.name} has changed while it was pushed to: do it again."
        for each in _causes(error):
            if is_of_the_network(each):
                return f"{self}: the Hub cannot be reached: {first_line(each)}."
            if isinstance(each, OSError) and each.errno in (errno.ENOSPC, errno.EDQUOT):
                return f"There is no room for the files of {self} ({each.strerror})."
        reason = getattr(error, "server_message", None) or first_line(error)
        return f"{self}: the Hub's client says: {reason} ({status or type(error).__name__})."


def _api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(library_name="lic_da", library_version=package_version())


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what has led to it."""
    while error is not None:
        yield error
        error = error.__cause__
