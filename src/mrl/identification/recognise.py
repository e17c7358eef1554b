"""Recognising speakers: enrol, verify two recordings or a recording against an enrolled voice, identify among all voices."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mrl.embeddings.calibrated import ModelCalibration
from mrl.embeddings.compact import EmbeddingFormat
from mrl.embeddings.embedder import Embedder
from mrl.embeddings.extraction import Extraction
from mrl.embeddings.recordings import EmbeddedRecording
from mrl.embeddings.verifying import Recording, as_embedded, embedder_rule, verification
from mrl.embeddings.verifying import Verification as Verification
from mrl.embeddings.verifying import verify_files as verify_files
from mrl.errors import DataError, InputError
from mrl.identification.database import Voice, clean_name
from mrl.identification.search import ExactSearch, FunnelSearch, VoiceSearch, hits, unit_queries
from mrl.identification.store import VoiceStore
from mrl.identification.voice_matrix import load_voices, voices_in_memory
from mrl.scoring.decisions import DecisionRule

logger = logging.getLogger(__name__)

SearchMethod = Literal["exact", "approximate"]

_VOICE = "voice:"
_CANDIDATES = 20  # of the highest cosine, among which the highest log-likelihood ratio is looked for first
_WIDENING = 8


@dataclass(frozen=True)
class VoiceScore:
    """How like a recording is to an enrolled voice.

    Attributes:
        name: of the voice.
        score: raw cosine in [-1, 1].
        log_likelihood_ratio: natural logarithm; None without a calibration of the dim.
        accepted: the decision; None for none.
    """

    name: str
    score: float
    log_likelihood_ratio: float | None
    accepted: bool | None

    @property
    def rank(self) -> float:
        """By what voices are ordered: the log-likelihood ratio, or the cosine where there is none."""
        return self.score if self.log_likelihood_ratio is None else self.log_likelihood_ratio


@dataclass(frozen=True)
class Identification:
    """What identifying a recording gave.

    Attributes:
        candidates: the voices most like it, best first.
        rule: how the decision was made.
        voices: how many are enrolled.
    """

    candidates: tuple[VoiceScore, ...]
    rule: DecisionRule
    voices: int

    @property
    def name(self) -> str | None:
        """The voice decided for; None for unknown, or where no decision is made (``rule.threshold`` is then None)."""
        best = self.candidates[0] if self.candidates else None
        return best.name if best is not None and best.accepted else None


def default_store() -> Path:
    """Return where voices are kept unless said otherwise: below ``XDG_DATA_HOME``, by default ``~/.local/share``."""
    given = os.environ.get("XDG_DATA_HOME", "")
    folder = Path(given) if Path(given).is_absolute() else Path.home() / ".local" / "share"
    return folder / "redimnet-mrl" / "voices.sqlite"


def enrol(
    embedder: Embedder,
    name: str,
    recordings: Sequence[Recording],
    store: str | os.PathLike[str],
    how: Extraction | None = None,
    *,
    form: EmbeddingFormat | None = None,
    extend: bool = False,
) -> Voice:
    """Enrol a voice from recordings, weighted by their durations; nothing is stored unless all of them can be used.

    Args:
        embedder: the model.
        name: of the voice.
        recordings: of that speaker alone.
        store: the voice store's file, made if it is not there.
        how: how the recordings become embeddings.
        form: format of the embeddings in a new store; float32 by default.
        extend: add the recordings to the voice of this name.

    Raises:
        AudioLoadingError: a recording cannot be used.
        InputError, DataError: as for :meth:`VoiceStore.add`.
    """
    if not recordings:
        raise InputError("a voice is enrolled from one recording or more")
    _require_enrollable(embedder, name, Path(store), form, extend)  # before the recordings, which may take long
    embedded = [as_embedded(embedder, recording, how) for recording in recordings]
    opened = VoiceStore.open_or_create(store, embed_dim=embedder.embed_dim, form=form)
    return opened.add(
        name,
        np.stack([recording.embedding for recording in embedded]),
        [recording.seconds for recording in embedded],
        model_hash=embedder.model_hash,
        calibration_hash=embedder.calibration_hash,
        extend=extend,
    )


def verify_voice(
    embedder: Embedder,
    name: str,
    recording: Recording,
    store: VoiceStore,
    how: Extraction | None = None,
    *,
    dim: int | None = None,
    threshold: float | None = None,
    prior: float | None = None,
    max_false_accept: float | None = None,
) -> Verification:
    """Compare a recording with one enrolled voice.

    Args:
        embedder: the model that the voice was enrolled with.
        name: of the voice.
        recording: its file, or the recording embedded already.
        store: the voice store.
        how: how the recording becomes an embedding.
        dim: prefix length; all dimensions by default.
        threshold, prior, max_false_accept: as for :func:`decision_rule`.

    Raises:
        AudioLoadingError: the recording cannot be used.
        DataError: there is no such voice, or it is of another model.
        InputError: unusable arguments.
    """
    chosen = store.check_dim(dim)
    store.require_model(embedder.model_hash)
    rule = _rule(embedder, chosen, 1, threshold, prior, max_false_accept, store)
    voice = store.voice(name)
    _warn_of_other_calibration(embedder, voice)
    embedded = as_embedded(embedder, recording, how)
    return verification(rule, voice_score(store, name, embedded, chosen), voice.seconds, embedded.seconds)


def voice_score(store: VoiceStore, name: str, embedded: EmbeddedRecording, dim: int) -> float:
    """Return the raw cosine of a recording and an enrolled voice at one prefix length.

    Raises:
        DataError: there is no such voice.
    """
    matrix = voices_in_memory(store.embedding(name, dim)[None], store.form)
    query = unit_queries(embedded.embedding[:dim], dim, 1)[0]
    return float(hits(matrix, query, np.zeros(1, dtype=np.int64), 1, None).scores[0])


def enrolled_name(first: str, store: str | os.PathLike[str] | None) -> str | None:
    """Return the enrolled voice that the first argument of ``mrl verify`` names; None where it names a recording.

    Args:
        first: a recording's path, a voice's name, or ``voice:NAME``.
        store: the voice store's file; the default one if None.

    Raises:
        InputError: it is both a file here and an enrolled voice.
        DataError: a damaged store.
    """
    if first.startswith(_VOICE):
        return first.removeprefix(_VOICE)
    path = Path(default_store() if store is None else store)
    if Path(first).name != first or (store is None and not path.is_file()):
        return None
    if not path.is_file():
        raise DataError(f"there is no voice store {path}; enrol a voice first (mrl enroll), or name another file (--store)")
    enrolled = first in VoiceStore(path)
    if enrolled and Path(first).exists():
        raise InputError(
            f"{first!r} is a file here and an enrolled voice too: write ./{first} for the file, {_VOICE}{first} for the voice"
        )
    if not enrolled and not Path(first).exists():
        raise InputError(f"{first!r} is neither a file here nor a voice in {path}; mrl voices list shows those that are there")
    return first if enrolled else None


def identify(
    embedder: Embedder,
    recording: Recording,
    store: VoiceStore,
    how: Extraction | None = None,
    *,
    dim: int | None = None,
    top: int = 5,
    method: SearchMethod = "exact",
    threshold: float | None = None,
    prior: float | None = None,
    max_false_accept: float | None = None,
) -> Identification:
    """Say whose voice a recording is, or that it is none of those enrolled.

    Args:
        embedder: the model that the voices were enrolled with.
        recording: its file, or the recording embedded already.
        store: the voice store.
        how: how the recording becomes an embedding.
        dim: prefix length; all dimensions by default.
        top: how many voices to return.
        method: "exact" misses nothing; "approximate" is faster where there are very many voices, and finds the voices of the
            highest log-likelihood ratio only among the 20 of the highest cosine.
        threshold, prior, max_false_accept: as for :func:`decision_rule`, for all voices together.

    Raises:
        AudioLoadingError: the recording cannot be used.
        DataError: no voice is enrolled, or they are of another model.
        InputError: unusable arguments.
    """
    if isinstance(top, bool) or top < 1:
        raise InputError(f"top must be a whole number from 1 up, found {top}")
    chosen = store.check_dim(dim)
    store.require_model(embedder.model_hash)
    voices = load_voices(store, chosen)
    if not len(voices):
        raise DataError(f"no voice is enrolled in {store.path}; enrol some first (mrl enroll)")
    rule = _rule(embedder, chosen, len(voices), threshold, prior, max_false_accept, store)
    embedded = as_embedded(embedder, recording, how)
    # For as many candidates as are wanted here, the exact funnel would have to look at nearly all voices in the end, too.
    search: VoiceSearch = ExactSearch(voices) if method == "exact" else FunnelSearch(voices)
    candidates = _best_voices(search, store, rule, embedded, top, complete=method == "exact")
    return Identification(tuple(candidates), rule, len(voices))


def _best_voices(
    search: VoiceSearch, store: VoiceStore, rule: DecisionRule, embedded: EmbeddedRecording, top: int, *, complete: bool
) -> list[VoiceScore]:
    """Return the ``top`` voices of the highest log-likelihood ratio, or cosine where there is none.

    Durations can put a voice before others of a higher cosine. If ``complete``, the search goes on until none that is left could.
    """
    count = max(top, _CANDIDATES)
    while True:
        nearest = search.search(embedded.embedding[: rule.dim], count)[0]
        numbers = nearest.numbers.tolist()
        names, seconds = store.names(numbers), store.seconds(numbers)
        scored = [
            _scored(rule, names[number], float(score), seconds[number], embedded.seconds)
            for number, score in zip(numbers, nearest.scores, strict=True)
            if number in names and number in seconds  # else it has been deleted meanwhile
        ]
        scored.sort(key=lambda voice: voice.rank, reverse=True)
        if not complete or len(numbers) < count:
            return scored[:top]
        reachable = rule.highest_log_likelihood_ratio(float(nearest.scores[-1]), embedded.seconds)
        if len(scored) >= top and scored[top - 1].rank >= reachable:
            return scored[:top]
        count *= _WIDENING


def _require_enrollable(embedder: Embedder, name: str, store: Path, form: EmbeddingFormat | None, extend: bool) -> None:
    if store.is_file() and store.stat().st_size:
        opened = VoiceStore.open_or_create(store, embed_dim=embedder.embed_dim, form=form)
        opened.require_enrollable(name, embedder.model_hash, extend=extend)
        return
    wanted = clean_name(name)
    if extend:
        raise DataError(f"there is no voice {wanted!r} in {store} to add recordings to")


def usable_calibration(embedder: Embedder, store: VoiceStore | None = None) -> ModelCalibration:
    """Return the model's calibration if it holds for scores against the voices of a store, or why there is none."""
    known = embedder.calibrated
    if known.calibration is None or store is None or store.form != "binary":
        return known
    return ModelCalibration(
        None, f"{store.path} holds signs only, whose cosines have another scale than those that the calibration was made from"
    )


def _rule(
    embedder: Embedder,
    dim: int,
    voices: int,
    threshold: float | None,
    prior: float | None,
    max_false_accept: float | None,
    store: VoiceStore | None = None,
) -> DecisionRule:
    """Return how a recording is decided on; the calibration is opened only where it is needed."""
    return embedder_rule(
        embedder,
        dim,
        voices,
        threshold=threshold,
        prior=prior,
        max_false_accept=max_false_accept,
        known=None if threshold is not None or store is None else usable_calibration(embedder, store),
    )


def _scored(rule: DecisionRule, name: str, score: float, voice_seconds: float, seconds: float) -> VoiceScore:
    ratio = rule.log_likelihood_ratio(score, voice_seconds, seconds)
    return VoiceScore(name, score, ratio, rule.accepts(score, ratio))


def _warn_of_other_calibration(embedder: Embedder, voice: Voice) -> None:
    if voice.calibration_hash and voice.calibration_hash != embedder.calibration_hash:
        logger.warning("%s was enrolled under another calibration of this model; the present one is used", voice.name)
