"""Weighted sums of what stem and stages put out: every stage's input, the network's last layer, and what early exits read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class WeightedSum(nn.Module):
    """Sum of all earlier outputs, with softmax weights per feature, added up in place instead of concatenated.

    Outputs may be coarser in time than the first: such a one counts for ``stride`` frames each. They are added up at their own
    resolution and spread only then.

    Args:
        num_inputs: how many outputs are summed.
        features: of each of them.
        strides: how many frames of the first one frame of each stands for; None: all have the same frames.
        logit_per_feature: keep a logit for every feature of a single input too, where one would do.
    """

    def __init__(
        self, num_inputs: int, features: int, strides: Sequence[int] | None = None, *, logit_per_feature: bool = False
    ) -> None:
        super().__init__()
        # With a single input the weight is one whatever the logit; the official files carry that logit nevertheless.
        trainable = num_inputs > 1
        width = features if trainable or logit_per_feature else 1
        self.logits = nn.Parameter(torch.zeros(num_inputs, width), requires_grad=trainable)
        self.strides = tuple(strides) if strides is not None else (1,) * num_inputs

    @property
    def num_inputs(self) -> int:
        """How many outputs it weighs."""
        return self.logits.shape[0]

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        if len(outputs) == 1:
            return outputs[0]
        return weighted_sum(outputs, self.logits.softmax(dim=0).to(outputs[0].dtype), self.strides)

    def for_inference(self) -> FixedSum:
        """Return the same sum with its weights computed."""
        return FixedSum(self.logits.detach().double().softmax(dim=0), self.strides)


class FixedSum(nn.Module):
    """Sum of all earlier outputs with fixed weights per feature ``(inputs, features)``."""

    weights: Tensor

    def __init__(self, weights: Tensor, strides: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.strides = tuple(strides)

    @property
    def num_inputs(self) -> int:
        """How many outputs it weighs."""
        return self.weights.shape[0]

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        return outputs[0] if len(outputs) == 1 else weighted_sum(outputs, self.weights, self.strides)


def weighted_sum(outputs: Sequence[Tensor], weights: Tensor, strides: Sequence[int]) -> Tensor:
    """Return the sum ``(batch, frames, features)`` of outputs ``(batch, frames / stride, features)``; the first has stride 1."""
    total = _sum_of_equals(outputs, weights, strides, strides[0])
    coarser: Tensor | None = None
    coarser_stride = 1
    # From the coarsest to the finest, so that each is spread once.
    for stride in sorted(set(strides) - {strides[0]}, reverse=True):
        own = _sum_of_equals(outputs, weights, strides, stride)
        coarser = own if coarser is None else add_spread(own, coarser, coarser_stride // stride)
        coarser_stride = stride
    return total if coarser is None else add_spread(total, coarser, coarser_stride)


def add_spread(signal: Tensor, coarse: Tensor, ratio: int) -> Tensor:
    """Add a signal with ``ratio`` times fewer frames to one ``(batch, frames, features)``, in place (nearest neighbours)."""
    batch, frames, features = coarse.shape
    return signal.view(batch, frames, ratio, features).add_(coarse.unsqueeze(2)).view(signal.shape)


def _sum_of_equals(outputs: Sequence[Tensor], weights: Tensor, strides: Sequence[int], stride: int) -> Tensor:
    chosen = [index for index, other in enumerate(strides) if other == stride]
    total = outputs[chosen[0]] * weights[chosen[0]]
    for index in chosen[1:]:
        total.addcmul_(outputs[index], weights[index])
    return total
