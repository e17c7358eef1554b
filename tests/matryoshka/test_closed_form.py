"""Closed-form heads on data whose right answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from mrl.errors import InputError
from mrl.matryoshka import AffineMap, create_mrl, fit_projection, pretrained_map
from mrl.matryoshka.closed_form import (
    METHODS,
    Method,
    ProjectionFit,
    class_index,
    discriminant_directions,
    scatter_of,
    separation,
)
from tests.matryoshka.conftest import tiny_backbone


def speakers_and_noise(
    num_speakers: int, per_speaker: int, between: torch.Tensor, within: torch.Tensor, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw vectors whose covariances between and within speakers are diagonal and known."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_speakers).repeat_interleave(per_speaker)
    means = torch.randn(num_speakers, len(between), generator=generator, dtype=torch.float64) * between.sqrt()
    noise = torch.randn(len(labels), len(between), generator=generator, dtype=torch.float64) * within.sqrt()
    return means[labels] + noise, labels


def all_cosines(vectors: torch.Tensor) -> torch.Tensor:
    unit = functional.normalize(vectors, dim=1)
    return unit @ unit.T


BETWEEN = torch.tensor([0.01, 4.0, 0.01, 1.0, 9.0, 0.01, 0.3, 0.01], dtype=torch.float64)
WITHIN = torch.tensor([9.0, 1.0, 0.1, 0.1, 0.5, 1.0, 0.2, 4.0], dtype=torch.float64)


@given(seed=st.integers(0, 100), with_labels=st.booleans())
@settings(max_examples=10, deadline=None)
def test_rotation_keeps_every_cosine_at_full_length(seed: int, with_labels: bool) -> None:
    features, labels = speakers_and_noise(20, 5, BETWEEN, WITHIN, seed)
    features = features + 3.0  # not centred: cosines are taken as they are
    head = fit_projection(features, labels if with_labels else None, method="rotation", embed_dim=8)
    torch.testing.assert_close(all_cosines(head(features)), all_cosines(features), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", ["rotation", "lda"])
def test_labels_put_speaker_directions_first(method: str) -> None:
    features, labels = speakers_and_noise(400, 10, BETWEEN, WITHIN)
    head = fit_projection(features, labels, method=method, embed_dim=8, shrinkage=0.0)  # type: ignore[arg-type]
    largest = head.weight.abs().argmax(dim=1).tolist()
    by_fisher_ratio = torch.argsort(BETWEEN / WITHIN, descending=True).tolist()
    if method == "lda":
        assert largest[:4] == by_fisher_ratio[:4]
    else:
        assert set(largest[:3]) == {4, 1, 3}


@pytest.mark.parametrize("extends", [False, True])
@pytest.mark.parametrize(("method", "with_labels"), [(m, True) for m in METHODS] + [(m, False) for m in METHODS if m != "lda"])
def test_several_blocks_fit_like_one(method: Method, with_labels: bool, extends: bool) -> None:
    features, labels = speakers_and_noise(30, 4, BETWEEN, WITHIN)
    features = features + torch.linspace(-2, 2, 8, dtype=torch.float64)
    base = AffineMap(torch.eye(8, dtype=torch.float64)[:5], torch.full((5,), 0.3, dtype=torch.float64)) if extends else None
    heads = []
    for bounds in ([120], [4, 60, 112, 120]):  # a block of one speaker, of fourteen, of thirteen and of two
        fit = ProjectionFit(8, method=method, embed_dim=7, base=base, labelled=with_labels)
        for start, end in zip([0, *bounds], bounds, strict=False):
            fit.add(features[start:end], labels[start:end] if with_labels else None)
        heads.append(fit.result())
    whole, blocks = (head(features) for head in heads)
    assert whole.shape == (120, 7)
    for dim in (1, 3, 7):  # cosines, because directions may differ in sign
        torch.testing.assert_close(all_cosines(blocks[:, :dim]), all_cosines(whole[:, :dim]), rtol=1e-8, atol=1e-8)


def test_pca_finds_the_largest_variance_noise_or_not() -> None:
    features, _ = speakers_and_noise(400, 10, BETWEEN, WITHIN)
    head = fit_projection(features, method="pca", embed_dim=8)
    projected = head(features)
    assert projected.mean(dim=0).abs().max() < 1e-9
    variance = projected.var(dim=0)
    assert (variance.diff() <= 0).all()
    assert head.weight.abs().argmax(dim=1)[:2].tolist() in ([4, 0], [0, 4])
    torch.testing.assert_close(projected.T @ projected / len(projected), torch.diag(variance), rtol=1e-2, atol=1e-2)


def test_lda_whitens_within_speakers() -> None:
    features, labels = speakers_and_noise(300, 10, BETWEEN, WITHIN)
    scatter = scatter_of(features, labels)
    directions = discriminant_directions(scatter, shrinkage=0.0)
    torch.testing.assert_close(
        directions @ scatter.within @ directions.T, torch.eye(8, dtype=torch.float64), rtol=1e-8, atol=1e-8
    )


def test_scatter_is_unbiased_for_few_utterances_per_speaker() -> None:
    features, labels = speakers_and_noise(20000, 2, BETWEEN, WITHIN)
    scatter = scatter_of(features, labels)
    torch.testing.assert_close(scatter.within.diagonal(), WITHIN, rtol=0.08, atol=0.02)
    torch.testing.assert_close(scatter.between.diagonal(), BETWEEN, rtol=0.08, atol=0.25)


def test_scatter_by_hand() -> None:
    vectors = torch.tensor([[0.0], [2.0], [10.0], [14.0], [100.0]], dtype=torch.float64)
    scatter = scatter_of(vectors, torch.tensor([7, 7, 3, 3, 5]))
    # Variances 2 and 8 of the speakers with several utterances; means 1, 12, 100.
    assert scatter.within.item() == pytest.approx(5.0)
    mean = 113 / 3
    spread = ((1 - mean) ** 2 + (12 - mean) ** 2 + (100 - mean) ** 2) / 2
    assert scatter.mean.item() == pytest.approx(mean)
    assert scatter.between.item() == pytest.approx(spread - 5.0 * (0.5 + 0.5 + 1.0) / 3)


def test_lda_beats_pca_at_a_short_prefix() -> None:
    features, labels = speakers_and_noise(60, 8, BETWEEN, WITHIN)
    unseen, unseen_labels = speakers_and_noise(60, 8, BETWEEN, WITHIN, seed=1)
    gain = {}
    for method in ("pca", "lda"):
        head = fit_projection(features, labels, method=method, embed_dim=3)  # type: ignore[arg-type]
        gain[method] = separation(head(unseen), unseen_labels).item()
    assert gain["lda"] > 1.3 * gain["pca"]


def test_separation_by_hand() -> None:
    angle = torch.tensor([0.0, 0.2, 1.0, 1.3], dtype=torch.float64)
    vectors = torch.stack([angle.cos(), angle.sin()], dim=1)
    same = torch.tensor([math.cos(0.2), math.cos(0.3)])
    other = torch.tensor([math.cos(1.0), math.cos(1.3), math.cos(0.8), math.cos(1.1)])
    expected = (same.mean() - other.mean()) / ((same.var() + other.var()) / 2).sqrt()
    assert separation(vectors, torch.tensor([0, 0, 1, 1])).item() == pytest.approx(expected.item(), rel=1e-5)


def half_seen(seed: int) -> tuple[torch.Tensor, torch.Tensor, AffineMap]:
    """Features of which the base sees the first four; the last four hold about as much of the speaker."""
    spread = torch.tensor([4.0, 2.0, 1.0, 1.0, 4.0, 2.0, 0.0, 0.0], dtype=torch.float64)
    features, labels = speakers_and_noise(80, 8, spread, torch.ones(8, dtype=torch.float64), seed)
    base = AffineMap(torch.eye(8, dtype=torch.float64)[:4], torch.zeros(4, dtype=torch.float64))
    return features, labels, base


def test_residual_directions_add_what_the_base_discards() -> None:
    features, labels, base = half_seen(0)
    head = fit_projection(features, labels, method="rotation", base=base, embed_dim=6)
    assert head.weight[4:, 4:6].abs().sum() > 10 * head.weight[4:, 6:].abs().sum()
    unseen, unseen_labels, _ = half_seen(1)
    assert separation(head(unseen), unseen_labels) > 1.15 * separation(head.first(4)(unseen), unseen_labels)


def test_residual_directions_of_pure_noise_do_not_hurt() -> None:
    spread = torch.tensor([4.0, 2.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    features, labels = speakers_and_noise(80, 8, spread, torch.ones(8, dtype=torch.float64))
    base = AffineMap(torch.eye(8, dtype=torch.float64)[:4], torch.zeros(4, dtype=torch.float64))
    head = fit_projection(features, labels, method="rotation", base=base, embed_dim=8)
    unseen, unseen_labels = speakers_and_noise(80, 8, spread, torch.ones(8, dtype=torch.float64), seed=1)
    assert separation(head(unseen), unseen_labels) > 0.98 * separation(head.first(4)(unseen), unseen_labels)


@pytest.mark.parametrize("per_speaker", [2, 3])
def test_a_handful_of_utterances_gives_a_finite_head(per_speaker: int) -> None:
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(4).repeat_interleave(per_speaker)
    features = torch.randn(len(labels), 30, generator=generator, dtype=torch.float64)
    base = AffineMap(torch.eye(30, dtype=torch.float64)[:6], torch.zeros(6, dtype=torch.float64))
    for method in ("rotation", "lda"):
        head = fit_projection(features, labels, method=method, base=base, embed_dim=20)  # type: ignore[arg-type]
        assert head.weight.isfinite().all() and head.bias.isfinite().all()
        assert head.outputs == 20


def test_model_fit_keeps_the_pretrained_cosines_at_192() -> None:
    backbone = tiny_backbone()
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(12).repeat_interleave(6)
    pooled = torch.randn(12, backbone.pooled_dim, generator=generator)[labels] + torch.randn(
        72, backbone.pooled_dim, generator=generator
    )
    model = create_mrl(backbone, embed_dim=200)
    model.fit_projection(pooled, labels, method="rotation")
    with torch.inference_mode():
        expected = all_cosines(backbone.embed_pooled(pooled).double())
        ours = all_cosines(model.project(pooled, 192).double())
    assert (ours - expected).abs().max() < 1e-5


@pytest.mark.parametrize("changes", [{}, {"emb_bn": True}])
def test_pretrained_map_is_the_embedding_layer(changes: dict[str, object]) -> None:
    backbone = tiny_backbone(**changes)
    pooled = torch.randn(4, backbone.pooled_dim)
    with torch.inference_mode():
        expected = backbone.embed_pooled(pooled).double()
        ours = pretrained_map(backbone)(backbone.normalise_pooled(pooled).double())
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_affine_maps_compose() -> None:
    torch.manual_seed(0)
    first = AffineMap(torch.randn(3, 5), torch.randn(3))
    second = AffineMap(torch.randn(2, 3), torch.randn(2))
    vectors = torch.randn(7, 5)
    torch.testing.assert_close(first.then(second)(vectors), second(first(vectors)))
    torch.testing.assert_close(first.first(4)(vectors), torch.cat([first(vectors), torch.zeros(7, 1)], dim=1))
    with pytest.raises(InputError, match="weight"):
        AffineMap(torch.randn(3, 5), torch.randn(5))


def test_class_index_counts_from_zero() -> None:
    index, counts = class_index(torch.tensor([9, 4, 9, 9]))
    assert index.tolist() == [1, 0, 1, 1]
    assert counts.tolist() == [1, 3]


@pytest.mark.parametrize(
    "features, labels, options, message",
    [
        (torch.randn(5, 4), None, {"method": "lda"}, "needs speaker labels"),
        (torch.randn(5, 4), torch.arange(5), {}, "several utterances"),
        (torch.randn(5, 4), torch.zeros(5), {}, "at least two speakers"),
        (torch.randn(5, 4), torch.zeros(4), {}, "one label each"),
        (torch.full((5, 4), math.nan), None, {}, "NaN"),
        (torch.randn(5), None, {}, "feature_dim"),
        (torch.randn(5, 4), None, {"method": "umap"}, "rotation, uncentred, pca, lda"),
        (torch.randn(5, 4), None, {"shrinkage": 2.0}, "from 0 to 1"),
        (torch.randn(5, 4), None, {"base": AffineMap(torch.randn(2, 3), torch.randn(2))}, "takes 3"),
    ],
)
def test_unusable_input_is_refused(
    features: torch.Tensor, labels: torch.Tensor | None, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fit_projection(features, labels, **options)  # type: ignore[arg-type]
