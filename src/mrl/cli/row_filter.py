"""``--where COLUMN=VALUE``, which several verbs share."""

from __future__ import annotations

from collections.abc import Iterable

import click


class ColumnValue(click.ParamType):  # type: ignore[type-arg]
    """``COLUMN=VALUE``."""

    name = "column=value"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        column, equals, wanted = str(value).partition("=")
        if not column or not equals:
            self.fail(f"{value!r} is not of the form COLUMN=VALUE, such as part=eval", param, ctx)
        return column, wanted


def row_filter(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return for each column the values that pass: those given for the same column are alternatives."""
    wanted: dict[str, list[str]] = {}
    for column, value in pairs:
        wanted.setdefault(column, []).append(value)
    return wanted
