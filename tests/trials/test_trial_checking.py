"""What a check of a trial list finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrl.audio import audio_info, load_audio
from mrl.errors import DataError
from mrl.trials import EnrolmentMap, TrialList, TrialListCheck, check_trials
from tests.embeddings.fakes import all_pairs, write_corpus


def found(check: TrialListCheck) -> dict[str, int]:
    """First words of every finding -> count."""
    return {" ".join(finding.what.split()[:3]).rstrip(",("): finding.count for finding in check.findings}


def test_a_good_list(tmp_path: Path) -> None:
    names = write_corpus(tmp_path, num_speakers=3, per_speaker=2)
    check = check_trials(TrialList.from_pairs(all_pairs(names)), tmp_path, open_recording=load_audio)
    assert check.findings == () and check.errors == () and check.unchecked == ()
    assert (check.trials, check.targets, check.nontargets, check.utterances) == (15, 3, 12, 6)


def test_every_fault_at_once(tmp_path: Path) -> None:
    names = write_corpus(tmp_path, num_speakers=3, per_speaker=2)
    (tmp_path / names[0]).unlink()
    (tmp_path / names[1]).write_bytes(b"")
    (tmp_path / names[2]).write_bytes((tmp_path / names[2]).read_bytes()[:300])
    pairs = all_pairs(names)
    faults = [
        (True, names[0], names[0]),  # itself
        (False, names[3], names[2]),  # contradicts the label of the same pair the other way round, and the speakers
        pairs[-1],  # again
        (True, names[0], names[5]),  # contradicts a label and the speakers
    ]
    check = check_trials(TrialList.from_pairs([*pairs, *faults]), tmp_path, open_recording=audio_info)
    assert found(check) == {
        "pairs labelled both": 2,
        "recordings compared with": 1,
        "labels that contradict": 2,
        "recordings that are": 1,
        "recordings that cannot": 2,
        "pairs named again": 3,
    }
    assert [finding.is_error for finding in check.findings] == [True] * 5 + [False]
    examples = {finding.what: finding.examples for finding in check.findings}
    assert examples["recordings that are missing"] == (names[0],)
    assert f"1 {names[0]} {names[0]}" in examples["recordings compared with themselves"]
    assert any(names[1] in example for example in examples["recordings that cannot be read"])


def test_damage_behind_the_header_needs_decoding(tmp_path: Path) -> None:
    import soundfile

    names = write_corpus(tmp_path, num_speakers=2, per_speaker=2)
    flac = [name.replace(".wav", ".flac") for name in names]
    for name, new in zip(names, flac, strict=True):
        samples, rate = soundfile.read(tmp_path / name)
        soundfile.write(tmp_path / new, samples, rate)
    whole = (tmp_path / flac[0]).read_bytes()
    (tmp_path / flac[0]).write_bytes(whole[: len(whole) // 2])
    trials = TrialList.from_pairs(all_pairs(flac))
    assert check_trials(trials, tmp_path, open_recording=audio_info).findings == ()
    assert found(check_trials(trials, tmp_path, open_recording=load_audio)) == {"recordings that cannot": 1}


def test_one_kind_only_and_no_root() -> None:
    check = check_trials(TrialList.from_pairs([(True, "a/1", "a/2")]))
    assert check.errors[0].what.startswith("only same-speaker trials")
    assert any("no root" in reason for reason in check.unchecked)


def test_when_folders_do_not_name_the_speakers(tmp_path: Path) -> None:
    flat = TrialList.from_pairs([(True, "audio/a", "audio/b"), (False, "audio/a", "audio/c")])
    bare = TrialList.from_pairs([(True, "a", "b"), (False, "a", "c")])
    for trials in (flat, bare):
        check = check_trials(trials)
        assert not check.errors and any(reason.startswith("speakers:") for reason in check.unchecked)
    speakers = {"audio/a": "x", "audio/b": "x", "audio/c": "y"}
    assert not check_trials(flat, speakers=speakers).errors
    assert found(check_trials(flat, speakers={**speakers, "audio/c": "x"})) == {"labels that contradict": 1}
    assert found(check_trials(flat, speakers={"audio/a": "x"})) == {"utterances without a": 2}


def test_enrolment_models_are_looked_up(tmp_path: Path) -> None:
    names = write_corpus(tmp_path, num_speakers=2, per_speaker=3)
    enrolment = EnrolmentMap({"m0": tuple(names[:2]), "m1": (names[3], "absent.wav")})
    trials = TrialList.from_pairs([(True, "m0", names[2]), (False, "m1", names[2]), (True, "m1", names[4])])
    check = check_trials(trials, tmp_path, enrolment=enrolment)
    assert found(check) == {"recordings that are": 1} and check.errors[0].examples == ("absent.wav",)
    with pytest.raises(DataError, match="is not a folder"):
        check_trials(trials, tmp_path / "nowhere", enrolment=enrolment)
