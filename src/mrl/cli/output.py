"""What every verb prints, as text for people or as JSON for programs, and how much it says besides."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mrl.tables import Table

_JSON = "mrl.json"


def add_common_options(command: click.Command) -> click.Command:
    """Give a command, or every command of a group, ``--quiet`` and ``--verbose``, once."""
    if isinstance(command, click.Group):
        for member in command.commands.values():
            add_common_options(member)
    elif not any(parameter.name == "quiet" for parameter in command.params):
        for names, callback, meaning in _COMMON:
            command.params.append(click.Option(names, is_flag=True, expose_value=False, callback=callback, help=meaning))
    return command


def result(data: Any, *shown: str | Table | None) -> None:
    """Print the result of a verb on standard output: with ``--json`` the data, otherwise the lines and tables.

    Args:
        data: dataclasses, mappings, sequences, paths, numbers and text.
        shown: the same for people; None is left out.
    """
    if wants_json():
        click.echo(json.dumps(_plain(data), indent=2, ensure_ascii=False, allow_nan=False))
        return
    for part in shown:
        if isinstance(part, str):
            click.echo(part)
        elif part is not None:
            from mrl.tables import print_tables  # rich takes a while to import

            print_tables(part)


def wants_json() -> bool:
    """Return whether the running verb was given ``--json``."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_JSON))


def _plain(value: Any) -> Any:
    """Return a value as JSON has it; what is not finite becomes null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):  # of NumPy
        value = value.item()
    if isinstance(value, float) and value - value != 0.0:
        return None
    return value


def _set_json(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        context.meta[_JSON] = True


def _set_quiet(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        logging.getLogger("mrl").setLevel(logging.ERROR)


def _set_verbose(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        logging.getLogger("mrl").setLevel(logging.DEBUG)


_COMMON = (
    (["-q", "--quiet"], _set_quiet, "Show only results and errors."),
    (["-v", "--verbose"], _set_verbose, "Show detailed messages."),
)

json_option = click.option("--json", is_flag=True, expose_value=False, callback=_set_json, help="Print the result as JSON.")
"""Of verbs that print by :func:`result`."""
