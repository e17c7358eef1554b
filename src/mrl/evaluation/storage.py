"""What storing embeddings in fewer bytes costs: error rates and recall for every storage format at every prefix length."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl.embeddings.compact import (
    EMBEDDING_FORMATS,
    EmbeddingFormat,
    Encoded,
    bytes_per_embedding,
    count_bits,
    decode_embeddings,
    encode_embeddings,
    encoded_cosines,
)
from mrl.errors import DataError, InputError
from mrl.evaluation.figures import DimFigures
from mrl.evaluation.measure import SystemScores, evaluate_systems
from mrl.evaluation.result import EvaluationResult
from mrl.evaluation.settings import MeasurementSettings
from mrl.evaluation.systems import TableSystem, open_lineup
from mrl.hardware import hardware_line
from mrl.scoring.bootstrap import MINIMUM_SPEAKERS, Interval, Resampling, SpeakerResamples, interval_of
from mrl.scoring.cosine import check_dims, prefix_norms, score_prefixes
from mrl.settings import changed
from mrl.trials.lists import TrialList
from mrl.trials.speakers import speakers_of_trials

RANKS = (1, 10)
"""How many of the highest scores the right voice may be among."""

# Trials, and query-voice pairs, compared at a time: they bound the memory.
_BLOCK = 1 << 16
_BLOCK_PAIRS = 1 << 22


def score_encoded(encoded: Encoded, form: EmbeddingFormat, dim: int, trials: TrialList) -> npt.NDArray[np.float32]:
    """Return the cosine (trials,) of what the two sides of every trial hold.

    Those of ``binary`` are counted bit by bit: equal distances give equal scores, so no tie is broken by rounding.

    Args:
        encoded: (utterances, bytes), row i belongs to ``trials.utterances[i]``.
        form, dim: what they were encoded as.
        trials: the list.

    Raises:
        InputError: wrong shape or unknown format.
        DataError: damaged bytes.
    """
    expected = (len(trials.utterances), bytes_per_embedding(form, dim))
    if encoded.shape != expected:
        raise InputError(f"{form} embeddings of {dim} dims, one for each utterance, are bytes {expected}; found {encoded.shape}")
    if form != "binary":
        return score_prefixes(decode_embeddings(encoded, form, dim), trials, [dim])[dim]
    words = np.ascontiguousarray(encoded).view("<u8")
    scores = np.empty(len(trials), dtype=np.float32)
    for start in range(0, len(trials), _BLOCK):
        rows = slice(start, start + _BLOCK)
        differing = count_bits(words[trials.enrol[rows]] ^ words[trials.test[rows]]).sum(axis=1, dtype=np.int64)
        scores[rows] = 1.0 - 2.0 * differing / dim
    return scores


@dataclass(frozen=True, eq=False)
class ClosedSet:
    """Closed-set identification: one utterance of each speaker is enrolled, all others are queries of enrolled speakers.

    Attributes:
        enrolled: (speakers,) utterance enrolled for each speaker.
        queries: (queries,) utterances, ascending.
        speaker: (queries,) the speaker of each query.
        seed: that the enrolled utterances were drawn with.
    """

    enrolled: npt.NDArray[np.int64]
    queries: npt.NDArray[np.int64]
    speaker: npt.NDArray[np.int64]
    seed: int

    @classmethod
    def draw(cls, of_utterance: npt.ArrayLike, *, seed: int = 0) -> ClosedSet:
        """Draw one utterance of each speaker.

        Args:
            of_utterance: (utterances,) number of the speaker of each utterance; all numbers from 0 up occur.
            seed: of the draw.

        Raises:
            DataError: no speaker has a second utterance.
        """
        owner = np.asarray(of_utterance, dtype=np.int64)
        # The first of each speaker in a random order: every utterance of a speaker is equally likely.
        order = np.random.default_rng(seed).permutation(len(owner))
        _, first = np.unique(owner[order], return_index=True)
        enrolled = order[first]
        queries = np.setdiff1d(np.arange(len(owner)), enrolled)
        if not len(queries):
            raise DataError(f"none of the {len(enrolled)} speakers has a second utterance, so there is nothing to identify")
        return cls(enrolled, queries, owner[queries], seed)


@dataclass(frozen=True)
class Recall:
    """Share of queries whose speaker is among the voices with the highest scores, in 0..1, and its 95 % interval.

    The interval resamples the speakers of the queries, the voices enrolled stay; None where not asked for.
    """

    value: float
    interval: Interval | None


def recall_at(
    encoded: Encoded,
    form: EmbeddingFormat,
    dim: int,
    closed_set: ClosedSet,
    ranks: Sequence[int],
    *,
    resamples: SpeakerResamples | None = None,
) -> dict[int, Recall | None]:
    """Return how often the right voice is among the first 1, 10, ...

    Where voices tie with the right one (binary embeddings often do), the share of the orders that put it high enough counts.

    Args:
        encoded: (utterances, bytes).
        form, dim: what they were encoded as.
        closed_set: who is enrolled and who asks.
        ranks: such as ``(1, 10)``.
        resamples: of the same speakers, in the same order, for intervals.

    Returns:
        ``{rank: recall}``; None where there are no more voices than ``rank``, which would make it 1 whatever the scores.
    """
    above, tied = _places(encoded, form, dim, closed_set)
    voices = len(closed_set.enrolled)
    recall: dict[int, Recall | None] = {}
    for rank in ranks:
        hits = np.clip((rank - above) / tied, 0.0, 1.0)
        recall[rank] = Recall(float(hits.mean()), _interval(hits, closed_set, resamples)) if voices > rank else None
    return recall


def _places(
    encoded: Encoded, form: EmbeddingFormat, dim: int, closed_set: ClosedSet
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return (queries,) how many voices score higher than the right one, and how many as high, itself included."""
    gallery = encoded[closed_set.enrolled]
    above = np.empty(len(closed_set.queries), dtype=np.int64)
    tied = np.empty_like(above)
    block = max(1, _BLOCK_PAIRS // len(gallery))
    for start in range(0, len(above), block):
        rows = slice(start, start + block)
        scores = encoded_cosines(encoded[closed_set.queries[rows]], gallery, form, dim)
        right = np.take_along_axis(scores, closed_set.speaker[rows, None], axis=1)
        above[rows] = np.count_nonzero(scores > right, axis=1)
        tied[rows] = np.count_nonzero(scores == right, axis=1)
    return above, tied


def _interval(hits: npt.NDArray[np.float64], closed_set: ClosedSet, resamples: SpeakerResamples | None) -> Interval | None:
    if resamples is None:
        return None
    voices = len(closed_set.enrolled)
    hits_of = np.bincount(closed_set.speaker, weights=hits, minlength=voices)
    queries_of = np.bincount(closed_set.speaker, minlength=voices)
    asked = resamples.multiplicities @ queries_of
    with np.errstate(invalid="ignore"):  # a resample without queries is left out
        return interval_of(resamples.multiplicities @ hits_of / asked)


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
    resampling: Resampling | None = None,
    *,
    provenance: Mapping[str, Any] | None = None,
    **changes: Any,
) -> QuantisationResult:
    """Encode embeddings in every format at every prefix length, and measure what is left.

    Where paths do not tell the speakers and ``speakers`` is not given, or where there are too few of them, intervals and the
    identification experiment are left out, and the result says why.

    Args:
        matrix: (utterances, dim), of any scale, row i belongs to ``trials.utterances[i]``.
        trials: the list.
        dims: prefix lengths.
        resampling: how intervals are made; its seed also draws which utterance of each speaker is enrolled.
        provenance: what reports should say about where this came from.
        changes: settings of :class:`mrl.scoring.Resampling` by keyword, such as ``bootstrap=0``.

    Raises:
        DataError: embeddings that are not finite or zero, a list with one kind of trial only, or speakers that do not fit it.
        InputError: unusable arguments.
    """
    how = changed(resampling or Resampling(), changes)
    rows = np.asarray(matrix, dtype=np.float32)
    if rows.ndim != 2 or len(rows) != len(trials.utterances):
        raise InputError(f"embeddings must be (utterances, dim), one for each of {len(trials.utterances)}; found {rows.shape}")
    ordered = check_dims(dims, rows.shape[1])
    prefix_norms(rows[:, : ordered[-1]], ordered, trials.utterances)  # names the utterance that cannot be encoded
    closed_set, num_speakers, notes = _closed_set(trials, how)
    if how.bootstrap and num_speakers is not None and num_speakers < MINIMUM_SPEAKERS:
        notes.append(f"No intervals: the list has {num_speakers} speakers, an interval needs at least {MINIMUM_SPEAKERS}.")
    if num_speakers is None or num_speakers < MINIMUM_SPEAKERS:
        how = replace(how, bootstrap=0)
    resamples = how.draw(trials)
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
        how,
        reference=("float32", ordered[-1]),
        provenance=provenance,
    )
    return QuantisationResult(_rows(evaluation, ordered, recall), evaluation, closed_set, tuple(notes))


def _closed_set(trials: TrialList, how: Resampling) -> tuple[ClosedSet | None, int | None, list[str]]:
    """Return the identification experiment, the number of speakers, and why there is none of either."""
    try:
        names, of_utterance = speakers_of_trials(trials, how.speakers)
    except DataError as error:
        if how.speakers is not None:
            raise
        return None, None, [f"No intervals and no identification: {error}."]
    try:
        return ClosedSet.draw(of_utterance, seed=how.seed), len(names), []
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


def quantise_spec(
    spec: str,
    trials: TrialList,
    root: str | os.PathLike[str] | None,
    settings: MeasurementSettings | None = None,
    **changes: Any,
) -> QuantisationResult | None:
    """Measure every storage format at every prefix length of one model or file of embeddings, on one trial list.

    Args:
        spec: a model folder, official checkpoint, exported file, released name, or embedding file.
        trials: the list.
        root: the data root; needed for a model, refused with an embedding file.
        settings: everything else; a baseline cannot be measured.
        changes: settings of :class:`MeasurementSettings` by keyword.

    Returns:
        None in a process that only helps to embed (see :class:`EmbeddingSettings`).

    Raises:
        InputError: arguments that do not go together, otherwise as :func:`mrl.evaluation.systems.open_lineup`.
        DataError: missing or unreadable recordings (all counted), or as :func:`mrl.evaluation.measure_formats`.
    """
    how = changed(settings or MeasurementSettings(), {**changes, "own_backbone": False})
    if how.baseline is not None:
        raise InputError(f"storage formats are compared for one model; leave the baseline out ({how.baseline})")
    trials.require_both_classes()  # what is wrong with a list should show before hours of work
    if how.speakers is not None:
        speakers_of_trials(trials, how.speakers)
    system = open_lineup([spec], how).systems[0]
    facts: dict[str, Any] = {"command": list(how.command), "model": spec, "hardware": hardware_line(how.device)}
    if isinstance(system, TableSystem):
        how.refuse_for_table(spec, root=root)
        facts |= {"embeddings_sha256": system.sha256, "embeddings_metadata": system.table.metadata}
        matrix = system.table.matrix[trials.indices_into(system.table.ids)]
    else:
        if root is None:
            raise InputError("a data root is needed: the folder below which the paths of the trial list lie (--root)")
        facts |= {"model_sha256": system.sha256, "data_root": str(root), "max_seconds": how.extraction.max_seconds}
        with how.processes.together():
            matrix = how.embed(system.model, trials.utterances, trials.paths(root), description=system.name)[0]
    if not how.processes.is_first:
        return None  # the first process alone scores
    return measure_formats(matrix, trials, system.dims, how, provenance=facts)
