"""``mrl label``: names of enrolled voices for the speakers that a diarisation tool found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mrl.cli.options import (
    FOR_MANY,
    Criterion,
    ModelChoice,
    decision_options,
    dim_option,
    extraction_options,
    model_options,
    store_option,
)
from mrl.cli.output import json_option, result, wants_json

if TYPE_CHECKING:
    from mrl.embeddings import Extraction


@click.command()
@click.argument("turns", type=click.Path(path_type=Path))
@click.argument("recording", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write with the names; the screen by default.")
@click.option("--min-seconds", type=float, default=2.0, show_default=True, help="Speech that a name needs, in seconds.")
@click.option(
    "--margin",
    type=float,
    default=0.0,
    show_default=True,
    help="Least lead over the second best voice: in log-likelihood ratio, or in cosine for a model without calibration.",
)
@model_options()
@store_option
@dim_option
@extraction_options(without=(*FOR_MANY, "max_seconds"))
@decision_options()
@json_option
def command(
    turns: Path,
    recording: Path,
    output: Path | None,
    min_seconds: float,
    margin: float,
    model: ModelChoice,
    store: Path | None,
    dim: int | None,
    how: Extraction,
    criterion: Criterion,
) -> None:
    """Name the speakers of a diarised recording by the enrolled voices.

    TURNS says who speaks when in RECORDING: .rttm, .json (WhisperX, pyannote), .srt or .vtt with speaker tags. The same file is
    written with names in place of the speakers that are enrolled; unknown speakers stay as they are. --json prints what was found
    for each speaker, and needs --output.
    """
    from mrl.errors import InputError
    from mrl.files import write_text
    from mrl.identification import LabelSettings, VoiceStore, default_store, label_speakers, new_names, read_turns
    from mrl.tables import ABSENT, Table, print_tables

    if wants_json() and output is None:
        raise InputError("--json prints on the screen, where the named turns would go; write those to a file with --output")
    settings = LabelSettings(min_seconds=min_seconds, max_seconds=max(60.0, min_seconds), margin=margin)
    read = read_turns(turns, recording=recording.stem)
    opened = VoiceStore(store or default_store())
    speakers = label_speakers(model.open(), read, recording, opened, settings, how, dim=dim, **criterion)
    named = read.renamed(new_names(speakers))
    if output is None:
        click.echo(named, nl=False)
    else:
        write_text(output, named)
    if wants_json():
        result(speakers)
        return
    rows = []
    for speaker in speakers:
        best = speaker.best
        ratio = ABSENT if best is None or best.log_likelihood_ratio is None else f"{best.log_likelihood_ratio:.2f}"
        figures = (ABSENT, ABSENT) if best is None else (best.name, f"{best.score:.3f}")
        rows.append((speaker.speaker, speaker.name or "unknown", f"{speaker.seconds:.1f}", *figures, ratio, speaker.reason))
    headings = ("speaker", "name", "seconds", "most like", "cosine", "LLR", "why not")
    print_tables(Table(headings, tuple(rows), words=(0, 1, 3, 6), group=None, frame=False), stderr=True)
