"""Files of turns: read in every format, written back with other names and nothing else changed."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrl.errors import DataError, InputError
from mrl.identification import Turn, Turns, read_turns

RTTM = """;; a comment
SPKR-INFO talk 1 <NA> <NA> <NA> unknown S0 <NA> <NA>
SPEAKER talk 1 0.50 2.00 <NA> <NA> S0 <NA> <NA>
  SPEAKER  talk 1 2.00 1.50 <NA>\t<NA> S1 <NA> <NA>
SPEAKER talk 1 9.00 0.00 <NA> <NA> S2 <NA> <NA>
"""
WHISPERX = {
    "segments": [
        {"start": 0.5, "end": 2.5, "text": "Hello.", "speaker": "S0", "words": [{"word": "Hello.", "speaker": "S0"}]},
        {"start": 2.0, "end": 3.5, "text": "Hi, S0.", "speaker": "S1"},
        {"start": 4.0, "end": 5.0, "text": "Music"},
    ],
    "language": "en",
}
PYANNOTE = {"diarization": [{"speaker": "S0", "start": 0.5, "end": 2.5}, {"speaker": "S1", "start": 2.0, "end": 3.5}]}
ANNOTATION = {
    "pyannote": "Annotation",
    "content": [
        {"segment": {"start": 0.5, "end": 2.5}, "track": "A", "label": "S0"},
        {"segment": {"start": 2.0, "end": 3.5}, "track": "B", "label": "S1"},
    ],
}
SRT = """1
00:00:00,500 --> 00:00:02,500
[S0]: Hello: again.

2
00:00:02,000 --> 00:00:03,500
S1: Well: that is S0.
Note: not a name.
"""
VTT = """WEBVTT

00:00.500 --> 00:02.500
<v S0>Hello.</v>

00:00:02.000 --> 00:00:03.500 align:start
<v.loud S1>Hi.</v>
"""
FILES = {
    "a.rttm": RTTM,
    "whisperx.json": json.dumps(WHISPERX),
    "pyannote.json": json.dumps(PYANNOTE),
    "list.json": json.dumps(PYANNOTE["diarization"]),
    "annotation.json": json.dumps(ANNOTATION),
    "a.srt": SRT,
    "a.vtt": VTT,
}
TURNS = (Turn("S0", 0.5, 2.5), Turn("S1", 2.0, 3.5))


def _write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize("name", FILES)
def test_every_format(name: str, tmp_path: Path) -> None:
    read = read_turns(_write(tmp_path, name, FILES[name]))
    assert read.turns == TURNS and read.speakers == ("S0", "S1")
    assert read.alone() == {"S0": [(0.5, 2.0)], "S1": [(2.5, 3.5)]}
    same = read.renamed({})
    assert json.loads(same) == json.loads(FILES[name]) if name.endswith(".json") else same == FILES[name]
    again = read_turns(_write(tmp_path, "new" + Path(name).suffix, read.renamed({"S1": "Zoë Ó Dálaigh", "S2": "nobody"})))
    spaces = " " if not name.endswith(".rttm") else "_"
    assert again.turns == (TURNS[0], Turn(f"Zoë{spaces}Ó{spaces}Dálaigh", 2.0, 3.5))


def test_only_names_change(tmp_path: Path) -> None:
    rttm = read_turns(_write(tmp_path, "a.rttm", RTTM)).renamed({"S0": "Ada", "S1": "Bo"})
    expected = RTTM.replace("<NA> <NA> S0 <NA> <NA>\n  SP", "<NA> <NA> Ada <NA> <NA>\n  SP").replace("\t<NA> S1", "\t<NA> Bo")
    assert rttm == expected
    srt = read_turns(_write(tmp_path, "a.srt", SRT)).renamed({"S0": "Ada", "S1": "Bo Li"})
    assert srt == SRT.replace("[S0]:", "[Ada]:").replace("S1: Well", "[Bo Li]: Well")
    assert read_turns(_write(tmp_path, "a.vtt", VTT)).renamed({"S1": "Bo"}) == VTT.replace("loud S1", "loud Bo")
    words = json.loads(read_turns(_write(tmp_path, "a.json", json.dumps(WHISPERX))).renamed({"S0": "Ada"}))
    assert words["segments"][0]["words"][0]["speaker"] == "Ada" and words["segments"][1]["text"] == "Hi, S0."


def test_one_recording_of_several(tmp_path: Path) -> None:
    file = _write(tmp_path, "a.rttm", RTTM + RTTM.replace("talk", "other").replace("S0", "S7"))
    assert read_turns(file, recording="other").speakers == ("S7", "S1")
    assert read_turns(file, recording="other").renamed({"S1": "Bo"}).count(" Bo ") == 1
    with pytest.raises(DataError, match=r"holds 2 recordings \(talk, other\.\.\.\), none of them 'third'"):
        read_turns(file, recording="third")


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30), st.integers(1, 9)), min_size=1, max_size=12).map(
        lambda rows: [Turn(name, start / 4, (start + length) / 4) for name, start, length in rows]
    )
)
def test_speech_alone_is_what_sampling_says(turns: list[Turn]) -> None:
    alone = Turns(tuple(turns), lambda names: "", Path("a.rttm")).alone()
    for tick in range(42):
        time = tick / 4 + 0.125
        speaking = {turn.speaker for turn in turns if turn.start < time < turn.end}
        covering = {name for name, stretches in alone.items() for start, end in stretches if start < time < end}
        assert covering == (speaking if len(speaking) == 1 else set())
    for stretches in alone.values():
        assert all(before[1] < after[0] for before, after in itertools.pairwise(stretches))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.rttm", "", "holds no turn of a speaker with a length; expected lines 'SPEAKER"),
        ("a.rttm", "SPEAKER a 1 0 1", r"line 1: expected lines 'SPEAKER .*, found 5 fields"),
        ("a.rttm", "SPEAKER a 1 zero 1 <NA> <NA> S <NA> <NA>", "line 1: expected a time in seconds from 0 up, found 'zero'"),
        ("a.rttm", "SPEAKER a 1 0 nan <NA> <NA> S <NA> <NA>", "found 'nan'"),
        ("a.json", "{}", "expected a list of segments"),
        ("a.json", "[3]", "segment 0 is not an object"),
        ("a.json", '[{"start": 2, "end": 1, "speaker": "S"}]', "the turn ends at 1 s, before it starts at 2 s"),
        ("a.json", '[{"start": true, "end": 1, "speaker": "S"}]', "found 'True'"),
        ("a.json", '[{"start": 0, "end": 1, "speaker": 5}]', "its speaker is not a text"),
        ("a.json", "[" * 99, "nested too deeply|not JSON"),
        ("a.srt", "1\n00:00:00,500 --> 00:00:02,500\nNo name.\n", "holds no turn"),
        ("a.vtt", "WEBVTT", "expected captions with <v NAME>"),
    ],
)
def test_damage_is_one_line(name: str, text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_turns(_write(tmp_path, name, text))


def test_what_is_no_file_of_turns(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unsupported extension '\.txt'; turns are read from \.rttm, \.json, \.srt, \.vtt"):
        read_turns(tmp_path / "a.txt")
    with pytest.raises(DataError, match="there is no file"):
        read_turns(tmp_path / "a.rttm")
