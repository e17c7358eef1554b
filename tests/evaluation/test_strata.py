"""Parts of a list, and the list under another condition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mrl.errors import DataError
from mrl.evaluation import EvaluationResult, SystemEmbeddings, evaluate_systems, figures_of_strata, strata_of_column
from mrl.evaluation.strata import figures_of_condition, read_column
from mrl.scoring import equal_error_rate, score_prefixes
from mrl.scoring.cosine import with_changed_test_side
from mrl.trials import TrialList
from tests.embeddings.fakes import all_pairs

NAMES = [f"s{speaker:02d}/{number}" for speaker in range(16) for number in range(4)]
GENDER = {name: "f" if int(name[1:3]) % 2 else "m" for name in NAMES}


@pytest.fixture(scope="module")
def trials() -> TrialList:
    return TrialList.from_pairs(all_pairs(NAMES))


@pytest.fixture(scope="module")
def matrix() -> np.ndarray:
    random = np.random.default_rng(0)
    voices = np.repeat(random.standard_normal((16, 24)), 4, axis=0)
    return (voices + 1.3 * random.standard_normal((64, 24))).astype(np.float32)


@pytest.fixture(scope="module")
def result(trials: TrialList, matrix: np.ndarray) -> EvaluationResult:
    return evaluate_systems([SystemEmbeddings("a", matrix, (8, 24))], trials, bootstrap=100)


def test_pairs_of_values_whichever_side_has_which(trials: TrialList) -> None:
    parts = strata_of_column(trials, "gender", GENDER)
    assert [part.name for part in parts] == ["f–f", "f–m", "m–m"]
    assert sum(part.members.sum() for part in parts) == len(trials)
    mixed = parts[1].members
    for place in np.flatnonzero(mixed)[:50]:
        genders = {GENDER[trials.utterances[trials.enrol[place]]], GENDER[trials.utterances[trials.test[place]]]}
        assert genders == {"f", "m"}


def test_numbers_give_quarters_of_the_smaller_side(trials: TrialList) -> None:
    seconds = {name: f"{1 + 0.1 * place}" for place, name in enumerate(NAMES)}
    parts = strata_of_column(trials, "seconds", seconds)
    assert [part.group for part in parts] == ["seconds (smaller of both sides)"] * 4
    shares = [part.members.mean() for part in parts]
    assert sum(shares) == pytest.approx(1.0) and all(0.2 < share < 0.3 for share in shares)
    smaller = np.minimum(trials.enrol, trials.test)  # utterances are numbered in order of length here
    assert smaller[parts[0].members].max() <= smaller[parts[3].members].min()
    with pytest.raises(DataError, match=r"2 of 64 utterances have no value of 'seconds', the first is 's00/0'"):
        strata_of_column(trials, "seconds", {name: text for name, text in seconds.items() if name not in NAMES[:2]})


def test_figures_of_a_part_are_those_of_its_trials(trials: TrialList, result: EvaluationResult) -> None:
    figures = figures_of_strata(result, trials, strata_of_column(trials, "gender", GENDER))
    assert [(one.name, one.dim) for one in figures] == [(name, dim) for name in ("f–f", "f–m", "m–m") for dim in (8, 24)]
    parts = {part.name: part.members for part in strata_of_column(trials, "gender", GENDER)}
    for one in figures:
        scores, labels = result.scores["a", one.dim][parts[one.name]], trials.labels[parts[one.name]]
        threshold = result.system("a").at(one.dim).threshold
        assert one.nontargets == (~labels).sum() and one.targets == labels.sum()
        assert one.false_accept_rate == pytest.approx((scores[~labels] >= threshold).mean())
        if one.name == "f–m":
            assert one.equal_error_rate is None and one.false_reject_rate is None and one.equal_error_rate_interval is None
        else:
            assert one.equal_error_rate == pytest.approx(equal_error_rate(scores, labels))
            assert one.false_reject_rate == pytest.approx((scores[labels] < threshold).mean())
            interval = one.equal_error_rate_interval
            assert interval is not None and interval.low < interval.high


def test_too_few_speakers_have_no_interval(trials: TrialList, result: EvaluationResult) -> None:
    room = {name: "small" if name < "s04" else "large" for name in NAMES}
    figures = figures_of_strata(result, trials, strata_of_column(trials, "room", room))
    small = [one for one in figures if one.name == "small–small"]
    assert small and all(one.equal_error_rate is not None and one.equal_error_rate_interval is None for one in small)


def test_a_condition_changes_the_test_side_only(trials: TrialList, matrix: np.ndarray, result: EvaluationResult) -> None:
    noise = np.random.default_rng(1).standard_normal(matrix.shape).astype(np.float32)
    changed = matrix + 2 * noise
    same = figures_of_condition(result, trials, "noise", "none", {"a": (matrix, matrix)})
    assert [one.equal_error_rate for one in same] == [figures.equal_error_rate for figures in result.system().figures]
    assert [one.equal_error_rate_interval for one in same] == [one.equal_error_rate_interval for one in result.system().figures]
    harder = figures_of_condition(result, trials, "noise", "loud", {"a": (matrix, changed)}, note="n")
    first, second = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (matrix, changed))
    scores = np.einsum("ij,ij->i", first[trials.enrol], second[trials.test])
    assert harder[1].equal_error_rate == pytest.approx(equal_error_rate(scores, trials.labels), abs=1e-9)
    assert harder[1].equal_error_rate > same[1].equal_error_rate and harder[1].note == "n"  # type: ignore[operator]


def test_rows_that_are_on_no_test_side_are_not_looked_at(matrix: np.ndarray) -> None:
    one_way = TrialList.from_pairs([(NAMES[0][:3] == name[:3], NAMES[0], name) for name in NAMES[1:]])
    result = evaluate_systems([SystemEmbeddings("a", matrix, (24,))], one_way, bootstrap=0)
    changed = np.array(matrix)
    changed[0] = np.nan
    figures = figures_of_condition(result, one_way, "g", "n", {"a": (matrix, changed)})
    assert figures[0].equal_error_rate == result.system().at(24).equal_error_rate
    doubled = with_changed_test_side(one_way)
    assert doubled.test.min() == 65 and doubled.enrol.max() == 0
    assert len(score_prefixes(np.vstack([matrix, matrix]), doubled, [24])[24]) == 63


def test_a_column_is_found_by_name_and_by_file(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    manifest = tmp_path / "lists" / "all.tsv"
    manifest.write_text("path\tspeaker\tgender\n../speech/a.wav\ts1\tf\nb.wav\ts2\tm\nc.wav\ts3\t\n")
    found = read_column(manifest, "gender", ["a.wav", "b.wav", "d.wav"], tmp_path / "speech")
    assert found == {"a.wav": "f", "b.wav": "m"}
    with pytest.raises(DataError, match="has no column 'age'; its columns are gender, path, speaker"):
        read_column(manifest, "age", ["a.wav"], tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        read_column(tmp_path / "absent.csv", "age", ["a.wav"], tmp_path)
