"""The option ``--store`` of all verbs that use the voice store."""

from __future__ import annotations

from pathlib import Path

import click

store_option = click.option(
    "--store",
    type=click.Path(path_type=Path),
    envvar="MRL_STORE",
    help="The voice store's file; by default voices.sqlite in redimnet-mrl below the user's data folder [also MRL_STORE].",
)
