"""``mrl embed``: recordings to embeddings, in one file or in a folder of shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mrl.cli.options import depth_option, device_option, model_option, weights_option


@click.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="File to write (.npz, .parquet or .safetensors), or a folder of shards (a name without extension).",
)
@model_option
@weights_option
@click.option("--dim", type=int, help="Number of dimensions to keep; all by default.")
@depth_option
@click.option("--batch-seconds", type=float, default=60.0, show_default=True, help="Maximum audio per forward pass, in seconds.")
@click.option("--max-seconds", type=float, help="Truncate recordings to this many seconds.")
@click.option("--num-workers", type=int, default=2, show_default=True, help="Number of decoding threads.")
@click.option("--shard-size", type=int, help="Recordings per shard of a folder [default: 10000].")
@click.option(
    "--shard-format", type=click.Choice(["safetensors", "npz", "parquet"]), help="Format of the shards [default: safetensors]."
)
@device_option
@click.pass_context
def command(
    ctx: click.Context,
    inputs: tuple[Path, ...],
    output: Path,
    model: str,
    weights: str | None,
    dim: int | None,
    depth: int | None,
    batch_seconds: float,
    max_seconds: float | None,
    num_workers: int,
    shard_size: int | None,
    shard_format: str | None,
    device: str,
) -> None:
    """Turn recordings into embeddings, in one file or in a folder of shards.

    INPUTS are recordings, folders of them, or .txt lists with one path per line. Embeddings are raw for a plain ReDimNet and of
    unit length for a Matryoshka model. Recordings that cannot be used are listed, the rest is written, and the exit status is
    1. Under torchrun the processes share the recordings.

    Use a folder for up to millions of recordings: they are written shard by shard, and an interrupted command resumes if you
    run it again.
    """
    from mrl.embeddings import Processes, collect_recordings, embed_to_file, embed_to_folder, means_folder, open_model

    into_folder = means_folder(output, shard_size=shard_size, shard_format=shard_format)
    with Processes.from_environment().together() as processes:
        recordings = [str(path) for path in collect_recordings(inputs)]  # of very many names, text takes the least memory
        network = open_model(model, weights=weights, device=processes.device(device), depth=depth)
        settings: dict[str, Any] = {
            "model_name": model,
            "target_dim": dim,
            "batch_seconds": batch_seconds,
            "max_seconds": max_seconds,
            "num_workers": num_workers,
            "processes": processes,
        }
        if into_folder:
            shards = {"shard_size": shard_size, "shard_format": shard_format}
            settings |= {name: value for name, value in shards.items() if value is not None}
            in_shards = embed_to_folder(network, recordings, output, **settings)
        else:
            embedded = embed_to_file(network, recordings, output, **settings)
    if not processes.is_first:
        return
    if into_folder:
        assert in_shards is not None  # the first process gets it
        found, failures = in_shards.embeddings, in_shards.failures
        click.echo(f"{len(found)} embeddings of {found.dim} dimensions in {len(found.shards)} shards written to {output}")
        where = f"; {output / 'failures.tsv'} says which and why"
    else:
        failures, where = embedded.failures, ""
        for failure in failures:
            click.echo(f"{failure.path}: {failure.reason.removeprefix(f'{failure.path}: ')}", err=True)
        if len(embedded.paths):
            click.echo(f"{len(embedded.paths)} embeddings of {embedded.matrix.shape[1]} dimensions written to {output}")
    if failures:
        click.echo(f"{len(failures)} of {len(recordings)} recordings could not be used{where}", err=True)
        ctx.exit(1)
