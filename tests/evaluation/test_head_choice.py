"""Which head is chosen for the embeddings at hand, and what is said about it."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from mrl.embeddings import head as embeddings_head
from mrl.embeddings.formats import EmbeddingTable
from mrl.embeddings.head import Head, HeadMethod
from mrl.errors import DataError
from mrl.evaluation import HeldOut, choose_head, head_choice
from mrl.evaluation.head_choice import _chosen, _corpora, _tests
from mrl.matryoshka.trained_head import HeadTraining


@pytest.fixture(autouse=True)
def _quick_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings_head, "HeadTraining", partial(HeadTraining, steps=30))


def _table(corpora: int = 2, speakers: int = 30, per_speaker: int = 4) -> tuple[EmbeddingTable, dict[str, str]]:
    """24 numbers, of which speakers differ in 6; utterances of a speaker differ most in 4 others. Each corpus has an offset."""
    random = np.random.default_rng(0)
    mixture = np.linalg.qr(np.random.default_rng(9).standard_normal((24, 24)))[0]
    rows, ids = [], []
    for corpus in range(corpora):
        offset = 0.3 * random.standard_normal(24)
        for speaker in range(speakers):
            mean = random.standard_normal(24) * ([1.0] * 6 + [0.2] * 18) + offset
            for utterance in range(per_speaker):
                rows.append((mean + random.standard_normal(24) * ([0.3] * 20 + [1.0] * 4)) @ mixture)
                ids.append(f"data/c{corpus}/s{corpus}-{speaker}/{utterance}.wav")
    table = EmbeddingTable(tuple(ids), np.array(rows, dtype=np.float32), {})
    return table, {name: name.split("/")[2] for name in ids}


def _held_out(name: str, full: float, targets: int = 10_000, **heads: dict[int, float]) -> HeldOut:
    kept = dict.fromkeys(heads, 0.9)
    return HeldOut(name, 50, targets, full, {16: 4 * full, 64: full}, heads, kept)  # type: ignore[arg-type]


def test_the_best_on_held_out_speakers_and_corpora_is_fitted_to_all() -> None:
    table, speakers = _table()
    choice = choose_head(table, speakers, dims=(4, 8, 24))
    assert choice.method in ("trained", "lda")  # the others cannot see what varies within a speaker
    assert [one.name for one in choice.lists] == [
        "held-out speakers of data/c0",
        "held-out speakers of data/c1",
        "without data/c0",
        "without data/c1",
    ]
    assert choice.head.about["method"] == choice.method and choice.head.about["utterances"] == 240
    for one in choice.lists:
        assert one.relative(choice.method, 24) < 1.0 and one.heads[choice.method][4] < 0.9 * one.cut[4]
        assert one.heads["uncentred"][24] == pytest.approx(one.full, abs=1e-3)
        assert one.kept["uncentred"] == pytest.approx(1.0, abs=1e-4) and 0.3 < one.kept[choice.method] < 0.999
    assert choice.lists[0].speakers < 60 and choice.lists[2].speakers == 30
    json.dumps(choice.as_dict())
    text = "\n".join(choice.lines())
    assert f"chosen: {choice.method}, the lowest error rates on what was held out" in text
    assert "without data/c1 (30 speakers, 180 same-speaker trials)" in text and "    4:" in text


def test_no_speaker_of_a_held_out_corpus_is_fitted_to() -> None:
    table, speakers = _table(corpora=2)
    moved = {**speakers, "data/c1/s1-0/0.wav": "s0-0"}  # a speaker of both corpora
    groups = {name: name.split("/")[1] for name in table.ids}
    tests = [test for test in _tests(table, moved, groups, seed=0) if test.name == "without c1"]
    (test,) = tests
    fitted = {moved[table.ids[row]] for row in test.fit}
    judged = {moved[name] for name in test.trials.utterances}
    assert not fitted & judged and "s0-0" not in fitted and len(fitted) == 29
    for part in _tests(table, moved, groups, seed=0):
        assert not set(part.fit) & set(part.judge)


def test_strangers_of_a_trial_are_of_one_corpus() -> None:
    table, speakers = _table()
    for test in _tests(table, speakers, _corpora(table, speakers, None), seed=0):
        corpora = {name.split("/")[1] for name in test.trials.utterances}
        assert len(corpora) == 1 and test.name.endswith(corpora.pop())


def test_groups_are_given_or_taken_from_paths_or_unknown() -> None:
    table, speakers = _table()
    swapped = {name: ("b" if "-1" in name else "a") for name in table.ids}
    assert {test.name for test in _tests(table, speakers, swapped, 0)} == {
        "held-out speakers of a",
        "held-out speakers of b",
        "without a",
        "without b",
    }
    assert set(_corpora(table, speakers, None).values()) == {"data/c0", "data/c1"}
    plain = EmbeddingTable(tuple(name.replace("/", "_") for name in table.ids), table.matrix, {})
    named = {name.replace("/", "_"): speaker for name, speaker in speakers.items()}
    tests = _tests(plain, named, _corpora(plain, named, None), 0)
    voices = [test for test in tests if test.name.startswith("without like voices ")]
    assert len(voices) >= 2 and any(test.name.startswith("held-out speakers") for test in tests)
    held = [{named[name] for name in test.trials.utterances} for test in voices]
    assert sum(map(len, held)) == len(set().union(*held)) <= 60  # every speaker in one group
    with pytest.raises(DataError, match=r"240 of 240 embeddings have no group, the first is 'data/c0/s0-0/0.wav'"):
        choose_head(table, speakers, groups={"x": "a"})
    with pytest.raises(DataError, match="240 of 240 embeddings have no speaker"):
        choose_head(table, {})


def test_too_few_speakers_get_the_safe_head() -> None:
    table, speakers = _table(corpora=1, speakers=10)
    choice = choose_head(table, speakers)
    assert choice.method == "uncentred" and choice.lists == () and "fewer than 8 speakers" in choice.why
    assert choice.head.about["speakers"] == 10
    alone = choose_head(table, {name: name for name in table.ids})  # as many speakers as utterances
    assert alone.method == "uncentred" and alone.head.about["speakers"] == 40
    unit = table.matrix / np.linalg.norm(table.matrix, axis=1, keepdims=True)
    projected = table.matrix @ choice.head.affine.weight.numpy().T
    projected /= np.linalg.norm(projected, axis=1, keepdims=True)
    np.testing.assert_allclose(projected @ projected.T, unit @ unit.T, atol=1e-5)


def test_what_loses_at_full_length_on_any_list_is_left_out() -> None:
    methods: tuple[HeadMethod, ...] = ("lda", "trained", "uncentred")
    safe = {16: 0.04, 64: 0.02}
    lists = [
        _held_out("held-out speakers", 0.02, lda={16: 0.01, 64: 0.01}, trained={16: 0.02, 64: 0.018}, uncentred=safe),
        _held_out("without a", 0.02, lda={16: 0.02, 64: 0.024}, trained={16: 0.03, 64: 0.02}, uncentred=safe),
    ]
    method, why = _chosen(lists, methods)
    assert method == "trained" and "lda loses at 64 dimensions: 1.20 times the error rate on without a" in why
    assert "uncentred 1.41" in why  # the geometric mean of 2, 1, 2, 1
    few = [_held_out(one.name, one.full, 100, **one.heads) for one in lists]  # type: ignore[arg-type]
    assert _chosen(few, methods)[0] == "lda"  # 2.4 errors in place of 2 are chance
    slightly = [_held_out("x", 0.02, 100_000, trained={16: 0.02, 64: 0.0206}, lda={16: 1, 64: 1}, uncentred=safe) for _ in "ab"]
    assert _chosen(slightly, methods)[0] == "uncentred"


def test_of_guessed_speakers_cosines_are_kept_at_full_length_and_shorter_lengths_decide() -> None:
    methods: tuple[HeadMethod, ...] = ("lda", "trained", "uncentred")
    rates: dict[HeadMethod, dict[int, float]] = {"lda": {16: 0.01, 64: 0.01}, "trained": {16: 0.02, 64: 0.03}}
    lists = [_held_out(name, 0.02, **rates, uncentred={16: 0.04, 64: 0.02}) for name in "ab"]
    assert _chosen(lists, methods)[0] == "lda" and "trained loses" in _chosen(lists, methods)[1]
    changed = [replace(one, kept={"lda": kept, "trained": 0.9}) for one, kept in zip(lists, (0.86, 0.8), strict=True)]
    method, why = _chosen(changed, methods, guessed=True)
    assert method == "trained" and "1.00 times" in why and "2 lists and 1 dims" in why
    assert "lda loses at 64 dimensions: its cosines correlate 0.83 with those of the whole embedding" in why
    for rate, expected in ((0.0215, "trained"), (0.0225, "pca")):  # guesses cannot tell differences below a tenth
        close = [_held_out("a", 0.02, trained={16: rate, 64: 0.02}, pca={16: 0.02, 64: 0.02}, uncentred={16: 0.04, 64: 0.02})]
        assert _chosen(close, ("trained", "pca", "uncentred"), guessed=True)[0] == expected


def test_the_candidates_are_compared_on_a_sample_of_whole_speakers_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    table, speakers = _table()
    monkeypatch.setattr(head_choice, "_MOST_COMPARED", 120)
    choice = choose_head(table, speakers, dims=(8, 24), candidates=("pca",))
    assert choice.head.about["utterances"] == 240
    assert choice.lists[0].speakers == 30 and choice.lists[0].targets == 30 * 6


def test_no_rate_counts_as_lower_than_half_a_trial() -> None:
    one = _held_out("x", 0.0, 100, trained={16: 0.01, 64: 0.0})
    assert one.relative("trained", 64) == 1.0 and one.relative("trained", 16) == pytest.approx(2.0)


def test_the_file_says_how_the_head_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    table, speakers = _table(corpora=1)
    fitted: list[HeadMethod] = []
    real = head_choice.fit_head

    def counted(*args: object, method: HeadMethod, **rest: object) -> Head:
        fitted.append(method)
        return real(*args, method=method, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(head_choice, "fit_head", counted)
    choice = choose_head(table, speakers, dims=(8, 24), candidates=("pca",))
    folds = sum(fitted[n : n + 2] == ["pca", "uncentred"] for n in range(0, len(fitted) - 1, 2))
    assert folds >= 3 and fitted == ["pca", "uncentred"] * folds + [choice.method]
    assert all(set(one.heads) == {"pca", "uncentred"} for one in choice.lists)

    fitted.clear()
    choice = choose_head(table, speakers, dims=(8, 24), candidates=("trained", "trained-rotation"))
    assert "trained-rotation" not in fitted[:-1]  # made of the trained one, not trained again
    for one in choice.lists:
        assert one.heads["trained-rotation"][24] == pytest.approx(one.full, abs=1e-3)
