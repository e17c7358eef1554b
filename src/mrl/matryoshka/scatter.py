"""Between- and within-speaker covariance, and the directions that tell speakers apart (linear discriminant analysis)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scatter:
    """Mean ``(features,)`` and covariances ``(features, features)`` of labelled vectors, every speaker with the same weight."""

    mean: Tensor
    within: Tensor
    between: Tensor


def class_index(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return each utterance's speaker number ``(utterances,)``, counted from 0, and each speaker's utterances ``(speakers,)``."""
    _, index, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    return index, counts


def scatter_of(vectors: Tensor, labels: Tensor) -> Scatter:
    """Compute the scatter of vectors ``(utterances, features)`` with labels ``(utterances,)``.

    The between-speaker covariance is corrected for the noise that speaker means of few utterances carry. Speakers with a single
    utterance say nothing of the spread within a speaker and are left out of it.
    """
    index, counts = class_index(labels)
    sums = torch.zeros(len(counts), vectors.shape[1], dtype=vectors.dtype).index_add_(0, index, vectors)
    means = sums / counts.unsqueeze(1)
    centred = vectors - means[index]
    several = counts > 1
    weights = torch.where(several, 1.0 / (counts - 1).clamp(min=1), 0.0).to(vectors.dtype) / several.sum()
    within = (centred * weights[index].unsqueeze(1)).T @ centred
    mean = means.mean(dim=0)
    spread = means - mean
    between = spread.T @ spread / (len(counts) - 1) - within * (1.0 / counts).mean()
    return Scatter(mean, within, between)


def whitener(within: Tensor, shrinkage: float) -> Tensor:
    """Return a symmetric matrix that turns the within-speaker covariance, shrunk towards its mean variance, into the identity."""
    size = within.shape[0]
    floor = within.diagonal().mean()
    values, vectors = torch.linalg.eigh((1.0 - shrinkage) * within + shrinkage * floor * torch.eye(size, dtype=within.dtype))
    smallest = torch.finfo(within.dtype).eps * values.max().clamp(min=torch.finfo(within.dtype).tiny)
    white: Tensor = (vectors * values.clamp(min=smallest).rsqrt()) @ vectors.T
    return white


def discriminant_directions(scatter: Scatter, shrinkage: float) -> Tensor:
    """Return LDA directions as rows ``(features, features)``, the most discriminating first, unit variance within speakers."""
    white = whitener(scatter.within, shrinkage)
    directions: Tensor = principal_directions(white @ scatter.between @ white) @ white
    return directions


def principal_directions(covariance: Tensor) -> Tensor:
    """Return the eigenvectors of a symmetric matrix as rows, the largest eigenvalue first, each with a sign that is fixed."""
    directions = torch.linalg.eigh(covariance).eigenvectors.flip(1).T
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    signed: Tensor = directions * largest.sign()
    return signed
