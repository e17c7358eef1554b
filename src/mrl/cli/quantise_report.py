"""``mrl quantise-report``: error rates and recall against bytes per voice."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from mrl.cli.evaluate import DimList
from mrl.cli.options import device_option, weights_option


@click.command()
@click.argument("model")
@click.option("--trials", required=True, type=click.Path(path_type=Path), help="Trial list, may be gzipped.")
@click.option(
    "--root", type=click.Path(path_type=Path), help="Folder that the list's paths are relative to (not for embedding files)."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for report.json, table.md, table.csv and the plot.")
@click.option("--dims", type=DimList(), help="Dimensions, such as 16,64,192; the model's own by default.")
@click.option(
    "--bootstrap", type=int, default=1000, show_default=True, help="Number of bootstrap resamples for the intervals; 0 for none."
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of the resamples and of the choice of enrolment utterances."
)
@click.option(
    "--speakers", type=click.Path(path_type=Path), help="File with lines 'utterance speaker', if paths do not name the speaker."
)
@weights_option
@click.option("--cache", type=click.Path(path_type=Path), help="Folder that caches embeddings, to resume and to reuse them.")
@click.option("--batch-seconds", type=float, default=60.0, show_default=True, help="Maximum audio per forward pass, in seconds.")
@click.option("--max-seconds", type=float, help="Truncate recordings to this many seconds.")
@click.option("--num-workers", type=int, default=2, show_default=True, help="Number of decoding threads.")
@device_option
def command(
    model: str,
    trials: Path,
    root: Path | None,
    output: Path | None,
    dims: tuple[int, ...] | None,
    bootstrap: int,
    seed: int,
    speakers: Path | None,
    weights: str | None,
    cache: Path | None,
    batch_seconds: float,
    max_seconds: float | None,
    num_workers: int,
    device: str,
) -> None:
    """Measure what storing embeddings in fewer bytes costs: float32, float16, int8 and binary at every dimension.

    MODEL is a model folder, an official .pt checkpoint, an exported .onnx file, a released name or mrl-b0-demo, or a file of
    embeddings (.npz, .parquet, .safetensors, Kaldi's .ark and .scp) whose ids are the list's paths. Besides the error rates on
    the list, one utterance of each speaker is enrolled and all others are identified.
    """
    from rich.console import Console

    from mrl.embeddings import Processes
    from mrl.evaluation import Extraction, quantisation_table, quantise_spec, write_quantisation_report
    from mrl.trials import read_speakers, read_trials

    processes = Processes.from_environment()
    result = quantise_spec(
        model,
        read_trials(trials),
        root,
        weights=weights,
        dims=dims,
        bootstrap=bootstrap,
        seed=seed,
        speakers=None if speakers is None else read_speakers(speakers),
        extraction=Extraction(batch_seconds, max_seconds, num_workers, processes.device(device), cache, processes=processes),
        command=["mrl", *sys.argv[1:]],
    )
    if result is None:
        return
    # Where standard output is no terminal, a table must not be folded to a guessed width.
    Console(width=None if sys.stdout.isatty() else 200).print(quantisation_table(result))
    if output is not None:
        for file in write_quantisation_report(result, output):
            click.echo(f"written: {file}")
