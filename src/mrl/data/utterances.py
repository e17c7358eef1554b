"""The corpus that is trained on: utterances in a fixed order, and their speakers by number."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl.data.columns import Labels, Utterance, UtteranceColumns
from mrl.errors import DataError, InputError

__all__ = ["UNKNOWN_SPEAKER", "Corpus", "Utterance"]

UNKNOWN_SPEAKER = ""  # of all utterances of a corpus without labels


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Utterances in a fixed order, and their speakers numbered from 0 in sorted order.

    Build one with :meth:`of`: the same utterances give the same corpus in whatever order they were found. Shards come in their
    own order (:meth:`in_order`). Both hold the utterances as columns, which worker processes share.
    """

    utterances: Sequence[Utterance]
    speakers: tuple[str, ...]
    labels: Sequence[int]

    @classmethod
    def of(cls, utterances: Iterable[Utterance]) -> Corpus:
        """Sort the utterances and number their speakers.

        Raises:
            DataError: there are no utterances, or the same stretch of the same file is listed twice.
        """
        return cls._of_columns(UtteranceColumns(utterances, in_order=False))

    @classmethod
    def in_order(cls, utterances: Iterable[Utterance]) -> Corpus:
        """Keep the utterances in the order given, such as that of shards, and number their speakers.

        Raises:
            DataError: there are no utterances, or the same stretch of the same file is listed twice.
        """
        return cls._of_columns(UtteranceColumns(utterances, in_order=True))

    @classmethod
    def _of_columns(cls, columns: UtteranceColumns) -> Corpus:
        return cls(columns, columns.speakers, Labels(columns))

    def __len__(self) -> int:
        return len(self.utterances)

    def indices_by_speaker(self) -> list[list[int]]:
        """Return for each class index the positions of its utterances."""
        labels = np.asarray(self.labels)
        order = np.argsort(labels, kind="stable")
        borders = np.searchsorted(labels[order], np.arange(1, len(self.speakers)))
        return [members.tolist() for members in np.split(order, borders)]

    def subset(self, max_per_speaker: int) -> list[int]:
        """Return positions of at most ``max_per_speaker`` utterances of each speaker, evenly spaced over that speaker's list."""
        chosen: list[int] = []
        for members in self.indices_by_speaker():
            count = min(max_per_speaker, len(members))
            chosen.extend(members[(step * len(members)) // count] for step in range(count))
        return sorted(chosen)

    def without_speakers(self) -> Corpus:
        """Return the same utterances in the same order, their speakers unknown."""
        return Corpus.in_order(dataclasses.replace(utterance, speaker=UNKNOWN_SPEAKER) for utterance in self.utterances)

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
            utterance if speed == 1.0 else dataclasses.replace(utterance, speaker=f"{utterance.speaker}@{speed:g}", speed=speed)
            for utterance in self.utterances
            for speed in (1.0, *speeds)
        ]
        in_shards = all(utterance.slice is not None for utterance in self.utterances)
        return Corpus.in_order(every) if in_shards else Corpus.of(every)

    def check_files(self, excluded: Collection[int] = ()) -> None:
        """Ask the file system for every recording but those of the utterances at the ``excluded`` positions.

        Raises:
            DataError: some are missing; says how many and names the first.
        """
        files = {file for index, file in enumerate(self.files()) if index not in excluded}
        missing = sorted(file for file in files if not os.path.isfile(file))  # noqa: PTH113 - a million of them
        if missing:
            raise DataError(
                f"{len(missing)} of {len(files)} recordings are missing, the first is {missing[0]}; "
                "check the root folder of the manifest or make the manifest again"
            )

    def outline(self) -> dict[str, Any]:
        """Return counts and a hash of which speakers have which files (by name), for noticing that a corpus has changed."""
        digest = hashlib.sha256()
        for path, (speaker, start, seconds, speed) in self._described():
            digest.update(repr((speaker, os.path.basename(path), start, seconds, speed)).encode() + b"\n")  # noqa: PTH119
        return {"utterances": len(self.utterances), "speakers": len(self.speakers), "sha256": digest.hexdigest()}

    def fingerprint(self, excluded: Collection[int] = ()) -> str:
        """Return a SHA-256 over what the utterances are: file (path, size, time of change), stretch, speed, speaker.

        Files of the utterances at the ``excluded`` positions may be missing.

        Raises:
            DataError: another file is missing.
        """
        digest = hashlib.sha256()
        states: dict[str, tuple[int, int]] = {}
        for index, (file, (path, (speaker, start, seconds, speed))) in enumerate(
            zip(self.files(), self._described(), strict=True)
        ):
            if file not in states:
                try:
                    status = os.stat(file)  # noqa: PTH116 - a million of them
                    states[file] = (status.st_size, status.st_mtime_ns)
                except OSError as error:
                    if index not in excluded:
                        message = f"cannot read {file}: {error.strerror}; check the root folder of the manifest"
                        raise DataError(message) from error
                    states[file] = (-1, -1)
            digest.update(repr((path, *states[file], start, seconds, speed, speaker)).encode() + b"\n")
        return digest.hexdigest()

    def files(self) -> Iterable[str]:
        """Return for each utterance the file that holds it: the recording's own, or the shard."""
        if not isinstance(self.utterances, UtteranceColumns):
            return (str(utterance.file) for utterance in self.utterances)
        shards = self.utterances.shards()
        if shards is None and self.utterances.has_slices:
            return (str(utterance.file) for utterance in self.utterances)
        return self.utterances.paths() if shards is None else (shards[2][number] for number in shards[0].tolist())

    def places_on_disk(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return for each utterance the number of its file in sorted order, and its offset in that file in bytes."""
        files = list(self.files())
        numbers = {file: number for number, file in enumerate(sorted(set(files)))}
        columns = self.utterances if isinstance(self.utterances, UtteranceColumns) else None
        shards = None if columns is None else columns.shards()
        if shards is not None:
            offsets = shards[1]
        elif columns is not None and not columns.has_slices:
            offsets = np.zeros(len(self), dtype=np.int64)
        else:
            slices = [utterance.slice for utterance in self.utterances]
            offsets = np.array([0 if part is None else part.offset for part in slices], dtype=np.int64)
        return np.array([numbers[file] for file in files], dtype=np.int64), offsets

    def _described(self) -> Iterable[tuple[str, tuple[str, float, float | None, float]]]:
        if not isinstance(self.utterances, UtteranceColumns):
            return ((str(each.path), (each.speaker, each.start, each.seconds, each.speed)) for each in self.utterances)
        stretches = self.utterances.stretches()
        return (
            (path, (self.speakers[speaker], start, seconds, speed))
            for path, (speaker, start, seconds, speed) in zip(self.utterances.paths(), stretches, strict=True)
        )
