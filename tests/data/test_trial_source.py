"""Trial lists from manifests and folders of speakers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from mrl.audio import write_synthetic_corpus
from mrl.data import make_trials_from
from mrl.errors import DataError, InputError
from mrl.trials import TrialList

Pair = tuple[bool, str, str]


def pairs_of(trials: TrialList) -> list[Pair]:
    names = trials.utterances
    return [
        (bool(label), names[first], names[second])
        for label, first, second in zip(trials.labels, trials.enrol, trials.test, strict=True)
    ]


def test_sessions_are_the_first_folder_of_a_speaker(tmp_path: Path) -> None:
    for name in ("x/one/a.wav", "x/one/b.wav", "x/two/c.wav", "y/one/d.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    trials = make_trials_from(tmp_path, different_sessions=True)
    targets = {pair[1:] for pair in pairs_of(trials) if pair[0]}
    assert targets == {("x/one/a.wav", "x/two/c.wav"), ("x/one/b.wav", "x/two/c.wav")} and trials.num_nontarget == 3


def test_from_folders_and_from_a_manifest(tmp_path: Path) -> None:
    files = write_synthetic_corpus(tmp_path / "voices", num_speakers=4, utterances_per_speaker=2, seconds=(0.3, 0.4), seed=0)
    folders = make_trials_from(tmp_path / "voices")
    assert (folders.num_target, folders.num_nontarget) == (4, 6 * 4)
    assert set(folders.utterances) == {file.relative_to(tmp_path / "voices").as_posix() for file in files}
    lines = [
        f"{file.relative_to(tmp_path)}\t{file.parent.name}\t{'fm'[place // 4]}\t{'ab'[place % 2]}\n"
        for place, file in enumerate(files)
    ]
    manifest = tmp_path / "manifest.tsv"
    manifest.write_text("path\tspeaker\tgender\tpart\n" + "".join(lines))
    same = make_trials_from(manifest, same_gender_share=1.0)
    assert (same.num_target, same.num_nontarget) == (4, 2 * 4)
    assert all(name.startswith("voices/") for name in same.utterances)
    one = make_trials_from(manifest, where={"part": ["a", "b"]})
    assert (one.num_target, one.num_nontarget) == (4, 24)
    with pytest.raises(DataError, match="two recordings"):
        make_trials_from(manifest, where={"part": "a"})
    with pytest.raises(DataError, match="no column 'sex'"):
        make_trials_from(manifest, same_gender_share=1.0, gender_column="sex")
    with pytest.raises(DataError, match="have no session"):
        make_trials_from(manifest, different_sessions=True)
    with pytest.raises(InputError, match="has no columns"):
        make_trials_from(tmp_path / "voices", same_gender_share=0.5)
    manifest.write_text(
        "path\tspeaker\tgender\n" + "".join(f"{file}\tx\t{'fm'[place % 2]}\n" for place, file in enumerate(files))
    )
    with pytest.raises(DataError, match=r"line 3: speaker 'x' is 'm' here and 'f' before"):
        make_trials_from(manifest, same_gender_share=0.5)


def test_what_a_list_cannot_name(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("path,speaker,start,duration\na.wav,x,0,1\na.wav,x,1,1\nb.wav,y,0,1\n")
    with pytest.raises(DataError, match="stretches"):
        make_trials_from(manifest)
    manifest.write_text("path,speaker\na.wav,x\nb.wav,x\n/elsewhere/c.wav,y\n")
    with pytest.raises(DataError, match="not below the root"):
        make_trials_from(manifest)


@pytest.mark.shared
def test_real_corpus_with_half_of_the_pairs_of_one_gender(shared: Path) -> None:
    trials = make_trials_from(
        shared / "corpora/manifest.tsv",
        where={"part": "eval", "corpus": "so762_adult"},
        max_targets=500,
        max_nontargets=2000,
        same_gender_share=0.5,
    )
    assert (trials.num_target, trials.num_nontarget) == (500, 2000)
    counts = Counter(Path(first).parent.name for label, first, _ in pairs_of(trials) if label)
    assert len(counts) == 61 and max(counts.values()) - min(counts.values()) == 1
    assert trials.missing_files(shared / "corpora") == []
