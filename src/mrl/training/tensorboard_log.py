"""Curves for TensorBoard, in ``tensorboard/`` of the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mrl.errors import MissingDependencyError


class TensorBoardLog:
    """Writes event files.

    Args:
        folder: where they go; a resumed run adds a file to those that are there.
        first_step: what earlier files tell of this step and later ones no longer counts, since the run computes it again.

    Raises:
        MissingDependencyError: tensorboard is not installed.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingDependencyError(
                'training.tensorboard needs tensorboard: pip install "redimnet-mrl[logs]", or set it to false'
            ) from error
        # The first record of a run is at step 0; purge_step=0 would be read as none.
        self._writer = SummaryWriter(str(folder), purge_step=first_step or None)

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Add named numbers at an optimizer step."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Bring everything to disk."""
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()
