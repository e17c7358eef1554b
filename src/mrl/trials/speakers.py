"""Who speaks in an utterance, told from its path."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from mrl.errors import DataError
from mrl.trials.lists import TrialList

_VOXCELEB_SPEAKER = re.compile(r"id\d{5}")


def speaker_of(utterance: str) -> str:
    """Return the speaker that a path names.

    In a path ``.../idXXXXX/VIDEO/UTTERANCE`` (VoxCeleb) it is ``idXXXXX``; otherwise the parent folder: ``ls1688`` in
    ``eval/libri/ls1688/a.opus``.

    Raises:
        DataError: the path has no parent folder.
    """
    parts = PurePosixPath(utterance.replace("\\", "/")).parts
    if len(parts) >= 3 and _VOXCELEB_SPEAKER.fullmatch(parts[-3]):
        return parts[-3]
    if len(parts) < 2 or parts[-2] in ("/", "..", "."):
        raise DataError(
            f"no speaker can be told from {utterance!r}: expected '.../speaker/file' or 'idXXXXX/video/file'; "
            "give a mapping from utterance to speaker instead"
        )
    return parts[-2]


def speakers_of_trials(
    trials: TrialList, speakers: Mapping[str, str] | None = None
) -> tuple[tuple[str, ...], npt.NDArray[np.int32]]:
    """Return the speakers of a list (in order of first appearance) and, for every utterance, its speaker's index.

    Args:
        trials: the list.
        speakers: utterance -> speaker, where paths do not tell (see :func:`speaker_of`).

    Raises:
        DataError: an utterance has no speaker, or the labels contradict the speakers (all such trials are counted).
    """
    if speakers is None:
        names: Sequence[str] = [speaker_of(name) for name in trials.utterances]
    else:
        absent = [name for name in trials.utterances if name not in speakers]
        if absent:
            raise DataError(f"{len(absent)} of {len(trials.utterances)} utterances have no speaker, the first is {absent[0]!r}")
        names = [speakers[name] for name in trials.utterances]
    index: dict[str, int] = {}
    of_utterance = np.fromiter((index.setdefault(name, len(index)) for name in names), dtype=np.int32, count=len(names))
    wrong = np.flatnonzero((of_utterance[trials.enrol] == of_utterance[trials.test]) != trials.labels)
    if len(wrong):
        first, second = trials.utterances[trials.enrol[wrong[0]]], trials.utterances[trials.test[wrong[0]]]
        raise DataError(
            f"the labels of {len(wrong)} of {len(trials)} trials contradict the speakers of their utterances, the first is "
            f"{first!r} against {second!r} labelled {int(trials.labels[wrong[0]])}; give the right speakers as a mapping"
        )
    return tuple(index), of_utterance


def read_speakers(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read a mapping from utterance to speaker: one ``utterance speaker`` per line (Kaldi's ``utt2spk``), blank lines skipped.

    Raises:
        DataError: the file cannot be read, a line is malformed, or an utterance has two speakers.
    """
    speakers: dict[str, str] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"list of speakers {path} cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2:
            raise DataError(f"{path}, line {number}: found {line.strip()[:80]!r}, expected 'utterance speaker'")
        if speakers.setdefault(fields[0], fields[1]) != fields[1]:
            raise DataError(f"{path}, line {number}: {fields[0]!r} has two speakers, {speakers[fields[0]]!r} and {fields[1]!r}")
    return speakers
