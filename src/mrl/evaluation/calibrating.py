"""Making ``calibration.json`` for a model folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mrl.audio import audio_info
from mrl.embeddings.calibrated import CALIBRATION
from mrl.errors import DataError, InputError
from mrl.files import write_json
from mrl.scoring.calibration import Calibration, Quality, fit_calibration
from mrl.scoring.cosine import check_dims, score_prefixes
from mrl.trials.lists import TrialList
from mrl.trials.speakers import speakers_of_trials

if TYPE_CHECKING:
    from rich.table import Table


# A calibration as tables.


def calibration_table(calibration: Calibration) -> Table:
    """Return one row per dim: costs before and after, and the weights of the log-likelihood ratio."""
    from rich.table import Table

    facts = calibration.trial_list
    table = Table(
        title=f"calibrated on {facts['same_speaker_trials']:,} same-speaker and {facts['different_speaker_trials']:,} "
        f"different-speaker trials, prior {calibration.prior:g}",
        caption="costs are of these same trials, Cllr in bits, held out: fitted on other speakers; "
        "weights give the natural log-likelihood ratio (LLR)",
    )
    titles = ["dim", "Cllr raw", "Cllr", "held out", "min Cllr", "actDCF", "minDCF", "LLR: cosine", "constant"]
    if calibration.quality == "duration":
        titles += ["log shorter", "log difference"]
    for title in titles:
        table.add_column(title, justify="right")
    for dim in sorted(calibration.dims):
        one = calibration.dims[dim]
        held_out = "–" if one.cllr_held_out is None else f"{one.cllr_held_out:.4f}"
        before, after = f"{one.cllr_raw:.4f}", f"{one.cllr:.4f}"
        figures = [one.minimum_cllr, one.actual_dcf, one.minimum_dcf]
        weights = [one.score_weight, one.intercept]
        if calibration.quality == "duration":
            weights += [one.shorter_weight, one.difference_weight]
        table.add_row(
            str(dim), before, after, held_out, *(f"{figure:.4f}" for figure in figures), *(f"{weight:.3f}" for weight in weights)
        )
    return table


def threshold_table(calibration: Calibration) -> Table:
    """Return one row per dim: for each false accept rate the threshold and the share of same-speaker trials that it rejects."""
    from rich.table import Table

    table = Table(title="LLR thresholds at false accept rates, with the false reject rate in %")
    table.add_column("dim", justify="right")
    for kept in next(iter(calibration.dims.values())).thresholds:
        table.add_column(f"{kept.false_accept_rate:g}", justify="right")
    for dim in sorted(calibration.dims):
        thresholds = calibration.dims[dim].thresholds
        table.add_row(str(dim), *(f"{kept.threshold:.3f} ({100 * kept.false_reject_rate:.2f})" for kept in thresholds))
    return table


logger = logging.getLogger(__name__)


def calibrate_model(
    folder: str | os.PathLike[str],
    trials: TrialList,
    root: str | os.PathLike[str],
    *,
    dims: Iterable[int] | None = None,
    prior: float = 0.01,
    false_accept_rates: Iterable[float] = (),
    quality: Quality = "duration",
    speakers: Mapping[str, str] | None = None,
    batch_seconds: float = 60.0,
    num_workers: int = 2,
    device: str = "cpu",
    show_progress: bool = True,
) -> Calibration:
    """Calibrate a model folder on trials of one's own and write ``calibration.json`` into it.

    Args:
        folder: as ``ReDimNetMRL.save_pretrained`` writes it.
        trials: the list; recordings like those to be decided on, of speakers not trained on.
        root: folder below which the list's paths lie.
        dims: prefix lengths; the model's own by default.
        prior, false_accept_rates: as for :func:`fit_calibration`.
        quality: "duration" makes the durations quality measures, "none" leaves the cosine alone.
        speakers: utterance -> speaker, for the cost on held-out speakers, where paths do not tell.
        batch_seconds, num_workers, device, show_progress: as for :func:`mrl.evaluation.evaluate_model`.

    Raises:
        InputError: unusable arguments.
        DataError: missing or unreadable recordings (all of them counted), or trials that cannot be calibrated on.
        CheckpointError: the folder is no model folder.
        OSError: the file cannot be written; one that was there is kept.
    """
    from mrl.embeddings import embed_files, open_model
    from mrl.matryoshka.saving import read_model_config
    from mrl.pretrained import find_bundled

    if not Path(folder).is_dir():
        bundled = find_bundled(folder)
        if bundled is not None:
            raise InputError(
                f"{bundled.name} belongs to the package, and a calibration is kept inside the model folder; make a copy of your "
                f"own (mrl pretrained copy {bundled.name} FOLDER) and calibrate that"
            )
        raise InputError(
            f"{os.fspath(folder)} is not a model folder, and a calibration is kept inside one; "
            "write the model with save_pretrained (or train one) and calibrate the folder"
        )
    weights_sha256 = str(read_model_config(folder)["weights_sha256"])
    trials.require_both_classes()
    of_utterance = _speakers(trials, speakers)
    model = open_model(folder, device=device)
    chosen = check_dims(dims if dims is not None else getattr(model, "mrl_dims", (model.embed_dim,)), model.embed_dim)
    trials.require_files(root)
    embedded = embed_files(
        model,
        trials.paths(root),
        batch_seconds=batch_seconds,
        num_workers=num_workers,
        show_progress=show_progress,
        on_error="raise",
    )
    seconds = None
    if quality == "duration":
        seconds = np.array([audio_info(path).seconds for path in trials.paths(root)])
    calibration = fit_calibration(
        score_prefixes(embedded.matrix, trials, chosen),
        trials,
        seconds=seconds,
        prior=prior,
        false_accept_rates=false_accept_rates,
        speakers=of_utterance,
        weights_sha256=weights_sha256,
    )
    write_json(Path(folder) / CALIBRATION, calibration.to_dict())
    return calibration


def _speakers(trials: TrialList, speakers: Mapping[str, str] | None) -> npt.NDArray[np.int32] | None:
    try:
        return speakers_of_trials(trials, speakers)[1]
    except DataError as error:
        if speakers is not None:
            raise
        logger.info("no cost on held-out speakers: %s", error)
        return None
