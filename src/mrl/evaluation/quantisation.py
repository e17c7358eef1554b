"""What storing embeddings in fewer bytes costs: error rates and recall for every storage format at every prefix length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl.embeddings.compact import EMBEDDING_FORMATS, EmbeddingFormat, bytes_per_embedding, encode_embeddings
from mrl.errors import DataError, InputError
from mrl.evaluation.closed_set import ClosedSet, Recall, recall_at
from mrl.evaluation.evaluate import SystemScores, evaluate_systems
from mrl.evaluation.quantised_scores import score_encoded
from mrl.evaluation.result import DimFigures, EvaluationResult
from mrl.scoring.bootstrap import MINIMUM_SPEAKERS, SpeakerResamples
from mrl.scoring.cosine import check_dims, prefix_norms
from mrl.trials.lists import TrialList
from mrl.trials.speakers import speakers_of_trials

RANKS = (1, 10)
"""How many of the highest scores the right voice may be among."""


@dataclass(frozen=True)
class FormatFigures:
    """Figures of one storage format at one prefix length.

    Attributes:
        form: the format.
        dim: the prefix length.
        bytes_per_voice: of one encoded embedding.
        figures: of the trials; ``versus_same_dim`` is the difference to float32 at the same length.
        relative_to_float32: change of the equal error rate relative to float32 at the same length (0.01 is one hundredth
            more); None where that of float32 is 0.
        recall: rank -> recall of the identification experiment; None where there are too few voices; empty without one.
        is_best_for_its_bytes: no other combination has both as few bytes and as low an equal error rate (of equals, the first).
    """

    form: EmbeddingFormat
    dim: int
    bytes_per_voice: int
    figures: DimFigures
    relative_to_float32: float | None
    recall: dict[int, Recall | None]
    is_best_for_its_bytes: bool


@dataclass(frozen=True)
class QuantisationResult:
    """All figures of one comparison of storage formats.

    Attributes:
        rows: by format, then by dim.
        evaluation: the same trials as an evaluation in which every format is a system.
        closed_set: the identification experiment; None where speakers are not known.
        notes: what a reader should know besides.
    """

    rows: tuple[FormatFigures, ...]
    evaluation: EvaluationResult
    closed_set: ClosedSet | None
    notes: tuple[str, ...] = ()

    def at(self, form: EmbeddingFormat, dim: int) -> FormatFigures:
        """Return the figures of one combination.

        Raises:
            InputError: it was not measured.
        """
        for row in self.rows:
            if (row.form, row.dim) == (form, dim):
                return row
        raise InputError(f"{form} at {dim} dims was not measured")


def measure_formats(
    matrix: npt.ArrayLike,
    trials: TrialList,
    dims: Iterable[int],
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    speakers: Mapping[str, str] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> QuantisationResult:
    """Encode embeddings in every format at every prefix length, and measure what is left.

    Where paths do not tell the speakers and ``speakers`` is not given, or where there are too few of them, intervals and the
    identification experiment are left out, and the result says why.

    Args:
        matrix: (utterances, dim), of any scale, row i belongs to ``trials.utterances[i]``.
        trials: the list.
        dims: prefix lengths.
        bootstrap: resamples of the speakers for 95 % intervals; 0 for none.
        seed: of the resamples, and of which utterance of each speaker is enrolled.
        speakers: utterance -> speaker, where paths do not tell.
        provenance: what reports should say about where this came from.

    Raises:
        DataError: embeddings that are not finite or zero, a list with one kind of trial only, or speakers that do not fit it.
        InputError: unusable arguments.
    """
    rows = np.asarray(matrix, dtype=np.float32)
    if rows.ndim != 2 or len(rows) != len(trials.utterances):
        raise InputError(f"embeddings must be (utterances, dim), one for each of {len(trials.utterances)}; found {rows.shape}")
    ordered = check_dims(dims, rows.shape[1])
    prefix_norms(rows[:, : ordered[-1]], ordered, trials.utterances)  # names the utterance that cannot be encoded
    closed_set, num_speakers, notes = _closed_set(trials, speakers, seed)
    if bootstrap and num_speakers is not None and num_speakers < MINIMUM_SPEAKERS:
        notes.append(f"No intervals: the list has {num_speakers} speakers, an interval needs at least {MINIMUM_SPEAKERS}.")
    resampled = bootstrap if num_speakers is not None and num_speakers >= MINIMUM_SPEAKERS else 0
    resamples = SpeakerResamples.draw(trials, resampled, seed=seed, speakers=speakers) if resampled else None
    scores: dict[EmbeddingFormat, dict[int, npt.NDArray[np.float32]]] = {}
    recall: dict[tuple[EmbeddingFormat, int], dict[int, Recall | None]] = {}
    for form in EMBEDDING_FORMATS:
        scores[form] = {}
        for dim in ordered:
            encoded = encode_embeddings(rows[:, :dim], form)
            scores[form][dim] = score_encoded(encoded, form, dim, trials)
            if closed_set is not None:
                recall[form, dim] = recall_at(encoded, form, dim, closed_set, RANKS, resamples=resamples)
    evaluation = evaluate_systems(
        [SystemScores(form, by_dim) for form, by_dim in scores.items()],
        trials,
        bootstrap=resampled,
        seed=seed,
        speakers=speakers,
        reference=("float32", ordered[-1]),
        provenance=provenance,
    )
    return QuantisationResult(_rows(evaluation, ordered, recall), evaluation, closed_set, tuple(notes))


def _closed_set(
    trials: TrialList, speakers: Mapping[str, str] | None, seed: int
) -> tuple[ClosedSet | None, int | None, list[str]]:
    """Return the identification experiment, the number of speakers, and why there is none of either."""
    try:
        names, of_utterance = speakers_of_trials(trials, speakers)
    except DataError as error:
        if speakers is not None:
            raise
        return None, None, [f"No intervals and no identification: {error}."]
    try:
        return ClosedSet.draw(of_utterance, seed=seed), len(names), []
    except DataError as error:
        return None, len(names), [f"No identification: {error}."]


def _rows(
    evaluation: EvaluationResult,
    dims: Sequence[int],
    recall: Mapping[tuple[EmbeddingFormat, int], dict[int, Recall | None]],
) -> tuple[FormatFigures, ...]:
    keys = [(form, dim) for form in EMBEDDING_FORMATS for dim in dims]
    sizes = {key: bytes_per_embedding(*key) for key in keys}
    rates = {(form, dim): evaluation.system(form).at(dim).equal_error_rate for form, dim in keys}
    best: set[tuple[EmbeddingFormat, int]] = set()
    lowest = np.inf
    for key in sorted(keys, key=lambda key: (sizes[key], rates[key])):
        if rates[key] < lowest:
            lowest = rates[key]
            best.add(key)
    return tuple(
        FormatFigures(
            form=form,
            dim=dim,
            bytes_per_voice=sizes[form, dim],
            figures=evaluation.system(form).at(dim),
            relative_to_float32=rates[form, dim] / rates["float32", dim] - 1 if rates["float32", dim] > 0 else None,
            recall=recall.get((form, dim), {}),
            is_best_for_its_bytes=(form, dim) in best,
        )
        for form, dim in keys
    )
