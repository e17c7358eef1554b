"""Speakers as public corpora name them, told from paths.

VoxCeleb: ``idXXXXX/VIDEO/UTTERANCE``, five digits and a video of YouTube (eleven characters); VoxCeleb1 has id10001 to id11251,
VoxCeleb2 id00012 to id09272 (https://www.robots.ox.ac.uk/~vgg/data/voxceleb/). The 40 speakers of VoxCeleb1's test part, of which
the list VoxCeleb1-O is made, are those whose name begins with E: id10270 to id10309.

CN-Celeb: ``data/idXXXXX/GENRE-XX-YYY`` and, in the evaluation part, ``enroll/idXXXXX-enroll`` and ``test/idXXXXX-GENRE-XX-YYY``;
CN-Celeb1 has id00000 to id00999 (from id00800 on for evaluation), CN-Celeb2 numbers from id10000
(https://www.openslr.org/82/). Its numbers mean other people than VoxCeleb's.

VoxBlink2: ``idXXXXXX/VIDEO/UTTERANCE`` with six digits (https://github.com/VoxBlink2/ScriptsForVoxBlink2).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath

VOXCELEB1_TEST = range(10270, 10310)
VOXCELEB1 = range(10001, 11252)
CNCELEB1_EVALUATION = range(800, 1000)

_VIDEO = re.compile(r"[\w-]{11}")
_FIVE = re.compile(r"id(\d{5})")
_SIX = re.compile(r"id(\d{6})")
_CNCELEB_UTTERANCE = re.compile(r"(?P<genre>[a-z_]+)-(?P<session>\d+)-\d+")
_CNCELEB_EVALUATION = re.compile(r"(?P<speaker>id\d{5})-(?P<rest>enroll|(?P<genre>[a-z_]+)-(?P<session>\d+)-\d+)")


@dataclass(frozen=True, slots=True)
class PublicName:
    """What the path of a recording of a public corpus tells.

    Attributes:
        family: ``voxceleb``, ``cnceleb`` or ``voxblink2``: within a family a name means one person.
        corpus: ``voxceleb1``, ``voxceleb2``, ``cnceleb1``, ``cnceleb2``, ``voxblink2``.
        speaker: such as ``id10270``.
        session: the video, or genre and number of the session.
        genre: of a CN-Celeb recording.
        split: ``dev`` or ``test``, where path or number tell.
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
    """Return what a path tells by the naming of a public corpus; None for any other path."""
    parts = PurePath(str(path).replace("\\", "/")).parts
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
