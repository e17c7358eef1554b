"""A head trained by gradient, on data whose right answer is known."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from mrl.errors import InputError
from mrl.matryoshka import AffineMap, fit_projection
from mrl.matryoshka.closed_form import separation
from mrl.matryoshka.trained_head import HeadTraining, _chances, _differences, rotation_with_prefixes_of, train_head

QUICK = HeadTraining(steps=60, batch_size=64)


def voices(speakers: int, per_speaker: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """24 numbers: speakers differ in the last 8, utterances of a speaker in the first 8, with the larger variance."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(speakers).repeat_interleave(per_speaker)
    between = torch.tensor([0.5] * 8 + [0.2] * 8 + [1.0] * 8)
    within = torch.tensor([1.5] * 8 + [0.1] * 8 + [0.4] * 8)
    means = torch.randn(speakers, 24, generator=random) * between
    return means[labels] + torch.randn(len(labels), 24, generator=random) * within, labels


def cosines(vectors: torch.Tensor) -> torch.Tensor:
    unit = functional.normalize(vectors.double(), dim=1)
    return unit @ unit.T


def start_of(features: torch.Tensor) -> AffineMap:
    return fit_projection(features, method="uncentred", embed_dim=features.shape[1])


def test_every_prefix_tells_new_speakers_apart_better_than_its_start() -> None:
    features, labels = voices(80, 5)
    start = start_of(features)
    head = train_head(features, labels, dims=(4, 8, 24), start=start, how=QUICK)
    new, new_labels = voices(40, 5, seed=1)
    for dim in (4, 8, 24):
        before = separation(start(new.double())[:, :dim], new_labels)
        assert separation(head(new.double())[:, :dim], new_labels) > 1.15 * before


def test_similarity_alone_keeps_the_cosines_of_the_full_length() -> None:
    features, labels = voices(40, 4)
    how = HeadTraining(steps=60, batch_size=64, speaker_weight=0.0, variation=0.0)
    head = train_head(features, labels, dims=(4, 24), start=start_of(features), how=how)
    torch.testing.assert_close(cosines(head(features.double())), cosines(features), rtol=0, atol=0.05)
    start = start_of(features)
    off = lambda made: (cosines(made(features.double())[:, :4]) - cosines(features)).square().mean()  # noqa: E731
    assert off(head) < off(start)  # what no closed form minimises: cosines of the short prefix itself


def test_scale_of_the_embeddings_is_no_matter() -> None:
    features, labels = voices(30, 4)
    one, large = (
        train_head(part, labels, dims=(8, 24), start=start_of(part), how=HeadTraining(steps=10))
        for part in (features, 1000 * features)
    )
    torch.testing.assert_close(cosines(one(features.double())), cosines(large(1000 * features.double())), rtol=0, atol=1e-3)


def test_a_seed_gives_the_same_head_and_outputs_beyond_the_dims_stay() -> None:
    features, labels = voices(30, 4)
    start = start_of(features)
    heads = [train_head(features, labels, dims=(8,), start=start, how=HeadTraining(steps=5, seed=seed)) for seed in (3, 3, 4)]
    torch.testing.assert_close(heads[0].weight, heads[1].weight, rtol=0, atol=0)
    assert not torch.equal(heads[0].weight, heads[2].weight)
    ratio = heads[0].weight[8:] / start.weight[8:]
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-4, atol=1e-4)
    assert heads[0].weight.dtype == torch.float64


def test_speakers_with_one_utterance_are_trained_on_and_steps_are_counted() -> None:
    features, labels = voices(60, 1)
    counted: list[int] = []
    head = train_head(
        features,
        labels,
        dims=(8, 24),
        start=start_of(features),
        how=HeadTraining(steps=7, speakers_per_step=20),
        advance=counted.append,
    )
    assert counted == [1] * 7 and torch.isfinite(head.weight).all()


def test_differences_are_of_one_speaker_and_favour_nobody() -> None:
    labels = torch.tensor([0] * 200 + [1, 1] + [2])
    features = torch.stack([labels.float() * 100, torch.arange(203.0)], dim=1)
    found = _differences(features, labels, torch.Generator().manual_seed(0))
    assert (found[:, 0] == 0).all() and (found[:, 1] != 0).all()
    assert len(found) == 4 * 5 + 4 * 1  # four rounds: five of the speaker of 200, the only one of the speaker of two
    assert (found[:, 1].abs() * 2**0.5).round().eq(1).sum() >= 4


def test_a_rotation_keeps_all_cosines_and_the_span_of_every_prefix() -> None:
    features, labels = voices(60, 4)
    head = train_head(features, labels, dims=(4, 24), start=start_of(features), how=QUICK)
    rotation = rotation_with_prefixes_of(head)
    torch.testing.assert_close(cosines(rotation(features.double())), cosines(features), rtol=0, atol=1e-6)
    for dim in (1, 4, 11):
        both = torch.cat([rotation.weight[:dim], head.weight[:dim]])
        assert int(torch.linalg.matrix_rank(both, rtol=1e-4)) == dim
    assert (torch.linalg.vecdot(rotation.weight, head.weight) > 0).all()


def test_utterances_of_large_corpora_are_drawn_less() -> None:
    corpora = torch.tensor([0] * 8 + [7] * 2)
    assert _chances(10, None, 0.5).tolist() == _chances(10, corpora, 0.0).tolist() == [1.0] * 10
    even = _chances(10, corpora, 1.0)
    assert even[:8].sum() == pytest.approx(1.0) and even[8:].sum() == pytest.approx(1.0)
    halfway = _chances(10, corpora, 0.5)
    assert float(halfway[0] / halfway[9]) == pytest.approx(0.5)
    features, labels = voices(60, 4)
    labels_of_two = (labels < 10).long()
    heads = [
        train_head(features, labels, dims=(8,), start=start_of(features), groups=groups, how=HeadTraining(steps=3))
        for groups in (None, labels_of_two)
    ]
    assert not torch.equal(heads[0].weight, heads[1].weight)


def test_errors() -> None:
    features, labels = voices(10, 3)
    start = start_of(features)
    with pytest.raises(InputError, match="two speakers"):
        train_head(features, torch.zeros(30), dims=(8,), start=start)
    with pytest.raises(InputError, match=r"dims=\[8, 25\] do not fit"):
        train_head(features, labels, dims=(8, 25), start=start)
    with pytest.raises(InputError, match="all zero"):
        train_head(torch.zeros(30, 24), labels, dims=(8,), start=start)
    for wrong in (
        {"steps": 0},
        {"batch_size": 1},
        {"learning_rate": 0.0},
        {"varied": 1.5},
        {"balance": -0.1},
        {"speakers_per_step": 1},
    ):
        with pytest.raises(InputError, match="cannot be used"):
            HeadTraining(**wrong)  # type: ignore[arg-type]
