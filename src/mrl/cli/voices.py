"""``mrl voices``: the enrolled voices, listed, removed, exported and imported."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from mrl.cli.options import store_option


@click.group()
def command() -> None:
    """List, remove, export and import enrolled voices."""


@command.command("list")
@store_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_voices(store: Path | None, as_json: bool) -> None:
    """List the enrolled voices."""
    from mrl.identification import VoiceStore, default_store

    voices = VoiceStore(store or default_store()).voices()
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(voice) for voice in voices], indent=2, ensure_ascii=False))
        return
    for voice in voices:
        number = f"{voice.recordings} recording{'s' if voice.recordings != 1 else ''}"
        click.echo(f"{voice.name}\t{number}\t{voice.seconds:.1f} s\tmodel {voice.model_hash[:12]}\tchanged {voice.updated_at}")
    click.echo(f"{len(voices)} voice{'s' if len(voices) != 1 else ''}", err=True)


@command.command()
@click.argument("names", nargs=-1, required=True)
@store_option
def remove(names: tuple[str, ...], store: Path | None) -> None:
    """Delete voices and overwrite their data in the store's files."""
    from mrl.identification import VoiceStore, default_store

    VoiceStore(store or default_store()).remove(names)
    click.echo(f"removed: {', '.join(names)}")


@command.command()
@click.argument("names", nargs=-1)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="File to write, .jsonl.")
@store_option
def export(names: tuple[str, ...], output: Path, store: Path | None) -> None:
    """Export voices to a file for mrl voices import; all voices if no NAMES are given."""
    from mrl.identification import VoiceStore, default_store, export_voices

    number = export_voices(VoiceStore(store or default_store()), output, names or None)
    click.echo(f"{number} voices written to {output}; the file holds voice prints, keep it safe")


@command.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@store_option
def import_file(file: Path, store: Path | None) -> None:
    """Import all voices of a file written by mrl voices export, or none; creates the store if needed."""
    from mrl.identification import default_store, import_voices

    place = store or default_store()
    click.echo(f"{import_voices(place, file)} voices added to {place}")
