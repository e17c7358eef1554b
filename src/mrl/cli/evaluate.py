"""``mrl evaluate``: the error rate at every dimension."""

from __future__ import annotations

import sys
from pathlib import Path

import click


class DimList(click.ParamType):  # type: ignore[type-arg]
    """Numbers separated by commas, such as ``16,64,192``."""

    name = "dims"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers such as 16,64,192", param, ctx)


@click.command()
@click.argument("model")
@click.option("--trials", "trial_list", required=True, type=click.Path(path_type=Path), help="Trial list, gzip or not.")
@click.option(
    "--root", type=click.Path(path_type=Path), help="Folder below which the list's paths lie (not for embedding files)."
)
@click.option("--weights", help="Where a released model's file is: a file, an address, or a folder of such files.")
@click.option("--dims", type=DimList(), help="Prefix lengths, such as 16,64,192; the model's own by default.")
@click.option("--output", type=click.Path(path_type=Path), help="Folder for report.json, table.md, table.csv and the plot.")
@click.option(
    "--bootstrap", type=int, default=1000, show_default=True, help="Resamples of the speakers for intervals; 0 for none."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the resamples.")
@click.option(
    "--backbone/--no-backbone", default=True, help="Measure a Matryoshka model's own backbone beside it [default: yes]."
)
@click.option("--baseline", help="Another model to compare with instead of the own backbone, such as the published checkpoint.")
@click.option(
    "--speakers", type=click.Path(path_type=Path), help="Lines 'utterance speaker', where paths do not tell the speaker."
)
@click.option("--batch-seconds", type=float, default=60.0, show_default=True, help="Most audio per forward pass, in seconds.")
@click.option("--max-seconds", type=float, help="Use only the first so many seconds of each recording.")
@click.option("--num-workers", type=int, default=2, show_default=True, help="Threads that decode ahead.")
@click.option("--device", default="cpu", show_default=True, help="Such as cpu, cuda or cuda:1.")
def command(
    model: str,
    trial_list: Path,
    root: Path | None,
    weights: str | None,
    dims: tuple[int, ...] | None,
    output: Path | None,
    bootstrap: int,
    seed: int,
    backbone: bool,
    baseline: str | None,
    speakers: Path | None,
    batch_seconds: float,
    max_seconds: float | None,
    num_workers: int,
    device: str,
) -> None:
    """Measure the error rate at every dimension on a trial list.

    MODEL is a model folder, an official .pt checkpoint or a released name (then prefixes of the raw embedding are measured), or a
    file of embeddings (.npz, .parquet, .safetensors) whose ids are the list's paths.
    """
    from rich.console import Console

    from mrl.evaluation import evaluate_spec, read_speakers, read_trials, rich_table, write_report

    result = evaluate_spec(
        model,
        read_trials(trial_list),
        root,
        weights=weights,
        dims=dims,
        own_backbone=backbone,
        baseline=baseline,
        bootstrap=bootstrap,
        seed=seed,
        speakers=None if speakers is None else read_speakers(speakers),
        batch_seconds=batch_seconds,
        max_seconds=max_seconds,
        num_workers=num_workers,
        device=device,
        command=["mrl", *sys.argv[1:]],
    )
    # Where standard output is no terminal, a table must not be folded to a guessed width.
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(rich_table(result))
    if output is not None:
        for file in write_report(result, output):
            click.echo(f"written: {file}")
