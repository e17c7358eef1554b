"""``mrl enroll``, ``mrl identify`` and ``mrl voices``: voices enrolled, recognised, listed, removed, exported and imported."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mrl.cli.options import (
    FOR_MANY,
    LEAST_SPEECH,
    Criterion,
    ModelChoice,
    decision_options,
    dim_option,
    extraction_options,
    model_options,
    store_option,
)
from mrl.cli.output import json_option, result, wants_json
from mrl.errors import AudioLoadingError, printable

if TYPE_CHECKING:
    from mrl.embeddings import Extraction
    from mrl.identification import Identification, Voice

logger = logging.getLogger(__name__)


@click.command()
@click.argument("name")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@model_options()
@store_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["float32", "float16", "int8", "binary"]),
    help="Format of a new store, float32 by default; int8 takes a quarter of the space, binary 1/32.",
)
@click.option("--add", "extend", is_flag=True, help="Add the recordings to an enrolled voice.")
@extraction_options(without=FOR_MANY, minimum_speech=LEAST_SPEECH)
@json_option
def enrol(
    name: str,
    files: tuple[Path, ...],
    model: ModelChoice,
    store: Path | None,
    form: str | None,
    extend: bool,
    how: Extraction,
) -> None:
    """Enrol a voice.

    FILES are recordings of one speaker, NAME is the name of the voice. Longer recordings weigh more. If a recording cannot be
    used, nothing is enrolled.
    """
    from mrl.identification import default_store, enrol

    place = store or default_store()
    voice = enrol(model.open(), name, files, place, how, form=form, extend=extend)  # type: ignore[arg-type]
    result({"voice": voice, "store": place}, f"{voice.name}: {_recordings(voice)}, {voice.seconds:.1f} s in all, in {place}")


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Number of voices to show.")
@model_options()
@store_option
@dim_option
@click.option(
    "--search",
    "method",
    type=click.Choice(["exact", "approximate"]),
    default="exact",
    show_default=True,
    help="Search method; approximate is faster with very many voices and may miss one.",
)
@extraction_options(without=FOR_MANY, minimum_speech=LEAST_SPEECH)
@decision_options()
@json_option
@click.pass_context
def identify(
    ctx: click.Context,
    files: tuple[Path, ...],
    top: int,
    model: ModelChoice,
    store: Path | None,
    dim: int | None,
    method: str,
    how: Extraction,
    criterion: Criterion,
) -> None:
    """Identify the speakers of recordings among the enrolled voices, or answer unknown.

    Of several FILES, those that cannot be used are listed, and the exit status is 1. Scores are cosines in [-1, 1]. A decision
    needs a calibrated model (mrl calibrate) or --threshold.
    """
    from mrl.identification import VoiceStore, default_store, identify

    opened, embedder = VoiceStore(store or default_store()), model.open()
    answers, failures = [], 0
    for file in files:
        try:
            found = identify(embedder, file, opened, how, dim=dim, top=top, method=method, **criterion)  # type: ignore[arg-type]
        except AudioLoadingError as error:
            if len(files) == 1:
                raise
            logger.error("%s", printable(str(error), most=1000))
            failures += 1
            continue
        answers.append({"file": file, "name": found.name, "candidates": found.candidates, "basis": found.rule.basis})
        if not wants_json():
            if len(files) > 1:
                click.echo(f"{printable(str(file), most=1000)}:")
            for line in _identified(found):
                click.echo(line)
    if wants_json():
        result(answers if len(files) > 1 else answers[0])
    if answers and found.rule.threshold is not None and found.rule.calibration is None:
        logger.warning(
            "a raw threshold takes no account of the %s voices enrolled: the more there are, the more often a stranger is taken "
            "for one",
            f"{found.voices:,}",
        )
    if failures:
        click.echo(f"{failures} of {len(files)} recordings could not be used", err=True)
        ctx.exit(1)


def _identified(found: Identification) -> Iterator[str]:
    for voice in found.candidates:
        ratio = "" if voice.log_likelihood_ratio is None else f"  log-likelihood ratio {voice.log_likelihood_ratio:8.3f}"
        yield f"{voice.score:7.4f}{ratio}  {voice.name}"
    rule = found.rule
    if rule.threshold is None:
        yield f"no decision: {rule.absence}"
    else:
        yield f"decision: {found.name or 'unknown'} ({rule.basis}: threshold {rule.threshold:.3f})"


@click.group()
def command() -> None:
    """List, rename, remove, export and import enrolled voices."""


@command.command("list")
@store_option
@json_option
def list_voices(store: Path | None) -> None:
    """List the enrolled voices."""
    from mrl.identification import VoiceStore, default_store
    from mrl.tables import Table, print_tables

    voices = VoiceStore(store or default_store()).voices()
    if wants_json():
        result(voices)
        return
    if sys.stdout.isatty():
        rows = [(v.name, f"{v.recordings:,}", f"{v.seconds:.1f}", v.model_hash[:12], v.updated_at) for v in voices]
        headings = ("voice", "recordings", "seconds", "model", "changed")
        print_tables(Table(headings, tuple(rows), words=(0, 3, 4), group=None, frame=False, unbroken=(0, 3)))
    else:
        for voice in voices:
            facts = (voice.name, _recordings(voice), f"{voice.seconds:.1f} s", f"model {voice.model_hash[:12]}")
            click.echo("\t".join((*facts, f"changed {voice.updated_at}")))
    click.echo(f"{len(voices)} voice{'s' if len(voices) != 1 else ''}", err=True)


@command.command()
@click.argument("names", nargs=-1, required=True)
@store_option
@json_option
def remove(names: tuple[str, ...], store: Path | None) -> None:
    """Delete voices and overwrite their data in the store's files."""
    from mrl.identification import VoiceStore, default_store

    VoiceStore(store or default_store()).remove(names)
    result({"removed": names}, f"removed: {', '.join(names)}")


@command.command()
@click.argument("name")
@click.argument("new_name")
@store_option
@json_option
def rename(name: str, new_name: str, store: Path | None) -> None:
    """Give a voice another name."""
    from mrl.identification import VoiceStore, default_store

    VoiceStore(store or default_store()).rename(name, new_name)
    result({"name": name, "new_name": new_name}, f"{name} is now {new_name}")


@command.command()
@click.argument("names", nargs=-1)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="File to write, .jsonl.")
@store_option
@json_option
def export(names: tuple[str, ...], output: Path, store: Path | None) -> None:
    """Export voices to a file for mrl voices import; all voices if no NAMES are given."""
    from mrl.identification import VoiceStore, default_store, export_voices

    number = export_voices(VoiceStore(store or default_store()), output, names or None)
    facts = {"voices": number, "file": output}
    result(facts, f"{number} voices written to {output}; the file holds voice prints, keep it safe")


@command.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@store_option
@click.option("--merge", is_flag=True, help="Leave out the voices whose names are taken, instead of importing none.")
@json_option
def import_file(file: Path, store: Path | None, merge: bool) -> None:
    """Import all voices of a file written by mrl voices export, or none; creates the store if needed."""
    from mrl.identification import default_store, import_voices

    place = store or default_store()
    number = import_voices(place, file, merge=merge)
    result({"voices": number, "store": place}, f"{number} voices added to {place}")


def _recordings(voice: Voice) -> str:
    return f"{voice.recordings} recording{'s' if voice.recordings != 1 else ''}"
