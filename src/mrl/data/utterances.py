"""What is trained on: utterances, each by one speaker, and the corpus that numbers the speakers."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mrl.audio import FileSlice
from mrl.errors import DataError, InputError

UNKNOWN_SPEAKER = ""  # of all utterances of a corpus without labels


@dataclasses.dataclass(frozen=True, order=True, slots=True)
class Utterance:
    """One stretch of speech by one speaker in one file.

    Attributes:
        path: the recording; of one inside a shard, the shard's path with the recording's name behind it.
        speaker: name of the speaker, unique over the whole corpus.
        start: where the stretch begins in the file, seconds.
        seconds: its length in seconds; None means to the end of the file (the header is asked when it matters).
        session: name of the recording session, where known.
        speed: playback speed; a copy at 0.9 or 1.1 has another pitch and vocal-tract length, hence counts as another speaker.
        slice: where in the shard its bytes are; None for a file of its own.
        corpus: name of the corpus, where a manifest gives one; for mixing corpora.
    """

    path: Path
    speaker: str
    start: float = 0.0
    seconds: float | None = None
    session: str | None = None
    speed: float = 1.0
    slice: FileSlice | None = dataclasses.field(default=None, compare=False)
    corpus: str | None = dataclasses.field(default=None, compare=False)

    @property
    def source(self) -> Path | FileSlice:
        """What :func:`mrl.audio.load_audio` reads it from."""
        return self.path if self.slice is None else self.slice

    @property
    def file(self) -> Path:
        """The file that holds it: the recording's own, or the shard."""
        return self.path if self.slice is None else self.slice.path


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Utterances in a fixed order, and their speakers numbered from 0 in sorted order.

    Build one with :meth:`of`: the same utterances give the same corpus in whatever order they were found. Shards come in their
    own order (:meth:`in_order`).
    """

    utterances: tuple[Utterance, ...]
    speakers: tuple[str, ...]
    labels: tuple[int, ...]

    @classmethod
    def of(cls, utterances: Iterable[Utterance]) -> Corpus:
        """Sort the utterances and number their speakers.

        Raises:
            DataError: there are no utterances, or the same stretch of the same file is listed twice.
        """
        return cls.in_order(
            sorted(utterances, key=lambda one: (one.speaker, str(one.path), one.start, one.seconds or 0.0, one.speed))
        )

    @classmethod
    def in_order(cls, utterances: Iterable[Utterance]) -> Corpus:
        """Keep the utterances in the order given, such as that of shards, and number their speakers.

        Raises:
            DataError: there are no utterances, or the same stretch of the same file is listed twice.
        """
        ordered = tuple(utterances)
        if not ordered:
            raise DataError("the corpus has no utterances")
        places: dict[tuple[Path, float, float | None, float], str] = {}
        for one in ordered:
            place = (one.path, one.start, one.seconds, one.speed)
            if place in places:
                raise DataError(
                    f"{one.path} is listed twice (speakers {places[place]!r} and {one.speaker!r}, start {one.start} s); "
                    "list each stretch once"
                )
            places[place] = one.speaker
        speakers = tuple(sorted({one.speaker for one in ordered}))
        number = {speaker: index for index, speaker in enumerate(speakers)}
        return cls(ordered, speakers, tuple(number[one.speaker] for one in ordered))

    def __len__(self) -> int:
        return len(self.utterances)

    def indices_by_speaker(self) -> list[list[int]]:
        """Return for each class index the positions of its utterances."""
        members: list[list[int]] = [[] for _ in self.speakers]
        for index, label in enumerate(self.labels):
            members[label].append(index)
        return members

    def subset(self, max_per_speaker: int) -> list[int]:
        """Return positions of at most ``max_per_speaker`` utterances of each speaker, evenly spaced over that speaker's list."""
        chosen: list[int] = []
        for members in self.indices_by_speaker():
            count = min(max_per_speaker, len(members))
            chosen.extend(members[(step * len(members)) // count] for step in range(count))
        return sorted(chosen)

    def without_speakers(self) -> Corpus:
        """Return the same utterances in the same order as if nobody knew who speaks."""
        return Corpus.in_order(dataclasses.replace(one, speaker=UNKNOWN_SPEAKER) for one in self.utterances)

    def with_speed_copies(self, speeds: Sequence[float]) -> Corpus:
        """Return this corpus with every utterance also at each of ``speeds``, each speed of a speaker being a further speaker.

        Raises:
            InputError: a speed lies outside 0.5 to 2, is 1, or is named twice.
        """
        if any(not 0.5 <= speed <= 2.0 or speed == 1.0 for speed in speeds) or len(set(speeds)) != len(speeds):
            raise InputError(f"speeds must be distinct, between 0.5 and 2, and not 1 (found {list(speeds)})")
        if not speeds:
            return self
        every = [
            one if speed == 1.0 else dataclasses.replace(one, speaker=f"{one.speaker}@{speed:g}", speed=speed)
            for one in self.utterances
            for speed in (1.0, *speeds)
        ]
        in_shards = all(one.slice is not None for one in self.utterances)
        return Corpus.in_order(every) if in_shards else Corpus.of(every)

    def check_files(self) -> None:
        """Ask the file system for every recording.

        Raises:
            DataError: some are missing; says how many and names the first.
        """
        paths = sorted({one.file for one in self.utterances})
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(paths)} recordings are missing, the first is {missing[0]}; "
                "check the root folder of the manifest or make the manifest again"
            )

    def outline(self) -> dict[str, Any]:
        """Return counts and a hash of which speakers have which files (by name), for noticing that a corpus has changed."""
        digest = hashlib.sha256()
        for one in self.utterances:
            digest.update(repr((one.speaker, one.path.name, one.start, one.seconds, one.speed)).encode() + b"\n")
        return {"utterances": len(self.utterances), "speakers": len(self.speakers), "sha256": digest.hexdigest()}

    def fingerprint(self) -> str:
        """Return a SHA-256 over what the utterances are: file (path, size, time of change), stretch, speed, speaker."""
        digest = hashlib.sha256()
        states: dict[Path, tuple[int, int]] = {}
        for one in self.utterances:
            if one.file not in states:
                try:
                    status = one.file.stat()
                except OSError as error:
                    raise DataError(f"cannot read {one.file}: {error.strerror}; check the root folder of the manifest") from error
                states[one.file] = (status.st_size, status.st_mtime_ns)
            described = (str(one.path), *states[one.file], one.start, one.seconds, one.speed, one.speaker)
            digest.update(repr(described).encode() + b"\n")
        return digest.hexdigest()
