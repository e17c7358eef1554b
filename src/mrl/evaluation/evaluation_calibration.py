"""Log-likelihood ratios within an evaluation: from a model folder's calibration, or fitted on the list's other speakers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from mrl.errors import DataError, InputError
from mrl.evaluation.calibration_files import load_calibration
from mrl.evaluation.evaluate import SystemScores
from mrl.scoring.calibration import Calibration, can_hold_out, held_out_ratios
from mrl.trials.lists import TrialList
from mrl.trials.speakers import speakers_of_trials

CalibrateOn = Literal["model", "held-out", "none"]
CALIBRATE_ON: tuple[CalibrateOn, ...] = ("model", "held-out", "none")

_PRIOR = 0.01


def calibration_of(spec: str, *, plain: bool, depth: int | None = None) -> tuple[Calibration | None, str]:
    """Return the calibration of a model folder, and what a reader should know where there is one that cannot be used.

    Args:
        spec: what the user called the system.
        plain: whether scores are raw cosines of whole recordings; a calibration holds for nothing else.
        depth: after so many stages the folder's network is left; a calibration holds for all of them only.

    Raises:
        CheckpointError: the calibration is damaged or belongs to other weights.
    """
    found = load_calibration(spec) if Path(spec).is_dir() else None
    if found is None or (plain and depth is None):
        return found, ""
    if depth is not None:
        return None, f"The calibration of {Path(spec).name} is not used: it holds for the whole network, not for depth {depth}."
    return None, f"The calibration of {Path(spec).name} is not used: it holds for raw cosines of whole recordings."


def with_calibration(
    system: SystemScores, calibration: Calibration, trials: TrialList, seconds: Callable[[], npt.NDArray[np.float64]]
) -> SystemScores:
    """Return the system with log-likelihood ratios at the dims that ``calibration`` covers.

    Args:
        system: raw cosines of whole recordings.
        calibration: of its weights.
        trials: the list.
        seconds: gives (utterances,) durations in the order of ``trials.utterances``; called where they are needed.
    """
    words = "calibration.json of the model folder"
    if calibration.trial_list.get("sha256") and calibration.trial_list["sha256"] == trials.sha256:
        words += ", fitted on this very list"
    sides: tuple[npt.NDArray[np.float64], ...] = ()
    if calibration.quality == "duration":
        values = seconds()
        sides = (values[trials.enrol], values[trials.test])
    ratios = {
        dim: calibration.log_likelihood_ratios(dim, scores, *sides)
        for dim, scores in system.scores.items()
        if dim in calibration.dims
    }
    return SystemScores(system.name, system.scores, ratios, words)


def with_held_out_calibration(system: SystemScores, trials: TrialList, speakers: Mapping[str, str] | None = None) -> SystemScores:
    """Return the system with log-likelihood ratios that were fitted, for every trial, without the speakers of that trial.

    Raises:
        DataError: speakers are not known or too few.
        InputError: as :func:`mrl.scoring.calibration.held_out_ratios`.
    """
    require_held_out(trials, speakers)
    _, of_utterance = speakers_of_trials(trials, speakers)
    ratios: dict[int, npt.NDArray[np.float64]] = {}
    for dim, scores in system.scores.items():
        found = held_out_ratios(scores, trials, of_utterance, prior=_PRIOR)
        assert found is not None  # require_held_out
        ratios[dim] = found
    return SystemScores(system.name, system.scores, ratios, f"fitted on the list's other speakers (five parts, prior {_PRIOR:g})")


def require_held_out(trials: TrialList, speakers: Mapping[str, str] | None = None) -> None:
    """Raise :class:`DataError` where speakers are not known or too few for :func:`with_held_out_calibration`."""
    _, of_utterance = speakers_of_trials(trials, speakers)
    if not can_hold_out(trials, of_utterance):
        raise DataError(
            f"{trials.source} has too few speakers to calibrate on others than those of each trial; "
            "leave --calibrate-on held-out out"
        )


def check_calibrate_on(value: str) -> None:
    """Raise :class:`InputError` for anything but one of :data:`CALIBRATE_ON`."""
    if value not in CALIBRATE_ON:
        raise InputError(f"calibrate_on must be one of {', '.join(CALIBRATE_ON)}; found {value!r}")
