"""One table for every place where figures are shown: terminal, Markdown, HTML, and text for other programs."""

from __future__ import annotations

import csv
import html
import io
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Column
from rich.table import Table as TerminalTable
from rich.text import Text

ABSENT = "–"
"""A cell for which there is no figure."""

_NEVER_FOLDED = 10_000  # columns of an output that is not a terminal, so that no table is folded to a guessed width


@dataclass(frozen=True)
class Table:
    """Rows of text under headings.

    Attributes:
        headings: of the columns.
        rows: each with one cell per column.
        words: columns that hold words and are aligned to the left; all others hold numbers.
        group: a line separates rows whose cells in this column differ; None draws no lines.
        notes: sentences that a reader of the table needs.
        title: above the table, on a terminal.
        frame: draw a frame, on a terminal.
        unbroken: columns whose cells are never folded or shortened, on a terminal.
    """

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: tuple[int, ...] = (0,)
    group: int | None = 0
    notes: tuple[str, ...] = ()
    title: str = ""
    frame: bool = True
    unbroken: tuple[int, ...] = ()

    def terminal(self) -> TerminalTable:
        """Return the table and its notes for :class:`rich.console.Console`."""
        columns = [
            # As Text, because rich takes words in square brackets for markup.
            Column(Text(heading), justify="left" if place in self.words else "right", no_wrap=place in self.unbroken)
            for place, heading in enumerate(self.headings)
        ]
        caption = Text("\n".join(self.notes)) if self.notes else None
        table = TerminalTable(*columns, title=Text(self.title) if self.title else None, caption=caption, caption_justify="left")
        if not self.frame:
            table.box, table.padding = None, (0, 1, 0, 0)
        for row, begins_group in self._rows_by_group():
            if begins_group:
                table.add_section()
            table.add_row(*map(Text, row))
        return table

    def markdown(self) -> str:
        """Return the table in Markdown, its first column aligned to the left, and its notes as paragraphs."""
        headings, *rows = ([cell.replace("|", "\\|") for cell in row] for row in (self.headings, *self.rows))
        lines = [
            "| " + " | ".join(headings) + " |",
            "|" + "|".join(["---", *["---:"] * (len(headings) - 1)]) + "|",
            *("| " + " | ".join(row) + " |" for row in rows),
        ]
        return "\n\n".join(["\n".join(lines), *self.notes]) + "\n"

    def html(self) -> str:
        """Return the table in HTML without its notes; cells of words have the class ``word``, first rows of groups ``first``."""
        lines = ["<thead><tr>" + self._cells("th", self.headings) + "</tr></thead>"]
        for row, begins_group in self._rows_by_group():
            kind = ' class="first"' if begins_group else ""
            lines.append(f"<tr{kind}>" + self._cells("td", row) + "</tr>")
        return "<table>" + "\n".join(lines) + "</table>"

    def tab_separated(self) -> str:
        """Return headings and rows as lines of cells separated by tabs, for other programs."""
        return "\n".join("\t".join(row) for row in (self.headings, *self.rows))

    def _rows_by_group(self) -> list[tuple[tuple[str, ...], bool]]:
        """Return every row, and whether a line separates it from the row above."""
        above = (None, *self.rows)
        return [
            (row, self.group is not None and previous is not None and row[self.group] != previous[self.group])
            for previous, row in zip(above, self.rows, strict=False)
        ]

    def _cells(self, tag: str, row: Sequence[str]) -> str:
        kinds = [' class="word"' if place in self.words else "" for place in range(len(row))]
        return "".join(f"<{tag}{kind}>{html.escape(cell, quote=True)}</{tag}>" for kind, cell in zip(kinds, row, strict=True))


def print_tables(*tables: Table, stderr: bool = False) -> None:
    """Print tables with their notes on standard output, or standard error.

    They fit the terminal, or ``COLUMNS`` where that is set; elsewhere they are as wide as they need to be.
    """
    stream = sys.stderr if stderr else sys.stdout
    console = Console(width=None if stream.isatty() or "COLUMNS" in os.environ else _NEVER_FOLDED, stderr=stderr)
    for table in tables:
        console.print(table.terminal())


def records_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """Return records as CSV, a column for each key of the first one; values are written in full, None as an empty cell.

    Args:
        records: at least one; all have the same keys in the same order.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()
