"""Every pooling against its formula, written plainly in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mrl.backbone.pooling import (
    MultiHeadAttentiveStatistics,
    MultiQueryAttentiveStatistics,
    Pooling,
    build_pooling,
)
from tests.backbone.networks import uniform

FEATURES = 16


def filled_pooling(kind: str, *, global_context: bool = True) -> Pooling:
    pooling = build_pooling(kind, FEATURES, global_context=global_context)
    with torch.no_grad():
        for name, parameter in pooling.named_parameters():
            parameter.copy_(torch.from_numpy(uniform(name, tuple(parameter.shape))))
    return pooling


def affine(layer: nn.Module, values: np.ndarray) -> np.ndarray:
    assert isinstance(layer, nn.Linear)
    return values @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()


def attentive(values: np.ndarray, logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits) / np.exp(logits).sum(axis=0)
    mean = (weights * values).sum(axis=0)
    variance = (weights * values**2).sum(axis=0) - mean**2
    return np.concatenate([mean, np.sqrt(np.maximum(variance, 1e-7))])


def multi_head(pooling: MultiHeadAttentiveStatistics, values: np.ndarray) -> np.ndarray:
    shares = np.split(values, len(pooling.hidden), axis=1)
    heads = zip(shares, pooling.hidden, pooling.logits, strict=True)
    return np.concatenate([attentive(share, affine(logits, np.tanh(affine(hidden, share)))) for share, hidden, logits in heads])


def plain(kind: str, pooling: Pooling, values: np.ndarray, global_context: bool) -> np.ndarray:
    mean, deviation = values.mean(axis=0), np.sqrt(values.var(axis=0, ddof=1) + 1e-7)
    if kind == "TAP":
        return mean
    if kind == "TMAP":
        return mean + values.max(axis=0)
    if kind == "TSDP":
        return deviation
    if kind == "TSTP":
        return np.concatenate([mean, deviation])
    if isinstance(pooling, MultiHeadAttentiveStatistics):
        return multi_head(pooling, values)
    if isinstance(pooling, MultiQueryAttentiveStatistics):
        queries = [query for query in pooling.queries if isinstance(query, MultiHeadAttentiveStatistics)]
        assert len(queries) == 2
        return np.concatenate([multi_head(query, values) for query in queries])
    seen = values
    if global_context:
        seen = np.concatenate([values, *(np.broadcast_to(row, values.shape) for row in (mean, deviation))], axis=1)
    assert isinstance(pooling.hidden, nn.Linear)
    return attentive(values, affine(pooling.logits, np.tanh(affine(pooling.hidden, seen))))


@pytest.mark.parametrize("kind", ["ASTP", "TSTP", "TAP", "TMAP", "TSDP", "MHASTP", "MQMHASTP"])
@pytest.mark.parametrize("global_context", [True, False])
def test_formula(kind: str, global_context: bool) -> None:
    pooling = filled_pooling(kind, global_context=global_context)
    frames = torch.from_numpy(uniform("frames", (2, 9, FEATURES)) * 2).float()
    found = pooling(frames).detach().numpy()
    expected = np.stack([plain(kind, pooling, item.double().numpy(), global_context) for item in frames])
    assert found.shape == (2, pooling.pooled_dim)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("kind", ["ASTP", "TSTP", "TAP", "TMAP", "TSDP", "MHASTP", "MQMHASTP"])
def test_a_single_frame_is_finite_and_so_is_its_gradient(kind: str) -> None:
    pooling = filled_pooling(kind)
    frames = torch.from_numpy(uniform("frame", (1, 1, FEATURES))).float().requires_grad_()
    pooled = pooling(frames)
    pooled.sum().backward()
    assert torch.isfinite(pooled).all()
    assert frames.grad is not None and torch.isfinite(frames.grad).all()
