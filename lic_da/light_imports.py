"""CompressAI without what only its point clouds, data sets and plots need.

``import compressai`` imports everything that CompressAI has, and with it torch_geometric, torch's compiler,
sympy, pandas and scipy.stats: some nine seconds, for a codec that uses none of them. Once lic_da is
imported, the first ``import compressai`` finds placeholders for these packages in their place. They are
gone when it ends, so that everybody else gets the real ones; where those are imported already, CompressAI
gets them too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

UNUSED = ("torch_geometric", "torchvision", "pandas", "scipy.stats", "requests")
"""Packages that CompressAI imports at its start, and that the codecs here do not use; of scipy.stats they
use what scipy brings when it is asked for it."""


class Absent:
    """What a placeholder has under every name: a base class, or a decorator that changes nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, decorated: Any) -> Any:
        return decorated


class _Placeholder(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Absent,), {})


class _Placeholders(MetaPathFinder, Loader):
    """Finds an empty package under each of the unused names, and everything below it."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = frozenset(names)

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if not any(f"{fullname}.".startswith(f"{name}.") for name in self.names):
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Placeholder(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextmanager
def _without_the_unused() -> Iterator[None]:
    finder = _Placeholders([name for name in UNUSED if name not in sys.modules])
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [n for n, m in sys.modules.items() if isinstance(m, _Placeholder)]:
            del sys.modules[name]
            parent, _, child = name.rpartition(".")
            if parent in sys.modules:
                vars(sys.modules[parent]).pop(child, None)


class _LightLoader(Loader):
    """Executes a package while the placeholders are in place."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        if spec is not None:  # from now on it is loaded as any other
            spec.loader = module.__loader__ = self.loader  # type: ignore[assignment]
        with _without_the_unused():
            self.loader.exec_module(module)


class _Finder(MetaPathFinder):
    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname != "compressai":
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _LightLoader(spec.loader)
        return spec


def install() -> None:
    """Let the first import of CompressAI be a light one; done again it changes nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
