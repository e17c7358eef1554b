"""``mrl data check``: decode everything that a manifest names."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mrl.cli.row_filter import ColumnValue, row_filter


@click.command()
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
def command(
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
