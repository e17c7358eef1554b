"""A calibration as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mrl.scoring.calibration import Calibration

if TYPE_CHECKING:
    from rich.table import Table


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
