"""What the API does, without the web: encoded recordings in, answers out. Every method may be called from several threads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, Field

from mrl.audio import SAMPLE_RATE, audio_info, load_audio
from mrl.audio.decoded import Waveform
from mrl.embeddings import EmbeddedRecording, Embedder, embed_recording
from mrl.embeddings.recordings import SHORT_SECONDS
from mrl.errors import AudioLoadingError, DataError, InputError
from mrl.identification import Voice, VoiceStore, enrol, identify, verify_voice, voice_score
from mrl.identification.database import clean_name
from mrl.identification.recognise import usable_calibration
from mrl.serving.gate import Limits, Refusal, one_line
from mrl.version import __version__

# From uploaded bytes to a waveform: only formats that hold their audio themselves, and no more of it than agreed.
#
# ffmpeg's libraries also open playlists, which name other files, and would read those of this machine for whoever uploads
# one. So the first bytes must be those of a format known to hold its own audio, and that decides before any decoder sees
# them.


FORMATS = "wav, flac, ogg, opus, mp3, m4a, aac, aiff, caf or webm"


_STARTS = (b"fLaC", b"OggS", b"caff", b"\x1aE\xdf\xa3")  # the last: EBML, of Matroska and WebM


_MOST_SAMPLES_PER_SECOND = 768_000  # of all channels: eight of them at 96 kHz; bounds what decoding takes of memory


_MARGIN_SECONDS = 0.5  # containers round their lengths


def is_recording(data: bytes) -> bool:
    """Return whether bytes begin as one of the :data:`FORMATS` does."""
    start = _after_id3(data)
    head = data[start : start + 16]
    if start and not head.startswith((b"fLaC", b"\xff")):
        return False  # ffmpeg skips a tag and guesses from what follows: only MP3, AAC and FLAC have one
    return (
        head.startswith(_STARTS)
        or (head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE")
        or (head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"))
        or head[4:8] == b"ftyp"
        or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0)  # MPEG audio, AAC (ADTS)
    )


def decode_recording(data: bytes, limits: Limits) -> Waveform:
    """Return a recording's waveform (samples,) float32 at 16 kHz.

    Raises:
        Refusal: 415 no known format; 413 longer than allowed, or with more channels or a higher rate than any recording has;
            422 damaged or silent.
    """
    if not is_recording(data):
        raise Refusal(415, f"this is no recording in a known format; send {FORMATS}")
    try:
        info = audio_info(data)
        if info.sample_rate * info.channels > _MOST_SAMPLES_PER_SECOND:
            raise Refusal(413, f"{info.channels} channels at {info.sample_rate} Hz are too many; send one at 16000 Hz")
        if info.seconds > limits.max_seconds + _MARGIN_SECONDS:
            raise _too_long(limits)
        # The header may not tell the truth, so no more than this is decoded whatever it says.
        waveform = load_audio(data, duration=limits.max_seconds + 2 * _MARGIN_SECONDS)
    except AudioLoadingError as error:
        raise Refusal(422, one_line(error)) from error
    if len(waveform) > (limits.max_seconds + _MARGIN_SECONDS) * SAMPLE_RATE:
        raise _too_long(limits)
    return waveform


def _too_long(limits: Limits) -> Refusal:
    return Refusal(413, f"a recording may last {limits.max_seconds:g} s at most; send a part of it")


def _after_id3(data: bytes) -> int:
    """Return where the audio starts after ID3v2 tags; 0 without one."""
    start = 0
    while data[start : start + 3] == b"ID3" and len(data) >= start + 10:
        size = 0
        for byte in data[start + 6 : start + 10]:
            size = size << 7 | (byte & 0x7F)
        start += 10 + size + (10 if data[start + 5] & 0x10 else 0)
    if start:  # padding that the tag does not count
        start = len(data) - len(data[start:].lstrip(b"\0"))
    return start


# The shapes of what the API answers.


class Error(BaseModel):
    """What went wrong."""

    error: str = Field(description="One line.")


class Health(BaseModel):
    """That the server lives."""

    status: str = Field(description="Always ok.")


class ServedLimits(BaseModel):
    """How much a request may ask for."""

    max_bytes: int
    max_seconds: float
    max_files: int
    max_name: int


class Model(BaseModel):
    """The model that recordings are compared by."""

    name: str
    embed_dim: int = Field(description="Length of the whole embedding.")
    dims: list[int] = Field(description="Prefix lengths at which scores are given.")
    calibrated_dims: list[int] = Field(description="Those at which decisions are possible.")
    model_hash: str
    format: str = Field(description="In which the store keeps embeddings.")
    version: str = Field(description="Of redimnet-mrl.")
    limits: ServedLimits


class VoiceInfo(BaseModel):
    """An enrolled voice."""

    name: str
    recordings: int
    seconds: float
    enrolled_at: str = Field(description="UTC, ISO 8601.")
    updated_at: str = Field(description="UTC, ISO 8601.")


class Voices(BaseModel):
    """Enrolled voices, sorted by name."""

    total: int
    voices: list[VoiceInfo]


class Recording(BaseModel):
    """A recording that was received."""

    seconds: float
    speech_seconds: float = Field(description="Of it, not quiet.")


class Enrolled(BaseModel):
    """A voice that has just been enrolled, or extended."""

    voice: VoiceInfo
    recordings: list[Recording] = Field(description="Those sent, in their order.")
    warnings: list[str]


class DimScore(BaseModel):
    """How like a recording and a voice are at one prefix length."""

    dim: int
    score: float = Field(description="Raw cosine, -1 to 1.")
    log_likelihood_ratio: float | None = Field(description="Natural logarithm; null without a calibration of the dim.")
    threshold: float | None = Field(description="On the log-likelihood ratio; null without a calibration of the dim.")
    accepted: bool | None = Field(description="The decision; null without a calibration of the dim.")


class Verified(BaseModel):
    """A recording compared with one voice."""

    name: str
    recording: Recording
    scores: list[DimScore] = Field(description="From the shortest prefix to the whole embedding.")
    accepted: bool | None = Field(description="The decision by the longest prefix that is calibrated; null for none.")
    decided_at_dim: int | None
    basis: str = Field(description="What the threshold stands for; empty without a decision.")
    warnings: list[str]


class Score(BaseModel):
    """A raw cosine at one prefix length."""

    dim: int
    score: float


class Candidate(BaseModel):
    """A voice like the recording."""

    name: str
    score: float = Field(description="Raw cosine of the whole embeddings.")
    log_likelihood_ratio: float | None
    accepted: bool | None
    scores: list[Score] = Field(description="From the shortest prefix to the whole embedding.")


class Identified(BaseModel):
    """Whose voice a recording may be."""

    recording: Recording
    candidates: list[Candidate] = Field(description="Best first.")
    decided: bool = Field(description="Whether the model is calibrated for a decision.")
    name: str | None = Field(description="The voice decided for; null for unknown, or without a decision.")
    threshold: float | None
    basis: str
    voices: int = Field(description="How many are enrolled.")
    warnings: list[str]


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

    def __init__(self, embedder: Embedder, store: str | os.PathLike[str], limits: Limits) -> None:
        self._embedder, self._limits = embedder, limits
        self._store = VoiceStore.open_or_create(store, embed_dim=embedder.embed_dim)
        self._store.require_model(embedder.model_hash)
        self.dims = sorted({dim for dim in embedder.mrl_dims if dim < embedder.embed_dim} | {embedder.embed_dim})
        calibration = usable_calibration(embedder, self._store).calibration
        self._calibrated = [] if calibration is None else [dim for dim in self.dims if dim in calibration.dims]

    @property
    def store_path(self) -> Path:
        """The voice store's file."""
        return self._store.path

    def model(self) -> Model:
        """Describe the model."""
        limits = self._limits
        return Model(
            name=Path(self._embedder.name).name,
            embed_dim=self._embedder.embed_dim,
            dims=self.dims,
            calibrated_dims=self._calibrated,
            model_hash=self._embedder.model_hash,
            format=self._store.form,
            version=__version__,
            limits=ServedLimits(
                max_bytes=limits.max_bytes,
                max_seconds=limits.max_seconds,
                max_files=limits.max_files,
                max_name=limits.max_name,
            ),
        )

    def voices(self, offset: int, limit: int) -> Voices:
        """List enrolled voices."""
        known = self._store.voices(offset, limit)
        return Voices(total=len(self._store), voices=[_voice_info(voice) for voice in known])

    def embed_for(self, name: str, recordings: Sequence[bytes], *, extend: bool) -> list[EmbeddedRecording]:
        """Embed recordings that are to be enrolled by :meth:`enrol`, if they can be.

        Raises:
            Refusal: 409 the name is taken; 404 there is no voice to add to; a recording cannot be used.
        """
        wanted = self._new_name(name)
        known = wanted in self._store
        if known and not extend:
            raise Refusal(409, f"a voice {wanted!r} is enrolled already; add to it, remove it first, or choose another name")
        if extend and not known:
            raise _not_enrolled(wanted)
        return [self._embed(data, f"recording {number}: ") for number, data in enumerate(recordings, start=1)]

    def enrol(self, name: str, embedded: Sequence[EmbeddedRecording], *, extend: bool) -> Enrolled:
        """Enrol a voice, or add recordings to one.

        Raises:
            InputError, DataError: as for :func:`mrl.identification.enrol`.
        """
        voice = enrol(self._embedder, self._new_name(name), embedded, self._store.path, extend=extend)
        return Enrolled(
            voice=_voice_info(voice), recordings=[_recording(recording) for recording in embedded], warnings=_warnings(embedded)
        )

    def verify(self, name: str, recording: bytes) -> Verified:
        """Compare a recording with a voice, at every dim.

        Raises:
            Refusal: 404 there is no such voice; the recording cannot be used.
        """
        wanted = clean_name(name)
        if wanted not in self._store:
            raise _not_enrolled(wanted)
        embedded = self._embed(recording)
        scores: list[DimScore] = []
        decision: tuple[int, bool | None, str] | None = None
        for dim in self.dims:
            result = verify_voice(self._embedder, wanted, embedded, self._store, dim=dim)
            scores.append(
                DimScore(
                    dim=dim,
                    score=result.score,
                    log_likelihood_ratio=result.log_likelihood_ratio,
                    threshold=result.rule.threshold,
                    accepted=result.same_speaker,
                )
            )
            if result.same_speaker is not None:
                decision = dim, result.same_speaker, result.rule.basis
        dim_decided, accepted, basis = decision or (None, None, "")
        return Verified(
            name=wanted,
            recording=_recording(embedded),
            scores=scores,
            accepted=accepted,
            decided_at_dim=dim_decided,
            basis=basis,
            warnings=_warnings([embedded]),
        )

    def identify(self, recording: bytes, top: int) -> Identified:
        """Identify the speaker of a recording.

        Raises:
            Refusal: 409 no voice is enrolled; the recording cannot be used.
        """
        if not len(self._store):
            raise Refusal(409, "no voice is enrolled; enrol one first")
        embedded = self._embed(recording)
        result = identify(self._embedder, embedded, self._store, top=min(top, MOST_CANDIDATES))
        candidates = []
        for candidate in result.candidates:
            scores = self._scores(candidate.name, embedded)
            if scores:
                candidates.append(
                    Candidate(
                        name=candidate.name,
                        score=candidate.score,
                        log_likelihood_ratio=candidate.log_likelihood_ratio,
                        accepted=candidate.accepted,
                        scores=scores,
                    )
                )
        return Identified(
            recording=_recording(embedded),
            candidates=candidates,
            decided=result.rule.threshold is not None,
            name=result.name,
            threshold=result.rule.threshold,
            basis=result.rule.basis,
            voices=result.voices,
            warnings=_warnings([embedded]),
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

    def _scores(self, name: str, embedded: EmbeddedRecording) -> list[Score]:
        """Return the scores at every dim; none where the voice has been deleted meanwhile."""
        try:
            return [Score(dim=dim, score=voice_score(self._store, name, embedded, dim)) for dim in self.dims]
        except DataError:
            if name in self._store:
                raise
            return []

    def _embed(self, data: bytes, which: str = "") -> EmbeddedRecording:
        try:
            waveform = decode_recording(data, self._limits)
            return embed_recording(
                self._embedder, np.ascontiguousarray(waveform), name="a recording that was sent", sample_rate=SAMPLE_RATE
            )
        except Refusal as refusal:
            raise Refusal(refusal.status, f"{which}{refusal}", refusal.headers) from refusal
        except (InputError, AudioLoadingError) as error:
            raise Refusal(422, f"{which}{error}") from error

    def _new_name(self, name: str) -> str:
        """Return a name for a voice that can be part of an address, too."""
        cleaned = clean_name(name)
        if len(cleaned) > self._limits.max_name or "/" in cleaned or "\\" in cleaned or not cleaned.strip("."):
            raise InputError(f"a name has 1 to {self._limits.max_name} characters without / and \\, and not only dots")
        return cleaned


def _not_enrolled(name: str) -> Refusal:
    return Refusal(404, f"there is no voice {name!r}")


def _voice_info(voice: Voice) -> VoiceInfo:
    return VoiceInfo(
        name=voice.name,
        recordings=voice.recordings,
        seconds=voice.seconds,
        enrolled_at=voice.enrolled_at,
        updated_at=voice.updated_at,
    )


def _recording(embedded: EmbeddedRecording) -> Recording:
    return Recording(seconds=embedded.seconds, speech_seconds=embedded.speech_seconds)


def _warnings(embedded: Sequence[EmbeddedRecording]) -> list[str]:
    return [
        f"{recording.speech_seconds:.2f} s of speech in a recording of {recording.seconds:.2f} s; "
        f"below {SHORT_SECONDS:g} s scores are uncertain"
        for recording in embedded
        if recording.speech_seconds < SHORT_SECONDS
    ]
