"""What all parts of one run share: its settings and state, the wish to stop, and which model it leaves behind."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from mrl.distribution import Processes
from mrl.matryoshka import ReDimNetMRL
from mrl.pretrained import write_official_checkpoint
from mrl.training.checkpoints import Progress
from mrl.training.config import TrainConfig
from mrl.training.data import TrainingData
from mrl.training.folders import RunFolder, replace_folder
from mrl.training.logs import RunLog, write_curves
from mrl.training.system import TrainingSystem
from mrl.training.updates import WeightAverage
from mrl.training.validation import ValidationResult, Validator

_LOG = logging.getLogger(__name__)

EXIT_INTERRUPTED = 75
"""Exit status of a run that was asked to stop (SIGTERM), saved everything and can be resumed (EX_TEMPFAIL of sysexits.h)."""


class Stopped(BaseException):
    """The run was asked to stop at a place where nothing is left to save; not an error, hence no Exception."""


class StopRequest:
    """Whether somebody has asked the run to stop."""

    def __init__(self) -> None:
        self.requested = False
        self._deferring = False

    def ask(self) -> None:
        """Note the wish to stop.

        Raises:
            Stopped: not within :meth:`deferred`.
        """
        self.requested = True
        if not self._deferring:
            raise Stopped

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """While the block runs, a request only sets :attr:`requested`; the block looks at it where it can save."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False


@contextlib.contextmanager
def stop_on_sigterm() -> Iterator[StopRequest]:
    """Yield a request that SIGTERM makes while the block runs; outside the main thread signals cannot be caught, so none is."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    process = os.getpid()

    def note(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a worker that was forked has nothing to save
            os._exit(128 + number)
        request.ask()

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)


# The model that a run leaves behind.


OFFICIAL_NAME = "official.pt"


def save_result(folder: Path, encoder: ReDimNetMRL, facts: dict[str, Any], *, official: bool) -> None:
    """Write a model folder, replacing an earlier one.

    Args:
        folder: as ``ReDimNetMRL.from_pretrained`` reads it.
        encoder: the model.
        facts: on its training, for the model card.
        official: also write ``official.pt``, the full embedding's network in the format of the released checkpoints, so that a
            model trained from scratch can be a pretrained one.

    Raises:
        TrainingError: the disk is full; the earlier folder is as it was.
    """

    def write(temporary: Path) -> None:
        encoder.save_pretrained(temporary, training=facts)
        if official:
            write_official_checkpoint(temporary / OFFICIAL_NAME, *encoder.to_backbone().to_official())

    replace_folder(folder, write)


@dataclasses.dataclass
class Run:
    """One run.

    Attributes:
        config: all settings.
        device: of the network.
        processes: this process among all.
        folder: paths of what the run writes.
        progress: how far it is; changes at every step.
        log: where losses and error rates go.
        data: what is trained on.
        system: encoder and losses.
        average: moving average of the encoder's weights, None for none.
        validator: None without validation.
    """

    config: TrainConfig
    device: torch.device
    processes: Processes
    folder: RunFolder
    progress: Progress
    log: RunLog
    data: TrainingData
    system: TrainingSystem
    average: WeightAverage | None
    validator: Validator | None

    @property
    def encoder(self) -> ReDimNetMRL:
        """The Matryoshka model in training."""
        return self.system.encoder

    def describe_data(self) -> dict[str, Any]:
        """Return what a resumed run must find unchanged."""
        return self.data.corpus.outline()


# Validation in the course of a run, and the model folders ``best/`` and ``last/`` that follow from it.


class Selection:
    """Keeps the best model of a run by the rule of :mod:`mrl.training.validation`."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def validate(self) -> None:
        """Validate the averaged weights in all processes together; the first keeps them if they are the best so far.

        Raises:
            DataError, AudioLoadingError: see :meth:`mrl.training.validation.Validator.evaluate`.
            TrainingError: a model folder cannot be written.
        """
        run = self._run
        if run.average is None:
            self._validate_as_is(run.encoder)
        else:
            with run.average.applied_to(run.encoder):
                self._validate_as_is(run.encoder)
        if run.processes.is_first:
            write_curves(run.folder.curves, run.log.read())
        waited = torch.tensor(float(run.progress.validations_without_best if run.processes.is_first else 0), device=run.device)
        run.progress.validations_without_best = int(run.processes.sum_(waited).item())

    def _validate_as_is(self, encoder: ReDimNetMRL) -> None:
        run = self._run
        official = not run.config.advanced.use_pretrained
        if run.validator is None:
            run.progress.note_unvalidated()
            if run.processes.is_first:
                save_result(run.folder.best, encoder, self._facts(None), official=official)
            return
        result = run.validator.evaluate(encoder, run.processes)
        if result is None:
            return  # not the first process
        is_best = run.progress.note(result)
        listed = "  ".join(f"{dim}: {100 * eer:.2f}" for dim, eer in result.eer.items())
        _LOG.info(
            "Validation after %d epochs, EER %% per dim  %s%s", run.progress.epoch, listed, "  (best so far)" if is_best else ""
        )
        run.log.append(
            {
                "kind": "validation",
                "step": run.progress.step,
                "epochs_done": run.progress.epoch,
                "best": is_best,
                "relative_eer": run.progress.relative_to_start(result),
                **result.to_dict(),
            }
        )
        save_result(run.folder.last, encoder, self._facts(result), official=False)
        if is_best:
            save_result(run.folder.best, encoder, self._facts(result), official=official)

    def _facts(self, result: ValidationResult | None) -> dict[str, Any]:
        run = self._run
        return {
            "epochs": run.progress.epoch,
            "steps": run.progress.step,
            "training_utterances": len(run.data.original),
            "training_speakers": None if run.config.data.train.unlabelled else len(run.data.original.speakers),
            "validation": None if result is None else result.to_dict(),
            "validation_trials": _last_part(run.config.data.validation.trials or run.config.data.validation.folder),
        }


def _last_part(path: str | None) -> str | None:
    """Return a file's or folder's name, without where it lay on this machine: a model is given to others."""
    return None if path is None else Path(path).name
