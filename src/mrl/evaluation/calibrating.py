"""Log-likelihood ratios: calibrating a model on trials, and using calibrations in an evaluation."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl.audio import SAMPLE_RATE
from mrl.embeddings import Extraction, extract, open_embedder
from mrl.embeddings.calibrated import calibration_file
from mrl.embeddings.opening import EXPORTED_SUFFIX
from mrl.errors import DataError, InputError
from mrl.evaluation.measure import SystemScores
from mrl.evaluation.systems import NetworkSystem
from mrl.files import write_json
from mrl.matryoshka.saving import read_model_config
from mrl.pretrained import find_bundled
from mrl.scoring.calibration import Calibration, Quality
from mrl.scoring.calibration_fit import can_hold_out, fit_calibration, held_out_ratios
from mrl.scoring.cosine import check_dims, score_prefixes
from mrl.scoring.decisions import NO_CALIBRATION
from mrl.settings import changed
from mrl.tables import ABSENT, Table
from mrl.trials.lists import TrialList
from mrl.trials.speakers import speakers_of_trials

logger = logging.getLogger(__name__)

_PRIOR = 0.01  # of the calibrations that an evaluation fits on held-out speakers


def calibrate_model(
    model: str | os.PathLike[str],
    trials: TrialList,
    root: str | os.PathLike[str],
    how: Extraction | None = None,
    *,
    dims: Iterable[int] | None = None,
    prior: float = 0.01,
    false_accept_rates: Iterable[float] = (),
    quality: Quality = "duration",
    speakers: Mapping[str, str] | None = None,
    device: str = "cpu",
    **changes: Any,
) -> Calibration:
    """Calibrate a model on trials of one's own and write the result where it is looked for: see :func:`calibration_file`.

    Args:
        model: a folder as ``ReDimNetMRL.save_pretrained`` writes it, or an ``.onnx`` file that ``mrl export`` wrote, whose own
            scores are then calibrated.
        trials: the list; recordings like those to be decided on, of speakers not trained on.
        root: folder below which the list's paths lie.
        how: how recordings become embeddings.
        dims: prefix lengths; the model's own by default.
        prior, false_accept_rates: as for :func:`fit_calibration`.
        quality: "duration" makes the durations quality measures, "none" leaves the cosine alone.
        speakers: utterance -> speaker, for the cost on held-out speakers, if paths do not name them.
        device: where a model folder's network goes.
        changes: settings of :class:`mrl.embeddings.Extraction` by keyword.

    Raises:
        InputError: unusable arguments.
        DataError: missing or unreadable recordings (all of them counted), or trials that cannot be calibrated on.
        CheckpointError: the folder or file is damaged or holds no model.
        OSError: the file cannot be written; one that was there is kept.
    """
    chosen_how = changed(how or Extraction(), changes)
    weights_sha256 = _weights_of(model)
    trials.require_both_classes()
    of_utterance = _speakers(trials, speakers)
    embedder = open_embedder(model, device=device)
    chosen = check_dims(embedder.default_dims if dims is None else dims, embedder.embed_dim)
    trials.require_files(root)
    embedded = extract(embedder, trials.paths(root), chosen_how, on_error="raise")
    whole_samples = np.rint(embedded.seconds.astype(np.float64) * SAMPLE_RATE)  # what float32 rounded
    seconds = whole_samples / SAMPLE_RATE if quality == "duration" else None
    calibration = fit_calibration(
        score_prefixes(embedded.matrices[0], trials, chosen),
        trials,
        seconds=seconds,
        prior=prior,
        false_accept_rates=false_accept_rates,
        speakers=of_utterance,
        weights_sha256=weights_sha256 or embedder.model_hash,
    )
    write_json(calibration_file(model), calibration.to_dict())
    return calibration


def _weights_of(model: str | os.PathLike[str]) -> str:
    """Return the hash that a model folder states of its weights, empty for an exported file, which has another kind of hash.

    Raises:
        InputError: it is neither, so there is no place for a calibration.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return str(read_model_config(path)["weights_sha256"])
    if path.suffix.lower() == EXPORTED_SUFFIX:
        return ""
    bundled = find_bundled(model)
    if bundled is not None:
        raise InputError(
            f"{bundled.name} belongs to the package, and a calibration is kept inside the model folder; make a copy of your "
            f"own (mrl pretrained copy {bundled.name} FOLDER) and calibrate that"
        )
    raise InputError(
        f"{os.fspath(model)} is neither a model folder nor an exported file (.onnx), with which a calibration could be kept; "
        "write the model with save_pretrained (or train one) and calibrate the folder"
    )


def _speakers(trials: TrialList, speakers: Mapping[str, str] | None) -> npt.NDArray[np.int32] | None:
    try:
        return speakers_of_trials(trials, speakers)[1]
    except DataError as error:
        if speakers is not None:
            raise
        logger.info("no cost on held-out speakers: %s", error)
        return None


def calibration_of(system: NetworkSystem, *, plain: bool) -> tuple[Calibration | None, str]:
    """Return the calibration of a model, and what a reader should know where there is one that cannot be used.

    Args:
        system: the model, as it was opened.
        plain: whether scores are raw cosines of whole recordings; a calibration holds for nothing else.

    Raises:
        CheckpointError: the calibration is damaged or belongs to other weights.
    """
    calibration, absence = system.model.calibrated
    unused = f"The calibration of {Path(system.spec).name} is not used: "
    if calibration is None:
        return None, "" if absence == NO_CALIBRATION else f"{unused}{absence}."
    return (calibration, "") if plain else (None, f"{unused}it holds for raw cosines of whole recordings.")


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
    words = "calibration of the model"
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
        InputError: as :func:`mrl.scoring.held_out_ratios`.
    """
    require_held_out(trials, speakers)
    _, of_utterance = speakers_of_trials(trials, speakers)
    ratios: dict[int, npt.NDArray[np.float64]] = {}
    for dim, scores in system.scores.items():
        held_out = held_out_ratios(scores, trials, of_utterance, prior=_PRIOR)
        assert held_out is not None  # require_held_out
        ratios[dim] = held_out
    return SystemScores(system.name, system.scores, ratios, f"fitted on the list's other speakers (five parts, prior {_PRIOR:g})")


def require_held_out(trials: TrialList, speakers: Mapping[str, str] | None = None) -> None:
    """Raise :class:`DataError` where speakers are not known or too few for :func:`with_held_out_calibration`."""
    _, of_utterance = speakers_of_trials(trials, speakers)
    if not can_hold_out(trials, of_utterance):
        raise DataError(
            f"{trials.source} has too few speakers to calibrate on others than those of each trial; "
            "leave --calibrate-on held-out out"
        )


def calibration_table(calibration: Calibration) -> Table:
    """Return one row per dim: costs before and after, and the weights of the log-likelihood ratio."""
    facts = calibration.trial_list
    headings = ("dim", "Cllr raw", "Cllr", "held out", "min Cllr", "actDCF", "minDCF", "LLR: cosine", "constant")
    by_duration = calibration.quality == "duration"
    rows = []
    for dim, fitted in sorted(calibration.dims.items()):
        costs = (fitted.cllr_raw, fitted.cllr, fitted.cllr_held_out, fitted.minimum_cllr, fitted.actual_dcf, fitted.minimum_dcf)
        weights = [fitted.score_weight, fitted.intercept]
        if by_duration:
            weights += [fitted.shorter_weight, fitted.difference_weight]
        texts = (ABSENT if cost is None else f"{cost:.4f}" for cost in costs)
        rows.append((str(dim), *texts, *(f"{weight:.3f}" for weight in weights)))
    return Table(
        (*headings, "log shorter", "log difference") if by_duration else headings,
        tuple(rows),
        words=(),
        group=None,
        title=f"calibrated on {facts['same_speaker_trials']:,} same-speaker and {facts['different_speaker_trials']:,} "
        f"different-speaker trials, prior {calibration.prior:g}",
        notes=(
            "costs are of these same trials, Cllr in bits, held out: fitted on other speakers; "
            "weights give the natural log-likelihood ratio (LLR)",
        ),
    )


def threshold_table(calibration: Calibration) -> Table:
    """Return one row per dim: for each false accept rate the threshold and the share of same-speaker trials that it rejects."""
    rates = (f"{kept.false_accept_rate:g}" for kept in next(iter(calibration.dims.values())).thresholds)
    rows = tuple(
        (str(dim), *(f"{kept.threshold:.3f} ({100 * kept.false_reject_rate:.2f})" for kept in fitted.thresholds))
        for dim, fitted in sorted(calibration.dims.items())
    )
    title = "LLR thresholds at false accept rates, with the false reject rate in %"
    return Table(("dim", *rates), rows, words=(), group=None, title=title)
