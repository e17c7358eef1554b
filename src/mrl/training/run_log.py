"""What a run tells of its course: ``metrics.jsonl`` always, TensorBoard and Weights & Biases where they are asked for."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, Protocol

from mrl.training.config import TrainConfig
from mrl.training.records import MetricsFile
from mrl.training.run_folder import RunFolder

_LOG = logging.getLogger(__name__)
_NO_SCALARS = frozenset({"kind", "step", "epoch", "epochs_done", "num_target"})


class ScalarLog(Protocol):
    """Where curves go besides ``metrics.jsonl``."""

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Take in named numbers at an optimizer step."""
        ...

    def flush(self) -> None:
        """Bring everything to disk."""
        ...

    def close(self) -> None:
        """End it."""
        ...


class RunLog:
    """All records of a run.

    Args:
        config: which logs are wanted.
        folder: of the run.
        writes: false in all processes but the first, whose log does nothing.
    """

    def __init__(self, config: TrainConfig, folder: RunFolder, *, writes: bool) -> None:
        self._config = config
        self._folder = folder
        self._writes = writes
        self._metrics = MetricsFile(folder.metrics)
        self._scalar_logs: list[ScalarLog] = []

    def begin(self) -> None:
        """Open the logs of a new run.

        Raises:
            MissingDependencyError: a log is asked for whose package is not installed.
            TrainingError: Weights & Biases cannot be reached, where that is asked for.
        """
        self._open(first_step=0)

    def resume(self, step: int, epochs_done: int) -> None:
        """Open the logs of a run that goes on at ``step``: what it will write again is dropped.

        Raises:
            MissingDependencyError, TrainingError: see :meth:`begin`.
        """
        if self._writes:
            self._metrics.cut_after(step, epochs_done)
        self._open(first_step=step + 1)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record: ``kind``, ``step`` and values."""
        if not self._writes:
            return
        self._metrics.append(record)
        scalars = scalars_of(record)
        for log in self._scalar_logs:
            log.write(scalars, int(record["step"]))

    def read(self) -> list[dict[str, Any]]:
        """Return all records so far."""
        return self._metrics.read()

    def flush(self) -> None:
        """Bring everything to disk."""
        for log in self._scalar_logs:
            log.flush()

    def close(self) -> None:
        """End all logs; without effect if they were never opened."""
        while self._scalar_logs:
            self._scalar_logs.pop().close()

    def _open(self, first_step: int) -> None:
        training = self._config.training
        if not self._writes:
            return
        if training.tensorboard:
            from mrl.training.tensorboard_log import TensorBoardLog

            self._scalar_logs.append(TensorBoardLog(self._folder.tensorboard, first_step))
        if training.wandb.project is not None and training.wandb.mode != "disabled":
            from mrl.training.wandb_log import WandbLog

            self._scalar_logs.append(WandbLog(training.wandb, self._folder, self._config.to_dict()))


def scalars_of(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a record under the names that curves have: ``train/loss``, ``validation/eer/64`` and so on.

    Steps are ``train``, whole epochs ``epoch``, validations ``validation``. What is not a finite number is left out: a curve
    cannot show it.
    """
    kind = "train" if record["kind"] == "step" else str(record["kind"])
    scalars: dict[str, float] = {}
    for name, value in record.items():
        if name in _NO_SCALARS:
            continue
        entries = value.items() if isinstance(value, Mapping) else [(None, value)]
        for key, number in entries:
            if isinstance(number, (int, float)) and math.isfinite(number):
                scalars[f"{kind}/{name}" if key is None else f"{kind}/{name}/{key}"] = float(number)
    return scalars
