"""What the API does, without the web: encoded recordings in, answers out. Every method may be called from several threads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrl.errors import DataError, InputError
from mrl.identification import (
    EmbeddedRecording,
    Voice,
    VoiceEmbedder,
    VoiceStore,
    enrol,
    identify,
    verify_voice,
    voice_score,
)
from mrl.identification.database import clean_name
from mrl.identification.embedder import SHORT_SECONDS
from mrl.serving import answers
from mrl.serving.limits import Limits
from mrl.serving.recordings import decode_recording
from mrl.serving.refusals import Refusal
from mrl.version import __version__

MOST_CANDIDATES = 20


class VoiceService:
    """A model and a store of voices.

    Args:
        embedder: the model.
        store: the voice store's file, made if it is not there.
        limits: on recordings and names.

    Raises:
        DataError: the store is damaged, or its voices are of another model.
    """

    def __init__(self, embedder: VoiceEmbedder, store: str | os.PathLike[str], limits: Limits) -> None:
        self._embedder, self._limits = embedder, limits
        self._store = VoiceStore.open_or_create(store, embed_dim=embedder.embed_dim)
        self._store.require_model(embedder.model_hash)
        self.dims = sorted({dim for dim in embedder.mrl_dims if dim < embedder.embed_dim} | {embedder.embed_dim})
        # Cosines of sign vectors are on another scale than those that a calibration is made from.
        usable = embedder.calibration is not None and self._store.form != "binary"
        self._calibrated = [dim for dim in self.dims if usable and dim in embedder.calibration.dims]  # type: ignore[union-attr]

    @property
    def store_path(self) -> Path:
        """The voice store's file."""
        return self._store.path

    def model(self) -> answers.Model:
        """Describe the model."""
        limits = self._limits
        return answers.Model(
            name=Path(self._embedder.name).name,
            embed_dim=self._embedder.embed_dim,
            dims=self.dims,
            calibrated_dims=self._calibrated,
            model_hash=self._embedder.model_hash,
            format=self._store.form,
            version=__version__,
            limits=answers.ServedLimits(
                max_bytes=limits.max_bytes,
                max_seconds=limits.max_seconds,
                max_files=limits.max_files,
                max_name=limits.max_name,
            ),
        )

    def voices(self, offset: int, limit: int) -> answers.Voices:
        """List enrolled voices."""
        known = self._store.voices(offset, limit)
        return answers.Voices(total=len(self._store), voices=[_voice_info(voice) for voice in known])

    def enrol(self, name: str, recordings: Sequence[bytes], *, extend: bool) -> answers.Enrolled:
        """Enrol a voice, or add recordings to one.

        Raises:
            Refusal: 409 the name is taken; 404 there is no voice to add to; a recording cannot be used.
            InputError, DataError: as for :func:`mrl.identification.enrol`.
        """
        wanted = self._new_name(name)
        known = wanted in self._store
        if known and not extend:
            raise Refusal(409, f"a voice {wanted!r} is enrolled already; add to it, remove it first, or choose another name")
        if extend and not known:
            raise _not_enrolled(wanted)
        heard = [self._hear(data, f"recording {number}: ") for number, data in enumerate(recordings, start=1)]
        voice = enrol(self._embedder, wanted, heard, self._store.path, extend=extend)
        return answers.Enrolled(
            voice=_voice_info(voice), recordings=[_recording(one) for one in heard], warnings=_warnings(heard)
        )

    def verify(self, name: str, recording: bytes) -> answers.Verified:
        """Compare a recording with a voice, at every dim.

        Raises:
            Refusal: 404 there is no such voice; the recording cannot be used.
        """
        wanted = clean_name(name)
        if wanted not in self._store:
            raise _not_enrolled(wanted)
        heard = self._hear(recording)
        scores: list[answers.DimScore] = []
        decision: tuple[int, bool | None, str] | None = None
        for dim in self.dims:
            found, rule = verify_voice(self._embedder, wanted, heard, self._store, dim=dim)
            scores.append(
                answers.DimScore(
                    dim=dim,
                    score=found.score,
                    log_likelihood_ratio=found.log_likelihood_ratio,
                    threshold=rule.threshold,
                    accepted=found.accepted,
                )
            )
            if found.accepted is not None:
                decision = dim, found.accepted, rule.basis
        dim_decided, accepted, basis = decision or (None, None, "")
        return answers.Verified(
            name=wanted,
            recording=_recording(heard),
            scores=scores,
            accepted=accepted,
            decided_at_dim=dim_decided,
            basis=basis,
            warnings=_warnings([heard]),
        )

    def identify(self, recording: bytes, top: int) -> answers.Identified:
        """Say whose voice a recording may be.

        Raises:
            Refusal: 409 no voice is enrolled; the recording cannot be used.
        """
        if not len(self._store):
            raise Refusal(409, "no voice is enrolled; enrol one first")
        heard = self._hear(recording)
        found = identify(self._embedder, heard, self._store, top=min(top, MOST_CANDIDATES))
        candidates = []
        for one in found.candidates:
            scores = self._scores(one.name, heard)
            if scores:
                candidates.append(
                    answers.Candidate(
                        name=one.name,
                        score=one.score,
                        log_likelihood_ratio=one.log_likelihood_ratio,
                        accepted=one.accepted,
                        scores=scores,
                    )
                )
        return answers.Identified(
            recording=_recording(heard),
            candidates=candidates,
            decided=found.rule.threshold is not None,
            name=found.name,
            threshold=found.rule.threshold,
            basis=found.rule.basis,
            voices=found.voices,
            warnings=_warnings([heard]),
        )

    def remove(self, name: str) -> None:
        """Delete a voice and every trace of it in the store's files.

        Raises:
            Refusal: 404 there is no such voice.
        """
        wanted = clean_name(name)
        if wanted not in self._store:
            raise _not_enrolled(wanted)
        self._store.remove([wanted])

    def _scores(self, name: str, heard: EmbeddedRecording) -> list[answers.Score]:
        """Return the scores at every dim; none where the voice has been deleted meanwhile."""
        try:
            return [answers.Score(dim=dim, score=voice_score(self._store, name, heard, dim)) for dim in self.dims]
        except DataError:
            if name in self._store:
                raise
            return []

    def _hear(self, data: bytes, which: str = "") -> EmbeddedRecording:
        try:
            waveform = decode_recording(data, self._limits)
            return self._embedder.embed_waveform(np.ascontiguousarray(waveform), "a recording that was sent")
        except Refusal as refusal:
            raise Refusal(refusal.status, f"{which}{refusal}", refusal.headers) from refusal
        except InputError as error:
            raise Refusal(422, f"{which}{error}") from error

    def _new_name(self, name: str) -> str:
        """Return a name for a voice that can be part of an address, too."""
        cleaned = clean_name(name)
        if len(cleaned) > self._limits.max_name or "/" in cleaned or "\\" in cleaned or not cleaned.strip("."):
            raise InputError(f"a name has 1 to {self._limits.max_name} characters without / and \\, and not only dots")
        return cleaned


def _not_enrolled(name: str) -> Refusal:
    return Refusal(404, f"there is no voice {name!r}")


def _voice_info(voice: Voice) -> answers.VoiceInfo:
    return answers.VoiceInfo(
        name=voice.name,
        recordings=voice.recordings,
        seconds=voice.seconds,
        enrolled_at=voice.enrolled_at,
        updated_at=voice.updated_at,
    )


def _recording(heard: EmbeddedRecording) -> answers.Recording:
    return answers.Recording(seconds=heard.seconds, speech_seconds=heard.speech_seconds)


def _warnings(heard: Sequence[EmbeddedRecording]) -> list[str]:
    return [
        f"{one.speech_seconds:.2f} s of speech in a recording of {one.seconds:.2f} s; "
        f"below {SHORT_SECONDS:g} s scores are uncertain"
        for one in heard
        if one.speech_seconds < SHORT_SECONDS
    ]
