"""Speakers in both training and evaluation data, which make error rates look better than they are."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

from mrl.data.utterances import Corpus, Utterance
from mrl.trials.speakers import VOXCELEB1, VOXCELEB1_TEST, public_name

_EXAMPLES = 5
_FAMILIES = {
    "voxceleb": "voxceleb",
    "vox1": "voxceleb",
    "vox2": "voxceleb",
    "cnceleb": "cnceleb",
    "cnc": "cnceleb",
    "voxblink2": "voxblink2",
    "vb2": "voxblink2",
}  # name of a corpus, in lower case and without hyphens -> the corpus whose ids its speakers have


@dataclass(frozen=True)
class SpeakerOverlap:
    """Speakers of a corpus that trials name as well, sorted, by their names in the corpus.

    Attributes:
        certain: the same number of the same public corpus, or the same speaker's folder on the same disk.
        by_name: only the folder's name is the same, which may be another person.
        voxceleb1_dev, voxceleb1_test: how many of the certain ones are of these parts of VoxCeleb1.
        speakers: how many speakers the corpus has.
    """

    certain: tuple[str, ...]
    by_name: tuple[str, ...]
    voxceleb1_dev: int
    voxceleb1_test: int
    speakers: int

    @property
    def all(self) -> tuple[str, ...]:
        """Both kinds."""
        return tuple(sorted((*self.certain, *self.by_name)))

    def describe(self, names: Iterable[str] | None = None) -> str:
        """Return one line that says who and, for VoxCeleb1, why; ``names`` are reported instead of all."""
        chosen = sorted(self.all if names is None else names)
        examples = ", ".join(chosen[:_EXAMPLES]) + (", ..." if len(chosen) > _EXAMPLES else "")
        text = f"{len(chosen):,} of {self.speakers:,} training speakers are also in the evaluation trials ({examples})"
        if self.voxceleb1_dev:
            text += (
                "; VoxCeleb1-E and VoxCeleb1-H contain all 1,251 speakers of VoxCeleb1, including its dev part: to "
                "report them train on VoxCeleb2 dev; whoever trains on VoxCeleb1 dev can report VoxCeleb1-O only"
            )
        elif self.voxceleb1_test:
            text += "; VoxCeleb1-O contains the 40 speakers of VoxCeleb1's test part: train on dev parts only"
        return text


def overlapping_speakers(corpus: Corpus, trials: Iterable[str | os.PathLike[str]]) -> SpeakerOverlap:
    """Return the speakers of a corpus who also speak in trials.

    Recordings of VoxCeleb, CN-Celeb and VoxBlink2 are recognised by their paths (:func:`mrl.trials.speakers.public_name`);
    id10270 of VoxCeleb1 and id10270 of CN-Celeb2 are two people. Elsewhere a recording's folder is taken for its speaker.

    Args:
        corpus: what is trained on; speakers may be named ``corpus/speaker``.
        trials: the recordings that the trials name, as in the list; absolute paths give more information where recordings are
            available.
    """
    public: set[tuple[str, str]] = set()
    folders: dict[str, set[Path]] = {}  # what may be a speaker's name -> where such folders are
    for trial in trials:
        path = PurePosixPath(str(trial).replace("\\", "/"))
        name = public_name(path)
        if name is not None:
            public.add((name.family, name.speaker))
            folders.setdefault(name.speaker, set())  # for a corpus that does not say whose ids it uses
        elif len(path.parts) >= 2 and path.parts[-2] not in ("/", "..", "."):
            folders.setdefault(path.parts[-2], set()).add(Path(path).parent)
    resolved = {name: {folder.resolve() for folder in places if folder.is_absolute()} for name, places in folders.items()}
    certain: set[str] = set()
    by_name: set[str] = set()
    dev: set[str] = set()
    test: set[str] = set()
    for utterance in corpus.utterances:
        if utterance.speaker in certain:
            continue
        identity = _identity(utterance)
        if identity is not None:
            if identity in public:
                certain.add(utterance.speaker)
                number = int(identity[1].removeprefix("id"))
                if identity[0] == "voxceleb" and number in VOXCELEB1:
                    (test if number in VOXCELEB1_TEST else dev).add(utterance.speaker)
            continue
        short = utterance.speaker.rpartition("/")[2]
        for speaker in {utterance.speaker, short} & resolved.keys():
            parent = utterance.path.parent
            if parent.name == speaker and parent.resolve() in resolved[speaker]:
                certain.add(utterance.speaker)
            else:
                by_name.add(utterance.speaker)
    return SpeakerOverlap(tuple(sorted(certain)), tuple(sorted(by_name - certain)), len(dev), len(test), len(corpus.speakers))


def _identity(utterance: Utterance) -> tuple[str, str] | None:
    """Return family and name of a public corpus's speaker, by the path or by the name ``corpus/speaker``."""
    name = public_name(PurePath(utterance.path))
    short = utterance.speaker.rpartition("/")[2]
    if name is not None and name.speaker == short:
        return name.family, name.speaker
    corpus = utterance.speaker.rpartition("/")[0].lower().replace("-", "")
    if short.startswith("id") and short[2:].isdecimal():
        return next(((family, short) for prefix, family in _FAMILIES.items() if corpus.startswith(prefix)), None)
    return None
