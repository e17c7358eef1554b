"""``mrl calibrate``: log-likelihood ratios and thresholds for a model folder or an exported file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mrl.cli.options import device_option, dims_option, extraction_options, speakers_option

if TYPE_CHECKING:
    from mrl.embeddings import Extraction


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--trials", "trial_list", required=True, type=click.Path(path_type=Path), help="Trial list, may be gzipped.")
@click.option("--root", required=True, type=click.Path(path_type=Path), help="Folder that the list's paths are relative to.")
@dims_option
@click.option(
    "--prior",
    type=float,
    default=0.01,
    show_default=True,
    help="Prior probability of a same-speaker trial that the fit is optimal for.",
)
@click.option(
    "--max-far", type=float, multiple=True, help="Also keep a threshold for this false accept rate; may be given several times."
)
@click.option(
    "--quality", type=click.Choice(["duration", "none"]), default="duration", show_default=True, help="Quality measures."
)
@speakers_option
@extraction_options(without=["max_seconds"])
@device_option
def command(model: Path, trial_list: Path, root: Path, max_far: tuple[float, ...], how: Extraction, **options: Any) -> None:
    """Calibrate a model on trials of your own.

    MODEL is a model folder, into which calibration.json is written, or an exported .onnx file, beside which FILE.calibration.json
    is written. mrl verify and identify then give log-likelihood ratios and decisions. An int8 file needs a calibration of its
    own: its scores differ from those of the network that it was made from.
    """
    from mrl.embeddings.calibrated import calibration_file
    from mrl.evaluation.calibrating import calibrate_model, calibration_table, threshold_table
    from mrl.tables import print_tables
    from mrl.trials import read_trials

    calibration = calibrate_model(model, read_trials(trial_list), root, how, false_accept_rates=max_far, **options)
    print_tables(calibration_table(calibration), threshold_table(calibration))
    click.echo(f"written: {calibration_file(model)}")
