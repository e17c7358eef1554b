"""``mrl embed``: recordings to embeddings in one file."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="File to write: .npz, .parquet or .safetensors."
)
@click.option(
    "--model", default="b2-vox2-ft_lm", show_default=True, help="Model folder, official .pt checkpoint, or released name."
)
@click.option("--weights", help="Where a released model's file is: a file, an address, or a folder of such files.")
@click.option("--dim", type=int, help="Length of the embeddings; all dimensions by default.")
@click.option("--batch-seconds", type=float, default=60.0, show_default=True, help="Most audio per forward pass, in seconds.")
@click.option("--max-seconds", type=float, help="Use only the first so many seconds of each recording.")
@click.option("--num-workers", type=int, default=2, show_default=True, help="Threads that decode ahead.")
@click.option("--device", default="cpu", show_default=True, help="Such as cpu, cuda or cuda:1.")
@click.pass_context
def command(
    ctx: click.Context,
    inputs: tuple[Path, ...],
    output: Path,
    model: str,
    weights: str | None,
    dim: int | None,
    batch_seconds: float,
    max_seconds: float | None,
    num_workers: int,
    device: str,
) -> None:
    """Turn recordings into embeddings, in one file.

    INPUTS are recordings, folders of them, or .txt lists with one path per line. Embeddings are raw for a plain ReDimNet and of
    unit length for a Matryoshka model. Recordings that cannot be used are listed and counted, the others are written all the
    same, and the exit status is then 1. Under torchrun the processes share the recordings.
    """
    from mrl.embeddings import Processes, collect_recordings, embed_to_file, open_model

    with Processes.from_environment().together() as processes:
        recordings = collect_recordings(inputs)
        network = open_model(model, weights=weights, device=processes.device(device))
        embedded = embed_to_file(
            network,
            recordings,
            output,
            model_name=model,
            target_dim=dim,
            batch_seconds=batch_seconds,
            max_seconds=max_seconds,
            num_workers=num_workers,
            processes=processes,
        )
    if not processes.is_first:
        return
    for failure in embedded.failures:
        click.echo(f"{failure.path}: {failure.reason.removeprefix(f'{failure.path}: ')}", err=True)
    if len(embedded.paths):
        click.echo(f"{len(embedded.paths)} embeddings of {embedded.matrix.shape[1]} dimensions written to {output}")
    if embedded.failures:
        click.echo(f"{len(embedded.failures)} of {len(recordings)} recordings could not be used", err=True)
        ctx.exit(1)
