"""The speaker of an utterance: from its path (public corpora, folders of speakers) or from a list."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath, PurePosixPath

import numpy as np
import numpy.typing as npt

from mrl.bounded import read_text, said
from mrl.errors import DataError
from mrl.trials.lists import TrialList

VOXCELEB1_TEST = range(10270, 10310)
VOXCELEB1 = range(10001, 11252)
CNCELEB1_EVALUATION = range(800, 1000)
_NUMBERED = re.compile(r"id\d{5,6}")
_VIDEO = re.compile(r"[\w-]{11}")
_FIVE = re.compile(r"id(\d{5})")
_SIX = re.compile(r"id(\d{6})")
_CNCELEB_UTTERANCE = re.compile(r"(?P<genre>[a-z_]+)-(?P<session>\d+)-\d+")
_CNCELEB_EVALUATION = re.compile(r"(?P<speaker>id\d{5})-(?P<rest>enroll|(?P<genre>[a-z_]+)-(?P<session>\d+)-\d+)")


@dataclass(frozen=True, slots=True)
class PublicName:
    """What the path of a recording of a public corpus says.

    Attributes:
        family: ``voxceleb``, ``cnceleb`` or ``voxblink2``: within a family a name means one person.
        corpus: ``voxceleb1``, ``voxceleb2``, ``cnceleb1``, ``cnceleb2``, ``voxblink2``.
        speaker: such as ``id10270``.
        session: the video, or genre and number of the session.
        genre: of a CN-Celeb recording.
        split: ``dev`` or ``test``, where path or number say.
    """

    family: str
    corpus: str
    speaker: str
    session: str | None
    genre: str | None = None
    split: str | None = None

    @property
    def number(self) -> int:
        """The speaker's number."""
        return int(self.speaker.removeprefix("id"))


def public_name(path: str | PurePath) -> PublicName | None:
    """Return what a path says by the naming of a public corpus; None for any other path.

    - VoxCeleb: ``idXXXXX/VIDEO/UTTERANCE``, five digits and a video of YouTube (eleven characters); VoxCeleb1 has id10001 to
      id11251, VoxCeleb2 id00012 to id09272 (https://www.robots.ox.ac.uk/~vgg/data/voxceleb/). The 40 speakers of VoxCeleb1's
      test part, of which the list VoxCeleb1-O is made, are those whose name begins with E: id10270 to id10309.
    - CN-Celeb: ``data/idXXXXX/GENRE-XX-YYY`` and, in the evaluation part, ``enroll/idXXXXX-enroll`` and
      ``test/idXXXXX-GENRE-XX-YYY``; CN-Celeb1 has id00000 to id00999 (from id00800 on for evaluation), CN-Celeb2 numbers from
      id10000 (https://www.openslr.org/82/). Its numbers mean other people than VoxCeleb's.
    - VoxBlink2: ``idXXXXXX/VIDEO/UTTERANCE`` with six digits (https://github.com/VoxBlink2/ScriptsForVoxBlink2).
    """
    parts = PurePosixPath(str(path).replace("\\", "/")).parts
    if len(parts) < 2:
        return None
    stem = parts[-1].partition(".")[0]
    if len(parts) >= 3 and _VIDEO.fullmatch(parts[-2]):
        if _SIX.fullmatch(parts[-3]):
            return PublicName("voxblink2", "voxblink2", parts[-3], parts[-2])
        if _FIVE.fullmatch(parts[-3]):
            return _voxceleb(parts)
    if _FIVE.fullmatch(parts[-2]) and (utterance := _CNCELEB_UTTERANCE.fullmatch(stem)):
        return _cnceleb(parts[-2], utterance["genre"], f"{utterance['genre']}-{utterance['session']}")
    if parts[-2] in ("enroll", "test") and (utterance := _CNCELEB_EVALUATION.fullmatch(stem)):
        genre = utterance["genre"]
        session = "enroll" if genre is None else f"{genre}-{utterance['session']}"
        return _cnceleb(utterance["speaker"], genre, session)
    return None


def _voxceleb(parts: tuple[str, ...]) -> PublicName:
    speaker = parts[-3]
    number = int(speaker.removeprefix("id"))
    if number in VOXCELEB1:
        split: str | None = "test" if number in VOXCELEB1_TEST else "dev"
        return PublicName("voxceleb", "voxceleb1", speaker, parts[-2], split=split)
    # VoxCeleb2 comes as dev/aac and test/aac; converted copies keep the first folder's name.
    split = next((part for part in reversed(parts[:-3]) if part in ("dev", "test")), None)
    return PublicName("voxceleb", "voxceleb2", speaker, parts[-2], split=split)


def _cnceleb(speaker: str, genre: str | None, session: str) -> PublicName:
    number = int(speaker.removeprefix("id"))
    if number >= 10000:
        return PublicName("cnceleb", "cnceleb2", speaker, session, genre, "dev")
    return PublicName("cnceleb", "cnceleb1", speaker, session, genre, "test" if number in CNCELEB1_EVALUATION else "dev")


def speaker_of(utterance: str) -> str:
    """Return the speaker that a path names.

    Recordings of public corpora are recognised by :func:`public_name`. In any other path ``.../idXXXXX/FOLDER/UTTERANCE`` with
    five or six digits it is ``idXXXXX``, and elsewhere the parent folder: ``ls1688`` in ``eval/libri/ls1688/a.opus``.

    Raises:
        DataError: the path has no parent folder.
    """
    known = public_name(utterance)
    if known is not None:
        return known.speaker
    parts = PurePosixPath(utterance.replace("\\", "/")).parts
    if len(parts) >= 3 and _NUMBERED.fullmatch(parts[-3]):
        return parts[-3]
    if len(parts) < 2 or parts[-2] in ("/", "..", "."):
        raise DataError(
            f"cannot tell the speaker from {utterance!r}: expected '.../speaker/file' or 'idXXXXX/video/file'; "
            "give a mapping from utterance to speaker instead"
        )
    return parts[-2]


def speakers_of_trials(
    trials: TrialList, speakers: Mapping[str, str] | None = None
) -> tuple[tuple[str, ...], npt.NDArray[np.int32]]:
    """Return the speakers of a list (in order of first appearance) and, for every utterance, its speaker's index.

    Args:
        trials: the list.
        speakers: utterance -> speaker, if paths do not name them (see :func:`speaker_of`).

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
        lines = read_text(path).splitlines()
    except OSError as error:
        raise DataError(f"list of speakers {path} cannot be read: {said(error)}") from error
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2:
            raise DataError(f"{path}, line {number}: found {line.strip()[:80]!r}, expected 'utterance speaker'")
        if speakers.setdefault(fields[0], fields[1]) != fields[1]:
            raise DataError(f"{path}, line {number}: {fields[0]!r} has two speakers, {speakers[fields[0]]!r} and {fields[1]!r}")
    return speakers
