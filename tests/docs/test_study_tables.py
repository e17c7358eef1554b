"""The tables of the accuracy study are those that its scripts make from the results, whatever was typed around them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.study.page import filled, table

from tests.docs.markdown import ROOT


def _figures(eer: float, *, deviation: float = 0.0, p: float = 1.0) -> dict[str, Any]:
    return {"eer": eer, "eer_deviation_over_seeds": deviation, "p": p}


def test_a_table_tells_rate_deviation_and_significance() -> None:
    systems = {
        "one": {"seeds": 1, "lists": {"l": {"8": _figures(0.1234, p=0.04), "16": _figures(0.05)}}},
        "three": {"seeds": 3, "lists": {"l": {"16": _figures(0.0512, deviation=0.0011, p=0.01)}}},
    }
    assert table(systems, "l") == [
        "| system | 8 | 16 |",
        "|---|---|---|",
        "| one | 12.34 * | 5.00 |",
        "| three | – | 5.12 ±0.11 * |",
    ]


def test_a_page_is_filled_where_it_says_so_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "b0").mkdir()
    systems = {name: {"seeds": 1, "lists": {"l": {"8": _figures(rate)}}} for name, rate in (("recipe", 0.1), ("start: pca", 0.2))}
    (tmp_path / "b0" / "heads.json").write_text(json.dumps({"systems": systems}))
    page = (
        "before\n<!-- table: b0/heads l -->\n<!-- end -->\nbetween\n"
        "<!-- table: b0/heads l recipe|margin -->\n| stale |\n<!-- end -->\nafter\n"
    )
    once = filled(page, tmp_path)
    head, recipe, start = "| system | 8 |\n|---|---|\n", "| recipe | 10.00 |\n", "| start: pca | 20.00 |\n"
    assert once == (
        f"before\n<!-- table: b0/heads l -->\n{head}{recipe}{start}<!-- end -->\nbetween\n"
        f"<!-- table: b0/heads l recipe|margin -->\n{head}{recipe}<!-- end -->\nafter\n"
    )
    assert filled(once, tmp_path) == once


@pytest.mark.parametrize("name", ["appendix/accuracy-study.md", "explanation/strong-network.md"])
def test_the_pages_hold_the_measured_figures(name: str) -> None:
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert text.count("<!-- table: ") >= 5
    assert filled(text) == text, f"run: python -m benchmarks.study.page docs/{name}"
