"""The shapes of what the API answers."""

from __future__ import annotations

from pydantic import BaseModel, Field


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
    """What was heard."""

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
