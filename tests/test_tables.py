"""One table in every form."""

from __future__ import annotations

import csv
import io
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mrl.tables import Table, print_tables, records_csv

TABLE = Table(
    ("system", "dim", "EER %"),
    (("a [x]", "16", "3.20"), ("a [x]", "32", "2.10"), ("b|c", "16", "4.00")),
    notes=("First sentence.", "Second [one]."),
    title="a [title]",
)


def drawn(table: Table, width: int = 80) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width).print(table.terminal())
    return stream.getvalue().splitlines()


def test_markdown() -> None:
    assert TABLE.markdown() == (
        "| system | dim | EER % |\n|---|---:|---:|\n| a [x] | 16 | 3.20 |\n| a [x] | 32 | 2.10 |\n| b\\|c | 16 | 4.00 |\n"
        "\nFirst sentence.\n\nSecond [one].\n"
    )


def test_terminal_draws_a_line_between_groups_and_takes_nothing_for_markup() -> None:
    lines = drawn(TABLE)
    assert "a [title]" in lines[0]
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert rows == [list(row) for row in TABLE.rows]
    assert sum(line.startswith("├") for line in lines) == 1
    assert lines[-2].strip() == "First sentence." and lines[-1].strip() == "Second [one]."
    assert [line for line in drawn(Table(("a", "b"), (("x", "12"), ("yy", "3")), frame=False)) if line.strip()] == [
        "a   b ", "x  12 ", "yy  3 ",
    ]  # fmt: skip


@given(st.lists(st.tuples(st.text(max_size=8), st.sampled_from("ab")), min_size=1, max_size=6))
def test_html_holds_every_cell_and_begins_groups(rows: list[tuple[str, str]]) -> None:
    class Cells(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.rows: list[list[str]] = []
            self.first: list[int] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag == "tr":
                if ("class", "first") in attrs:
                    self.first.append(len(self.rows))
                self.rows.append([])
            if tag in ("td", "th"):
                self.rows[-1].append("")

        def handle_data(self, data: str) -> None:
            if self.rows and self.rows[-1] and data != "\n":
                self.rows[-1][-1] += data

    cleaned = [(text.replace("\n", " ").replace("\r", " ").replace("\0", " "), kind) for text, kind in rows]
    parser = Cells()
    parser.feed(Table(("text", "kind"), tuple(cleaned), group=1).html())
    parser.close()
    assert parser.rows == [["text", "kind"], *map(list, cleaned)]
    assert parser.first == [place + 1 for place in range(1, len(rows)) if rows[place][1] != rows[place - 1][1]]


def test_output_that_is_no_terminal_is_never_folded(capsys: pytest.CaptureFixture[str]) -> None:
    wide = Table(tuple(f"column {place}" for place in range(40)), (tuple("x" * 20 for _ in range(40)),), notes=("word " * 500,))
    print_tables(wide, TABLE)
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].count("x" * 20) == 40
    assert max(map(len, lines)) == len(lines[0])  # notes are folded to the width of their table


def test_for_other_programs() -> None:
    assert TABLE.tab_separated() == "system\tdim\tEER %\na [x]\t16\t3.20\na [x]\t32\t2.10\nb|c\t16\t4.00"
    records = [{"a": 0.1 + 0.2, "b": None}, {"a": 1, "b": 'x,"y"'}]
    text = records_csv(records)
    assert text == 'a,b\n0.30000000000000004,\n1,"x,""y"""\n'
    assert [dict(row) for row in csv.DictReader(io.StringIO(text))][1] == {"a": "1", "b": 'x,"y"'}
