"""As many steps as were asked for, whatever an epoch has."""

from __future__ import annotations

from typing import Any

import lightning as L


class ExactSteps(L.Callback):
    """Ends a training after so many batches; the last epoch is validated and kept as any other.

    Args:
        steps: batches of the whole training, those of the runs that it resumes included.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Let Lightning end the training with this batch if it is the last."""
        # This batch is not counted yet. What was begun but not completed before an interruption is not.
        if trainer.fit_loop.epoch_loop.batch_progress.total.completed + 1 >= self.steps:
            trainer.should_stop = True


def steps_of(trainer: L.Trainer) -> int:
    """Batches of a whole training, over which learning rates are scheduled."""
    exact = [c for c in trainer.callbacks if isinstance(c, ExactSteps)]  # type: ignore[attr-defined]
    return exact[0].steps if exact else int(trainer.estimated_stepping_batches)
