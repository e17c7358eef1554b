"""``mrl fit-exits``: a model folder whose network can be left early."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mrl.cli.options import DimList, device_option, extraction_options

if TYPE_CHECKING:
    from mrl.embeddings import Extraction


@click.command()
@click.argument("model")
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RECORDINGS...")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Model folder to write, new or empty.")
@click.option("--depths", type=DimList(), help="Stages to add exits after, such as 1,2,3; all but the last by default.")
@extraction_options(batch_seconds=30.0)
@device_option
def command(
    model: str,
    inputs: tuple[Path, ...],
    output: Path,
    depths: tuple[int, ...] | None,
    how: Extraction,
    device: str,
) -> None:
    """Add early exits to a model: embeddings after its first stages, faster and slightly less accurate.

    MODEL is a model folder or mrl-b0-demo. RECORDINGS are recordings, folders of them, or .txt lists with one path per line: a
    few thousand of many speakers, similar to those that you will embed; no labels are needed. Results of the whole network do
    not change. Use an exit with --depth of mrl embed, verify, evaluate and export.
    """
    from mrl.training.exits import fit_exits_into_folder

    made = fit_exits_into_folder(model, inputs, output, how, depths=depths, device=device)
    listed = ", ".join(map(str, made.depths))
    click.echo(f"fitted to {made.num_recordings:,} recordings; depths: {listed} ({made.depths[-1]} is the whole network)")
    click.echo(f"{made.num_bytes:,} bytes of weights, {made.num_bytes_before:,} before")
    click.echo(f"written: {made.folder}")
