"""Checkpoints of a run: one folder each, ``state.safetensors`` and ``state.json``, complete or not there at all. No pickle.

A checkpoint holds everything that the next step depends on: parameters and buffers of encoder and losses, their moving average,
optimizer state, gradient scaler, random number generators, and where in the data the run is.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mrl.bounded import read_json_object, read_safetensors, said
from mrl.errors import CheckpointError, TrainingError
from mrl.files import sha256_of, write_safetensors
from mrl.training.folders import atomic_folder
from mrl.training.validation import ValidationResult

# How far a run is, and what was best so far: the part of its state that is plain numbers.


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
        validations_without_best: since the best one, or since the stage began.
        bad_draws: draws of the epoch so far whose recording could not be used.
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
    bad_draws: int = 0
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
        self.skip_to(self.epoch + 1)

    def skip_to(self, epoch: int) -> None:
        """Go to the beginning of a later epoch."""
        self.epoch = epoch
        self.position = 0
        self.loss_sum, self.loss_crops = 0.0, 0
        self.bad_draws = 0

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
        """The inverse of :meth:`to_dict`.

        Raises:
            CheckpointError: something is missing, or of another kind.
        """
        try:
            plain = dict(values)
            for name in ("start", "best"):
                plain[name] = None if plain[name] is None else ValidationResult.from_dict(plain[name])
            progress = cls(**plain)
            counters = (progress.epoch, progress.position, progress.step, progress.best_epoch, progress.nonfinite_steps)
            if not all(type(counter) is int and counter >= 0 for counter in counters):
                raise ValueError("its counters are not all whole numbers from 0 up")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CheckpointError(
                f"the checkpoint does not say how far the run is ({type(error).__name__}: {said(error)}); resume from another one"
            ) from error
        return progress


_LOG = logging.getLogger(__name__)
_FORMAT = 1


_PREFIX = "step-"
_STEP = re.compile(rf"{_PREFIX}([0-9]+)")
_TENSORS_HASH, _VALUES_HASH = "tensors_sha256", "values_sha256"


_TENSORS, _VALUES = "state.safetensors", "state.json"


@dataclasses.dataclass(frozen=True)
class TrainingState:
    """Named tensors and JSON-able values."""

    tensors: dict[str, torch.Tensor]
    values: dict[str, Any]


class CheckpointFolder:
    """The checkpoints of one run, ``step-00000123`` and so on; the last ``keep`` stay.

    Args:
        folder: holds them.
        keep: how many stay.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def steps(self) -> list[int]:
        """Return the steps of all complete checkpoints, ascending."""
        named = [(_STEP.fullmatch(path.name), path) for path in self.folder.glob(f"{_PREFIX}*")]
        return sorted(int(match[1]) for match, path in named if match is not None and path.is_dir())

    def path(self, step: int) -> Path:
        """Return the folder of one checkpoint."""
        return self.folder / f"{_PREFIX}{step:08d}"

    def latest(self) -> Path | None:
        """Return the last complete checkpoint, or None."""
        steps = self.steps()
        return self.path(steps[-1]) if steps else None

    def newest_good(self) -> tuple[Path, TrainingState] | None:
        """Return the newest checkpoint that is as it was written, with its contents; None where there are no checkpoints at all.

        Later ones that are damaged are warned about.

        Raises:
            CheckpointError: there are some, but all are damaged.
        """
        first: CheckpointError | None = None
        for step in reversed(self.steps()):
            try:
                newest = self.path(step), load_state(self.path(step))
            except CheckpointError as error:
                first = first or error
                _LOG.warning("%s; an earlier checkpoint is looked for", error)
            else:
                return newest
        if first is not None:
            raise first
        return None

    def save(self, step: int, state: TrainingState) -> Path:
        """Write a checkpoint, then remove those that are too old.

        Raises:
            TrainingError: it cannot be written; says which earlier one is intact.
        """
        target = self.path(step)
        try:
            with atomic_folder(target) as temporary:
                tensors = {name: value.detach().cpu().contiguous() for name, value in state.tensors.items()}
                write_safetensors(temporary / _TENSORS, tensors)
                values = {"format": _FORMAT, **state.values, _TENSORS_HASH: sha256_of(temporary / _TENSORS)}
                values = json.loads(json.dumps(values, allow_nan=False))  # as they will be read
                values[_VALUES_HASH] = _hash_of(values)
                (temporary / _VALUES).write_text(json.dumps(values, indent=1, allow_nan=False), encoding="utf-8")
        except OSError as error:
            before = self.latest()
            kept = f"{before} is intact: free some space and resume with --resume auto" if before else "there is no earlier one"
            raise TrainingError(f"checkpoint {target} cannot be written ({error}); {kept}") from error
        for old in self.steps()[: -self.keep]:
            if old != step:
                shutil.rmtree(self.path(old))
        return target

    def remove_after(self, step: int) -> None:
        """Remove checkpoints later than ``step`` (a run that resumes from an earlier one makes them again)."""
        for later in self.steps():
            if later > step:
                shutil.rmtree(self.path(later))


def load_state(folder: Path) -> TrainingState:
    """Read one checkpoint and compare the hashes that were written with it (those of earlier versions have none).

    Raises:
        CheckpointError: it is absent, damaged or of another format.
    """
    advice = f"resume from another checkpoint in {folder.parent}"
    try:
        values = read_json_object(folder / _VALUES, error=CheckpointError)
        tensors = read_safetensors(folder / _TENSORS, framework="torch", error=CheckpointError).tensors
        written = {name: values.pop(name, None) for name in (_VALUES_HASH, _TENSORS_HASH)}
        there = {_TENSORS_HASH: None if written[_TENSORS_HASH] is None else sha256_of(folder / _TENSORS)}
        there[_VALUES_HASH] = (
            None if written[_VALUES_HASH] is None else _hash_of({**values, _TENSORS_HASH: written[_TENSORS_HASH]})
        )
    except (OSError, CheckpointError) as error:
        raise CheckpointError(f"checkpoint {folder} cannot be read ({said(error, most=400)}); {advice}") from error
    if values.get("format") != _FORMAT:
        raise CheckpointError(f"checkpoint {folder} has a format this version does not know; it reads format {_FORMAT}")
    if there != written or (None in written.values() and written != dict.fromkeys(written)):
        raise CheckpointError(f"checkpoint {folder} is not as it was written (SHA-256 differs); {advice}")
    return TrainingState(tensors, values)


def _hash_of(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of JSON values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, allow_nan=False).encode()).hexdigest()


def prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors with ``prefix.`` before each name."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors whose names begin with ``prefix.``, without it."""
    return {name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(f"{prefix}.")}


def optimizer_state(optimizer: torch.optim.Optimizer) -> TrainingState:
    """Flatten an optimizer's state: tensors as ``<parameter>.<name>``, other values likewise."""
    tensors: dict[str, torch.Tensor] = {}
    values: dict[str, Any] = {}
    for number, entries in optimizer.state_dict()["state"].items():
        for name, value in entries.items():
            (tensors if isinstance(value, torch.Tensor) else values)[f"{number}.{name}"] = value
    return TrainingState(tensors, values)


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: TrainingState) -> None:
    """Give an optimizer over the same parameters the state that :func:`optimizer_state` took.

    Raises:
        CheckpointError: the state is of other parameters.
    """
    entries: dict[int, dict[str, Any]] = {}
    for flat, value in (*state.tensors.items(), *state.values.items()):
        number, _, name = flat.partition(".")
        entries.setdefault(int(number), {})[name] = value
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for place, named in entries.items():
        for name, value in named.items():
            is_scalar = not isinstance(value, torch.Tensor) or value.ndim == 0
            if place >= len(parameters) or not (is_scalar or value.shape == parameters[place].shape):
                raise CheckpointError(
                    f"the optimizer state in the checkpoint is of other parameters ({place}.{name} does not fit)"
                )
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})


def random_state() -> dict[str, torch.Tensor]:
    """Return the state of torch's random number generators, of the CPU and of each GPU."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda{number}": state for number, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def restore_random_state(states: Mapping[str, torch.Tensor]) -> None:
    """Set the generators that exist on this machine to the states that :func:`random_state` took."""
    torch.set_rng_state(states["cpu"])
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            if f"cuda{number}" in states:
                torch.cuda.set_rng_state(states[f"cuda{number}"], number)
