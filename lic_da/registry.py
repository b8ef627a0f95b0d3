"""Names for the classes that configurations and files may ask for.

A configuration says ``{kind: NAME, …}`` for what is registered here, and the rest are arguments::

    sites:
      - {kind: parallel, at: 4}

Somebody's own class is registered by a decorator, or named by its import path, ``_target_``, as Hydra
does::

    @SITES.register("mine")
    class Mine(Site): ...

A path stands in the user's own configuration only. In a file that may come from somebody else it is
refused, unless the user trusts the package; see :func:`refuse_paths`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, Generic, TypeVar

from lic_da.errors import UserError, unknown
from lic_da.migrations import NAMES

T = TypeVar("T")
C = TypeVar("C", bound=type)


class Registry(Generic[T]):
    """Classes of one sort by their names; a class of the package is imported when it is asked for.

    Args:
        sort: what they are, for messages, such as ``"kind of site"``.
        base: ``module:name`` of the class that all of them have as a base; None: they have none.
        entries: name -> ``module:name`` of the package's own.
    """

    def __init__(self, sort: str, base: str | None, entries: Mapping[str, str]) -> None:
        self.sort = sort
        self._base = base
        self._entries: dict[str, str | type] = dict(entries)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def register(self, name: str) -> Callable[[C], C]:
        """Decorator: give a class a name.

        Raises:
            UserError: another class has it.
        """

        def decorate(cls: C) -> C:
            known = self._entries.get(name)
            if known is not None and known != cls and known != f"{cls.__module__}:{cls.__name__}":
                raise UserError(f"There is a {self.sort} '{name}' already.")
            self._entries[name] = cls
            return cls

        return decorate

    def remove(self, name: str) -> None:
        """Forget a name, such as one that a notebook wants to give to another class.

        Raises:
            UserError: there is none; the message lists those there are.
        """
        self.find(name)
        del self._entries[name]

    def name_of(self, cls: type) -> str | None:
        """The name that a class has here, if it has one."""
        path = f"{cls.__module__}:{cls.__qualname__}"
        return next((n for n, entry in self._entries.items() if entry in (cls, path)), None)

    def find(self, name: Any) -> type:
        """The class of this name.

        Raises:
            UserError: there is none; the message lists those there are.
        """
        entry = self._entries.get(name) if isinstance(name, str) else None
        if entry is None:
            raise unknown(self.sort, name, self)
        return _imported(entry) if isinstance(entry, str) else entry

    def find_own(self, path: str) -> type:
        """The class of a registered name or of a dotted import path.

        Raises:
            UserError: there is none, or it is not what is looked for here.
        """
        path = NAMES.get(path, path)
        if path in self._entries or "." not in path:
            return self.find(path)
        found = located(path, self.sort)
        if not inspect.isclass(found) or (
            self._base and not issubclass(found, _imported(self._base))
        ):
            raise UserError(f"{path} is not the class of a {self.sort}.")
        return found

    def make(self, settings: Mapping[str, Any]) -> T:
        """What settings describe: ``kind`` and arguments; an import path, ``_target_``, goes before a kind.

        Args:
            settings: plain values; those of files have gone through :func:`refuse_paths`.

        Raises:
            UserError: no such name or path, or arguments that it cannot be made with.
        """
        if not isinstance(settings, Mapping):
            raise UserError(
                f"A {self.sort} is described by {{kind: NAME, …}}, not by {settings!r}."
            )
        arguments = dict(settings)
        kind, path = arguments.pop("kind", None), arguments.pop("_target_", None)
        odd = [key for key in arguments if not isinstance(key, str) or key.startswith("_")]
        if (kind is None and path is None) or odd:
            raise UserError(
                f"A {self.sort} is described by {{kind: NAME, …}}, not by {settings!r}."
            )
        maker = self.find(kind) if path is None else self.find_own(str(path))
        try:
            made: T = maker(**arguments)
        except UserError:
            raise
        except Exception as error:  # arguments that a constructor did not expect fail in many ways
            _refuse_unknown(maker, arguments, f"of {path or kind}, a {self.sort}")
            raise UserError(
                f"{path or kind}, a {self.sort}, cannot be made with {arguments}: "
                f"{' '.join(str(error).split())} ({type(error).__name__})."
            ) from error
        return made


def _refuse_unknown(maker: type, arguments: Mapping[str, Any], where: str) -> None:
    """Raise a UserError for the first argument that is none of the maker's."""
    try:
        known = inspect.signature(maker).parameters
    except (TypeError, ValueError):  # some classes in C have none
        return
    if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in known.values()):
        for name in arguments:
            if name not in known:
                raise unknown("setting", name, known, where)


def _imported(path: str) -> type:
    module, _, name = path.partition(":")
    found: type = getattr(import_module(module), name)
    return found


def located(path: str, sort: str) -> Any:
    """What an import path names; it has to be defined in the package that the path begins with."""
    parts = path.split(".")
    found: Any = None
    for length in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:length])
        try:
            found = import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and f"{name}.".startswith(f"{error.name}."):
                continue
            raise UserError(f"{path}, a {sort}, cannot be imported ({error}).") from error
        except Exception as error:  # whatever happens in somebody's module
            raise UserError(f"{path}, a {sort}, cannot be imported ({error}).") from error
        break
    else:
        raise UserError(
            f"There is no {sort} {path}: Python finds no package {parts[0]}, installed or where it looks "
            "(PYTHONPATH)."
        )
    try:
        for name in parts[length:]:
            found = getattr(found, name)
    except AttributeError:
        found = None
    if not callable(found):
        raise UserError(f"There is no {sort} {path}.")
    if str(getattr(found, "__module__", "")).partition(".")[0] != parts[0]:
        raise UserError(f"{path} is not defined in {parts[0]}: name it by its own path.")
    return found


def refuse_paths(content: Any, trust: Sequence[str], where: str) -> None:
    """See that a file's content asks for nothing but plain values, registered names and trusted packages.

    Args:
        content: what was read.
        trust: packages whose classes may be named by an import path: ``my_package`` or ``my_package.part``.
        where: the file, for messages.

    Raises:
        UserError: it names a class of a package that is not trusted, or holds an interpolation.
    """
    if isinstance(content, Mapping):
        for key, value in content.items():
            if key == "_target_":
                _check_path(value, trust, where)
            elif isinstance(key, str) and key.startswith("_"):
                raise UserError(f"{where} holds {key}, which is not read from files.")
            else:
                refuse_paths(key, trust, where)
                refuse_paths(value, trust, where)
    elif isinstance(content, list | tuple):
        for value in content:
            refuse_paths(value, trust, where)
    elif isinstance(content, str) and "${" in content:
        raise UserError(f"{where} holds {content!r}: nothing is looked up or run for a file.")


def _check_path(path: Any, trust: Sequence[str], where: str) -> None:
    if not isinstance(path, str) or not all(part.isidentifier() for part in path.split(".")):
        raise UserError(f"{where} names {path!r}, which is no class.")
    if not any(f"{path}.".startswith(f"{package}.") for package in trust):
        raise UserError(
            f"{where} asks for {path}, which is no part of lic_da and could do anything. If the class is "
            f"your own, or of somebody you trust, say so: --trust {path.partition('.')[0]} "
            f'(trust=[{path.partition(".")[0]}] for the other commands, load(…, trust=["…"]) in Python).'
        )


MODELS: Registry[Any] = Registry(
    "codec model",
    "compressai.models:CompressionModel",
    {
        "factorized_prior": "compressai.models:FactorizedPrior",
        "scale_hyperprior": "compressai.models:ScaleHyperprior",
        "mean_scale_hyperprior": "compressai.models:MeanScaleHyperprior",
        "cheng2020_attention": "compressai.models:Cheng2020Attention",
        "portable_mean_scale_hyperprior": "lic_da.codecs.models.hyperprior:MeanScaleHyperprior",
        "wacnn": "lic_da.codecs.models.zou2022:WACNN",
        "variable_rate_wacnn": "lic_da.codecs.models.zou2022_variable:VariableRateWACNN",
    },
)
"""Architectures, for ``model`` of ``conf/codec``."""

SITES: Registry[Any] = Registry(
    "kind of site",
    "lic_da.adapters.sites:Site",
    {
        "serial": "lic_da.adapters.sites:Serial",
        "parallel": "lic_da.adapters.sites:Parallel",
        "inside": "lic_da.adapters.sites:Inside",
    },
)
"""Where adapters act, for ``sites``."""

SOURCES: Registry[Any] = Registry(
    "kind of source",
    "lic_da.data.sources.base:Source",
    {
        "folder": "lic_da.data.sources.folder:FolderSource",
        "table": "lic_da.data.sources.tables:TableSource",
        "huggingface": "lic_da.data.sources.huggingface:HuggingFaceSource",
        "debian": "lic_da.data.sources.packages:DebianSource",
        "npm": "lic_da.data.sources.packages:NpmSource",
        "pypi": "lic_da.data.sources.packages:PypiSource",
        "pdf_pages": "lic_da.data.sources.pdf_pages:PdfPages",
        "icon_set": "lic_da.data.sources.icon_sets:IconSetSource",
        "dicebear": "lic_da.data.sources.dicebear:DiceBearSource",
    },
)
"""Where the images of a domain come from, for ``sources`` of ``conf/domain``."""

ADAPTERS: Registry[Any] = Registry(
    "kind of adapter",
    None,
    {
        "residual": "lic_da.adapters.kinds:Residual",
        "lowrank": "lic_da.adapters.kinds:LowRank",
    },
)
"""How an adapter is parametrised, for ``adapter``."""

MODULES: Registry[Any] = Registry(
    "training module",
    "lic_da.methods.module:CodecModule",
    {
        "adapters": "lic_da.methods.adapters.module:DecoderAdaptation",
        "decoder": "lic_da.methods.finetuning.module:DecoderFinetuning",
        "rate_distortion": "lic_da.methods.retraining:RateDistortionTraining",
    },
)
"""How the codec of a method is trained, for ``method.training``."""

CODECS: Registry[Any] = Registry(
    "codec of a method",
    "lic_da.codecs.image_codec:ImageCodec",
    {
        "adapters": "lic_da.methods.adapters.codec:AdaptedCodec",
        "extended_adapters": "lic_da.methods.adapters.extension:ExtendedCodec",
        "finetuned": "lic_da.methods.finetuning.codec:FinetunedCodec",
        "finetuned_decoder": "lic_da.methods.finetuning.codec:FinetunedDecoderCodec",
        "widened": "lic_da.methods.cawf.codec:WidenedCodec",
    },
)
"""How the codec of a method codes, for ``method.codec`` and for packs."""
