"""``mrl data``: corpora, scanned into manifests, checked, and counted.

Like the verbs themselves, a subcommand's module is imported when it is used.
"""

from __future__ import annotations

import importlib

import click

SUBCOMMANDS: dict[str, str] = {
    "prepare": "Scan a corpus and write its manifest.",
    "check": "Decode every utterance of a manifest and say what is wrong.",
    "stats": "Count speakers, sessions and hours; show how lengths are spread.",
    "shard": "Write a corpus as tar shards with an index, for training from network storage.",
    "listen": "Write augmented examples to listen to.",
}
"""Each subcommand with its line of help; its command is ``command`` in the module ``mrl.cli.data_NAME``."""


class SubcommandGroup(click.Group):
    """A click group that imports a subcommand when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in SUBCOMMANDS:
            return None
        command: click.Command = importlib.import_module(f"mrl.cli.data_{cmd_name.replace('-', '_')}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click's own version would import every subcommand for its line of help.
        with formatter.section("Commands"):
            formatter.write_dl(list(SUBCOMMANDS.items()))


@click.group(cls=SubcommandGroup)
def command() -> None:
    """Prepare corpora for training: scan them into a manifest, check every recording, count what is there."""
