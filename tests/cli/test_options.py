"""Bundles of options and the objects that they fill."""

from __future__ import annotations

import dataclasses

import click
from click.testing import CliRunner

from mrl.cli.options import EXTRACTION_OPTIONS, ModelChoice, decision_options, extraction_options, model_options
from mrl.embeddings import Extraction


def test_every_setting_of_an_extraction_has_its_option_with_the_same_default() -> None:
    @click.command()
    @extraction_options()
    def command(how: Extraction) -> None:
        click.echo(repr(how))

    assert CliRunner().invoke(command, []).output.strip() == repr(Extraction())
    assert {*EXTRACTION_OPTIONS, "show_progress"} == {field.name for field in dataclasses.fields(Extraction)}
    given = CliRunner().invoke(command, ["--batch-seconds", "5", "--max-seconds", "2", "--num-workers", "0"]).output.strip()
    assert given == repr(Extraction(batch_seconds=5.0, max_seconds=2.0, num_workers=0))


def test_models_and_criteria() -> None:
    @click.command()
    @model_options(depth=True)
    @extraction_options(without=("max_seconds",))
    @decision_options()
    def command(model: ModelChoice, how: Extraction, criterion: dict[str, float | None]) -> None:
        click.echo(f"{model} {how.max_seconds} {criterion}")

    output = CliRunner().invoke(command, ["--model", "x", "--depth", "2", "--max-far", "0.1"]).output.strip()
    chosen = {"threshold": None, "prior": None, "max_false_accept": 0.1}
    assert output == f"{ModelChoice('x', None, 2, 'cpu')} None {chosen}"
    assert "No such option" in CliRunner().invoke(command, ["--max-seconds", "1"]).output
