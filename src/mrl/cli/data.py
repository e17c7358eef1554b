"""``mrl data``: corpora, scanned into manifests, checked, counted, written as shards, and augmented examples to listen to."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mrl.cli.options import ColumnValue, row_filter

_SOME_LEFT_OUT = 1  # exit status


@click.group()
def command() -> None:
    """Prepare corpora for training: scan them into a manifest, check every recording, count what is there."""


@command.command(short_help="Scan a corpus and write its manifest.")
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Manifest to write: .parquet, .jsonl, .csv or .tsv."
)
@click.option(
    "--corpus",
    default="auto",
    show_default=True,
    help="Layout: auto, folders, manifest, kaldi, voxceleb1, voxceleb2, voxceleb, cnceleb1, cnceleb2, cnceleb or voxblink2.",
)
@click.option("--split", type=click.Choice(["dev", "test"]), help="Only this part of VoxCeleb or CN-Celeb.")
@click.option(
    "--root", type=click.Path(path_type=Path), help="Folder that paths in the manifest are relative to; its own by default."
)
@click.option(
    "--source-root",
    type=click.Path(path_type=Path),
    help="Folder that the paths of a source manifest or of wav.scp are relative to.",
)
@click.option("--where", type=ColumnValue(), multiple=True, help="Only rows of a source manifest with this COLUMN=VALUE.")
@click.option("--min-seconds", type=float, default=0.5, show_default=True, help="Minimum length of an utterance, in seconds.")
@click.option(
    "--silence-db",
    type=float,
    default=-60.0,
    show_default=True,
    help="Utterances whose peak is below this level are silent, in dBFS.",
)
@click.option("--max-clipped", type=float, help="Leave out utterances with a larger share of samples at full scale, 0 to 1.")
@click.option(
    "--keep",
    multiple=True,
    type=click.Choice(["silent", "too-short", "duplicate", "contradictory"]),
    help="Keep utterances with this fault and only list them; may be given several times.",
)
@click.option("--header-only", is_flag=True, help="Only read headers: silence, clipping, duplicates and damage are not found.")
@click.option(
    "--eval-trials",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Trial list whose speakers must not be in the manifest; may be given several times.",
)
@click.option(
    "--overlap",
    type=click.Choice(["refuse", "leave-out", "allow"]),
    default="refuse",
    show_default=True,
    help="What to do with speakers of the trial lists.",
)
@click.option("--num-workers", type=int, help="Number of processes; one per processor by default.")
def prepare(
    source: Path,
    output: Path,
    corpus: str,
    split: str | None,
    root: Path | None,
    source_root: Path | None,
    where: tuple[tuple[str, str], ...],
    min_seconds: float,
    silence_db: float,
    max_clipped: float | None,
    keep: tuple[str, ...],
    header_only: bool,
    eval_trials: tuple[Path, ...],
    overlap: str,
    num_workers: int | None,
) -> None:
    """Examine every recording of a corpus and write its manifest.

    SOURCE is a folder or a manifest. Faulty utterances (unreadable, silent, too short, the same audio twice) are left out and
    listed in NAME.faults.tsv beside the manifest. An interrupted command resumes if you run it again.
    """
    from mrl.data.corpora import find_recordings
    from mrl.data.preparing import FAULTS, Limits, prepare_manifest
    from mrl.trials import read_trials

    evaluated = [name for trials in eval_trials for name in read_trials(trials).utterances]
    limits = Limits(min_seconds, silence_db, max_clipped)
    found = find_recordings(source, corpus=corpus, split=split, root=source_root, where=row_filter(where) or None)
    click.echo(f"{source}: {len(found.recordings):,} utterances, read as {found.layout}", err=True)
    done = prepare_manifest(
        found,
        output,
        root=root,
        limits=limits,
        keep=keep,
        decode=not header_only,
        evaluation=evaluated,
        overlap=overlap,  # type: ignore[arg-type]
        num_workers=num_workers,
    )
    click.echo(
        f"{done.manifest}: {done.utterances:,} utterances of {done.speakers:,} speakers, {done.seconds / 3600:,.2f} hours "
        f"({done.found - done.utterances:,} of {done.found:,} left out)"
    )
    for kind, count in done.faults.items():
        kept = f", {done.kept[kind]:,} of them kept" if kind in done.kept else ""
        click.echo(f"  {kind}: {count:,} {FAULTS[kind]}{kept}")
    if done.faults:
        click.echo(f"  all are listed in {done.report}")
    if done.clipped:
        click.echo(f"note: {done.clipped:,} utterances have more than 1 % of their samples at full scale")
    if done.passed_over:
        click.echo(
            f"note: {done.passed_over:,} recordings were skipped: another corpus or split, or not in the layout {done.layout}"
        )


@command.command(short_help="Decode every utterance of a manifest and list the faults.")
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option(
    "--root", type=click.Path(path_type=Path), help="Folder that the manifest's paths are relative to; its own by default."
)
@click.option("--where", type=ColumnValue(), multiple=True, help="Only rows with this COLUMN=VALUE; may be given several times.")
@click.option("--min-seconds", type=float, default=0.0, show_default=True, help="Minimum length of an utterance, in seconds.")
@click.option(
    "--silence-db",
    type=float,
    default=-60.0,
    show_default=True,
    help="Utterances whose peak is below this level are silent, in dBFS.",
)
@click.option(
    "--max-clipped", type=float, help="Report utterances with a larger share of samples at full scale as clipped, 0 to 1."
)
@click.option("--num-workers", type=int, help="Number of processes; one per processor by default.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
def check(
    ctx: click.Context,
    manifest: Path,
    root: Path | None,
    where: tuple[tuple[str, str], ...],
    min_seconds: float,
    silence_db: float,
    max_clipped: float | None,
    num_workers: int | None,
    as_json: bool,
) -> None:
    """Decode every utterance of a manifest and list all faults; the exit status is 1 if there are any."""
    from mrl.data.preparing import Limits, check_manifest

    found = check_manifest(
        manifest,
        root=root,
        where=row_filter(where),
        limits=Limits(min_seconds, silence_db, max_clipped),
        num_workers=num_workers,
    )
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        for one in found.faulty:
            place = f"{one.path}" if not one.start else f"{one.path} from {one.start:g} s"
            click.echo(f"{one.kind}: {place} ({one.speaker}): {one.reason}")
        hours = f"{found.seconds / 3600:,.2f} hours"
        click.echo(
            f"{manifest}: {found.utterances:,} utterances of {found.speakers:,} speakers, {hours}, {len(found.faulty):,} faulty"
        )
    if found.faulty:
        ctx.exit(1)


@command.command(short_help="Count speakers, sessions and hours; show how lengths are spread.")
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option(
    "--root", type=click.Path(path_type=Path), help="Folder that the manifest's paths are relative to; its own by default."
)
@click.option("--where", type=ColumnValue(), multiple=True, help="Only rows with this COLUMN=VALUE; may be given several times.")
@click.option("--num-workers", type=int, help="Number of processes that read headers; one per processor by default.")
@click.option("--plot", type=click.Path(path_type=Path), help="Also draw histograms into this file (.png, .svg, .pdf).")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def stats(
    manifest: Path,
    root: Path | None,
    where: tuple[tuple[str, str], ...],
    num_workers: int | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Count speakers, sessions, utterances and hours, with quantiles of the lengths.

    Recordings are opened only if the manifest does not state their length and sample rate.
    """
    from mrl.data.statistics import manifest_statistics, quantiles_table, statistics_lines
    from mrl.tables import print_tables

    found = manifest_statistics(manifest, root=root, where=row_filter(where), num_workers=num_workers)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        click.echo("\n".join([*statistics_lines(found), ""]))
        print_tables(quantiles_table(found))
    if plot is not None:
        from mrl.data.statistics import plot_statistics

        plot_statistics(found, plot, title=manifest.name)


@command.command(short_help="Write a corpus as tar shards with an index, for training from network storage.")
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
def shard(
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
            raise click.UsageError("--verify reads the shards alone; omit MANIFEST")
        from mrl.data import ShardIndex

        index = ShardIndex.load(output)
        index.verify()
        click.echo(f"{output}: {len(index.shards)} shards with {len(index):,} utterances are intact")
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


@command.command(short_help="Write augmented examples to listen to.")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write into.")
@click.option("--config", type=click.Path(path_type=Path), help="Training configuration; defaults if omitted.")
@click.option("--root", type=click.Path(path_type=Path), help="Folder that the manifest's paths are relative to.")
@click.option("--count", type=int, default=8, show_default=True, help="Number of utterances.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of utterances, crops and changes.")
def listen(source: Path, output: Path, config: Path | None, root: Path | None, count: int, seed: int) -> None:
    """Write training crops to listen to: clean, with each kind of augmentation alone, and as configured.

    SOURCE is a manifest, a folder of shards, or a folder with recordings at any depth. The folder written into gets WAV files, an
    index.html with players that says what was done to each, and the same as examples.tsv.
    """
    from mrl.training import load_config
    from mrl.training.listening import write_examples

    settings = load_config([] if config is None else [config]).data
    written = write_examples(
        source, output, settings.augmentation, root=root, crop_seconds=settings.crop_seconds, count=count, seed=seed
    )
    for kind, reason in written.left_out.items():
        click.echo(f"no {kind.replace('_', ' ')}: {reason}")
    click.echo(f"{len(written.examples)} examples; open {written.folder / 'index.html'}")
