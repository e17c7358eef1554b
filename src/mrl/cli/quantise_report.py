"""``mrl quantise-report``: error rates and recall against bytes per voice."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mrl.cli.options import (
    bootstrap_option,
    cache_option,
    device_option,
    dims_option,
    extraction_options,
    speakers_option,
    weights_option,
)

if TYPE_CHECKING:
    from mrl.embeddings import Extraction


@click.command()
@click.argument("model")
@click.option("--trials", required=True, type=click.Path(path_type=Path), help="Trial list, may be gzipped.")
@click.option(
    "--root", type=click.Path(path_type=Path), help="Folder that the list's paths are relative to (not for embedding files)."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for report.json, table.md, table.csv and the plot.")
@dims_option
@bootstrap_option
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of the resamples and of the choice of enrolment utterances."
)
@speakers_option
@weights_option
@cache_option
@extraction_options()
@device_option
def command(
    model: str, trials: Path, root: Path | None, output: Path | None, device: str, how: Extraction, **options: Any
) -> None:
    """Measure what storing embeddings in fewer bytes costs: float32, float16, int8 and binary at every dimension.

    MODEL is a model folder, an official .pt checkpoint, an exported .onnx file, a released name or mrl-b0-demo, or a file of
    embeddings (.npz, .parquet, .safetensors, Kaldi's .ark and .scp) whose ids are the list's paths. Besides the error rates on
    the list, one utterance of each speaker is enrolled and all others are identified.
    """
    from mrl.embeddings import Processes
    from mrl.evaluation import MeasurementSettings, quantisation_table, quantise_spec, write_quantisation_report
    from mrl.tables import print_tables
    from mrl.trials import read_trials

    processes = Processes.from_environment()
    settings = MeasurementSettings(
        extraction=how,
        device=processes.device(device),
        processes=processes,
        command=["mrl", *sys.argv[1:]],
        **options,  # every other option has the name of its setting
    )
    result = quantise_spec(model, read_trials(trials), root, settings)
    if result is None:
        return
    print_tables(quantisation_table(result))
    if output is not None:
        for file in write_quantisation_report(result, output):
            click.echo(f"written: {file}")
