"""The page on the command line holds what ``--help`` says."""

from __future__ import annotations

import re

import pytest
from docs.generate_command_line import PAGE, commands, filled

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_page_is_current() -> None:
    assert filled(TEXT) == TEXT, "run: make docs"


def test_every_command_has_one_place() -> None:
    named = re.findall(r"^<!-- help: (.+?) -->$", TEXT, re.MULTILINE)
    assert sorted(named) == sorted(name for name, _ in commands())


def test_changed_help_is_put_in() -> None:
    page = "before\n<!-- help: data stats -->\nstale text\n<!-- end -->\nafter\n"
    made = filled(page)
    assert made.startswith("before\n<!-- help: data stats -->\n\n```text\nmrl data stats [OPTIONS] MANIFEST\n```\n")
    assert "| `--plot PATH` | " in made and "stale" not in made
    assert made.endswith("<!-- end -->\nafter\n") and filled(made) == made


def test_an_unknown_command_is_an_error() -> None:
    with pytest.raises(KeyError, match="data count"):
        filled("<!-- help: data count -->\n<!-- end -->\n")
