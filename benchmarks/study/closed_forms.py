"""Part 1: heads without gradient descent."""

from __future__ import annotations

import torch
from benchmarks.study.data import StudyData

from mrl.matryoshka import AffineMap, data_free_rotation, fit_projection

SEEDS = (0, 1, 2)


def closed_forms(data: StudyData) -> dict[str, list[AffineMap]]:
    """Return every system by name, one head per seed where chance plays a part."""
    features, labels, base = data.features, data.labels, data.base
    return {
        "unmodified backbone, cut": [base],
        "random rotation": [base.rotated(random_rotation(base.outputs, seed)) for seed in SEEDS],
        "data-free rotation": [data_free_rotation(data.backbone)],
        "rotation, unlabelled": [fit_projection(features, None, method="rotation", base=base)],
        "rotation": [fit_projection(features, labels, method="rotation", base=base)],
        "PCA": [fit_projection(features, labels, method="pca", base=base)],
        "whitened PCA": [whitened_pca(data)],
        "LDA from embeddings": [fit_projection(features, labels, method="lda", base=base, embed_dim=base.outputs)],
        "LDA from embeddings, residual to 256": [fit_projection(features, labels, method="lda", base=base)],
        "LDA from pooled statistics": [fit_projection(features, labels, method="lda")],
        "LDA from embeddings, shrinkage 0": [fit_projection(features, labels, method="lda", base=base, shrinkage=0.0)],
    }


def random_rotation(size: int, seed: int) -> torch.Tensor:
    """Return an orthogonal matrix, uniformly distributed."""
    gaussian = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    q, r = torch.linalg.qr(gaussian)
    rotation: torch.Tensor = q * r.diagonal().sign()
    return rotation


def whitened_pca(data: StudyData) -> AffineMap:
    """Return PCA of the embedding with every direction scaled to unit variance."""
    head = fit_projection(data.features, None, method="pca", base=data.base, embed_dim=data.base.outputs)
    deviation = head(data.features).std(dim=0)
    return AffineMap(head.weight / deviation.unsqueeze(1), head.bias / deviation)
