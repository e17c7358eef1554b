"""Puts what ``mrl VERB --help`` says into the page on the command line, so that the two cannot differ.

    python -m docs.generate_command_line

The page says where the help of a command belongs by a pair of comments; everything around them is written by hand:

    <!-- help: verify -->
    <!-- help: data prepare -->
    <!-- end -->
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from mrl.cli.main import cli
from mrl.files import write_text

PAGE = Path(__file__).parent / "reference" / "command-line.md"
_PLACE = re.compile(r"(<!-- help: ([a-z -]+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> int:
    """Fill the page."""
    write_text(PAGE, filled(PAGE.read_text(encoding="utf-8")))
    return 0


def filled(text: str) -> str:
    """Return the page with the help of every command that it names.

    Raises:
        KeyError: a command that does not exist.
    """
    contexts = dict(commands())

    def section(place: re.Match[str]) -> str:
        return f"{place[1]}{described(contexts[place[2]])}{place[3]}"

    return _PLACE.sub(section, text)


def commands(parent: click.Context | None = None) -> Iterator[tuple[str, click.Context]]:
    """Yield (words after ``mrl``, context) of every command that does something, in the order of the help."""
    if parent is None:
        parent = click.Context(cli, info_name="mrl")
    group = parent.command
    assert isinstance(group, click.Group)
    for name in group.list_commands(parent):
        command = group.get_command(parent, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=parent)
        if isinstance(command, click.Group):
            yield from commands(context)
        else:
            yield context.command_path.removeprefix("mrl "), context


def described(context: click.Context) -> str:
    """Return a command's usage, its help and a table of its options as Markdown."""
    command = context.command
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(command.help or "").replace("\b\n", ""))
    lines = ["", "```text", usage, "```", "", "\n\n".join(" ".join(text.split()) for text in paragraphs)]
    shown = [option for option in command.params if option.name not in ("quiet", "verbose")]  # which every verb has
    options = [option for option in shown if isinstance(option, click.Option)]
    records = [record for option in options if (record := option.get_help_record(context)) is not None]
    rows = [f"| `{_cell(names)}` | {_cell(meaning)} |" for names, meaning in records]
    if rows:
        lines += ["", "| option | meaning |", "|---|---|", *rows]
    return "\n".join([*lines, "", ""])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


if __name__ == "__main__":
    sys.exit(main())
