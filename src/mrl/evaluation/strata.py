"""Where a system fails: figures on parts of a trial list, and on all of it under other conditions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mrl.errors import DataError
from mrl.evaluation.result import EvaluationResult, StratumFigures
from mrl.scoring.bootstrap import MINIMUM_SPEAKERS, Interval, SpeakerResamples, bootstrap_metrics, interval_of
from mrl.scoring.cosine import score_changed_test_side
from mrl.scoring.metrics import equal_error_rate
from mrl.trials.lists import TrialList

_ScoreKey = tuple[str, int]

_Scores = Mapping[_ScoreKey, npt.NDArray[np.float32]]

# A column of numbers with more different values than this is divided into quarters.
_MOST_VALUES = 12

_DASH = "–"


@dataclass(frozen=True, eq=False)
class Stratum:
    """A part of a list: which of its trials belong to it."""

    group: str
    name: str
    members: npt.NDArray[np.bool_]


def strata_of_column(trials: TrialList, column: str, values: Mapping[str, str]) -> tuple[Stratum, ...]:
    """Divide a list by a property of its recordings.

    A property with few values (gender, language, device) gives one part for each pair of values, whichever side has which:
    "f–f", "f–m", "m–m". Numbers with many values (seconds, age) give quarters by the smaller value of the two sides.

    Args:
        trials: the list.
        column: the property's name.
        values: utterance -> value, as text.

    Raises:
        DataError: an utterance has no value (all are counted).
    """
    absent = [name for name in trials.utterances if values.get(name) in (None, "")]
    if absent:
        raise DataError(
            f"{len(absent)} of {len(trials.utterances)} utterances have no value of {column!r}, the first is {absent[0]!r}"
        )
    texts = [values[name] for name in trials.utterances]
    numbers = _numbers(texts)
    if numbers is not None and len(set(texts)) > _MOST_VALUES:
        return _quarters(trials, column, numbers)
    names, index = np.unique(np.array(texts, dtype=np.str_), return_inverse=True)
    first, second = index[trials.enrol], index[trials.test]
    pair = np.minimum(first, second) * len(names) + np.maximum(first, second)
    return tuple(
        Stratum(column, f"{names[code // len(names)]}{_DASH}{names[code % len(names)]}", pair == code) for code in np.unique(pair)
    )


def read_column(
    manifest: str | os.PathLike[str], column: str, names: Iterable[str], root: str | os.PathLike[str]
) -> dict[str, str]:
    """Read one column of a manifest for the utterances of trial lists.

    An utterance is found by its name as the manifest's ``path`` writes it, or by both meaning the same file.

    Args:
        manifest: ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` with a column ``path`` (see :func:`mrl.data.read_manifest`).
        column: the column wanted.
        names: utterances, paths below ``root``.
        root: the data root.

    Returns:
        utterance -> value, for the utterances that the manifest has.

    Raises:
        DataError: the manifest is absent or malformed, or lacks the column.
    """
    from mrl.data.manifest import manifest_rows

    by_name: dict[str, str] = {}
    base = Path(manifest).absolute().parent
    columns: set[str] = set()
    for place, row in manifest_rows(manifest):
        columns |= set(row)
        if "path" not in row:
            raise DataError(f"{place}: no column 'path' (columns here: {', '.join(row)})")
        if row.get(column) is not None:
            by_name[str(row["path"])] = str(row[column])
    if column not in columns:
        raise DataError(f"{manifest} has no column {column!r}; its columns are {', '.join(sorted(columns))}")
    by_file = {os.path.normpath(base / name): value for name, value in by_name.items()}
    top = Path(root).absolute()
    known = {name: by_name.get(name, by_file.get(os.path.normpath(top / name))) for name in names}
    return {name: value for name, value in known.items() if value is not None}


def figures_of_strata(
    result: EvaluationResult, trials: TrialList, strata: Sequence[Stratum], *, speakers: Mapping[str, str] | None = None
) -> tuple[StratumFigures, ...]:
    """Measure every system and dim of ``result`` on parts of its list; intervals are from the same resamples.

    Args:
        result: the figures on the whole list.
        trials: that list.
        strata: its parts.
        speakers: utterance -> speaker, as for the whole list.
    """
    resamples = _resamples(result, trials, speakers)
    figures: list[StratumFigures] = []
    for stratum in strata:
        scores = {key: values[stratum.members] for key, values in result.scores.items()}
        figures += _measure(result, stratum.group, stratum.name, scores, trials.labels, stratum.members, resamples, note="")
    return tuple(figures)


def figures_of_condition(
    result: EvaluationResult,
    trials: TrialList,
    group: str,
    name: str,
    matrices: Mapping[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]],
    *,
    speakers: Mapping[str, str] | None = None,
    note: str = "",
) -> tuple[StratumFigures, ...]:
    """Measure every system and dim of ``result`` with other recordings on the test side.

    Args:
        result: the figures with the recordings as they are.
        trials: the list.
        group, name: of the condition.
        matrices: system -> (utterances, dim) embeddings of the recordings as they are, and of those under the condition;
            rows of the latter that are on no test side are not looked at.
        speakers: utterance -> speaker, as for the whole list.
        note: what a reader should know.
    """
    scores: dict[_ScoreKey, npt.NDArray[np.float32]] = {}
    for system in result.systems:
        clean, changed = matrices[system.name]
        for dim, values in score_changed_test_side(clean, changed, trials, system.dims).items():
            scores[system.name, dim] = values
    return figures_of_condition_scores(result, trials, group, name, scores, speakers=speakers, note=note)


def figures_of_condition_scores(
    result: EvaluationResult,
    trials: TrialList,
    group: str,
    name: str,
    scores: _Scores,
    *,
    speakers: Mapping[str, str] | None = None,
    note: str = "",
) -> tuple[StratumFigures, ...]:
    """Measure scores ``{(system, dim): (trials,)}`` that were made under a condition; see :func:`figures_of_condition`."""
    everything = np.ones(len(trials), dtype=np.bool_)
    resamples = _resamples(result, trials, speakers)
    return tuple(_measure(result, group, name, scores, trials.labels, everything, resamples, note=note))


def _resamples(result: EvaluationResult, trials: TrialList, speakers: Mapping[str, str] | None) -> SpeakerResamples | None:
    if not result.resamples:
        return None
    return SpeakerResamples.draw(trials, result.resamples, seed=result.seed, speakers=speakers)


def _measure(
    result: EvaluationResult,
    group: str,
    name: str,
    scores: _Scores,
    labels: npt.NDArray[np.bool_],
    members: npt.NDArray[np.bool_],
    resamples: SpeakerResamples | None,
    *,
    note: str,
) -> list[StratumFigures]:
    same = labels[members]
    targets, nontargets = int(np.count_nonzero(same)), int(np.count_nonzero(~same))
    rate = _rates(scores, same) if targets and nontargets else dict.fromkeys(scores)
    intervals = _intervals(scores, members, resamples) if targets and nontargets else dict.fromkeys(scores)
    figures = []
    for (system, dim), values in scores.items():
        accepted = values >= result.system(system).at(dim).threshold
        figures.append(
            StratumFigures(
                group=group,
                name=name,
                system=system,
                dim=dim,
                targets=targets,
                nontargets=nontargets,
                equal_error_rate=rate[system, dim],
                equal_error_rate_interval=intervals[system, dim],
                false_accept_rate=float(accepted[~same].mean()) if nontargets else None,
                false_reject_rate=float(1.0 - accepted[same].mean()) if targets else None,
                note=note,
            )
        )
    return figures


def _rates(scores: _Scores, same: npt.NDArray[np.bool_]) -> dict[_ScoreKey, float | None]:
    return {key: equal_error_rate(values, same) for key, values in scores.items()}


def _intervals(
    scores: _Scores, members: npt.NDArray[np.bool_], resamples: SpeakerResamples | None
) -> dict[_ScoreKey, Interval | None]:
    intervals: dict[_ScoreKey, Interval | None] = dict.fromkeys(scores)
    if resamples is None:
        return intervals
    part = SpeakerResamples(
        resamples.speakers,
        resamples.multiplicities,
        resamples.enrol[members],
        resamples.test[members],
        resamples.labels[members],
    )
    if len(np.union1d(part.enrol, part.test)) < MINIMUM_SPEAKERS:
        return intervals
    replicates = bootstrap_metrics(list(scores.values()), part, p_targets=())
    for key, replicated in zip(scores, replicates, strict=True):
        # Resamples that leave a small part with one kind of trial say nothing; with too many of them there is no interval.
        if np.isnan(replicated.equal_error_rate).mean() <= 0.05:
            intervals[key] = interval_of(replicated.equal_error_rate)
    return intervals


def _numbers(texts: Sequence[str]) -> npt.NDArray[np.float64] | None:
    try:
        numbers = np.array([float(text) for text in texts])
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None


def _quarters(trials: TrialList, column: str, numbers: npt.NDArray[np.float64]) -> tuple[Stratum, ...]:
    smaller = np.minimum(numbers[trials.enrol], numbers[trials.test])
    edges = np.unique(np.percentile(smaller, [0, 25, 50, 75, 100]))
    group = f"{column} (smaller of both sides)"
    if len(edges) == 1:
        return (Stratum(group, f"{edges[0]:g}", np.ones(len(trials), dtype=np.bool_)),)
    place = np.clip(np.searchsorted(edges, smaller, side="right") - 1, 0, len(edges) - 2)
    return tuple(
        Stratum(group, f"{edges[number]:g} to {edges[number + 1]:g}", place == number) for number in range(len(edges) - 1)
    )
