"""Progress of a training, as people read it."""

from __future__ import annotations

from lightning.pytorch.callbacks import RichProgressBar


class TrainingProgress(RichProgressBar):
    """Lightning's bar, with epochs counted from 1; it goes when the training has ended."""

    def __init__(self) -> None:
        super().__init__(leave=False)

    def _get_train_description(self, current_epoch: int) -> str:
        last = self.trainer.max_epochs
        shown = f"Epoch {current_epoch + 1}" + (f"/{last}" if last and last > 0 else "")
        return f"{shown:{len(self.validation_description)}}"
