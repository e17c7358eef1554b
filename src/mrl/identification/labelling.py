"""Names for the speakers that a diarisation tool found in a recording, from the enrolled voices."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping

import numpy as np

from mrl.audio import SAMPLE_RATE, audio_info, load_audio
from mrl.embeddings.embedder import Embedder, Waveform
from mrl.embeddings.extraction import Extraction
from mrl.embeddings.recordings import embed_recording
from mrl.errors import AudioLoadingError, DataError, InputError
from mrl.identification.recognise import Identification, VoiceScore, identify
from mrl.identification.store import VoiceStore
from mrl.identification.turns import Turns

_BEYOND_SECONDS = 1.0  # tools round the ends of turns; more than that, and the turns are those of another recording
_SHORTEST_SECONDS = 0.1  # of a stretch that is used


@dataclasses.dataclass(frozen=True)
class LabelSettings:
    """How speakers are named.

    Attributes:
        min_seconds: a speaker with less speech than this, in seconds, while nobody else speaks is not named.
        max_seconds: use at most this much of a speaker's speech, the longest turns first.
        margin: the voice must be this much above the second best one (in natural log-likelihood ratio where the model is
            calibrated, otherwise in cosine).
    """

    min_seconds: float = 2.0
    max_seconds: float = 60.0
    margin: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.min_seconds <= self.max_seconds < float("inf"):
            raise InputError(
                "min_seconds must be above 0 and at most max_seconds (both in seconds), "
                f"found {self.min_seconds:g} and {self.max_seconds:g}"
            )
        if not 0 <= self.margin < float("inf"):
            raise InputError(f"margin must be 0 or more, found {self.margin:g}")


@dataclasses.dataclass(frozen=True)
class LabelledSpeaker:
    """One speaker of the recording.

    Attributes:
        speaker: as the turns call them.
        name: of the enrolled voice; None for unknown.
        seconds: in which they speak and nobody else does.
        best: the voice most like them; None where there was too little speech to compare.
        second: the next voice; None where there is none.
        reason: why they have no name; empty where they have one.
    """

    speaker: str
    name: str | None
    seconds: float
    best: VoiceScore | None
    second: VoiceScore | None
    reason: str


def label_speakers(
    embedder: Embedder,
    turns: Turns,
    recording: str | os.PathLike[str],
    store: VoiceStore,
    settings: LabelSettings | None = None,
    how: Extraction | None = None,
    *,
    dim: int | None = None,
    threshold: float | None = None,
    prior: float | None = None,
    max_false_accept: float | None = None,
) -> tuple[LabelledSpeaker, ...]:
    """Compare each speaker of a recording with the enrolled voices.

    A speaker gets one embedding, from all their speech while nobody else speaks: long speech gives a better embedding than the
    mean of short ones. A voice is given to one speaker at most, the one most like it; nobody gets their second best voice.

    Args:
        embedder: the model that the voices were enrolled with.
        turns: who speaks when, see :func:`mrl.identification.read_turns`.
        recording: the audio that they belong to.
        store: the voice store.
        settings: what a name needs.
        how: how speech becomes an embedding.
        dim, threshold, prior, max_false_accept: as for :func:`identify`, once for each speaker.

    Returns:
        The speakers in the order in which they first speak.

    Raises:
        AudioLoadingError: the recording cannot be used.
        DataError: turns lie beyond its end, no voice is enrolled, or they are of another model.
        InputError: unusable arguments.
    """
    wanted = settings or LabelSettings()
    length = audio_info(recording).seconds
    end = max(turn.end for turn in turns.turns)
    if end > length + _BEYOND_SECONDS:
        raise DataError(
            f"{turns.source} has turns up to {end:.1f} s, {os.fspath(recording)} ends at {length:.1f} s; "
            "give the turns of this recording"
        )
    speakers = []
    for speaker, stretches in turns.alone().items():
        usable = [(start, min(stop, length)) for start, stop in stretches if min(stop, length) - start >= _SHORTEST_SECONDS]
        seconds = sum(stop - start for start, stop in usable)
        if seconds < wanted.min_seconds:
            reason = f"{seconds:.1f} s alone, {wanted.min_seconds:g} s are needed"
            speakers.append(LabelledSpeaker(speaker, None, seconds, None, None, reason))
            continue
        speech = _speech(recording, usable, wanted.max_seconds)
        try:
            name = f"{speaker} in {os.fspath(recording)}"
            embedded = embed_recording(embedder, speech, how, name=name, sample_rate=SAMPLE_RATE)
        except AudioLoadingError as error:  # silence where speech should be
            speakers.append(LabelledSpeaker(speaker, None, seconds, None, None, str(error)))
            continue
        identified = identify(
            embedder,
            embedded,
            store,
            dim=dim,
            top=2,
            threshold=threshold,
            prior=prior,
            max_false_accept=max_false_accept,
        )
        speakers.append(_decided(speaker, seconds, identified, wanted.margin))
    return _each_voice_once(speakers)


def new_names(speakers: Iterable[LabelledSpeaker]) -> Mapping[str, str]:
    """Return the names to write into the turns; an unknown speaker who has an enrolled name already gets "unknown NAME"."""
    known = list(speakers)
    names = {labelled.speaker: labelled.name for labelled in known if labelled.name is not None}
    given = set(names.values())
    others = (labelled.speaker for labelled in known if labelled.name is None)
    return names | {speaker: f"unknown {speaker}" for speaker in others if speaker in given}


def _speech(recording: str | os.PathLike[str], stretches: list[tuple[float, float]], most: float) -> Waveform:
    """Return the samples of the longest stretches, ``most`` seconds in all, in the order of the recording."""
    chosen: list[tuple[float, float]] = []
    left = most
    for start, stop in sorted(stretches, key=lambda stretch: stretch[0] - stretch[1]):
        used = min(stop - start, left)
        if used < _SHORTEST_SECONDS:
            break
        chosen.append((start, used))
        left -= used
    parts = [load_audio(recording, offset=start, duration=used, allow_silence=True) for start, used in sorted(chosen)]
    return np.concatenate(parts)


def _decided(speaker: str, seconds: float, identified: Identification, margin: float) -> LabelledSpeaker:
    best, second = (*identified.candidates, None)[:2]
    assert best is not None
    name, reason = identified.name, ""
    if identified.rule.threshold is None:
        reason = identified.rule.absence
    elif name is None:
        reason = "no enrolled voice is like enough"
    elif second is not None and best.rank - second.rank < margin:
        name, reason = None, f"as much like {second.name}"
    return LabelledSpeaker(speaker, name, seconds, best, second, reason)


def _each_voice_once(speakers: list[LabelledSpeaker]) -> tuple[LabelledSpeaker, ...]:
    highest: dict[str, LabelledSpeaker] = {}
    for labelled in speakers:
        if labelled.name is not None and labelled.best is not None:
            rival = highest.get(labelled.name)
            if rival is None or rival.best is None or labelled.best.rank > rival.best.rank:
                highest[labelled.name] = labelled
    return tuple(
        labelled
        if labelled.name is None or highest[labelled.name] is labelled
        else dataclasses.replace(labelled, name=None, reason=f"{highest[labelled.name].speaker} is more like {labelled.name}")
        for labelled in speakers
    )
