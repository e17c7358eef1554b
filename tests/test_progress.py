"""Progress bars are for terminals."""

from __future__ import annotations

import pytest

from mrl.progress import progress_bar


def test_silent_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("work", 3) as advance:
        advance(2)
        advance(1)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_shows_count_and_rate_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with progress_bar("embedding", 3, unit="utterances") as advance:
        advance(3)
    shown = capsys.readouterr().err
    assert "embedding" in shown
    assert "3/3" in shown
    with progress_bar("embedding", 3, enabled=False) as advance:
        advance(3)
    assert capsys.readouterr().err == ""
