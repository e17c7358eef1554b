"""``mrl calibrate``: log-likelihood ratios and thresholds for a model folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import click

from mrl.cli.evaluate import DimList
from mrl.cli.options import device_option


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--trials", "trial_list", required=True, type=click.Path(path_type=Path), help="Trial list, may be gzipped.")
@click.option("--root", required=True, type=click.Path(path_type=Path), help="Folder that the list's paths are relative to.")
@click.option("--dims", type=DimList(), help="Dimensions, such as 16,64,192; the model's own by default.")
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
@click.option(
    "--speakers", type=click.Path(path_type=Path), help="File with lines 'utterance speaker', if paths do not name the speaker."
)
@click.option("--batch-seconds", type=float, default=60.0, show_default=True, help="Maximum audio per forward pass, in seconds.")
@click.option("--num-workers", type=int, default=2, show_default=True, help="Number of decoding threads.")
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
    """Calibrate a model folder on trials of your own.

    MODEL is a model folder; calibration.json is written into it, and mrl verify then gives log-likelihood ratios and decisions.
    """
    from rich.console import Console

    from mrl.evaluation.calibrating import CALIBRATION, calibrate_model, calibration_table, threshold_table
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
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(calibration_table(calibration))
    console.print(threshold_table(calibration))
    click.echo(f"written: {model / CALIBRATION}")
