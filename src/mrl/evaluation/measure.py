"""From a network or foreign embeddings and a trial list to figures at every prefix length."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from mrl.dims import default_dims
from mrl.embeddings.calibrated import load_calibration
from mrl.errors import DataError, InputError
from mrl.evaluation.figures import P_TARGETS, CalibratedFigures, DimFigures
from mrl.evaluation.result import EvaluationResult, ListFacts, ProtocolFacts, SystemResult
from mrl.hardware import hardware_line
from mrl.scoring.bootstrap import Replicates, SpeakerResamples, bootstrap_metrics, paired_difference
from mrl.scoring.calibration import Calibration, can_hold_out, held_out_ratios
from mrl.scoring.cosine import check_dims, score_prefixes
from mrl.trials.lists import TrialList
from mrl.trials.speakers import speakers_of_trials
from mrl.version import __version__

if TYPE_CHECKING:
    from mrl.embeddings import Encoder


UNMODIFIED_BACKBONE = "unmodified backbone"
"""Name of the backbone inside a Matryoshka model that was never trained further."""

TRAINED_BACKBONE = "own backbone (trained)"
"""Name of the backbone inside a Matryoshka model that was trained along with it: no longer the one published."""

BASELINE = "baseline"
"""Name of another network that is measured beside the model."""

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
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    speakers: Mapping[str, str] | None = None,
    reference: _ScoreKey | None = None,
    provenance: Mapping[str, Any] | None = None,
    protocol: ProtocolFacts | None = None,
) -> EvaluationResult:
    """Score and measure several systems on one list.

    Args:
        systems: at least one, with different names: embeddings to be scored by their cosines, or scores.
        trials: the list.
        bootstrap: resamples of the speakers for 95 % intervals; 0 for none.
        seed: of the resamples.
        speakers: utterance -> speaker, where paths do not tell (see :func:`mrl.trials.speakers.speaker_of`).
        reference: (name, dim) that all others are compared with, pairwise over the same resamples.
        provenance: what reports should say about where this came from.
        protocol: how the scores were made, where they are given; whole recordings and raw cosines by default.

    Raises:
        DataError: embeddings that are not finite or zero, scores that are NaN, a list with one kind of trial only, or speakers
            that do not fit it.
        InputError: unusable arguments.
    """
    names = [system.name for system in systems]
    if not names or len(set(names)) != len(names):
        raise InputError(f"systems need different names; found {names}")
    trials.require_both_classes()
    resamples = SpeakerResamples.draw(trials, bootstrap, seed=seed, speakers=speakers) if bootstrap else None
    scores: dict[_ScoreKey, npt.NDArray[np.float32]] = {}
    for system in systems:
        for dim, values in _scores_of(system, trials).items():
            scores[system.name, dim] = values
    if reference is not None and reference not in scores:
        raise InputError(f"reference {reference} is none of the systems and dims measured: {sorted(scores)}")
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
        for key, found in figures.items():
            if key != reference:
                versus = paired_difference(found.equal_error_rate, base, replicates[key].equal_error_rate, base_replicates)
                figures[key] = replace(found, versus_reference=versus)
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
            SystemResult(name, tuple(found for (owner, _), found in figures.items() if owner == name)) for name in names
        ),
        trial_list=_list_facts(trials, resamples),
        reference=reference,
        seed=seed,
        resamples=bootstrap,
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
    *,
    name: str = "embeddings",
    bootstrap: int = 1000,
    seed: int = 0,
    speakers: Mapping[str, str] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> EvaluationResult:
    """Measure embeddings from anywhere.

    Args:
        ids: (n,) names exactly as the list writes its utterances; more than the list needs are no harm.
        matrix: (n, dim), of any scale; the system's own prefixes are measured.
        trials: the list.
        dims: prefix lengths; by default powers of two from 16 up and the whole.
        name: for tables and plots.
        bootstrap, seed, speakers, provenance: as for :func:`evaluate_systems`.

    Raises:
        DataError: utterances without an embedding (all of them counted), or as :func:`evaluate_systems`.
    """
    rows = np.asarray(matrix, dtype=np.float32)
    if rows.ndim != 2 or len(rows) != len(ids):
        raise InputError(f"embeddings must be (n, dim) with one id per row; found shape {rows.shape} and {len(ids)} ids")
    chosen = check_dims(dims if dims is not None else default_dims(rows.shape[1]), rows.shape[1])
    system = SystemEmbeddings(name, rows[trials.indices_into(ids)], chosen)
    return evaluate_systems([system], trials, bootstrap=bootstrap, seed=seed, speakers=speakers, provenance=provenance)


def evaluate_model(
    model: Encoder,
    trials: TrialList,
    root: str | os.PathLike[str],
    *,
    dims: Iterable[int] | None = None,
    batch_seconds: float = 60.0,
    num_workers: int = 2,
    max_seconds: float | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    baseline: Encoder | Literal["own"] | None = "own",
    speakers: Mapping[str, str] | None = None,
    name: str | None = None,
    baseline_name: str = BASELINE,
    provenance: Mapping[str, Any] | None = None,
    show_progress: bool = True,
) -> EvaluationResult:
    """Embed every utterance of a list once and measure the network at every prefix length, beside a backbone.

    A Matryoshka model is measured at its ``mrl_dims``, a plain backbone at prefixes of its raw embedding, both by default.

    Args:
        model: a ``ReDimNetMRL`` or a ``ReDimNet``.
        trials: the list; its utterances are paths below ``root``.
        root: the data root.
        dims: prefix lengths.
        batch_seconds: most audio per forward pass, in seconds.
        num_workers: threads that decode ahead.
        max_seconds: use only the first so many seconds of each recording.
        bootstrap: resamples of the speakers for 95 % intervals; 0 for none.
        seed: of the resamples.
        baseline: "own" measures the backbone inside a Matryoshka model beside it, from the same forward pass (its name says
            whether it was trained further); a network measures that one in a pass of its own; None measures the model alone.
            The baseline's whole embedding is what differences refer to.
        speakers: utterance -> speaker, where paths do not tell.
        name: of the model in tables and plots.
        baseline_name: of a network given as ``baseline``, likewise.
        provenance: what reports should say about where this came from.
        show_progress: draw a progress bar (on a terminal only).

    Raises:
        DataError: missing or unreadable files (all of them counted), or as :func:`evaluate_systems`.
        InputError: unusable arguments.
    """
    from mrl.embeddings import as_embedder
    from mrl.evaluation.embedding import embed_utterances

    embedder = as_embedder(model)
    chosen = check_dims(embedder.default_dims if dims is None else dims, embedder.embed_dim)
    trials.require_both_classes()
    if bootstrap:  # speakers that cannot be told should show before hours of work
        SpeakerResamples.draw(trials, bootstrap, seed=seed, speakers=speakers)
    trials.require_files(root)
    settings: dict[str, Any] = {
        "batch_seconds": batch_seconds,
        "num_workers": num_workers,
        "max_seconds": max_seconds,
        "show_progress": show_progress,
    }
    model_name = name or ("matryoshka" if embedder.mrl_dims else "backbone")
    own = baseline == "own" and embedder.backbone is not None
    matrices = embed_utterances(embedder, trials, root, own_backbone=own, **settings)
    systems = [SystemEmbeddings(model_name, matrices[0], chosen)]
    if own:
        unmodified = embedder.backbone_is_unmodified
        systems.append(_baseline_system(UNMODIFIED_BACKBONE if unmodified else TRAINED_BACKBONE, matrices[1], chosen))
    elif not (baseline is None or isinstance(baseline, str)):
        matrix = embed_utterances(baseline, trials, root, own_backbone=False, **settings)[0]
        systems.append(_baseline_system(baseline_name, matrix, chosen))
    return evaluate_systems(
        systems,
        trials,
        bootstrap=bootstrap,
        seed=seed,
        speakers=speakers,
        reference=(systems[1].name, systems[1].dims[-1]) if len(systems) > 1 else None,
        provenance={"data_root": str(root), "max_seconds": max_seconds, **(provenance or {})},
    )


def _baseline_system(name: str, matrix: npt.NDArray[np.float32], dims: tuple[int, ...]) -> SystemEmbeddings:
    """The baseline's whole embedding, and its prefixes at the model's dims: what cutting without a Matryoshka head gives."""
    embed_dim = matrix.shape[1]
    return SystemEmbeddings(name, matrix, (*(dim for dim in dims if dim < embed_dim), embed_dim))


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


# Log-likelihood ratios within an evaluation: from a model folder's calibration, or fitted on the list's other speakers.


CalibrateOn = Literal["model", "held-out", "none"]


CALIBRATE_ON: tuple[CalibrateOn, ...] = ("model", "held-out", "none")


_PRIOR = 0.01


def calibration_of(spec: str, *, plain: bool, depth: int | None = None) -> tuple[Calibration | None, str]:
    """Return the calibration of a model folder, and what a reader should know where there is one that cannot be used.

    Args:
        spec: what the user called the system.
        plain: whether scores are raw cosines of whole recordings; a calibration holds for nothing else.
        depth: after so many stages the folder's network is left; a calibration holds for all of them only.

    Raises:
        CheckpointError: the calibration is damaged or belongs to other weights.
    """
    found = load_calibration(spec) if Path(spec).is_dir() else None
    if found is None or (plain and depth is None):
        return found, ""
    if depth is not None:
        return None, f"The calibration of {Path(spec).name} is not used: it holds for the whole network, not for depth {depth}."
    return None, f"The calibration of {Path(spec).name} is not used: it holds for raw cosines of whole recordings."


def with_calibration(
    system: SystemScores, calibration: Calibration, trials: TrialList, seconds: Callable[[], npt.NDArray[np.float64]]
) -> SystemScores:
    """Return the system with log-likelihood ratios at the dims that ``calibration`` covers.

    Args:
        system: raw cosines of whole recordings.
        calibration: of its weights.
        trials: the list.
        seconds: gives (utterances,) durations in the order of ``trials.utterances``; called where they are needed.
    """
    words = "calibration.json of the model folder"
    if calibration.trial_list.get("sha256") and calibration.trial_list["sha256"] == trials.sha256:
        words += ", fitted on this very list"
    sides: tuple[npt.NDArray[np.float64], ...] = ()
    if calibration.quality == "duration":
        values = seconds()
        sides = (values[trials.enrol], values[trials.test])
    ratios = {
        dim: calibration.log_likelihood_ratios(dim, scores, *sides)
        for dim, scores in system.scores.items()
        if dim in calibration.dims
    }
    return SystemScores(system.name, system.scores, ratios, words)


def with_held_out_calibration(system: SystemScores, trials: TrialList, speakers: Mapping[str, str] | None = None) -> SystemScores:
    """Return the system with log-likelihood ratios that were fitted, for every trial, without the speakers of that trial.

    Raises:
        DataError: speakers are not known or too few.
        InputError: as :func:`mrl.scoring.calibration.held_out_ratios`.
    """
    require_held_out(trials, speakers)
    _, of_utterance = speakers_of_trials(trials, speakers)
    ratios: dict[int, npt.NDArray[np.float64]] = {}
    for dim, scores in system.scores.items():
        found = held_out_ratios(scores, trials, of_utterance, prior=_PRIOR)
        assert found is not None  # require_held_out
        ratios[dim] = found
    return SystemScores(system.name, system.scores, ratios, f"fitted on the list's other speakers (five parts, prior {_PRIOR:g})")


def require_held_out(trials: TrialList, speakers: Mapping[str, str] | None = None) -> None:
    """Raise :class:`DataError` where speakers are not known or too few for :func:`with_held_out_calibration`."""
    _, of_utterance = speakers_of_trials(trials, speakers)
    if not can_hold_out(trials, of_utterance):
        raise DataError(
            f"{trials.source} has too few speakers to calibrate on others than those of each trial; "
            "leave --calibrate-on held-out out"
        )


def check_calibrate_on(value: str) -> None:
    """Raise :class:`InputError` for anything but one of :data:`CALIBRATE_ON`."""
    if value not in CALIBRATE_ON:
        raise InputError(f"calibrate_on must be one of {', '.join(CALIBRATE_ON)}; found {value!r}")
