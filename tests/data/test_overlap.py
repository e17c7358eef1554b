"""Who is trained on and evaluated on, by the numbers of public corpora, by folders, and by names only."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.data import Corpus, Utterance, overlapping_speakers

VIDEO = "5r0dWxy17C8"


def corpus(*utterances: tuple[str, str]) -> Corpus:
    return Corpus.of(Utterance(Path(path), speaker) for path, speaker in utterances)


def test_voxceleb_test_speakers() -> None:
    trained = corpus(
        (f"/v/wav/id10270/{VIDEO}/00001.wav", "voxceleb1/id10270"),
        (f"/v/wav/id10271/{VIDEO}/00001.wav", "id10271"),
        (f"/v/wav/id00012/{VIDEO}/00001.wav", "voxceleb2/id00012"),
    )
    found = overlapping_speakers(trained, ["id10270/x6uYqmx31kE/00001.wav", "id10271/x6uYqmx31kE/00001.wav"])
    assert found.certain == ("id10271", "voxceleb1/id10270") and found.by_name == ()
    assert (found.voxceleb1_dev, found.voxceleb1_test, found.speakers) == (0, 2, 3)
    assert found.describe() == (
        "2 of 3 training speakers are also in the evaluation trials (id10271, voxceleb1/id10270); "
        "VoxCeleb1-O contains the 40 speakers of VoxCeleb1's test part: train on dev parts only"
    )


def test_lists_e_and_h_are_made_of_dev_speakers() -> None:
    trained = corpus(*((f"id{number}/{VIDEO}/1.wav", f"voxceleb1/id{number}") for number in range(10001, 10008)))
    found = overlapping_speakers(trained, [f"id{number}/x6uYqmx31kE/00001.wav" for number in range(10001, 10008)])
    assert (found.voxceleb1_dev, found.voxceleb1_test) == (7, 0)
    text = found.describe()
    assert text.startswith("7 of 7 training speakers are also in the evaluation trials (voxceleb1/id10001, ")
    assert "voxceleb1/id10005, ...)" in text
    assert "VoxCeleb1-E and VoxCeleb1-H contain all 1,251 speakers" in text and "train on VoxCeleb2 dev" in text


def test_numbers_of_other_corpora_are_other_people() -> None:
    trained = corpus(
        ("/cn2/data/id10270/vlog-01-001.flac", "cnceleb2/id10270"),
        ("/cn1/data/id00800/vlog-01-001.flac", "cnceleb1/id00800"),
        ("/vb/id010270/DwgYRqnQZHM/00000.wav", "voxblink2/id010270"),
        ("/flat/x.wav", "cn-celeb2/id10271"),
    )
    assert overlapping_speakers(trained, [f"id{n}/{VIDEO}/1.wav" for n in (10270, 10271, 800)]).all == ()
    found = overlapping_speakers(trained, ["enroll/id00800-enroll.wav", "test/id00999-singing-02-006.wav"])
    assert found.certain == ("cnceleb1/id00800",) and found.voxceleb1_dev == 0


def test_a_corpus_that_does_not_say_whose_numbers_it_has() -> None:
    trained = corpus(("/shards/000.wav", "id10270"), ("/shards/001.wav", "vox1/id10271"), ("/shards/002.wav", "mine/id10272"))
    found = overlapping_speakers(trained, [f"id{number}/{VIDEO}/1.wav" for number in (10270, 10271, 10272)])
    assert (found.certain, found.by_name) == (("vox1/id10271",), ("id10270", "mine/id10272"))


def test_folders(tmp_path: Path) -> None:
    trained = corpus(
        (f"{tmp_path}/data/ann/1.wav", "ann"),
        (f"{tmp_path}/data/bob/1.wav", "bob"),
        (f"{tmp_path}/data/cid/1.wav", "cid"),
        (f"{tmp_path}/all/d.wav", "x/dan"),
        (f"{tmp_path}/all/e.wav", "eve"),
    )
    trials = [tmp_path / "data/ann/2.wav", tmp_path / "else/bob/2.wav", tmp_path / "all/f.wav", "dan/1.wav", "loose.wav"]
    found = overlapping_speakers(trained, trials)
    assert (found.certain, found.by_name, found.all) == (("ann",), ("bob", "x/dan"), ("ann", "bob", "x/dan"))
    assert found.describe(found.by_name) == "2 of 5 training speakers are also in the evaluation trials (bob, x/dan)"


@settings(max_examples=30, deadline=None)
@given(
    trained=st.sets(st.integers(10001, 11251), min_size=1, max_size=20),
    tried=st.sets(st.integers(10001, 11251), max_size=20),
)
def test_certain_is_the_intersection(trained: set[int], tried: set[int]) -> None:
    speakers = corpus(*((f"a/id{number}/{VIDEO}/1.wav", f"voxceleb1/id{number}") for number in trained))
    found = overlapping_speakers(speakers, [f"id{number}/{VIDEO}/1.wav" for number in tried])
    assert found.certain == tuple(f"voxceleb1/id{number}" for number in sorted(trained & tried))
    assert found.voxceleb1_dev + found.voxceleb1_test == len(trained & tried)
