"""``mrl calibrate``: log-likelihood ratios and thresholds for a model folder or an exported file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from mrl.cli.evaluate import DimList
from mrl.cli.options import device_option


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--trials", "trial_list", required=True, type=click.Path(path_type=Path), help="Trial list, gzip or not.")
@click.option("--root", required=True, type=click.Path(path_type=Path), help="Folder below which the list's paths lie.")
@click.option("--dims", type=DimList(), help="Prefix lengths, such as 16,64,192; the model's own by default.")
@click.option("--prior", type=float, default=0.01, show_default=True, help="Probability of a same-speaker trial to be best at.")
@click.option(
    "--max-far", type=float, multiple=True, help="Keep a threshold for this false accept rate too; may be given several times."
)
@click.option(
    "--quality", type=click.Choice(["duration", "none"]), default="duration", show_default=True, help="Quality measures to use."
)
@click.option(
    "--speakers", type=click.Path(path_type=Path), help="Lines 'utterance speaker', where paths do not tell the speaker."
)
@click.option("--batch-seconds", type=float, default=60.0, show_default=True, help="Most audio per forward pass, in seconds.")
@click.option("--num-workers", type=int, default=2, show_default=True, help="Threads that decode ahead.")
@device_option
def command(
    model: Path,
    trial_list: Path,
    root: Path,
    dims: tuple[int, ...] | None,
    prior: float,
    max_far: tuple[float, ...],
    quality: Literal["duration", "none"],
    speakers: Path | None,
    batch_seconds: float,
    num_workers: int,
    device: str,
) -> None:
    """Calibrate a model on trials of your own.

    MODEL is a model folder, into which calibration.json is written, or an exported .onnx file, beside which FILE.calibration.json
    is written. mrl verify and identify then give log-likelihood ratios and decisions. An int8 file needs a calibration of its
    own: its scores differ from those of the network that it was made from.
    """
    from mrl.embeddings.calibrated import calibration_file
    from mrl.evaluation.calibrating import calibrate_model, calibration_table, threshold_table
    from mrl.tables import print_tables
    from mrl.trials import read_speakers, read_trials

    calibration = calibrate_model(
        model,
        read_trials(trial_list),
        root,
        dims=dims,
        prior=prior,
        false_accept_rates=max_far,
        quality=quality,
        speakers=None if speakers is None else read_speakers(speakers),
        batch_seconds=batch_seconds,
        num_workers=num_workers,
        device=device,
    )
    print_tables(calibration_table(calibration), threshold_table(calibration))
    click.echo(f"written: {calibration_file(model)}")
