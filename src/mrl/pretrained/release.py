"""What the makers of a model state about it: data, licence, measured error rates, what it is for and what not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mrl.errors import CheckpointError


@dataclass(frozen=True)
class ReleaseCorpus:
    """Recordings that a model was made with.

    Attributes:
        name: of the corpus and the part of it.
        purpose: what for: training, noise, rooms.
        speakers: how many; None where there are none.
        utterances: how many recordings.
        hours: of audio.
        licence: SPDX identifier, or in words.
        source: where it comes from and whom to name.
    """

    name: str
    purpose: str
    speakers: int | None
    utterances: int
    hours: float
    licence: str
    source: str


@dataclass(frozen=True)
class ReleaseRate:
    """An equal error rate in 0..1 and its 95 % interval over speakers."""

    system: str
    dim: int
    equal_error_rate: float
    low: float
    high: float


@dataclass(frozen=True)
class ReleaseResult:
    """What was measured on one trial list.

    Attributes:
        trial_list: its name.
        note: what a reader should know, such as that choices were made on it.
        speakers, trials: how many.
        model: the released model's rates, one for each dim.
        baseline: those of what it is compared with.
    """

    trial_list: str
    note: str
    speakers: int
    trials: int
    model: tuple[ReleaseRate, ...]
    baseline: tuple[ReleaseRate, ...]


@dataclass(frozen=True)
class Release:
    """The statement that goes with a released model, kept in its ``config.json``; the model card is written from it.

    Attributes:
        name: of the model.
        notice: one sentence on what it is; shown when it is opened by name.
        licence: SPDX identifier, of the weights.
        num_parameters: of backbone and head.
        training_speakers: how many people its backbone and head learnt from.
        corpora: what it was made with.
        results: what was measured, on speakers that nothing was fitted to.
        intended_use, limits: sentences.
        making: further facts: commit, seed, hardware, commands.
    """

    name: str
    notice: str
    licence: str
    num_parameters: int
    training_speakers: int
    corpora: tuple[ReleaseCorpus, ...]
    results: tuple[ReleaseResult, ...]
    intended_use: tuple[str, ...]
    limits: tuple[str, ...]
    making: Mapping[str, str | int | float]

    def rate(self, trial_list: str, dim: int) -> ReleaseRate:
        """Return what was measured with the model on a list at a prefix length.

        Raises:
            CheckpointError: it was not measured.
        """
        for result in self.results:
            for rate in result.model:
                if (result.trial_list, rate.dim) == (trial_list, dim):
                    return rate
        raise CheckpointError(f"{self.name} states no error rate on {trial_list!r} at dim {dim}")

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Release:
        """The inverse of :meth:`to_dict`.

        Raises:
            CheckpointError: something is missing, unknown or of another kind.
        """
        try:
            return cls(
                **{
                    **values,
                    "corpora": tuple(ReleaseCorpus(**row) for row in values["corpora"]),
                    "results": tuple(_result(row) for row in values["results"]),
                    "intended_use": tuple(values["intended_use"]),
                    "limits": tuple(values["limits"]),
                }
            )
        except (TypeError, KeyError) as error:
            raise CheckpointError(f"the statement on a released model cannot be read ({error}); copy the folder again") from error


def _result(values: Mapping[str, Any]) -> ReleaseResult:
    rates = {system: tuple(ReleaseRate(**row) for row in values[system]) for system in ("model", "baseline")}
    return ReleaseResult(**{**values, **rates})
