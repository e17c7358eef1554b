"""Who speaks in an utterance."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrl.errors import DataError
from mrl.trials import TrialList, read_speakers, speaker_of
from mrl.trials.speakers import public_name, speakers_of_trials


@pytest.mark.parametrize(
    ("utterance", "speaker"),
    [
        ("id10270/5r0dWxy17C8/00001.wav", "id10270"),
        ("vox1/wav/id10270/5r0dWxy17C8/00001.wav", "id10270"),
        ("eval/libri_test_other/ls1688/1688-142285-0000.opus", "ls1688"),
        ("alice/1.wav", "alice"),
        ("C:\\data\\alice\\1.wav", "alice"),
        ("id1/x/1.wav", "x"),
        ("voxblink2/id000123/5r0dWxy17C8/00001.flac", "id000123"),
        ("id000123/video/1.wav", "id000123"),
        ("data/id00012/singing-01-002.flac", "id00012"),
        ("test/id00800-singing-01-001.wav", "id00800"),
    ],
)
def test_speaker_of_a_path(utterance: str, speaker: str) -> None:
    assert speaker_of(utterance) == speaker


@pytest.mark.parametrize("speaker", ["id10270", "id00012", "id000123"])
def test_a_list_and_a_manifest_agree_on_speakers(speaker: str) -> None:
    path = f"wav/{speaker}/5r0dWxy17C8/00001.wav"
    known = public_name(path)
    assert known is not None and known.speaker == speaker_of(path) == speaker


@pytest.mark.parametrize("utterance", ["1.wav", "/1.wav", "../1.wav", ""])
def test_paths_that_name_no_speaker(utterance: str) -> None:
    with pytest.raises(DataError, match="cannot tell the speaker"):
        speaker_of(utterance)


TRIALS = TrialList.from_pairs([(True, "a/1", "a/2"), (False, "a/1", "b/1"), (False, "b/1", "c/1")])


def test_speakers_of_a_list_and_a_mapping_instead() -> None:
    names, index = speakers_of_trials(TRIALS)
    assert names == ("a", "b", "c") and index.tolist() == [0, 0, 1, 2]
    names, index = speakers_of_trials(TRIALS, {"a/1": "x", "a/2": "x", "b/1": "y", "c/1": "z", "unused": "?"})
    assert names == ("x", "y", "z") and index.tolist() == [0, 0, 1, 2]


def test_contradictions_and_gaps_are_counted() -> None:
    with pytest.raises(DataError, match=r"labels of 2 of 3 trials contradict.*'a/1' against 'a/2' labelled 1"):
        speakers_of_trials(TRIALS, {"a/1": "x", "a/2": "y", "b/1": "x", "c/1": "z"})
    with pytest.raises(DataError, match="2 of 4 utterances have no speaker, the first is 'b/1'"):
        speakers_of_trials(TRIALS, {"a/1": "x", "a/2": "x"})


def test_reading_speakers(tmp_path: Path) -> None:
    file = tmp_path / "utt2spk"
    file.write_text("a/1 x\n\na/2\tx\na/1 x\n")
    assert read_speakers(file) == {"a/1": "x", "a/2": "x"}
    for text, message in (("a x\na y\n", "line 2: 'a' has two"), ("a x\na\n", "line 2: found 'a'")):
        file.write_text(text)
        with pytest.raises(DataError, match=message):
            read_speakers(file)
    with pytest.raises(DataError, match="cannot be read"):
        read_speakers(tmp_path / "absent")
