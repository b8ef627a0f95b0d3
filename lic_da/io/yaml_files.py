"""Reading YAML of plain values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lic_da.errors import UserError
from lic_da.io.files import read_text


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases: a few lines of them can stand for gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            event = self.peek_event()
            raise yaml.constructor.ConstructorError(
                None, None, "aliases are not read here", event.start_mark
            )
        return super().compose_node(parent, index)


def read_yaml(path: Path | str) -> dict[str, Any]:
    """The content of a YAML file of plain values, as a dictionary.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is damaged, no dictionary, or cannot be read.
    """
    try:
        content = yaml.load(read_text(path), _PlainLoader)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read as YAML ({' '.join(str(error).split())})."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no settings.")
    return content
