"""Tensors that are read from a safetensors file one by one, when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lic_da.errors import UserError


class Lazy(Mapping[str, Tensor]):
    """Tensors by name, each made anew whenever it is asked for.

    Args:
        makers: what makes the tensor of a name.
    """

    def __init__(self, makers: Mapping[str, Callable[[], Tensor]]) -> None:
        self._makers = dict(makers)

    def __getitem__(self, name: str) -> Tensor:
        return self._makers[name]()

    def __contains__(self, name: object) -> bool:  # without making it, as Mapping would
        return name in self._makers

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies in a file, and what it is."""

    begin: int
    shape: torch.Size
    dtype: torch.dtype


class TensorFile(Mapping[str, Tensor]):
    """A safetensors file whose tensors are read one by one, each time anew, and not kept.

    They are read and not mapped, so that the process holds no more than what it has asked for. The file
    stays open: where another one takes its place, this is still the one that was opened.

    Raises:
        UserError: it cannot be read as such a file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115
            self._places = _places(path, int.from_bytes(self._file.read(8), "little"))
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} cannot be read ({error}).") from error

    def __getitem__(self, name: str) -> Tensor:
        place = self._places[name]
        tensor = torch.empty(place.shape, dtype=place.dtype)
        raw = tensor.flatten().view(torch.uint8).numpy()
        try:
            # At a place, not from where the last reading ended: processes may share the open file.
            count = os.preadv(self._file.fileno(), [raw.data], place.begin)
        except OSError as error:
            raise UserError(f"{self.path} cannot be read ({error}).") from error
        if count != raw.nbytes:
            raise UserError(f"{self.path} ends too early: it has changed since it was opened.")
        return tensor

    def __contains__(self, name: object) -> bool:  # without reading it, as Mapping would
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def shape(self, name: str) -> torch.Size:
        """Shape of a tensor, which is not read for it."""
        return self._places[name].shape


def _places(path: Path, header: int) -> dict[str, _Place]:
    """Places of all tensors of a file, which lie one after the other behind its header."""
    places, begin = {}, 8 + header
    with safe_open(path, framework="pt") as opened:
        for name in opened.offset_keys():
            tensor = opened.get_tensor(name)  # mapped: nothing of it is read
            places[name] = _Place(begin, tensor.shape, tensor.dtype)
            begin += tensor.nbytes
    return places
