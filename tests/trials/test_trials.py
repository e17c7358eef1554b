"""Trial lists."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrl.errors import DataError
from mrl.trials import TrialList, read_trials

PLAIN = b"1 a/1.wav a/2.wav\n0 a/1.wav b/1.wav\n\n0\ta/2.wav   b/1.wav\r\n"
KALDI = b"a/1.wav a/2.wav target\na/1.wav b/1.wav nontarget\n a/2.wav b/1.wav nontarget"


@pytest.mark.parametrize("content", [PLAIN, KALDI, b"\xef\xbb\xbf" + PLAIN])
@pytest.mark.parametrize("compressed", [False, True])
def test_both_layouts_with_and_without_gzip(content: bytes, compressed: bool, tmp_path: Path) -> None:
    file = tmp_path / "list"  # no suffix: the content decides
    file.write_bytes(gzip.compress(content) if compressed else content)
    trials = read_trials(file)
    assert trials.utterances == ("a/1.wav", "a/2.wav", "b/1.wav")
    assert trials.enrol.tolist() == [0, 0, 1] and trials.enrol.dtype == np.int32
    assert trials.test.tolist() == [1, 2, 2] and trials.test.dtype == np.int32
    assert trials.labels.tolist() == [True, False, False] and trials.labels.dtype == np.bool_
    assert (len(trials), trials.num_target, trials.num_nontarget) == (3, 1, 2)
    assert trials.source == str(file)
    assert trials.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("content", "line", "found"),
    [
        (b"2 a b\n", 1, "2 a b"),
        (b"1 a b\n0 a\n", 2, "0 a"),
        (b"1 a b\n\n0 a b c\n", 3, "0 a b c"),
        (b"1 a b\na b nontarget\n", 2, "a b nontarget"),
        (b"a b target\n1 a b\n", 2, "1 a b"),
        (b"label a b\n1 a b\n", 1, "label a b"),
        (b"1 a b\n0 a \xff\xfe\n", 2, "UTF-8"),
    ],
)
def test_a_malformed_line_is_named(content: bytes, line: int, found: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(DataError, match=rf"list\.txt, line {line}: .*{found}"):
        read_trials(tmp_path / "list.txt")


def test_absent_empty_and_truncated_lists(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_trials(tmp_path / "absent.txt")
    with pytest.raises(DataError, match="cannot be read"):
        read_trials(tmp_path)
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(DataError, match="holds no trials"):
        read_trials(tmp_path / "empty.txt")
    whole = gzip.compress(b"".join(b"1 a%d b%d\n" % (i * 7919 % 1000, i) for i in range(2000)))
    for cut in (whole[: len(whole) // 2], whole[:-4], whole[:20] + b"\x00" * 40 + whole[60:]):
        (tmp_path / "cut.gz").write_bytes(cut)
        with pytest.raises(DataError, match="cannot be read"):
            read_trials(tmp_path / "cut.gz")


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    pairs=st.lists(
        st.tuples(st.booleans(), *[st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=4)] * 2),
        min_size=1,
        max_size=20,
    )
)
def test_what_is_written_is_read(pairs: list[tuple[bool, str, str]], tmp_path: Path) -> None:
    pairs = [(label, f"x{first}", f"y{second}") for label, first, second in pairs]
    (tmp_path / "list.txt").write_text("".join(f"{int(label)} {a} {b}\n" for label, a, b in pairs), encoding="utf-8", newline="")
    read, made = read_trials(tmp_path / "list.txt"), TrialList.from_pairs(pairs)
    for trials in (read, made):
        back = [
            (bool(label), trials.utterances[enrol], trials.utterances[test])
            for label, enrol, test in zip(trials.labels, trials.enrol, trials.test, strict=True)
        ]
        assert back == pairs
        assert len(set(trials.utterances)) == len(trials.utterances)


def test_missing_files_are_all_listed(tmp_path: Path) -> None:
    trials = TrialList.from_pairs([(True, "a/1.wav", "a/2.wav"), (False, "a/1.wav", "b/1.wav")])
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.wav").write_bytes(b"x")
    assert trials.missing_files(tmp_path) == ["a/2.wav", "b/1.wav"]
    assert trials.paths(tmp_path)[2] == tmp_path / "b/1.wav"
    with pytest.raises(DataError, match="is not a folder"):
        trials.missing_files(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"^2 of 3 utterances of made in memory are not below .* is 'a/2.wav'; fix it$"):
        trials.require_files(tmp_path, advice="fix it")
    with pytest.raises(DataError, match=r"^1 of 1 utterances of .* the first is 'b/1.wav'$"):
        trials.require_files(tmp_path, ["b/1.wav"])
    trials.require_files(tmp_path, ["a/1.wav"])


def test_one_class_only() -> None:
    TrialList.from_pairs([(True, "a", "b"), (False, "a", "c")]).require_both_classes()
    with pytest.raises(DataError, match="1 same-speaker and 0 different-speaker"):
        TrialList.from_pairs([(True, "a", "b")]).require_both_classes()


def test_rows_of_foreign_embeddings() -> None:
    trials = TrialList.from_pairs([(True, "a", "b"), (False, "a", "c")])
    assert trials.indices_into(["c", "more", "b", "a"]).tolist() == [3, 2, 0]
    with pytest.raises(DataError, match=r"2 of 3 utterances .* the first is 'b'"):
        trials.indices_into(["a"])
    with pytest.raises(DataError, match="1 of 4 embedding ids are repeated"):
        trials.indices_into(["a", "b", "c", "a"])


def test_indices_must_fit() -> None:
    zeros, labels = np.zeros(2, np.int32), np.zeros(2, np.bool_)
    with pytest.raises(DataError, match=r"0\.\.0"):
        TrialList(("a",), zeros, np.array([0, 1], np.int32), labels)
    with pytest.raises(DataError, match="as many"):
        TrialList(("a",), zeros, zeros[:1], labels)


@pytest.mark.shared
def test_official_voxceleb1_list(shared: Path) -> None:
    trials = read_trials(shared / "corpora/trials/voxceleb1-o-original.txt.gz")
    assert len(trials) == 37_720
    assert trials.num_target == trials.num_nontarget == 18_860
    assert len(trials.utterances) == 4_715  # the cleaned list has 4,708
