"""How far a run is, and what was best so far: the part of its state that is plain numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mrl.training.validation import ValidationResult


@dataclasses.dataclass
class Progress:
    """Counters of a run.

    Attributes:
        epoch: the epoch that runs or runs next, from 0 (so also the number of epochs done).
        position: crops of it that are done.
        step: optimizer steps done in the whole run, skipped ones included.
        loss_sum, loss_crops: for the epoch's mean loss; batches without a finite loss are left out.
        nonfinite_steps: skipped steps.
        start, best: error rates at step 0 and of the best model.
        best_epoch: epochs that were done when the best model was.
        validations_without_best: since the best one.
        interrupted: whether the run stopped before its end; not saved.
    """

    epoch: int = 0
    position: int = 0
    step: int = 0
    loss_sum: float = 0.0
    loss_crops: int = 0
    nonfinite_steps: int = 0
    start: ValidationResult | None = None
    best: ValidationResult | None = None
    best_epoch: int = 0
    validations_without_best: int = 0
    interrupted: bool = False

    @property
    def mean_loss(self) -> float:
        """Mean loss of the epoch's crops so far."""
        return self.loss_sum / self.loss_crops if self.loss_crops else float("nan")

    def count(self, crops: int, loss: float, nonfinite_steps: int) -> None:
        """Take in one step."""
        self.step += 1
        self.position += crops
        self.nonfinite_steps = nonfinite_steps
        if loss - loss == 0.0:  # finite
            self.loss_sum += loss * crops
            self.loss_crops += crops

    def next_epoch(self) -> None:
        """Go to the beginning of the next epoch."""
        self.epoch += 1
        self.position = 0
        self.loss_sum, self.loss_crops = 0.0, 0

    def relative_to_start(self, result: ValidationResult) -> float:
        """Return the mean over dims of the EER over that of the start (1 at the start)."""
        return result.relative_to(self.start or result)

    def note(self, result: ValidationResult) -> bool:
        """Take in a validation; return whether it is the best so far. The first one is the start."""
        if self.start is None:
            self.start = result
        is_best = self.best is None or self.relative_to_start(result) < self.relative_to_start(self.best)
        if is_best:
            self.best, self.best_epoch, self.validations_without_best = result, self.epoch, 0
        else:
            self.validations_without_best += 1
        return is_best

    def note_unvalidated(self) -> None:
        """Without validation the last model counts as best."""
        self.best_epoch = self.epoch

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "interrupted"}
        for name in ("start", "best"):
            result = values[name]
            values[name] = None if result is None else result.to_dict()
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Progress:
        """The inverse of :meth:`to_dict`."""
        plain = dict(values)
        for name in ("start", "best"):
            plain[name] = None if plain[name] is None else ValidationResult.from_dict(plain[name])
        return cls(**plain)
