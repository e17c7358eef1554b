"""The place of a classification loss in a training without labels, where other terms do the teaching."""

from __future__ import annotations

import math

from torch import Tensor, nn

from mrl.matryoshka.losses import MatryoshkaLossOutput


class NoClassLoss(nn.Module):
    """Is zero for whatever embeddings and labels, has no parameters, and takes what a schedule tells a MatryoshkaLoss."""

    dims: tuple[int, ...] = ()

    def set_margin(self, margin: float) -> None:
        """There is no margin to set."""

    def start_step(self, step: int) -> None:
        """There is no length to draw."""

    def chance_level(self) -> float:
        """Return NaN: without classes there is no chance level."""
        return math.nan

    def initialise_from_class_means(self, raw_embeddings: Tensor, labels: Tensor) -> None:
        """There is no class matrix to start."""

    def forward(self, raw_embeddings: Tensor, labels: Tensor) -> MatryoshkaLossOutput:
        """Return zero, which has no gradient, and no figures per length."""
        return MatryoshkaLossOutput(raw_embeddings.new_zeros(()), {}, {})
