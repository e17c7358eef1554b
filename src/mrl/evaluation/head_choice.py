"""Which way of fitting a head is best for the embeddings at hand, measured on speakers and corpora that it was not fitted to.

Every candidate is fitted to part of the speakers and judged on the others, in turn; and, where it is known which corpus an
utterance comes from, fitted without a corpus and judged on it: the nearest thing to the data of others. Where it is not known,
groups of like voices take the place of corpora. A candidate that makes the full length worse than the embedding itself is out; of
the rest the one with the lowest error rates wins. Error rates over guessed speakers cannot tell whether the full length got
worse: there a candidate is out that changes its cosines too much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl.embeddings.formats import EmbeddingTable
from mrl.embeddings.head import Head, HeadMethod, as_rotation, fit_head, project_embeddings
from mrl.errors import DataError
from mrl.progress import progress_bar
from mrl.scoring import equal_error_rate, score_prefixes
from mrl.trials.lists import TrialList
from mrl.trials.making import make_balanced_trials

CANDIDATES: tuple[HeadMethod, ...] = ("rotation", "uncentred", "pca", "lda", "trained", "trained-rotation")
SAFE: HeadMethod = "uncentred"
"""Cosines at full length stay exactly as they are, and no labels are needed."""

WORST_FULL_LENGTH = 1.02
"""A candidate whose error rate at full length is more than this times that of the embedding itself is out."""

LEAST_KEPT = 0.9
"""Of guessed speakers: a candidate whose cosines at full length correlate less with those of the embedding itself is out."""

LIKELY_BEST: tuple[HeadMethod, ...] = ("trained", "trained-rotation", "pca", "uncentred", "lda", "rotation")
GUESSED_MARGIN = 1.1
"""Of guessed speakers: candidates within this factor of the lowest error rates count as equal, and the one is taken that did best
over known speakers, in the order of :data:`LIKELY_BEST`. By so much guesses were wrong about a trained head
(docs/explanation/strong-network.md)."""

_FOLDS = 3
_MOST_GROUPS = 4
_LIKE_VOICES = 4  # groups of speakers that are put together where no corpora are known
_CLUSTERING_ROUNDS = 25
# With fewer a rate is the luck of single speakers.
_FEWEST_SPEAKERS = 8
_FEWEST_TARGETS = 50
_MOST_TARGETS, _MOST_NONTARGETS = 6_000, 30_000
# A list with fewer errors of the whole embedding weighs less.
_ERRORS_OF_FULL_WEIGHT = 20.0
# Utterances of the speakers that candidates are compared on; the chosen one is fitted to all.
_MOST_COMPARED = 50_000

Rates = dict[int, float]


@dataclass(frozen=True)
class HeldOut:
    """Error rates on utterances that the heads were not fitted to.

    Attributes:
        name: what was held out.
        speakers: how many have several utterances, all parts together.
        targets: same-speaker trials, all parts together.
        full: equal error rate of the whole embedding.
        cut: of its prefixes as they are.
        heads: of each candidate, by dim.
        kept: correlation of each candidate's cosines at full length with those of the whole embedding.
    """

    name: str
    speakers: int
    targets: int
    full: float
    cut: Rates
    heads: dict[HeadMethod, Rates]
    kept: dict[HeadMethod, float]

    @property
    def errors(self) -> float:
        """Same-speaker trials that the whole embedding gets wrong, at least one: how much the list can tell."""
        return max(1.0, self.full * self.targets)

    def relative(self, method: HeadMethod, dim: int) -> float:
        """Return a candidate's error rate over that of the whole embedding; no rate counts as lower than half a trial."""
        least = 0.5 / self.targets
        return max(self.heads[method][dim], least) / max(self.full, least)


@dataclass(frozen=True, eq=False)
class HeadChoice:
    """The head that was chosen, why, and what the candidates did on held-out lists (none where there was too little data)."""

    head: Head
    method: HeadMethod
    why: str
    lists: tuple[HeldOut, ...]

    def as_dict(self) -> dict[str, object]:
        """Return the choice as JSON values, for the head's file."""
        return {
            "why": self.why,
            "held_out": [
                {
                    "name": one.name,
                    "speakers": one.speakers,
                    "targets": one.targets,
                    "full": one.full,
                    "cut": {str(dim): rate for dim, rate in one.cut.items()},
                    "heads": {method: {str(dim): rate for dim, rate in rates.items()} for method, rates in one.heads.items()},
                    "kept": one.kept,
                }
                for one in self.lists
            ],
        }

    def lines(self) -> list[str]:
        """Return what was gained and lost at each dim, as lines of text."""
        lines = [f"chosen: {self.method}, {self.why}"]
        for one in self.lists:
            lines.append(
                f"{one.name} ({one.speakers:,} speakers, {one.targets:,} same-speaker trials): EER % of the whole embedding "
                f"{100 * one.full:.2f}, correlation of cosines with all dimensions {one.kept[self.method]:.2f}"
            )
            for dim, rate in one.heads[self.method].items():
                change = 100 * (one.relative(self.method, dim) - 1.0)
                lines.append(f"  {dim:>5}: {100 * rate:6.2f}   cut {100 * one.cut[dim]:6.2f}   against the whole {change:+.0f} %")
        return lines


def choose_head(
    table: EmbeddingTable,
    speakers: Mapping[str, str],
    *,
    groups: Mapping[str, str] | None = None,
    dims: Sequence[int] | None = None,
    candidates: Sequence[HeadMethod] = CANDIDATES,
    guessed: bool = False,
    seed: int = 0,
) -> HeadChoice:
    """Fit the head that does best on held-out speakers and corpora, and say how it was chosen.

    Args:
        table: the embeddings.
        speakers: id -> speaker, or the groups of :func:`mrl.embeddings.likely_speakers`.
        groups: id -> corpus, domain or language; None: told from ids that are paths with a folder for each speaker. Where nothing
            tells, groups of like voices are held out instead.
        dims: prefix lengths; None: those of :func:`mrl.embeddings.fit_head`.
        candidates: ways of fitting; :data:`SAFE` is always one of them.
        guessed: whether the speakers are likely ones, found in these embeddings. The embedding itself is then right by
            construction, so at full length a candidate is judged by how well it keeps the embedding's cosines.
        seed: of the folds and of the trials.

    Raises:
        DataError: an embedding has no speaker or, where groups are given, no group.
        InputError: dims beyond the embeddings.
    """
    methods = tuple(dict.fromkeys((*candidates, SAFE)))
    sample = _sample(table, speakers, seed)  # says which embeddings have no speaker
    corpora = _corpora(table, speakers, groups)
    tests = _tests(sample, speakers, corpora, seed)
    if not tests:
        head = fit_head(table, None, method=SAFE, dims=dims)  # labels of one utterance each would be refused
        head = replace(head, about={**head.about, "speakers": len({speakers[name] for name in table.ids})})
        why = f"because fewer than {_FEWEST_SPEAKERS} speakers with several utterances could be held out to compare others"
        return HeadChoice(head, SAFE, why, ())
    with progress_bar("fitting heads", len({test.fit.tobytes() for test in tests}) * len(methods) + 1, unit="heads") as advance:
        lists = _measure(sample, speakers, corpora, tests, methods, dims, advance)
        method, why = _chosen(lists, methods, guessed)
        head = fit_head(table, speakers, method=method, dims=dims, groups=corpora)
        advance(1)
    return HeadChoice(head, method, why, lists)


@dataclass(frozen=True, eq=False)
class _Test:
    """Rows to fit to, and trials over other rows. Tests of one name are parts of one list."""

    name: str
    fit: npt.NDArray[np.int64]
    judge: npt.NDArray[np.int64]
    trials: TrialList
    speakers: int


def _sample(table: EmbeddingTable, speakers: Mapping[str, str], seed: int) -> EmbeddingTable:
    """Return the table, or all utterances of random speakers where it is too long to fit to many times."""
    absent = [name for name in table.ids if name not in speakers]
    if absent:
        raise DataError(f"{len(absent)} of {len(table.ids)} embeddings have no speaker, the first is {absent[0]!r}")
    if len(table.ids) <= _MOST_COMPARED:
        return table
    names, of_row = np.unique([speakers[name] for name in table.ids], return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    taken = order[np.cumsum(np.bincount(of_row)[order]) <= _MOST_COMPARED]
    rows = np.flatnonzero(np.isin(of_row, taken))
    return EmbeddingTable(tuple(table.ids[row] for row in rows), table.matrix[rows], table.metadata)


def _tests(table: EmbeddingTable, speakers: Mapping[str, str], corpora: Mapping[str, str], seed: int) -> list[_Test]:
    names, of_row = np.unique([speakers[name] for name in table.ids], return_inverse=True)
    fold = np.random.default_rng(seed).permutation(len(names))[of_row] % _FOLDS
    of_corpus = np.array([corpora[name] for name in table.ids])
    voices = np.array([f"like voices {group + 1}" for group in _like_voices(table.matrix, of_row, seed)])
    if len(np.unique(of_corpus)) == 1:
        of_corpus = voices
    tests = [test for part in range(_FOLDS) for test in _fold_tests(table, of_row, fold == part, of_corpus, seed)]
    held = [_test(f"without {name}", table, of_row, of_corpus == name, seed) for name in np.unique(of_corpus)]
    usable = sorted((test for test in held if test is not None), key=lambda test: -len(test.trials))
    if not usable:
        held = [_test(f"without {name}", table, of_row, voices == name, seed) for name in np.unique(voices)]
        usable = [test for test in held if test is not None]
    return [*tests, *usable[:_MOST_GROUPS]]


def _fold_tests(
    table: EmbeddingTable,
    of_row: npt.NDArray[np.intp],
    held: npt.NDArray[np.bool_],
    of_corpus: npt.NDArray[np.str_],
    seed: int,
) -> list[_Test]:
    """Return a test for each corpus: strangers of two corpora differ in their microphones, which says nothing of voices."""
    names = np.unique(of_corpus)
    if len(names) > 1:
        made = [
            _test(f"held-out speakers of {name}", table, of_row, held, seed, judged=held & (of_corpus == name)) for name in names
        ]
        found = [test for test in made if test is not None]
        if found:
            return found
    whole = _test("held-out speakers", table, of_row, held, seed)
    return [] if whole is None else [whole]


def _test(
    name: str,
    table: EmbeddingTable,
    of_row: npt.NDArray[np.intp],
    held: npt.NDArray[np.bool_],
    seed: int,
    *,
    judged: npt.NDArray[np.bool_] | None = None,
) -> _Test | None:
    """Return a test that is not fitted to the rows ``held``, judged on them or on some of them; None where there are too few."""
    judged = held if judged is None else judged
    fit = np.flatnonzero(~held & ~np.isin(of_row, of_row[held]))  # a speaker of two corpora is not fitted to either
    if min(_speakers_of_several(of_row[judged]), _speakers_of_several(of_row[fit])) < _FEWEST_SPEAKERS:
        return None
    utterances: dict[str, list[str]] = {}
    for row in np.flatnonzero(judged):
        utterances.setdefault(str(of_row[row]), []).append(table.ids[row])
    trials = make_balanced_trials(utterances, max_targets=_MOST_TARGETS, max_nontargets=_MOST_NONTARGETS, seed=seed)
    if trials.num_target < _FEWEST_TARGETS or trials.num_nontarget < _FEWEST_TARGETS:
        return None
    judge = trials.indices_into(table.ids)
    return _Test(name, fit, judge, trials, _speakers_of_several(of_row[judged]))


def _speakers_of_several(of_row: npt.NDArray[np.intp]) -> int:
    return int((np.unique(of_row, return_counts=True)[1] > 1).sum())


def _corpora(table: EmbeddingTable, speakers: Mapping[str, str], groups: Mapping[str, str] | None) -> dict[str, str]:
    if groups is None:
        return {name: _folder_above(name, speakers[name]) for name in table.ids}
    absent = [name for name in table.ids if name not in groups]
    if absent:
        raise DataError(f"{len(absent)} of {len(table.ids)} embeddings have no group, the first is {absent[0]!r}")
    return {name: groups[name] for name in table.ids}


def _folder_above(name: str, speaker: str) -> str:
    """Return the path above the folder of the speaker; empty where the id does not hold it."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return "/".join(parts[: parts.index(speaker)]) if speaker in parts[:-1] else ""


def _like_voices(matrix: npt.NDArray[np.float32], of_row: npt.NDArray[np.intp], seed: int) -> npt.NDArray[np.int64]:
    """Return for each utterance which of :data:`_LIKE_VOICES` groups its speaker belongs to (k-means of the speakers' means)."""
    unit = matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    means = np.zeros((int(of_row.max()) + 1, matrix.shape[1]))
    np.add.at(means, of_row, unit)
    means /= np.bincount(of_row)[:, None]
    centres = means[np.random.default_rng(seed).choice(len(means), min(_LIKE_VOICES, len(means)), replace=False)]
    for _ in range(_CLUSTERING_ROUNDS):
        nearest = ((centres**2).sum(axis=1) - 2 * means @ centres.T).argmin(axis=1)
        for group in np.unique(nearest):
            centres[group] = means[nearest == group].mean(axis=0)
    groups: npt.NDArray[np.int64] = nearest[of_row]
    return groups


def _measure(
    table: EmbeddingTable,
    speakers: Mapping[str, str],
    corpora: Mapping[str, str],
    tests: Sequence[_Test],
    methods: Sequence[HeadMethod],
    dims: Sequence[int] | None,
    advance: Callable[[int], None],
) -> tuple[HeldOut, ...]:
    parts: dict[str, list[HeldOut]] = {}
    rows_fitted_to, fitted = b"", dict[HeadMethod, Head]()
    for test in tests:
        if test.fit.tobytes() != rows_fitted_to:  # tests of one fold follow each other
            rows_fitted_to = test.fit.tobytes()
            fitted_to = EmbeddingTable(tuple(table.ids[row] for row in test.fit), table.matrix[test.fit], table.metadata)
            fitted = {}
            for method in methods:
                if method == "trained-rotation" and "trained" in fitted:
                    fitted[method] = as_rotation(fitted["trained"])
                else:
                    fitted[method] = fit_head(fitted_to, speakers, method=method, dims=dims, groups=corpora)
                advance(1)
        judged = EmbeddingTable(test.trials.utterances, table.matrix[test.judge], table.metadata)
        dims_of_head, width = fitted[SAFE].dims, table.matrix.shape[1]
        plain = score_prefixes(judged.matrix, test.trials, (*dims_of_head, width))
        cut = _rates(plain, test.trials)
        heads, kept = {}, {}
        for method, head in fitted.items():
            scores = score_prefixes(project_embeddings(head, judged).matrix, test.trials, head.dims)
            heads[method] = _rates(scores, test.trials)
            kept[method] = float(np.corrcoef(scores[head.dims[-1]], plain[width])[0, 1])
        parts.setdefault(test.name, []).append(
            HeldOut(
                test.name,
                test.speakers,
                test.trials.num_target,
                cut[width],
                {dim: cut[dim] for dim in dims_of_head},
                heads,
                kept,
            )
        )
    return tuple(_together(name, found) for name, found in parts.items())


def _rates(scores: Mapping[int, npt.NDArray[np.floating[Any]]], trials: TrialList) -> Rates:
    return {dim: equal_error_rate(values, trials.labels) for dim, values in scores.items()}


def _together(name: str, parts: Sequence[HeldOut]) -> HeldOut:
    """Return the mean rates of the parts of one list."""
    first = parts[0]
    return HeldOut(
        name,
        sum(part.speakers for part in parts),
        sum(part.targets for part in parts),
        _mean([part.full for part in parts]),
        {dim: _mean([part.cut[dim] for part in parts]) for dim in first.cut},
        {
            method: {dim: _mean([part.heads[method][dim] for part in parts]) for dim in rates}
            for method, rates in first.heads.items()
        },
        {method: _mean([part.kept[method] for part in parts]) for method in first.kept},
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _chosen(lists: Sequence[HeldOut], methods: Sequence[HeadMethod], guessed: bool = False) -> tuple[HeadMethod, str]:
    """Return the best of the candidates that lose nothing at full length, and why."""
    dims = tuple(lists[0].cut)
    full = dims[-1]
    if guessed:
        dims = dims[:-1] or dims
    lost = {
        method: _change_of(method, lists) if guessed else _loss_at(full, method, lists) for method in methods if method != SAFE
    }
    allowed = [method for method in methods if lost.get(method) is None]
    weights = [min(1.0, one.errors / _ERRORS_OF_FULL_WEIGHT) for one in lists for _ in dims]
    score = {method: _geometric_mean([one.relative(method, dim) for one in lists for dim in dims], weights) for method in allowed}
    ranked = sorted(allowed, key=lambda method: score[method])
    if guessed:
        equal = [method for method in ranked if score[method] <= GUESSED_MARGIN * score[ranked[0]]]
        chosen = min(equal, key=LIKELY_BEST.index)
        ranked = [chosen, *(method for method in ranked if method != chosen)]
    best = "error rates among the lowest" if guessed else "the lowest error rates"
    why = (
        f"{best} on what was held out, {score[ranked[0]]:.2f} times that of the whole embedding "
        f"(geometric mean over {len(lists)} lists and {len(dims)} dims)"
    )
    others = [f"{method} {score[method]:.2f}" for method in ranked[1:]]
    others += [f"{method} loses at {full} dimensions: {loss}" for method, loss in lost.items() if loss is not None]
    return ranked[0], "; ".join([why, *others])


def _change_of(method: HeadMethod, lists: Sequence[HeldOut]) -> str | None:
    """Return how much a candidate changes the cosines at full length, in words; None where it keeps them."""
    kept = _mean([one.kept[method] for one in lists])
    return f"its cosines correlate {kept:.2f} with those of the whole embedding" if kept < LEAST_KEPT else None


def _loss_at(dim: int, method: HeadMethod, lists: Sequence[HeldOut]) -> str | None:
    """Return what a candidate loses at full length, beyond chance, in words; None where it loses nothing.

    A list has so many errors only: half a standard error and one trial are allowed for. Where the head is shorter than the
    embedding, what the safe head loses there is no fault of the candidate.
    """
    relative = [one.relative(method, dim) / max(1.0, one.relative(SAFE, dim)) for one in lists]
    for one, ratio in zip(lists, relative, strict=True):
        if ratio > WORST_FULL_LENGTH + _chance(one.errors):
            return f"{ratio:.2f} times the error rate on {one.name}"
    mean = _geometric_mean(relative, [one.errors for one in lists])
    if mean > WORST_FULL_LENGTH + _chance(sum(one.errors for one in lists)):
        return f"{mean:.2f} times the error rate over all lists"
    return None


def _chance(errors: float) -> float:
    return 0.5 / math.sqrt(errors) + 1.0 / errors


def _geometric_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    logarithms = (weight * math.log(value) for value, weight in zip(values, weights, strict=True))
    return math.exp(sum(logarithms) / sum(weights))
