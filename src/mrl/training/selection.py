"""Validation in the course of a run, and the model folders ``best/`` and ``last/`` that follow from it."""

from __future__ import annotations

import logging
from typing import Any

import torch

from mrl.matryoshka import ReDimNetMRL
from mrl.training.records import write_curves
from mrl.training.results import save_result
from mrl.training.run import Run
from mrl.training.validation import ValidationResult

_LOG = logging.getLogger(__name__)


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
            "validation_trials": run.config.data.validation.trials or run.config.data.validation.folder,
        }
