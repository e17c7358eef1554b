"""``mrl data prepare``: a corpus as it lies on disk to a manifest."""

from __future__ import annotations

from pathlib import Path

import click

from mrl.cli.row_filter import ColumnValue, row_filter


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Manifest to write: .parquet, .jsonl, .csv or .tsv."
)
@click.option(
    "--corpus",
    default="auto",
    show_default=True,
    help="Layout: auto, folders, manifest, voxceleb1, voxceleb2, voxceleb, cnceleb1, cnceleb2, cnceleb or voxblink2.",
)
@click.option("--split", type=click.Choice(["dev", "test"]), help="Only this part of VoxCeleb or CN-Celeb.")
@click.option(
    "--root", type=click.Path(path_type=Path), help="Folder that paths in the manifest are relative to; its own by default."
)
@click.option(
    "--source-root",
    type=click.Path(path_type=Path),
    help="Folder that the paths of a source manifest are relative to.",
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
def command(
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
            f"note: {done.passed_over:,} recordings were passed over: other corpus or split, or not where {done.layout} has them"
        )
