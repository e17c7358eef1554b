"""The table of the README holds the measured figures, and its picture can be drawn from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from docs.readme_figures import README, REPORT, draw, filled, table


@pytest.fixture
def report() -> dict[str, Any]:
    """What was measured, as it lies in docs/results."""
    loaded: dict[str, Any] = json.loads(REPORT.read_text(encoding="utf-8"))
    return loaded


def test_the_table_is_current(report: dict[str, Any]) -> None:
    text = README.read_text(encoding="utf-8")
    assert text.count("<!-- table: eer-by-dim -->") == 1
    assert filled(text, report) == text, "run: make docs"


def test_a_row_has_bytes_rate_and_change() -> None:
    def system(name: str, rates: dict[int, float]) -> dict[str, Any]:
        return {
            "name": name,
            "dims": [{"dim": dim, "eer": rate, "eer_interval": [rate - 0.01, rate + 0.01]} for dim, rate in rates.items()],
        }

    ours = dict.fromkeys((16, 32, 64, 128), 0.05) | {256: 0.045}
    made = table({"systems": [system("matryoshka", ours), system("unmodified backbone", {64: 0.2, 192: 0.06})]})
    lines = made.splitlines()
    assert lines[0].endswith("| against the backbone's 192 (6.00 %) |")
    assert lines[2] == "| 256 | 1024 | 260 | 4.50 % (3.5–5.5) | -25 % |"
    assert lines[4] == "| 64 | 256 | 68 | 5.00 % (4.0–6.0) | -17 % |"
    assert len(lines) == 7


def test_the_picture_is_drawn(report: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw(report, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
