"""What ends a training before its time, and how it goes on."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lic_da.errors import UserError


class Termination(L.Callback):
    """Ends the training between two steps when SIGTERM (a cluster's notice) or Ctrl-C comes, and saves.

    A validation that is under way is finished first: what it finds belongs to the checkpoint. A second
    Ctrl-C does not wait for it.

    Args:
        path: of the checkpoint; that of a whole epoch is there already.

    Attributes:
        sigterm_received: whether one has come.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sigterm_received = False
        self._before: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signals over from Lightning, which would end a validation in its middle."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._tell)
            self._before = signal.signal(signal.SIGINT, self._tell)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give Ctrl-C back."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def _tell(self, number: int, *_: object) -> None:
        if number == signal.SIGINT:
            if self.sigterm_received:
                raise KeyboardInterrupt
            print("Stopping after this step; Ctrl-C again to stop at once.", file=sys.stderr)
        self.sigterm_received = True

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Save and end the training.

        Raises:
            SIGTERMException: a signal has come, to this process or to another of the same training.
        """
        if trainer.strategy.reduce_boolean_decision(self.sigterm_received, all=False):
            if batch_idx > 0:
                # Lightning counts a step more where it goes on from a checkpoint in the midst of an epoch.
                trainer.fit_loop.epoch_loop._batches_that_stepped -= 1
                trainer.save_checkpoint(self.path)
            raise SIGTERMException


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Contents of a training checkpoint: tensors and plain values; nothing in the file is executed.

    Raises:
        UserError: no such file, or it is no checkpoint.
    """
    if not path.is_file():
        raise UserError(f"There is no checkpoint {path}.")
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint["state_dict"]
    except Exception as error:  # unpickling fails in many ways
        raise UserError(f"{path} is not a checkpoint of a training run.") from error
    return checkpoint
