"""``mrl label``: turns of enrolled and unknown speakers get names, in the same file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mrl.audio import load_audio
from mrl.cli.main import run
from mrl.embeddings import open_embedder
from mrl.errors import InputError
from mrl.identification import LabelSettings, VoiceStore, label_speakers, new_names, read_turns
from tests.embeddings.tiny import write_models, write_voices

RATE = 16000


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three speakers in one recording, all enrolled but the last; S0 speaks twice, S1 and S0 at once for a while."""
    folder = tmp_path_factory.mktemp("label")
    write_models(folder)
    write_voices(folder / "speech")
    files = sorted((folder / "speech").rglob("*.flac"))
    speakers = [files[first : first + 3] for first in range(0, len(files), 3)]
    first, second, third = ([load_audio(file) for file in speakers[number]] for number in range(3))
    parts = [first[0], second[0], first[1], third[0]]
    ends = np.cumsum([0, *(len(part) for part in parts)]) / RATE
    soundfile.write(folder / "talk.wav", np.concatenate(parts), RATE)
    names = ("S0", "S1", "S0", "S2")
    lines = [
        f"SPEAKER talk 1 {ends[number]:.4f} {ends[number + 1] - ends[number]:.4f} <NA> <NA> {name} <NA> <NA>"
        for number, name in enumerate(names)
    ]
    lines.append(f"SPEAKER talk 1 {ends[1]:.4f} 0.2 <NA> <NA> S0 <NA> <NA>")
    (folder / "talk.rttm").write_text("\n".join(lines) + "\n")
    for name, recordings in (("Ada", speakers[0]), ("Bo Li", speakers[1]), ("Cy", speakers[3])):
        enrolled = [str(file) for file in recordings[1:]]
        options = ["--store", str(folder / "v.sqlite"), "--model", str(folder / "tiny-mrl")]
        assert run(["enroll", name, *enrolled, *options]) == 0
    return folder


def _label(place: Path, *more: str) -> int:
    options = ["--store", str(place / "v.sqlite"), "--model", str(place / "tiny-mrl"), "--min-seconds", "0.3"]
    return run(["label", str(place / "talk.rttm"), str(place / "talk.wav"), *options, *more])


def test_names_are_written_into_the_turns(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _label(place, "--threshold", "0.98", "--json", "-o", str(tmp_path / "named.rttm")) == 0
    found = {speaker["speaker"]: speaker for speaker in json.loads(capsys.readouterr().out)}
    assert list(found) == ["S0", "S1", "S2"]
    turns = read_turns(place / "talk.rttm")
    for speaker, stretches in turns.alone().items():
        assert found[speaker]["seconds"] == pytest.approx(sum(end - start for start, end in stretches), abs=1e-3)
    # The scores are those of one embedding of all the speech alone, and the voice with the highest gives the name.
    embedder, store = open_embedder(place / "tiny-mrl"), VoiceStore(place / "v.sqlite")
    for speaker, stretches in turns.alone().items():
        parts = [load_audio(place / "talk.wav", offset=start, duration=end - start) for start, end in stretches]
        row = embedder.embed([np.concatenate(parts)])[0]
        scores = {name: float(row @ store.embedding(name)) for name in ("Ada", "Bo Li", "Cy")}
        best = max(scores, key=lambda name: scores[name])
        assert found[speaker]["best"]["name"] == best
        assert found[speaker]["best"]["score"] == pytest.approx(scores[best], abs=1e-6)
        assert found[speaker]["name"] in (None, best)
    named = read_turns(tmp_path / "named.rttm")
    expected = {speaker: entry["name"] or speaker for speaker, entry in found.items()}
    assert [turn.speaker for turn in named.turns] == [expected[turn.speaker].replace(" ", "_") for turn in turns.turns]


def test_a_voice_belongs_to_one_speaker_and_margins_hold(place: Path) -> None:
    embedder, store, turns = open_embedder(place / "tiny-mrl"), VoiceStore(place / "v.sqlite"), read_turns(place / "talk.rttm")
    settings = LabelSettings(min_seconds=0.3)
    everyone = label_speakers(embedder, turns, place / "talk.wav", store, settings, threshold=-1.0)
    names = [labelled.name for labelled in everyone if labelled.name is not None]
    assert len(names) == len(set(names)) >= 1
    for labelled in everyone:
        assert labelled.best is not None
        if labelled.name is None:
            winner = next(other for other in everyone if other.name == labelled.best.name)
            assert winner.best is not None and winner.best.score > labelled.best.score
            assert labelled.reason == f"{winner.speaker} is more like {winner.name}"
    strict = LabelSettings(min_seconds=0.3, margin=2.0)  # no two cosines differ by so much
    for labelled in label_speakers(embedder, turns, place / "talk.wav", store, strict, threshold=-1.0):
        assert labelled.name is None and labelled.second is not None and labelled.reason.startswith("as much like")
    nobody = label_speakers(embedder, turns, place / "talk.wav", store, LabelSettings(min_seconds=50.0), threshold=-1.0)
    assert all(labelled.best is None and labelled.reason.endswith("s alone, 50 s are needed") for labelled in nobody)
    undecided = label_speakers(embedder, turns, place / "talk.wav", store, settings)
    assert all(labelled.name is None and labelled.best is not None and labelled.reason for labelled in undecided)


def test_an_unknown_speaker_does_not_take_an_enrolled_name(place: Path) -> None:
    embedder, store, turns = open_embedder(place / "tiny-mrl"), VoiceStore(place / "v.sqlite"), read_turns(place / "talk.rttm")
    everyone = label_speakers(embedder, turns, place / "talk.wav", store, LabelSettings(min_seconds=0.3), threshold=-1.0)
    known = next(labelled for labelled in everyone if labelled.name is not None)
    stranger = next(labelled for labelled in everyone if labelled.name is None or labelled is not known)
    assert known.name is not None
    pair = (known, type(stranger)(known.name, None, 1.0, None, None, "too short"))
    assert new_names(pair) == {known.speaker: known.name, known.name: f"unknown {known.name}"}


def test_on_the_screen(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _label(place, "--threshold", "-1") == 0
    captured = capsys.readouterr()
    assert captured.out.count("SPEAKER talk 1 ") == 5 and "most like" in captured.err and "S2" in captured.err


def test_bad_input_is_one_line(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _label(place, "--json") == 2
    assert "write those to a file with --output" in capsys.readouterr().err
    (tmp_path / "late.rttm").write_text("SPEAKER talk 1 100 5 <NA> <NA> S0 <NA> <NA>\n")
    arguments = ["label", str(tmp_path / "late.rttm"), str(place / "talk.wav"), "--store", str(place / "v.sqlite")]
    assert run([*arguments, "--model", str(place / "tiny-mrl")]) == 2
    assert "has turns up to 105.0 s" in capsys.readouterr().err
    with pytest.raises(InputError, match="min_seconds must be above 0"):
        LabelSettings(min_seconds=0.0)
    with pytest.raises(InputError, match="margin must be 0 or more"):
        LabelSettings(margin=-1.0)
