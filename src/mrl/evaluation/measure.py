"""From embeddings or scores and a trial list to figures at every prefix length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mrl.dims import default_dims
from mrl.errors import InputError
from mrl.evaluation.figures import P_TARGETS, CalibratedFigures, DimFigures
from mrl.evaluation.result import EvaluationResult, ListFacts, ProtocolFacts, SystemResult
from mrl.hardware import hardware_line
from mrl.scoring.bootstrap import Replicates, Resampling, SpeakerResamples, bootstrap_metrics, paired_difference
from mrl.scoring.cosine import check_dims, score_prefixes
from mrl.settings import changed
from mrl.trials.lists import TrialList
from mrl.version import __version__

if TYPE_CHECKING:
    pass


_ScoreKey = tuple[str, int]


@dataclass(frozen=True, eq=False)
class SystemEmbeddings:
    """One system to be measured.

    Attributes:
        name: for tables and plots.
        matrix: (utterances, dim), row i belongs to ``trials.utterances[i]``.
        dims: prefix lengths to be measured.
    """

    name: str
    matrix: npt.ArrayLike
    dims: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class SystemScores:
    """One system whose trials were scored already, by whatever protocol.

    Attributes:
        name: for tables and plots.
        scores: ``{dim: (trials,)}``; higher means more likely the same speaker.
        log_likelihood_ratios: ``{dim: (trials,)}`` natural logarithms, for the dims that are calibrated.
        calibration: where they are from, in words.
    """

    name: str
    scores: Mapping[int, npt.NDArray[np.float32]]
    log_likelihood_ratios: Mapping[int, npt.NDArray[np.float64]] = field(default_factory=dict)
    calibration: str = ""


def evaluate_systems(
    systems: Sequence[SystemEmbeddings | SystemScores],
    trials: TrialList,
    resampling: Resampling | None = None,
    *,
    reference: _ScoreKey | None = None,
    provenance: Mapping[str, Any] | None = None,
    protocol: ProtocolFacts | None = None,
    **changes: Any,
) -> EvaluationResult:
    """Score and measure several systems on one list.

    Args:
        systems: at least one, with different names: embeddings to be scored by their cosines, or scores.
        trials: the list.
        resampling: how intervals are made.
        reference: (name, dim) that all others are compared with, pairwise over the same resamples.
        provenance: what reports should say about where this came from.
        protocol: how the scores were made, where they are given; whole recordings and raw cosines by default.
        changes: settings of :class:`mrl.scoring.Resampling` by keyword, such as ``bootstrap=0``.

    Raises:
        DataError: embeddings that are not finite or zero, scores that are NaN, a list with one kind of trial only, or speakers
            that do not fit it.
        InputError: unusable arguments.
    """
    names = [system.name for system in systems]
    if not names or len(set(names)) != len(names):
        raise InputError(f"systems need different names; found {names}")
    trials.require_both_classes()
    how = changed(resampling or Resampling(), changes)
    resamples = how.draw(trials)
    scores: dict[_ScoreKey, npt.NDArray[np.float32]] = {}
    for system in systems:
        for dim, values in _scores_of(system, trials).items():
            scores[system.name, dim] = values
    if reference is not None and reference not in scores:
        raise InputError(f"reference {reference} is not one of the systems and dims measured: {sorted(scores)}")
    replicates: dict[_ScoreKey, Replicates] = {}
    if resamples is not None:
        drawn = bootstrap_metrics(list(scores.values()), resamples, p_targets=P_TARGETS)
        replicates = dict(zip(scores, drawn, strict=True))
    figures = {key: DimFigures.of(key[1], values, trials.labels, replicates.get(key)) for key, values in scores.items()}
    for system in systems:
        if isinstance(system, SystemScores):
            for dim, ratios in system.log_likelihood_ratios.items():
                calibrated = CalibratedFigures.of(system.calibration, ratios, trials.labels)
                figures[system.name, dim] = replace(figures[system.name, dim], calibrated=calibrated)
    if reference is not None and resamples is not None:
        base, base_replicates = figures[reference].equal_error_rate, replicates[reference].equal_error_rate
        for key, measured in figures.items():
            if key != reference:
                versus = paired_difference(measured.equal_error_rate, base, replicates[key].equal_error_rate, base_replicates)
                figures[key] = replace(measured, versus_reference=versus)
        for key in scores:
            cut = (reference[0], key[1])
            if key[0] != reference[0] and cut in figures:
                versus = paired_difference(
                    figures[key].equal_error_rate,
                    figures[cut].equal_error_rate,
                    replicates[key].equal_error_rate,
                    replicates[cut].equal_error_rate,
                )
                figures[key] = replace(figures[key], versus_same_dim=versus)
    return EvaluationResult(
        systems=tuple(
            SystemResult(name, tuple(measured for (owner, _), measured in figures.items() if owner == name)) for name in names
        ),
        trial_list=_list_facts(trials, resamples),
        reference=reference,
        seed=how.seed,
        resamples=how.bootstrap,
        provenance={"package": f"redimnet-mrl {__version__}", "hardware": hardware_line(), **(provenance or {})},
        scores=scores,
        labels=trials.labels,
        protocol=protocol or ProtocolFacts(),
    )


def evaluate_embeddings(
    ids: Sequence[str],
    matrix: npt.ArrayLike,
    trials: TrialList,
    dims: Iterable[int] | None = None,
    resampling: Resampling | None = None,
    *,
    name: str = "embeddings",
    provenance: Mapping[str, Any] | None = None,
    **changes: Any,
) -> EvaluationResult:
    """Measure embeddings from anywhere.

    Args:
        ids: (n,) names exactly as the list writes its utterances; further ones are ignored.
        matrix: (n, dim), of any scale; the system's own prefixes are measured.
        trials: the list.
        dims: prefix lengths; by default powers of two from 16 up and the whole.
        name: for tables and plots.
        resampling, provenance, changes: as for :func:`evaluate_systems`.

    Raises:
        DataError: utterances without an embedding (all of them counted), or as :func:`evaluate_systems`.
    """
    rows = np.asarray(matrix, dtype=np.float32)
    if rows.ndim != 2 or len(rows) != len(ids):
        raise InputError(f"embeddings must be (n, dim) with one id per row; found shape {rows.shape} and {len(ids)} ids")
    chosen = check_dims(dims if dims is not None else default_dims(rows.shape[1]), rows.shape[1])
    system = SystemEmbeddings(name, rows[trials.indices_into(ids)], chosen)
    return evaluate_systems([system], trials, resampling, provenance=provenance, **changes)


def _scores_of(system: SystemEmbeddings | SystemScores, trials: TrialList) -> Mapping[int, npt.NDArray[np.float32]]:
    if isinstance(system, SystemEmbeddings):
        return score_prefixes(system.matrix, trials, system.dims)
    dims = sorted(system.scores)
    strange = sorted(set(system.log_likelihood_ratios) - set(dims))
    if not dims or strange:
        raise InputError(f"{system.name} needs scores, also for every dim with log-likelihood ratios; found {dims} and {strange}")
    wrong = [dim for dim in dims if np.shape(system.scores[dim]) != (len(trials),)]
    if wrong:
        raise InputError(
            f"{system.name} needs one score for each of the {len(trials)} trials; found shape "
            f"{np.shape(system.scores[wrong[0]])} at dim {wrong[0]}"
        )
    return {dim: np.asarray(system.scores[dim], dtype=np.float32) for dim in dims}


def _list_facts(trials: TrialList, resamples: SpeakerResamples | None) -> ListFacts:
    return ListFacts(
        source=trials.source,
        sha256=trials.sha256,
        trials=len(trials),
        targets=trials.num_target,
        nontargets=trials.num_nontarget,
        utterances=len(trials.utterances),
        speakers=None if resamples is None else len(resamples.speakers),
    )
