"""``mrl data shard``: a manifest or folder of recordings to tar shards."""

from __future__ import annotations

from pathlib import Path

import click

from mrl.cli.row_filter import ColumnValue, row_filter

_SOME_LEFT_OUT = 1  # exit status


@click.command()
@click.argument("source", metavar="MANIFEST", required=False, type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder for the shards and their index.")
@click.option("--shard-megabytes", type=float, default=512.0, show_default=True, help="Maximum size of a shard, in 10^6 bytes.")
@click.option(
    "--encode",
    type=click.Choice(["flac", "as-is"]),
    default="flac",
    show_default=True,
    help="flac: the utterance at 16 kHz, mono, 16 bits; as-is: the bytes of the recording.",
)
@click.option(
    "--root", type=click.Path(path_type=Path), help="Folder that the manifest's paths are relative to; its own by default."
)
@click.option("--where", type=ColumnValue(), multiple=True, help="Only rows of the manifest with this COLUMN=VALUE.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the order, which mixes all speakers.")
@click.option("--leave-out-unreadable", is_flag=True, help="List unreadable recordings and continue; the exit status is then 1.")
@click.option(
    "--num-workers", type=click.IntRange(min=1), default=2, show_default=True, help="Number of threads that read and encode."
)
@click.option("--verify", is_flag=True, help="Write nothing; check the shards in the folder against their index.")
def command(
    source: Path | None,
    output: Path,
    shard_megabytes: float,
    encode: str,
    root: Path | None,
    where: tuple[tuple[str, str], ...],
    seed: int,
    leave_out_unreadable: bool,
    num_workers: int,
    verify: bool,
) -> None:
    """Write a corpus as tar shards with an index, for training from network storage.

    MANIFEST is a manifest (CSV, TSV, JSONL, Parquet) or a folder with one subfolder per speaker. Run the same command again
    after a kill to resume; on finished shards it verifies them.
    """
    if verify:
        if source is not None:
            raise click.UsageError("--verify reads the shards alone; leave MANIFEST out")
        from mrl.data import ShardIndex

        index = ShardIndex.load(output)
        index.verify()
        click.echo(f"{output}: {len(index.shards)} shards with {len(index):,} utterances are as they were written")
        return
    if source is None:
        raise click.UsageError("Missing argument 'MANIFEST'.")
    from mrl.data import read_manifest, scan_speaker_folders, write_shards

    if source.is_dir():
        if root is not None or where:
            raise click.UsageError("--root and --where belong to a manifest; a folder is taken whole")
        corpus = scan_speaker_folders(source)
    else:
        corpus = read_manifest(source, root=root, where=row_filter(where))
    report = write_shards(
        corpus,
        output,
        shard_megabytes=shard_megabytes,
        encoding=encode,
        seed=seed,
        root=source if source.is_dir() else root or source.parent,
        leave_out_unreadable=leave_out_unreadable,
        num_workers=num_workers,
    )
    index = report.index
    size = sum(shard.size for shard in index.shards)
    click.echo(
        f"{output}: {len(index):,} utterances of {index.num_speakers:,} speakers in {len(index.shards)} shards, "
        f"{size / 1e6:,.1f} MB ({report.kept} shards were there)"
    )
    for one in report.left_out:
        click.echo(f"left out: {one.path}: {one.reason.removeprefix(f'{one.path}: ')}", err=True)
    if report.left_out:
        raise click.exceptions.Exit(_SOME_LEFT_OUT)
