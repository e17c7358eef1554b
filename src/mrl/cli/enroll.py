"""``mrl enroll``: a voice from recordings into the store."""

from __future__ import annotations

from pathlib import Path

import click

from mrl.cli.options import device_option, model_option, store_option, weights_option


@click.command()
@click.argument("name")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@model_option
@weights_option
@store_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["float32", "float16", "int8", "binary"]),
    help="Format of a new store, float32 by default; int8 takes a quarter of the space, binary 1/32.",
)
@click.option("--add", "extend", is_flag=True, help="Add the recordings to an enrolled voice.")
@device_option
def command(
    name: str,
    files: tuple[Path, ...],
    model: str,
    weights: str | None,
    store: Path | None,
    form: str | None,
    extend: bool,
    device: str,
) -> None:
    """Enrol a voice.

    FILES are recordings of one speaker, NAME is the name of the voice. Longer recordings weigh more. If a recording cannot be
    used, nothing is enrolled.
    """
    from mrl.identification import default_store, enrol, open_embedder

    place = store or default_store()
    voice = enrol(open_embedder(model, weights=weights, device=device), name, files, place, form=form, extend=extend)  # type: ignore[arg-type]
    number = f"{voice.recordings} recording{'s' if voice.recordings != 1 else ''}"
    click.echo(f"{voice.name}: {number}, {voice.seconds:.1f} s in all, in {place}")
