"""Key-style lists, enrolment maps, and averaged enrolments."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from mrl.errors import DataError, InputError
from mrl.scoring import score_enrolled, score_prefixes
from mrl.trials import EnrolmentMap, TrialList, read_enrolment_map, read_trials

SITW_KEY = b"12013 audio/lzbtd.flac tgt\n12013 audio/aaaaa.flac imp\n23001 audio/lzbtd.flac imp\n"
SITW_MAP = b"12013 audio/unzlm.flac\n23001 audio/qqqqq.flac\n"
CNCELEB_KEY = b"id00800-enroll test/id00800-singing-01-005.wav 1\nid00801-enroll test/id00800-singing-01-005.wav 0\n"
CNCELEB_MAP = b"id00800-enroll id00800/singing-01-002.wav id00800/vlog-01-001.wav\nid00801-enroll id00801/movie-01-001.wav\n"


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("key", "content_map", "labels"), [(SITW_KEY, SITW_MAP, [1, 0, 0]), (CNCELEB_KEY, CNCELEB_MAP, [1, 0])])
def test_key_style_lists_and_maps(key: bytes, content_map: bytes, labels: list[int], compressed: bool, tmp_path: Path) -> None:
    pack = gzip.compress if compressed else bytes
    (tmp_path / "key").write_bytes(pack(key))
    (tmp_path / "map").write_bytes(pack(content_map))
    trials = read_trials(tmp_path / "key")
    assert trials.labels.tolist() == labels
    enrolment = read_enrolment_map(tmp_path / "map")
    assert len(enrolment) == 2
    words = content_map.decode().split()
    needed = enrolment.recordings(trials)
    assert len(set(needed)) == len(needed)
    tests = {line.split()[1] for line in key.decode().splitlines()}
    assert set(needed) == {word for word in words if "/" in word} | tests


def test_the_first_line_decides_and_is_held_to(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"m1 a.wav tgt\nm1 b.wav 0\n")
    with pytest.raises(DataError, match=r"line 2: found 'm1 b.wav 0', expected 'model test tgt\|imp'"):
        read_trials(tmp_path / "list")
    # Where both readings are possible, the label stands first, as it always has.
    (tmp_path / "list").write_bytes(b"1 a 0\n0 a b\n")
    assert read_trials(tmp_path / "list").utterances == ("a", "0", "b")
    (tmp_path / "list").write_bytes(b"1 a.wav tgt\n")
    assert read_trials(tmp_path / "list").utterances == ("1", "a.wav")


def test_prefix_and_models_over_several_lines(tmp_path: Path) -> None:
    (tmp_path / "map").write_text("m a.wav\n\nn c.wav\nm b.wav\n")
    found = read_enrolment_map(tmp_path / "map", prefix="../data/")
    assert found.models == {"m": ("../data/a.wav", "../data/b.wav"), "n": ("../data/c.wav",)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"m\n", "line 1: found 'm', expected 'model recording"),
        (b"m a.wav\nm a.wav\n", "line 2: model 'm' has the recording 'a.wav' twice"),
        (b"69006 audio/lywwa.flac 72.000 77.310\n", "enrols a stretch"),
        (b"\n", "holds no enrolment models"),
        (b"m \xff\n", "not UTF-8"),
        (gzip.compress(b"m a.wav\n" * 500, mtime=0)[:30], "cannot be read"),
    ],
)
def test_unusable_maps(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "map").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_enrolment_map(tmp_path / "map")
    with pytest.raises(DataError, match="enrolment map .* does not exist"):
        read_enrolment_map(tmp_path / "absent")


def test_average_of_unit_prefixes_against_a_plain_loop() -> None:
    generator = np.random.default_rng(0)
    recordings = [f"r{number}" for number in range(9)]
    models = {"m": ("r0", "r1", "r2"), "n": ("r3",), "o": ("r4", "r5")}
    pairs = [(True, model, f"r{number}") for model in ("o", "m", "n", "r6") for number in (6, 7, 8)]
    trials = TrialList.from_pairs([(number % 2 == 0, first, second) for number, (_, first, second) in enumerate(pairs)])
    enrolled = EnrolmentMap(models).resolve(trials)
    matrix = generator.standard_normal((len(enrolled.recordings), 12)) * generator.uniform(0.1, 10, (9, 1))
    row_of = dict(zip(enrolled.recordings, matrix, strict=True))
    assert sorted(row_of) == recordings
    found = score_enrolled(matrix, enrolled, [12, 2, 5])
    assert list(found) == [2, 5, 12]
    for dim, scores in found.items():
        for (_, first, second), score in zip(pairs, scores, strict=True):
            units = [row_of[one][:dim] / np.linalg.norm(row_of[one][:dim]) for one in models.get(first, (first,))]
            mean, test = np.mean(units, axis=0), row_of[second][:dim]
            assert score == pytest.approx(mean @ test / np.linalg.norm(mean) / np.linalg.norm(test), abs=2e-6)


def test_one_recording_per_model_is_plain_scoring() -> None:
    generator = np.random.default_rng(1)
    trials = TrialList.from_pairs([(True, "m", "b"), (False, "m", "c"), (False, "n", "b")])
    enrolled = EnrolmentMap({"m": ("a",), "n": ("c",)}).resolve(trials)
    plain = TrialList.from_pairs([(True, "a", "b"), (False, "a", "c"), (False, "c", "b")])
    vectors = {name: generator.standard_normal(6) for name in "abc"}
    one = score_enrolled([vectors[name] for name in enrolled.recordings], enrolled, [3, 6])
    two = score_prefixes([vectors[name] for name in plain.utterances], plain, [3, 6])
    for dim in (3, 6):
        np.testing.assert_allclose(one[dim], two[dim], atol=1e-6)


def test_a_name_may_be_model_and_recording() -> None:
    """The first name of a trial is looked up among the models, the second never."""
    trials = TrialList.from_pairs([(True, "x", "y"), (False, "y", "x")])
    enrolled = EnrolmentMap({"x": ("a", "b")}).resolve(trials)
    named = [tuple(enrolled.recordings[one] for one in group) for group in enrolled.members]
    assert [named[row] for row in enrolled.enrol] == [("a", "b"), ("y",)]
    assert [enrolled.recordings[row] for row in enrolled.test] == ["y", "x"]


def test_errors() -> None:
    trials = TrialList.from_pairs([(True, "m", "a"), (False, "m", "c"), (True, "m", "b")])
    with pytest.raises(DataError, match=r"2 of 3 trials test a model on one of its own .*'m' against 'a'"):
        EnrolmentMap({"m": ("a", "b")}).resolve(trials)
    with pytest.raises(DataError, match="needs recordings, each once"):
        EnrolmentMap({"m": ()})
    enrolled = EnrolmentMap({"m": ("x", "y")}).resolve(trials)
    with pytest.raises(InputError, match="5 recordings"):
        score_enrolled(np.ones((3, 4)), enrolled, [4])
    with pytest.raises(DataError, match="of 'm'"):  # two opposite recordings have no average direction
        opposite = {"x": 1.0, "y": -1.0}
        score_enrolled([[opposite.get(name, 1.0), 0.5 * opposite.get(name, 0)] for name in enrolled.recordings], enrolled, [2])
