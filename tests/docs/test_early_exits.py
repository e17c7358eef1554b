"""The page about early exits holds the figures that were measured."""

from __future__ import annotations

import json

from benchmarks.study.early_exits_tables import tables

from tests.docs.markdown import ROOT


def test_the_page_holds_every_table() -> None:
    measured = json.loads((ROOT / "docs" / "results" / "study" / "early-exits.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "appendix" / "early-exits.md").read_text(encoding="utf-8")
    made = tables(measured)
    assert len(made) == 5
    for number, table in enumerate(made):
        assert table in page, f"table {number} of the page is stale: see benchmarks/study/early_exits_tables.py"
