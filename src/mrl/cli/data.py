"""``mrl data``: corpora, scanned into manifests, checked, and counted.

Like the verbs themselves, a subcommand's module is imported when it is used.
"""

from __future__ import annotations

import click

from mrl.cli.main import LazyGroup

SUBCOMMANDS: dict[str, str] = {
    "prepare": "Scan a corpus and write its manifest.",
    "check": "Decode every utterance of a manifest and say what is wrong.",
    "stats": "Count speakers, sessions and hours; show how lengths are spread.",
    "shard": "Write a corpus as tar shards with an index, for training from network storage.",
    "listen": "Write augmented examples to listen to.",
}
"""Each subcommand with its line of help; its command is ``command`` in the module ``mrl.cli.data_NAME``."""


@click.group(cls=LazyGroup, table=SUBCOMMANDS, prefix="data_")
def command() -> None:
    """Prepare corpora for training: scan them into a manifest, check every recording, count what is there."""
