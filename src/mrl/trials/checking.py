"""Everything that can be wrong with a trial list, reported at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mrl.errors import AudioLoadingError, DataError
from mrl.trials.enrolment import EnrolmentMap
from mrl.trials.lists import TrialList
from mrl.trials.speakers import speaker_of

_EXAMPLES = 5


@dataclass(frozen=True)
class Finding:
    """One kind of fault in a trial list.

    Attributes:
        what: in words.
        count: how often.
        examples: the first few.
        is_error: whether figures over the list would be wrong or impossible; other findings are merely worth knowing.
    """

    what: str
    count: int
    examples: tuple[str, ...]
    is_error: bool


@dataclass(frozen=True)
class TrialListCheck:
    """What a check found.

    Attributes:
        trials, targets, nontargets, utterances: how many the list has.
        findings: errors first.
        unchecked: what could not be looked at, and why.
    """

    trials: int
    targets: int
    nontargets: int
    utterances: int
    findings: tuple[Finding, ...]
    unchecked: tuple[str, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that forbid using the list."""
        return tuple(finding for finding in self.findings if finding.is_error)


def check_trials(
    trials: TrialList,
    root: str | os.PathLike[str] | None = None,
    *,
    speakers: Mapping[str, str] | None = None,
    enrolment: EnrolmentMap | None = None,
    open_recording: Callable[[Path], object] | None = None,
    num_workers: int = 4,
) -> TrialListCheck:
    """Look for one-sided lists, missing and unreadable recordings, repeated and contradictory trials, and wrong labels.

    Errors are: only one kind of trial; a recording compared with itself; a pair that is labelled both ways; a missing or
    unreadable recording; a label that contradicts the speakers. A pair that is listed twice (also the other way round, as 338 of
    VoxCeleb1-O's are) counts double in every figure; that is reported, but is not an error.

    Args:
        trials: the list.
        root: folder below which its paths lie; without it no file is checked.
        speakers: utterance -> speaker; by default what the paths say, if they name more than one speaker.
        enrolment: the recordings of enrolment models, where the list names models.
        open_recording: reads a recording's header (:func:`mrl.audio.audio_info`) or all of it (:func:`mrl.audio.load_audio`) and
            raises :class:`AudioLoadingError` for one that is damaged; without it files need only exist.
        num_workers: threads that open recordings.

    Raises:
        DataError: ``root`` is not a folder, or enrolment map and list do not fit each other.
    """
    findings = [_one_sided(trials), *_repetitions(trials)]
    unchecked: list[str] = []
    contradiction, reason = _speaker_contradictions(trials, speakers, enrolment)
    findings.append(contradiction)
    if reason:
        unchecked.append(reason)
    if root is None:
        unchecked.append("recordings: no root was given")
    else:
        names = trials.utterances if enrolment is None else enrolment.recordings(trials)
        findings += _files(trials, names, Path(root), open_recording, num_workers)
    real = [finding for finding in findings if finding is not None]
    return TrialListCheck(
        trials=len(trials),
        targets=trials.num_target,
        nontargets=trials.num_nontarget,
        utterances=len(trials.utterances),
        findings=tuple(sorted(real, key=lambda finding: not finding.is_error)),
        unchecked=tuple(unchecked),
    )


def _one_sided(trials: TrialList) -> Finding | None:
    if trials.num_target and trials.num_nontarget:
        return None
    kind = "same-speaker" if trials.num_target else "different-speaker"
    return Finding(f"only {kind} trials, so no error rate exists", len(trials), (), True)


def _repetitions(trials: TrialList) -> list[Finding | None]:
    low = np.minimum(trials.enrol, trials.test).astype(np.int64)
    key = low * len(trials.utterances) + np.maximum(trials.enrol, trials.test)
    _, first, of_trial, counts = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
    same = np.bincount(of_trial, weights=trials.labels, minlength=len(counts))
    both = np.flatnonzero((same > 0) & (same < counts))
    repeated = np.setdiff1d(np.arange(len(key)), first)
    itself = np.flatnonzero(trials.enrol == trials.test)
    return [
        _finding("pairs labelled both ways", first[both], trials, is_error=True),
        _finding("recordings compared with themselves", itself, trials, is_error=True),
        _finding("pairs named again (in either order), which weigh double", repeated, trials, is_error=False),
    ]


def _speaker_contradictions(
    trials: TrialList, speakers: Mapping[str, str] | None, enrolment: EnrolmentMap | None
) -> tuple[Finding | None, str]:
    names: Sequence[str]
    if speakers is not None:
        absent = [name for name in trials.utterances if name not in speakers]
        if absent:
            what = "utterances without a speaker in the list of speakers"
            return Finding(what, len(absent), tuple(absent[:_EXAMPLES]), True), ""
        names = [speakers[name] for name in trials.utterances]
    elif enrolment is not None:
        return None, "speakers: the list names enrolment models; give a list of speakers"
    else:
        try:
            names = [speaker_of(name) for name in trials.utterances]
        except DataError:
            return None, "speakers: the paths do not name them; give a list of speakers"
        if len(set(names)) < 2:
            return None, "speakers: all recordings lie in one folder; give a list of speakers"
    index: dict[str, int] = {}
    of_utterance = np.array([index.setdefault(name, len(index)) for name in names])
    wrong = np.flatnonzero((of_utterance[trials.enrol] == of_utterance[trials.test]) != trials.labels)
    source = "the list of speakers" if speakers is not None else "the folders' names (give a list of speakers if these are none)"
    return _finding(f"labels that contradict {source}", wrong, trials, is_error=True), ""


def _files(
    trials: TrialList, names: Sequence[str], root: Path, open_recording: Callable[[Path], object] | None, num_workers: int
) -> list[Finding | None]:
    missing = trials.missing_files(root, names)
    absent = set(missing)
    present = [name for name in names if name not in absent]

    def fault(name: str) -> str | None:
        try:
            if open_recording is not None:
                open_recording(root / name)
        except AudioLoadingError as error:
            return " ".join(str(error).split())
        return None

    with ThreadPoolExecutor(max(1, num_workers)) as executor:
        unreadable = [reason for reason in executor.map(fault, present) if reason is not None]
    return [
        Finding(what, len(faults), tuple(faults[:_EXAMPLES]), True) if faults else None
        for what, faults in (("recordings that are missing", missing), ("recordings that cannot be read", unreadable))
    ]


def _finding(what: str, rows: npt.NDArray[np.int64], trials: TrialList, *, is_error: bool) -> Finding | None:
    if not len(rows):
        return None
    names = trials.utterances
    examples = tuple(
        f"{int(trials.labels[row])} {names[trials.enrol[row]]} {names[trials.test[row]]}" for row in rows[:_EXAMPLES]
    )
    return Finding(what, len(rows), examples, is_error)
