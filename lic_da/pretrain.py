"""``python -m lic_da.pretrain`` (``make pretrain``): train base codecs on photographs."""

from __future__ import annotations

from omegaconf import DictConfig

from lic_da.command import command
from lic_da.pretraining.program import pretrain
from lic_da.pretraining.settings import PretrainingSettings


@command("pretrain")
def main(config: DictConfig) -> None:
    """Train all configured qualities."""
    pretrain(PretrainingSettings.from_settings(config))


if __name__ == "__main__":
    main()
