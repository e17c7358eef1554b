"""``mrl embed``: recordings to embeddings, in one file or in a folder of shards."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mrl.cli.options import ModelChoice, extraction_options, model_options
from mrl.errors import printable

if TYPE_CHECKING:
    from mrl.embeddings import Extraction, FileFailure


@click.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="File to write (.npz, .parquet or .safetensors), or a folder of shards (a name without extension).",
)
@model_options(depth=True)
@click.option("--dim", type=int, help="Number of dimensions to keep; all by default.")
@extraction_options()
@click.option(
    "--root", type=click.Path(path_type=Path), help="Folder that ids are relative to, as in trial lists (one file only)."
)
@click.option("--windows", "window", type=float, help="Embed windows of this many seconds, with path, start and end of each.")
@click.option("--hop", type=float, help="Time from one window to the next, in seconds [default: half a window].")
@click.option("--shard-size", type=int, help="Recordings per shard of a folder [default: 10000].")
@click.option(
    "--shard-format", type=click.Choice(["safetensors", "npz", "parquet"]), help="Format of the shards [default: safetensors]."
)
@click.pass_context
def command(
    ctx: click.Context,
    inputs: tuple[Path, ...],
    output: Path,
    model: ModelChoice,
    dim: int | None,
    how: Extraction,
    root: Path | None,
    window: float | None,
    hop: float | None,
    shard_size: int | None,
    shard_format: str | None,
) -> None:
    """Turn recordings into embeddings, in one file or in a folder of shards.

    INPUTS are recordings, folders of them, or .txt lists with one path per line. Embeddings are raw for a plain ReDimNet and of
    unit length for a Matryoshka model. Recordings that cannot be used are listed, the rest is written, and the exit status is
    1. Under torchrun the processes share the recordings.

    Use a folder for up to millions of recordings: they are written shard by shard, and an interrupted command resumes if you
    run it again.
    """
    if root is not None and (window is not None or not output.suffix):
        raise click.UsageError("--root is for one file of embeddings, not for --windows or a folder of shards")
    if window is not None:
        _embed_windows(ctx, inputs, output, model, dim, how, window, window / 2 if hop is None else hop)
        return
    if hop is not None:
        raise click.UsageError("--hop is for --windows")
    from mrl.embeddings import Processes, collect_recordings, embed_to_file, embed_to_folder, means_folder

    into_folder = means_folder(output, shard_size=shard_size, shard_format=shard_format)
    with Processes.from_environment().together() as processes:
        recordings = [str(path) for path in collect_recordings(inputs)]  # of very many names, text takes the least memory
        embedder = dataclasses.replace(model, device=processes.device(model.device)).open()
        settings: dict[str, Any] = {"model_name": model.spec, "target_dim": dim, "processes": processes}
        if into_folder:
            shards = {"shard_size": shard_size, "shard_format": shard_format}
            settings |= {name: value for name, value in shards.items() if value is not None}
            in_shards = embed_to_folder(embedder, recordings, output, how, **settings)
        else:
            embedded = embed_to_file(embedder, recordings, output, how, root=root, **settings)
    if not processes.is_first:
        return
    if into_folder:
        assert in_shards is not None  # the first process gets it
        written, failures = in_shards.embeddings, in_shards.failures
        click.echo(f"{len(written)} embeddings of {written.dim} dimensions in {len(written.shards)} shards written to {output}")
        where = f"; {output / 'failures.tsv'} says which and why"
    else:
        failures, where = embedded.failures, ""
        _list_failures(failures)
        if len(embedded.paths):
            click.echo(f"{len(embedded.paths)} embeddings of {embedded.matrix.shape[1]} dimensions written to {output}")
    if failures:
        click.echo(f"{len(failures)} of {len(recordings)} recordings could not be used{where}", err=True)
        ctx.exit(1)


def _embed_windows(
    ctx: click.Context,
    inputs: tuple[Path, ...],
    output: Path,
    model: ModelChoice,
    dim: int | None,
    how: Extraction,
    window: float,
    hop: float,
) -> None:
    from mrl.embeddings import collect_recordings, embed_windows, save_timed
    from mrl.embeddings.timed import check_timed_suffix
    from mrl.embeddings.writing import describe_embeddings

    check_timed_suffix(output)
    recordings, embedder = collect_recordings(inputs), model.open()
    timed = embed_windows(embedder, recordings, how, seconds=window, hop=hop, dim=dim)
    _list_failures(timed.failures)
    if len(timed.paths):
        about = describe_embeddings(embedder, model.spec, timed.matrix.shape[1], dataclasses.replace(how, vad="none"))
        save_timed(output, timed, {**about, "window_seconds": window, "hop_seconds": hop})
        click.echo(f"{len(timed.paths)} embeddings of {timed.matrix.shape[1]} dimensions written to {output}")
    if timed.failures:
        click.echo(f"{len(timed.failures)} of {len(recordings)} recordings could not be used", err=True)
        ctx.exit(1)


def _list_failures(failures: Iterable[FileFailure]) -> None:
    for failure in failures:
        name = printable(str(failure.path))
        click.echo(f"{name}: {printable(failure.reason).removeprefix(f'{name}: ')}", err=True)
