"""The corpus: order, numbering, speed copies, files."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from mrl.data import Corpus, Utterance, read_manifest, scan_speaker_folders
from mrl.errors import DataError, InputError


def _corpus(counts: dict[str, int]) -> Corpus:
    return Corpus.of(Utterance(Path(f"{name}/{i}.wav"), name) for name, count in counts.items() for i in range(count))


def test_the_order_of_finding_does_not_matter() -> None:
    utterances = [Utterance(Path(f"{name}/{i}.wav"), name) for name in ("b", "a", "c") for i in range(3)]
    shuffled = utterances[:]
    random.Random(1).shuffle(shuffled)
    corpus = Corpus.of(utterances)
    assert corpus == Corpus.of(shuffled)
    assert corpus.speakers == ("a", "b", "c")
    assert corpus.labels == (0, 0, 0, 1, 1, 1, 2, 2, 2)
    assert corpus.indices_by_speaker() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_speed_copies_are_further_speakers() -> None:
    corpus = _corpus({"a": 2, "b": 1}).with_speed_copies([0.9, 1.1])
    assert corpus.speakers == ("a", "a@0.9", "a@1.1", "b", "b@0.9", "b@1.1")
    assert len(corpus) == 9
    assert {one.speed for one in corpus.utterances if one.speaker == "b@1.1"} == {1.1}
    with pytest.raises(InputError, match="not 1"):
        corpus.with_speed_copies([1.0])
    with pytest.raises(InputError, match="distinct"):
        corpus.with_speed_copies([0.9, 0.9])


def test_subset_spreads_over_each_speaker() -> None:
    corpus = _corpus({"a": 10, "b": 1})
    assert corpus.subset(2) == [0, 5, 10]
    assert corpus.subset(100) == list(range(11))


def test_the_same_stretch_twice_is_refused() -> None:
    with pytest.raises(DataError, match=r"x\.wav is listed twice \(speakers 'a' and 'b'"):
        Corpus.of([Utterance(Path("x.wav"), "a"), Utterance(Path("x.wav"), "b")])
    both = Corpus.of([Utterance(Path("x.wav"), "a", 0.0, 1.0), Utterance(Path("x.wav"), "a", 1.0, 1.0)])
    assert len(both) == 2


def test_empty_corpus() -> None:
    with pytest.raises(DataError, match="no utterances"):
        Corpus.of([])


def test_missing_files_are_counted(tmp_path: Path) -> None:
    (tmp_path / "here.wav").touch()
    corpus = Corpus.of(Utterance(tmp_path / name, "a") for name in ("here.wav", "gone.wav", "lost.wav"))
    with pytest.raises(DataError, match=r"2 of 3 recordings are missing, the first is .*gone\.wav"):
        corpus.check_files()


def test_fingerprint_follows_the_content(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(b"1")
    corpus = Corpus.of([Utterance(path, "a")])
    before = corpus.fingerprint()
    assert before == corpus.fingerprint()
    assert Corpus.of([Utterance(path, "b")]).fingerprint() != before
    path.write_bytes(b"22")
    assert corpus.fingerprint() != before
    path.unlink()
    with pytest.raises(DataError, match="cannot read"):
        corpus.fingerprint()


def test_folders_of_speakers(tmp_path: Path) -> None:
    for name in ("id2/video/b.wav", "id2/a.FLAC", "id1/x/y/z.m4a", "id1/notes.txt", ".hidden/a.wav", "empty/readme.md"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    corpus = scan_speaker_folders(tmp_path)
    assert corpus.speakers == ("id1", "id2")
    found = [(one.path.relative_to(tmp_path).as_posix(), one.session) for one in corpus.utterances]
    assert found == [("id1/x/y/z.m4a", "x"), ("id2/a.FLAC", None), ("id2/video/b.wav", "video")]


def test_folders_that_are_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder"):
        scan_speaker_folders(tmp_path / "absent")
    with pytest.raises(DataError, match="no subfolders"):
        scan_speaker_folders(tmp_path)
    (tmp_path / "speaker").mkdir()
    with pytest.raises(DataError, match="no recordings in the 1 subfolders"):
        scan_speaker_folders(tmp_path)


@pytest.mark.shared
def test_the_real_manifest(shared: Path) -> None:
    corpus = read_manifest(shared / "corpora" / "manifest.tsv", where={"part": "train"})
    assert (len(corpus), len(corpus.speakers)) == (2751, 376)
    corpus.check_files()
    assert sum(one.seconds or 0.0 for one in corpus.utterances) / 3600 == pytest.approx(3.8, abs=0.1)
