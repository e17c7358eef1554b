"""Reading every utterance of a manifest to its end, and saying all that is wrong."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrl.data.corpora import Recording, find_recordings
from mrl.data.faults import FAULTS, Limits, find_faults
from mrl.data.manifest import FilterValue
from mrl.data.surveying import survey


@dataclass(frozen=True)
class FaultyUtterance:
    """An utterance with what is wrong; ``kind`` is a key of :data:`mrl.data.faults.FAULTS`."""

    path: Path
    speaker: str
    start: float
    kind: str
    reason: str


@dataclass(frozen=True)
class ManifestCheck:
    """What a check found.

    Attributes:
        utterances, speakers: in the manifest.
        seconds: of the utterances that can be read.
        faulty: in the order of the corpus.
    """

    utterances: int
    speakers: int
    seconds: float
    faulty: tuple[FaultyUtterance, ...]

    def counts(self) -> dict[str, int]:
        """Return how many utterances have each kind of fault."""
        return {kind: count for kind in FAULTS if (count := sum(one.kind == kind for one in self.faulty))}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        faulty = [
            {"path": str(one.path), "speaker": one.speaker, "start": one.start, "fault": one.kind, "reason": one.reason}
            for one in self.faulty
        ]
        plain = {"utterances": self.utterances, "speakers": self.speakers, "seconds": round(self.seconds, 3)}
        return {**plain, "counts": self.counts(), "faulty": faulty}


def check_manifest(
    path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    where: Mapping[str, FilterValue] | None = None,
    limits: Limits | None = None,
    num_workers: int | None = None,
    show_progress: bool = True,
) -> ManifestCheck:
    """Decode everything that a manifest names.

    Found are: missing and unreadable recordings, NaN and infinite samples, stretches past the end of their recording, stated
    lengths that are longer than what is there, silence, utterances that are too short, and copies.

    Args:
        path: the manifest.
        root, where: as for :func:`mrl.data.read_manifest`.
        limits: when an utterance counts as short, silent or clipped; by default none is too short.
        num_workers: processes; None: one per processor.
        show_progress: draw a bar (on a terminal only).

    Raises:
        DataError: the manifest itself cannot be read.
        ProcessError: a process died while examining.
    """
    recordings = find_recordings(path, corpus="manifest", root=root, where=where, trust_lengths=True).recordings
    facts = survey(
        [one.stretch for one in recordings], num_workers=num_workers, description="decoding", show_progress=show_progress
    )
    faults = find_faults(recordings, facts, limits or Limits(min_seconds=0.0))
    return ManifestCheck(
        utterances=len(recordings),
        speakers=len({one.full_speaker for one in recordings}),
        seconds=sum(one.seconds for one in facts),
        faulty=tuple(_faulty(recordings[index], fault.kind, fault.reason) for index, fault in sorted(faults.items())),
    )


def _faulty(one: Recording, kind: str, reason: str) -> FaultyUtterance:
    return FaultyUtterance(one.path, one.full_speaker, one.start, kind, reason)
