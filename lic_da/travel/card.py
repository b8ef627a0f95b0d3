"""The card of a pack, ``README.md``: what it is, what was measured with it, and how it is used."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from lic_da.surroundings import package_version

if TYPE_CHECKING:
    from lic_da.methods.pack import PackConfig

CARD = "README.md"
_TAGS = ("image-compression", "learned-image-compression", "domain-adaptation")
_OWN_STREAMS = ("finetune", "scratch", "cawf")
"""Methods whose streams are not the base codec's."""


def card(config: PackConfig, metrics: Mapping[str, Any], where: str, licence: str | None) -> str:
    """The card of a pack as Markdown, with the header that the Hub reads.

    Args:
        config: of the pack.
        metrics: what its ``metrics.json`` says; empty: nothing was measured.
        where: what ``lic-da pull`` takes to get it.
        licence: as the Hub abbreviates it, such as ``mit``; None: none is named.
    """
    header: dict[str, Any] = {"library_name": "lic_da", "tags": list(_TAGS)}
    if licence is not None:
        header["license"] = licence
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {_text(config.codec.name)}, {_text(config.method)}: {', '.join(config.domains)}",
        _described(config),
        *_measured(config, metrics),
        _used(where),
    ]
    return "\n\n".join(parts) + "\n"


def _described(config: PackConfig) -> str:
    """What the pack is: a paragraph and a table."""
    streams = "that codec's own, unchanged: every pack over it opens them"
    if config.method in _OWN_STREAMS:
        streams = "this pack's own: no other opens them"
    qualities = list(config.base_fingerprints)
    several = "qualities" if len(qualities) > 1 else "quality"
    rows = [
        ("base codec", config.codec.name),
        (several, ", ".join(map(str, qualities))),
        ("method", _text(config.method)),
        ("domains", ", ".join(config.domains)),
        ("pushed by", f"lic_da {package_version()}"),
    ]
    rows += [
        (f"base weights{f', quality {q}' if len(qualities) > 1 else ''}", f"`{fingerprint}`")
        for q, fingerprint in config.base_fingerprints.items()
    ]
    text = (
        "A pack of lic_da: it adapts a learned image codec to several kinds of images. "
        f"Streams are {streams}. Base weights are named by their SHA-256, and are not in here: "
        f"{_origin(config.codec.weights)}."
    )
    return f"{text}\n\n{_table(('', ''), rows)}"


def _origin(weights: str | None) -> str:
    """Where base weights are to be had."""
    if weights == "bundled":
        return "they come with lic_da"
    if weights == "zoo":
        return "they are CompressAI's, which are downloaded when they are needed"
    if weights == "random":
        return "they are made from a fixed seed"
    return "who opens the pack needs their file, and names it in `config.yaml` (`codec.weights`)"


def _measured(config: PackConfig, metrics: Mapping[str, Any]) -> Iterator[str]:
    """A table for each quality that was measured; it has what is understood of the metrics."""
    rates = metrics.get("rates")
    summaries = list(rates.values()) if isinstance(rates, Mapping) else [metrics]
    tables = [(s, _results(s)) for s in summaries if isinstance(s, Mapping)]
    if not any(table for _, table in tables):
        return
    yield "## Measured on test images"
    for summary, table in tables:
        if table and len(config.base_fingerprints) > 1:
            yield f"Quality {_text(summary.get('quality', '?'))}:"
        if table:
            yield table
    yield (
        "Means over test images, from real streams. `bpp` counts entropy-coded strings; `base` is the base "
        "decoder, and beside it are this pack's ways to decode. * was never trained on."
    )


def _results(summary: Mapping[str, Any]) -> str:
    """A row for each domain, a column for each metric and way to decode; empty: none is there."""
    domains = {n: d for n, d in _mapping(summary.get("domains")).items() if isinstance(d, Mapping)}
    described = [
        m for m in summary.get("metrics") or () if isinstance(m, Mapping) and m.get("name")
    ]
    columns = [(metric, mode) for metric in described for mode in _modes(metric, domains.values())]
    if not domains or not columns:
        return ""
    heads = [_head(metric, mode) for metric, mode in columns]
    rows = [
        [
            f"{_text(name)}{'' if found.get('seen', True) else ' *'}",
            _number(found.get("images"), 0),
            _number(found.get("bpp"), 3),
            *(
                _number(_mapping(found.get(m["name"])).get(mode), m.get("digits", 2))
                for m, mode in columns
            ),
        ]
        for name, found in domains.items()
    ]
    return _table(("domain", "images", "bpp", *heads), rows)


def _head(metric: Mapping[str, Any], mode: str) -> str:
    unit = f" ({_text(metric['unit'])})" if metric.get("unit") else ""
    return f"{_text(metric.get('title') or metric['name'])}, {_text(mode)}{unit}"


def _modes(metric: Mapping[str, Any], domains: Iterable[Mapping[str, Any]]) -> list[str]:
    """Ways to decode of which a metric has values: the base decoder first, others as they were measured."""
    values = [_mapping(found.get(metric["name"])) for found in domains]
    modes = dict.fromkeys(mode for of_one in values for mode in of_one)
    measured = [m for m in modes if any(_is_number(of_one.get(m)) for of_one in values)]
    return sorted(measured, key=lambda mode: mode != "base")


def _used(where: str) -> str:
    return f"""## Use

```sh
lic-da pull {where} pack/
lic-da compress image.png image.lic --pack pack/
lic-da decompress image.lic decoded.png --pack pack/
```

`lic-da pull` compares every file with its hash in `hashes.json`."""


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _number(value: Any, digits: Any) -> str:
    return f"{value:.{digits if digits in range(7) else 2}f}" if _is_number(value) else "–"


def _text(value: object) -> str:
    """A text of a pack that may come from anybody, without what Markdown or HTML would read."""
    return re.sub(r"[^\w .,+-]", "_", str(value))[:80]
