"""Reads W&B's offline files, for which the package has no reader in Python."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

_HEADER = 7
_BLOCK = 32 * 1024
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[Record]:
    """Records of a ``.wandb`` file: a LevelDB log (blocks of 32 KiB, chunks with CRC) after 7 bytes."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    position, parts = _HEADER, b""
    while position + 7 <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < 7:  # too little for a chunk: filled with zeros
            position += left
            continue
        crc = int.from_bytes(data[position : position + 4], "little")
        size = int.from_bytes(data[position + 4 : position + 6], "little")
        kind = data[position + 6]
        chunk = data[position + 7 : position + 7 + size]
        assert kind in (_FULL, _FIRST, _MIDDLE, _LAST) and len(chunk) == size
        assert zlib.crc32(chunk, zlib.crc32(bytes([kind]))) == crc
        position += 7 + size
        parts = chunk if kind in (_FULL, _FIRST) else parts + chunk
        if kind in (_FULL, _LAST):
            record = Record()
            record.ParseFromString(parts)
            yield record


@dataclass
class OfflineRun:
    """What an offline file holds."""

    id: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    resume: bool = False  # uploading it goes on with the run of its id, if there is one
    exit_code: int | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, str] = field(default_factory=dict)  # metric or pattern: its axis

    @classmethod
    def read(cls, path: Path) -> OfflineRun:
        run = cls()
        for record in records(path):
            match record.WhichOneof("record_type"):
                case "run":
                    r = record.run
                    run.id, run.name = r.run_id, r.display_name
                    run.group, run.job_type, run.resume = r.run_group, r.job_type, r.resume
                case "summary":
                    run.summary |= _items(record.summary.update)
                case "history":
                    run.history.append(_items(record.history.item))
                case "metric":
                    m = record.metric
                    run.metrics[m.name or m.glob_name] = m.step_metric
                case "exit":
                    run.exit_code = record.exit.exit_code
        return run

    def logged(self, key: str) -> Any:
        """The last value of a key that was logged or put into the summary."""
        values = [row[key] for row in self.history if key in row]
        return values[-1] if values else self.summary[key]


def _items(items: Any) -> dict[str, Any]:
    return {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}


def runs_below(folder: Path) -> list[OfflineRun]:
    """All offline runs below a folder, in the order of their paths."""
    return [OfflineRun.read(p) for p in sorted(folder.rglob("offline-run-*/run-*.wandb"))]
