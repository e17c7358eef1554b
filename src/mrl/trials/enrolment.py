"""Enrolment from several recordings: a model's name in a trial list stands for the average of its recordings' embeddings.

SITW and VOiCES name enrolment models in their keys and keep a list of which recording each was made from; CN-Celeb gives every
speaker several enrolment recordings (``enroll.map``). All are read by :func:`read_enrolment_map`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mrl.errors import DataError
from mrl.trials.lists import TrialList, text_lines


@dataclass(frozen=True, eq=False)
class EnrolmentMap:
    """Which recordings each enrolment model is made from.

    Attributes:
        models: name of the model -> its recordings, at least one, each once.
        source: where the map came from, for errors.
    """

    models: Mapping[str, tuple[str, ...]]
    source: str = "made in memory"

    def __post_init__(self) -> None:
        for model, recordings in self.models.items():
            if not recordings or len(set(recordings)) != len(recordings):
                raise DataError(f"{self.source}: model {model!r} needs recordings, each once; found {list(recordings)[:5]}")

    def __len__(self) -> int:
        return len(self.models)

    def recordings(self, trials: TrialList) -> tuple[str, ...]:
        """Return every recording that the trials need, each once: those of the models enrolled, and the test recordings.

        A first name that is not a model of this map is itself a recording.
        """
        return self.resolve(trials).recordings

    def resolve(self, trials: TrialList) -> EnrolledTrials:
        """Replace the names of models by recordings.

        Raises:
            DataError: a model has a test recording of the same trial among its own (all such trials are counted).
        """
        index: dict[str, int] = {}
        enrolled: dict[int, int] = {}
        members: list[tuple[int, ...]] = []
        for utterance in np.unique(trials.enrol).tolist():
            name = trials.utterances[utterance]
            enrolled[utterance] = len(members)
            members.append(tuple(index.setdefault(recording, len(index)) for recording in self.models.get(name, (name,))))
        of_test = {
            utterance: index.setdefault(trials.utterances[utterance], len(index)) for utterance in np.unique(trials.test).tolist()
        }
        size = len(trials.utterances)
        enrol, test = _lookup(enrolled, size)[trials.enrol], _lookup(of_test, size)[trials.test]
        self._refuse_tests_among_enrolments(trials, members, enrol, test)
        return EnrolledTrials(tuple(index), tuple(members), enrol, test, trials)

    def _refuse_tests_among_enrolments(
        self,
        trials: TrialList,
        members: Sequence[tuple[int, ...]],
        enrol: npt.NDArray[np.int32],
        test: npt.NDArray[np.int32],
    ) -> None:
        several = [(model, member) for model, recordings in enumerate(members) if len(recordings) > 1 for member in recordings]
        if not several:
            return
        width = int(max(test.max(initial=0), max(member for _, member in several))) + 1
        forbidden = np.array([model * width + member for model, member in several], dtype=np.int64)
        wrong = np.flatnonzero(np.isin(enrol.astype(np.int64) * width + test, forbidden))
        if len(wrong):
            first = trials.utterances[trials.enrol[wrong[0]]], trials.utterances[trials.test[wrong[0]]]
            raise DataError(
                f"{len(wrong)} of {len(trials)} trials test a model on one of its own enrolment recordings, the first is "
                f"{first[0]!r} against {first[1]!r}; {self.source} and {trials.source} do not belong together"
            )


@dataclass(frozen=True, eq=False)
class EnrolledTrials:
    """Trials whose enrolment sides are groups of recordings.

    Attributes:
        recordings: every recording needed, each once: what is to be embedded.
        members: for each enrolment, its indices into ``recordings``.
        enrol: (trials,) int32, index into ``members``.
        test: (trials,) int32, index into ``recordings``.
        trials: the list as it was read.
    """

    recordings: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]
    enrol: npt.NDArray[np.int32]
    test: npt.NDArray[np.int32]
    trials: TrialList

    def paths(self, root: str | os.PathLike[str]) -> list[Path]:
        """Return the path below ``root`` of every recording, in the order of ``recordings``."""
        return [Path(root) / name for name in self.recordings]


def read_enrolment_map(path: str | os.PathLike[str], *, prefix: str = "") -> EnrolmentMap:
    """Read an enrolment map, plain or compressed by gzip: ``model recording [recording ...]`` per line.

    A model may have several lines; its recordings are joined. This is the layout of SITW's ``enroll-core.lst``, VOiCES' list of
    enrolments and CN-Celeb's ``enroll.map``.

    Args:
        path: the map.
        prefix: what is put before every recording's name so that it lies below the data root of the trial list: CN-Celeb's map
            counts from ``data/`` and its trials from ``eval/``, so ``prefix="../data/"`` with the root ``CN-Celeb/eval``.

    Raises:
        DataError: the file is missing, empty, damaged, not text, names a recording twice for one model, or enrols stretches of
            recordings (start and end in seconds, as SITW's assisted conditions do): cut those to files of their own.
    """
    file = Path(path)
    models: dict[str, list[str]] = {}
    for number, line in _text(file):
        fields = line.split()
        if not fields:
            continue
        if len(fields) < 2:
            raise DataError(f"{file}, line {number}: found {line.strip()[:80]!r}, expected 'model recording [recording ...]'")
        if len(fields) == 4 and _is_number(fields[2]) and _is_number(fields[3]):
            raise DataError(
                f"{file}, line {number}: {line.strip()[:80]!r} enrols a stretch of a recording (start and end in seconds); "
                "cut such stretches to files of their own and list those"
            )
        known = models.setdefault(fields[0], [])
        for name in (prefix + field for field in fields[1:]):
            if name in known:
                raise DataError(f"{file}, line {number}: model {fields[0]!r} has the recording {name!r} twice")
            known.append(name)
    if not models:
        raise DataError(f"{file} holds no enrolment models; expected lines such as 'model-1 enrol/a.wav enrol/b.wav'")
    return EnrolmentMap({model: tuple(names) for model, names in models.items()}, source=str(file))


def _lookup(values: Mapping[int, int], size: int) -> npt.NDArray[np.int32]:
    table = np.full(size, -1, dtype=np.int32)
    table[list(values)] = list(values.values())
    return table


def _text(file: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text_lines(file, "enrolment map"), start=1):
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{file}, line {number}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()
