"""``mrl push``: a model folder to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

import click

from mrl.cli.output import json_option, result


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("repository", metavar="ORG/NAME")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option("--revision", help="Branch to commit to, made if absent; main by default.")
@click.option("--message", help="Commit message.")
@click.option(
    "--report",
    "reports",
    multiple=True,
    type=click.Path(path_type=Path),
    help="report.json of mrl evaluate, whose error rates go into the card; may be given several times.",
)
@json_option
def command(
    folder: Path, repository: str, private: bool, revision: str | None, message: str | None, reports: tuple[Path, ...]
) -> None:
    """Share a model folder on the Hugging Face Hub.

    Weights, configuration, calibration and a model card are uploaded, nothing else. ORG/NAME is made if absent. Log in with
    hf auth login, or set HF_TOKEN. Others then use --model ORG/NAME or --model ORG/NAME@REVISION.
    """
    from mrl.evaluation.result import reported_rates
    from mrl.matryoshka.saving import model_card, read_model_folder
    from mrl.pretrained import model_folder, push_model_folder

    place = model_folder(folder)
    config, _ = read_model_folder(place)  # nothing damaged is shared
    card = model_card(config, [reported_rates(report) for report in reports]) if reports else None
    address = push_model_folder(place, repository, card=card, private=private, revision=revision, message=message)
    result({"repository": repository, "commit": address}, f"pushed: {address}")
