"""Counts and quantiles of a manifest, and the picture of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.data import manifest_statistics
from mrl.data.statistics import histogram, plot_statistics, quantiles, quantiles_table, statistics_figure, statistics_lines
from mrl.errors import DataError, InputError
from tests.data.recordings import noise, write

ROWS = """path,speaker,seconds,session,corpus,sample_rate
a/1,s1,1,x,k,16000
a/2,s1,2,x,k,16000
a/3,s1,3,y,k,16000
b/1,s2,10,,k,16000
c/1,s1,4,z,l,8000
"""


def test_counts(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(ROWS)
    found = manifest_statistics(tmp_path / "m.csv")  # no recording is there: none is opened
    assert (found.speakers, found.utterances, found.hours) == (3, 5, 20 / 3600)
    assert sorted(found.utterances_per_speaker) == [1, 1, 3]
    assert sorted(found.sessions_per_speaker) == [1, 2] and found.without_session == 1
    assert (found.sample_rates, found.corpora) == ({8000: 1, 16000: 4}, {"k": 4, "l": 1})
    plain = found.to_dict()
    assert plain["utterance_seconds"] == {
        "0%": 1.0, "5%": 1.2, "25%": 2.0, "50%": 3.0, "75%": 4.0, "95%": 8.8, "100%": 10.0, "mean": 4.0,
    }  # fmt: skip
    assert (plain["sessions"], plain["speakers_with_one_utterance"], plain["speakers_with_several_sessions"]) == (3, 2, 1)
    lines = statistics_lines(found)
    assert lines[0] == "speakers      3 (2 with a single utterance, 1 with several sessions)"
    assert lines[3:6] == [
        "sessions      3 (1 utterances without one)",
        "sample rates  8,000 Hz: 1, 16,000 Hz: 4",
        "corpora       k: 4, l: 1",
    ]
    assert lines[5:] == ["corpora       k: 4, l: 1"]
    table = quantiles_table(found)
    assert table.headings == ("", "min", "5%", "25%", "50%", "75%", "95%", "max", "mean")
    assert table.rows[0] == ("utterance, seconds", "1", "1.2", "2", "3", "4", "8.8", "10", "4")
    assert [row[0] for row in table.rows[1:]] == ["utterances per speaker", "sessions per speaker"]
    assert manifest_statistics(tmp_path / "m.csv", where={"corpus": "l"}).speakers == 1


def test_headers_are_read_where_the_manifest_does_not_say(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", noise(1, 0.5))
    write(tmp_path / "b.wav", noise(2, 0.25))
    (tmp_path / "m.csv").write_text("path,speaker,start,seconds,sample_rate\na.wav,s,0.1,,\nb.wav,s,,0.25,44100\n")
    found = manifest_statistics(tmp_path / "m.csv")
    np.testing.assert_allclose(found.seconds, [0.4, 0.25])
    assert found.sample_rates == {8000: 1, 44100: 1}
    assert "sessions      0 (2 utterances without one)" in statistics_lines(found)
    (tmp_path / "a.wav").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"1 of 1 recordings cannot be read, the first is .*a\.wav \(the file is empty.*data check"
    ):
        manifest_statistics(tmp_path / "m.csv")


def test_the_picture(tmp_path: Path) -> None:
    from matplotlib.image import imread

    (tmp_path / "m.csv").write_text(ROWS)
    found = manifest_statistics(tmp_path / "m.csv")
    plot_statistics(found, tmp_path / "p.png", title="mine")
    picture = imread(tmp_path / "p.png")
    assert picture.shape[1] > 2 * picture.shape[0]  # three panels beside each other
    assert picture[..., :3].std() > 0.1
    figure = statistics_figure(found)
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "length of an utterance (s)",
        "utterances of a speaker",
        "sessions of a speaker",
    ]
    with pytest.raises(InputError, match="cannot be written as '.txt'"):
        plot_statistics(found, tmp_path / "p.txt")


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.integers(0, 10_000), min_size=1, max_size=300), whole=st.booleans())
def test_every_value_is_in_one_bar(values: list[int], whole: bool) -> None:
    counts, edges = histogram(np.array(values), whole=whole)
    assert counts.sum() == len(values) and len(edges) == len(counts) + 1
    assert np.all(np.diff(edges) > 0)
    if whole:  # bars hold as many whole numbers each
        assert np.all(np.diff(edges) == np.diff(edges)[0]) and float(edges[0]) == min(values) - 0.5


def test_quantiles_of_nothing() -> None:
    assert quantiles([]) == {}
    assert quantiles([2, 2])["95%"] == 2.0
