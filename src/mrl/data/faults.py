"""What makes an utterance unfit for training, and how that is judged from what an examination found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mrl.audio.examining import StretchFacts
from mrl.data.corpora import Recording
from mrl.errors import InputError

FAULTS: dict[str, str] = {
    "unreadable": "cannot be read",
    "silent": "silent",
    "too-short": "too short",
    "clipped": "clipped",
    "duplicate": "the same audio as another of the speaker's",
    "contradictory": "the same audio under several speakers",
    "evaluated": "of speakers in the evaluation trials",
}
"""Kinds of fault in the order in which they are looked for, with words for a summary; an utterance has the first that fits."""

DEFAULT_MIN_SECONDS = 0.5
DEFAULT_SILENCE_DB = -60.0


@dataclass(frozen=True)
class Fault:
    """What is wrong with an utterance: a key of :data:`FAULTS`, and the reason in one line."""

    kind: str
    reason: str


@dataclass(frozen=True)
class Limits:
    """From where on something counts as a fault.

    Attributes:
        min_seconds: shorter utterances are too short.
        silence_db: an utterance whose loudest sample lies below this level is silent, in dB relative to full scale.
        max_clipped_share: an utterance with a larger share of samples at full scale is clipped, 0 to 1; None: none is.
    """

    min_seconds: float = DEFAULT_MIN_SECONDS
    silence_db: float = DEFAULT_SILENCE_DB
    max_clipped_share: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.min_seconds) and self.min_seconds >= 0):
            raise InputError(f"min_seconds is {self.min_seconds}, expected seconds, 0 or more")
        if not (math.isfinite(self.silence_db) and self.silence_db <= 0):
            raise InputError(f"silence_db is {self.silence_db}, expected a level in dB, 0 or less")
        if self.max_clipped_share is not None and not 0 <= self.max_clipped_share <= 1:
            raise InputError(f"max_clipped_share is {self.max_clipped_share}, expected a share from 0 to 1")


def find_faults(recordings: Sequence[Recording], facts: Sequence[StretchFacts], limits: Limits) -> dict[int, Fault]:
    """Return what is wrong, by position; positions without a fault are absent.

    Of several copies of the same audio by one speaker, all but the first are duplicates. Where copies stand under several
    speakers nobody can tell whose they are, and all are contradictory.
    """
    faults: dict[int, Fault] = {}
    copies: dict[str, list[int]] = {}
    for index, (one, found) in enumerate(zip(recordings, facts, strict=True)):
        fault = _own_fault(one, found, limits)
        if fault is not None:
            faults[index] = fault
        # Clipped utterances can be copies too, but silence says nothing about whose it is.
        if found.content is not None and (fault is None or fault.kind == "clipped"):
            copies.setdefault(found.content, []).append(index)
    for members in copies.values():
        if len(members) > 1:
            faults.update({index: fault for index, fault in _copies(recordings, members).items() if index not in faults})
    return faults


def clipped_shares(facts: Mapping[int, StretchFacts] | Sequence[StretchFacts], above: float) -> int:
    """Return how many utterances have more than this share of their samples at full scale."""
    values = facts.values() if isinstance(facts, Mapping) else facts
    return sum(one.clipped_share is not None and one.clipped_share > above for one in values)


def _own_fault(one: Recording, found: StretchFacts, limits: Limits) -> Fault | None:
    try:
        str(one.path).encode()
    except UnicodeEncodeError:
        return Fault("unreadable", "the name is not valid UTF-8; rename the file")
    if found.error is not None:
        return Fault("unreadable", found.error)
    if found.peak is not None and found.peak < 10 ** (limits.silence_db / 20):
        level = "every sample is zero" if found.peak == 0 else f"the loudest sample is at {20 * math.log10(found.peak):.0f} dB"
        return Fault("silent", level)
    if found.seconds < limits.min_seconds:
        return Fault("too-short", f"{found.seconds:.2f} s")
    if limits.max_clipped_share is not None and (found.clipped_share or 0.0) > limits.max_clipped_share:
        return Fault("clipped", f"{100 * (found.clipped_share or 0.0):.2f} % of the samples are at full scale")
    return None


def _copies(recordings: Sequence[Recording], members: Sequence[int]) -> dict[int, Fault]:
    speakers = sorted({recordings[index].full_speaker for index in members})
    if len(speakers) > 1:
        first = {speaker: next(i for i in members if recordings[i].full_speaker == speaker) for speaker in speakers}
        named = "; ".join(f"{speaker}: {recordings[index].path}" for speaker, index in list(first.items())[:3])
        return {
            index: Fault("contradictory", f"the same audio stands under {len(speakers)} speakers ({named})") for index in members
        }
    original = recordings[members[0]].path
    return {index: Fault("duplicate", f"the same audio as {original}") for index in members[1:]}
