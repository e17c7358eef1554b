"""``mrl data stats``: what a manifest holds."""

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
@click.option("--num-workers", type=int, help="Number of processes that read headers; one per processor by default.")
@click.option("--plot", type=click.Path(path_type=Path), help="Also draw histograms into this file (.png, .svg, .pdf).")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
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
