"""Comparing two recordings: score, log-likelihood ratio, probability and decision."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from mrl.audio import AudioSource
from mrl.audio.memory import InMemory
from mrl.embeddings.calibrated import ModelCalibration
from mrl.embeddings.embedder import Embedder
from mrl.embeddings.extraction import Extraction
from mrl.embeddings.mapping import FileFailure, failure_summary
from mrl.embeddings.recordings import EmbeddedRecording, embed_recording
from mrl.errors import AudioLoadingError, InputError
from mrl.scoring.cosine import cosine_similarity
from mrl.scoring.decisions import DecisionRule, decision_rule

Recording: TypeAlias = "AudioSource | InMemory | EmbeddedRecording"
"""What :func:`embed_recording` takes, or what it made of that."""


@dataclass(frozen=True)
class Verification:
    """What comparing a recording with another one, or with an enrolled voice, gave.

    Attributes:
        score: raw cosine in [-1, 1].
        log_likelihood_ratio: natural logarithm; None without a calibration of the dim.
        same_speaker: the decision; None for none.
        rule: how it was made.
    """

    score: float
    log_likelihood_ratio: float | None
    same_speaker: bool | None
    rule: DecisionRule

    @property
    def probability(self) -> float | None:
        """Probability that the speaker is the same, at the prior :attr:`prior`; None without a calibration of the dim."""
        return self.rule.probability(self.log_likelihood_ratio)

    @property
    def prior(self) -> float | None:
        """Prior probability of one speaker, on which :attr:`probability` rests; None without a calibration of the dim."""
        return self.rule.prior

    @property
    def decision(self) -> str:
        """The decision in words."""
        return {True: "same speaker", False: "different speakers", None: "no decision"}[self.same_speaker]

    def __float__(self) -> float:
        return self.score

    def __str__(self) -> str:
        stated = "" if self.probability is None else f", probability {self.probability:.1%} at prior {self.prior:g}"
        return f"score {self.score:.4f} (cosine){stated}: {self.decision}"


def verify_files(
    embedder: Embedder,
    first: Recording,
    second: Recording,
    how: Extraction | None = None,
    *,
    dim: int | None = None,
    threshold: float | None = None,
    prior: float | None = None,
    max_false_accept: float | None = None,
    sample_rate: int | None = None,
) -> Verification:
    """Compare two recordings.

    Args:
        embedder: the model; a calibration at this very dim gives a log-likelihood ratio, a probability and a decision, one at a
            neighbouring dim is never used in its place.
        first, second: the recordings: anything that :func:`embed_recording` takes.
        how: how they become embeddings.
        dim: prefix length; all dimensions by default.
        threshold, prior, max_false_accept: as for :func:`mrl.scoring.decision_rule`, for one voice.
        sample_rate: of arrays, in Hz; 16 kHz by default.

    Raises:
        AudioLoadingError: a recording cannot be used; both are looked at.
        InputError: unusable arguments.
        CheckpointError: a damaged calibration, or one of another model.
    """
    chosen = embedder.check_dim(dim)
    rule = embedder_rule(embedder, chosen, 1, threshold=threshold, prior=prior, max_false_accept=max_false_accept)
    embedded: list[EmbeddedRecording] = []
    failures: list[FileFailure] = []
    for place, recording in (("the first recording", first), ("the second recording", second)):
        name = os.fsdecode(recording) if isinstance(recording, (str, os.PathLike)) else place
        try:
            embedded.append(as_embedded(embedder, recording, how, name=name, sample_rate=sample_rate))
        except (AudioLoadingError, InputError) as error:
            failures.append(FileFailure(Path(name), str(error)))
    if failures:
        raise AudioLoadingError(failure_summary(failures, 2))
    enrolled, test = embedded
    score = cosine_similarity(enrolled.embedding[: rule.dim], test.embedding[: rule.dim])
    return verification(rule, score, enrolled.seconds, test.seconds)


def as_embedded(embedder: Embedder, recording: Recording, how: Extraction | None = None, **options: Any) -> EmbeddedRecording:
    """Return a recording's embedding, as :func:`embed_recording` does; one that is embedded already as it is."""
    return recording if isinstance(recording, EmbeddedRecording) else embed_recording(embedder, recording, how, **options)


def embedder_rule(
    embedder: Embedder,
    dim: int,
    voices: int,
    *,
    threshold: float | None,
    prior: float | None,
    max_false_accept: float | None,
    known: ModelCalibration | None = None,
) -> DecisionRule:
    """Return how recordings are decided on with this model; see :func:`mrl.scoring.decision_rule`.

    Args:
        known: another calibration than the model's, or why there is none. The model's is opened only where it is needed.
    """
    if threshold is not None:
        known = ModelCalibration(None)
    elif known is None:
        known = embedder.calibrated
    return decision_rule(
        known.calibration,
        dim,
        voices=voices,
        threshold=threshold,
        prior=prior,
        max_false_accept=max_false_accept,
        model=embedder.name,
        absence=known.absence,
    )


def verification(rule: DecisionRule, score: float, voice_seconds: float, seconds: float) -> Verification:
    """Return what a cosine of recordings of these durations means under a rule."""
    ratio = rule.log_likelihood_ratio(score, voice_seconds, seconds)
    return Verification(score, ratio, rule.accepts(score, ratio), rule)
