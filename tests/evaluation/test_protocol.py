"""Protocols of scoring against brute force, one trial at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from mrl.errors import InputError
from mrl.evaluation import Protocol, make_protocol, score_by_protocol
from mrl.scoring import score_prefixes, speaker_means
from mrl.trials import EnrolmentMap, TrialList

Vector = npt.NDArray[np.float64]
DIMS = (3, 8)
TOP = 4


def _data() -> tuple[TrialList, npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    random = np.random.default_rng(3)
    names = [f"s{number // 2}/{number}" for number in range(8)]
    pairs = [(a.split("/")[0] == b.split("/")[0], a, b) for place, a in enumerate(names) for b in names[place + 1 :]]
    trials = TrialList.from_pairs(pairs, source="all.txt")
    embeddings = (random.standard_normal((8, 8)) * random.uniform(0.1, 9.0, (8, 1))).astype(np.float32)
    others = random.standard_normal((30, 8)) + 0.7
    cohort, _ = speaker_means(others, [f"c{number // 3}" for number in range(30)])
    return trials, embeddings, cohort


def _cosine(a: Vector, b: Vector) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def _as_norm(a: Vector, b: Vector, cohort: npt.ArrayLike) -> float:
    sides = []
    for one in (a, b):
        highest = sorted(_cosine(one, np.asarray(row, dtype=float)) for row in np.asarray(cohort))[-TOP:]
        sides.append((_cosine(a, b) - np.mean(highest)) / np.std(highest))
    return float(np.mean(sides))


@pytest.mark.parametrize(("centred", "normalised"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("other_test_side", [False, True])
def test_centring_and_as_norm_trial_by_trial(centred: bool, normalised: bool, other_test_side: bool) -> None:
    trials, embeddings, cohort = _data()
    changed = (embeddings[::-1] * 2.0).copy() if other_test_side else None
    protocol = Protocol(centre=centred, as_norm_top=TOP if normalised else None, cohort="cohort")
    found = score_by_protocol(protocol, embeddings, trials, DIMS, cohort=cohort, changed=changed)
    mean = cohort.mean(axis=0) if centred else np.zeros(8)
    unit = [row / np.linalg.norm(row) - mean for row in embeddings.astype(float)]
    test = unit if changed is None else [row / np.linalg.norm(row) - mean for row in changed.astype(float)]
    for dim in DIMS:
        for row, (first, second) in enumerate(zip(trials.enrol, trials.test, strict=True)):
            a, b = unit[first][:dim], test[second][:dim]
            expected = _as_norm(a, b, (cohort - mean)[:, :dim]) if normalised else _cosine(a, b)
            assert found[dim][row] == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("centred", [False, True])
def test_enrolment_of_several_recordings_with_a_cohort(centred: bool, normalised: bool) -> None:
    _, embeddings, cohort = _data()
    enrolment = EnrolmentMap({"m1": ("a", "b", "c"), "m2": ("d",)})
    trials = TrialList.from_pairs([(True, "m1", "x"), (False, "m1", "y"), (False, "m2", "x"), (True, "m2", "y")])
    protocol = Protocol(centred, TOP if normalised else None, "c" if centred or normalised else None, enrolment=enrolment)
    names = protocol.recordings(trials)
    assert sorted(names) == ["a", "b", "c", "d", "x", "y"]
    found = score_by_protocol(protocol, embeddings[: len(names)], trials, DIMS, cohort=cohort)
    mean = cohort.mean(axis=0) if centred else np.zeros(8)
    vectors = {name: row / np.linalg.norm(row) - mean for name, row in zip(names, embeddings.astype(float), strict=False)}
    for dim in DIMS:
        for row, (model, test) in enumerate([("m1", "x"), ("m1", "y"), ("m2", "x"), ("m2", "y")]):
            parts = [vectors[one][:dim] for one in enrolment.models[model]]
            average = np.mean([part / np.linalg.norm(part) for part in parts], axis=0)
            expected = (
                _as_norm(average, vectors[test][:dim], (cohort - mean)[:, :dim])
                if normalised
                else _cosine(average, vectors[test][:dim])
            )
            assert found[dim][row] == pytest.approx(expected, abs=2e-4)


def test_crops_are_the_mean_over_all_pairs() -> None:
    trials, _, _ = _data()
    crops = np.random.default_rng(5).standard_normal((8, 3, 8)).astype(np.float32)
    found = score_by_protocol(Protocol(num_crops=3), crops, trials, DIMS)
    for dim in DIMS:
        for row, (first, second) in enumerate(zip(trials.enrol, trials.test, strict=True)):
            pairs = [_cosine(a[:dim], b[:dim]) for a in crops[first].astype(float) for b in crops[second].astype(float)]
            assert found[dim][row] == pytest.approx(np.mean(pairs), abs=1e-5)


def test_the_plain_protocol_is_the_cosine_and_says_so() -> None:
    trials, embeddings, _ = _data()
    found, plain = score_by_protocol(Protocol(), embeddings, trials, DIMS), score_prefixes(embeddings, trials, DIMS)
    assert all(np.array_equal(found[dim], plain[dim]) for dim in DIMS)
    assert Protocol().facts().name == "whole recordings, raw cosine" and Protocol().is_plain
    facts = Protocol(True, 300, "train").facts(cohort_speakers=5994, cohort_recordings=12000)
    assert facts.score == "AS-Norm score" and facts.settings["as_norm_top"] == 300 and facts.settings["cohort"] == "train"
    for words in ("whole recordings", "centred", "top 300", "5,994 speakers, 12,000 recordings"):
        assert words in facts.name
    assert Protocol(num_crops=10).facts().name == "10 crops of 4 s, mean cosine over all pairs of crops"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"as_norm_top": 300}, "need a cohort"),
        ({"centre": True}, "need a cohort"),
        ({"cohort": "x"}, "a cohort needs one of them"),
        ({"as_norm_top": 1, "cohort": "x"}, "at least 2 cohort speakers"),
        ({"num_crops": 0}, "from 1 up"),
        ({"num_crops": 3, "crop_seconds": 0.0}, "above 0 s"),
        ({"num_crops": 3, "centre": True, "cohort": "x"}, "do not go with a cohort"),
        ({"crop_seconds": 2.0}, "needs their number"),
        ({"enrolment_prefix": "../data/"}, "needs the map"),
    ],
)
def test_what_does_not_go_together(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_protocol(**arguments)  # type: ignore[arg-type]
