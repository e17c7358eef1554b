"""Class losses at several prefix lengths of one class matrix, at the price of about one.

Dot products and squared norms of a prefix are those of the shorter one plus a chunk, so all lengths together need one full matrix
product forward. Backwards the derivative by a chunk's products is the sum over all lengths that hold the chunk, taken from the
longest length to the shortest, so that again every chunk is multiplied once. What is left per length are a few passes over the
matrix of cosines; they are done here in place, with the gradient that the objective gives, instead of by autograd, which keeps a
copy of each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mrl.matryoshka.class_objectives import ClassObjective

_NORM_FLOOR = 1e-12  # added to squared norms


@dataclass(frozen=True)
class PrefixTerm:
    """One length's part of the loss.

    Attributes:
        dim: the prefix length.
        weight: of its loss in the total; a length of weight 0 is only reported.
        margin: radians.
    """

    dim: int
    weight: float
    margin: float


def prefix_class_loss(
    raw: Tensor, classes: Tensor, biases: Tensor | None, labels: Tensor, terms: Sequence[PrefixTerm], objective: ClassObjective
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weighted sum of an objective at several prefix lengths, with gradients in closed form.

    Args:
        raw: ``(batch, embed_dim)``, not normalised; float32 or float64.
        classes: ``(rows, width)`` of the same type, not normalised.
        biases: ``(terms,)``, or None for an objective without.
        labels: ``(batch,)`` class indices.
        terms: one for each length, ascending.
        objective: what is asked of the cosines ``(batch, rows)``.

    Returns:
        The total with gradients for ``raw``, ``classes`` and ``biases`` (once differentiable), and losses ``(terms,)`` and
        accuracies ``(terms,)`` without.
    """
    result: tuple[Tensor, Tensor, Tensor] = _PrefixClassLoss.apply(  # type: ignore[no-untyped-call]
        raw, classes, biases, labels, tuple(terms), objective
    )
    return result


class _PrefixClassLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        raw: Tensor,
        classes: Tensor,
        biases: Tensor | None,
        labels: Tensor,
        terms: tuple[PrefixTerm, ...],
        objective: ClassObjective,
    ) -> tuple[Tensor, Tensor, Tensor]:
        spans = list(pairwise((0, *(term.dim for term in terms))))
        products, raw_inverse, class_inverse = _products_and_inverse_norms(raw, classes, spans)
        losses, accuracies, bias_gradients = [], [], []
        by_products: list[Tensor] = []  # derivative of the total by the products of each chunk, the last chunk first
        by_raw_energy = torch.zeros_like(raw_inverse[0])
        by_class_energy = torch.zeros_like(class_inverse[0])
        raw_pulls, class_pulls = [], []  # how much of itself each row loses in each chunk, because cosines ignore length
        for place in reversed(range(len(terms))):
            term, inverse, inverse_of_class = terms[place], raw_inverse[place], class_inverse[place]
            cosines = products.pop().mul_(inverse).mul_(inverse_of_class)
            bias = None if biases is None else biases[place]
            value = objective.evaluate(cosines, labels, term.margin, bias)
            losses.append(value.loss)
            accuracies.append(value.accuracy)
            gradient, factor = value.gradient, value.row_factor * term.weight
            if value.bias_gradient is not None:
                bias_gradients.append(value.bias_gradient * term.weight)
            cosines.mul_(gradient)
            by_raw_energy = by_raw_energy + cosines.sum(dim=1, keepdim=True) * factor * inverse.square()
            by_class_energy = by_class_energy + (factor.T @ cosines) * inverse_of_class.square()
            gradient.mul_(factor * inverse)
            if by_products:
                by_products.append(torch.addcmul(by_products[-1], gradient, inverse_of_class, out=gradient))
            else:
                by_products.append(gradient.mul_(inverse_of_class))
            raw_pulls.append(by_raw_energy)
            class_pulls.append(by_class_energy)
        ctx.spans = spans
        ctx.has_bias = biases is not None
        kept_biases = torch.stack(bias_gradients[::-1]) if biases is not None else losses[0]
        ctx.save_for_backward(raw, classes, kept_biases, *by_products, *raw_pulls, *class_pulls)
        all_losses, all_accuracies = torch.stack(losses[::-1]), torch.stack(accuracies[::-1])
        total = (all_losses * all_losses.new_tensor([term.weight for term in terms])).sum()
        ctx.mark_non_differentiable(all_losses, all_accuracies)
        return total, all_losses, all_accuracies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        raw, classes, by_bias, *saved = ctx.saved_tensors
        count = len(ctx.spans)
        by_products, raw_pulls, class_pulls = (saved[start : start + count] for start in (0, count, 2 * count))
        by_raw = torch.zeros_like(raw) if ctx.needs_input_grad[0] else None
        by_classes = torch.empty_like(classes) if ctx.needs_input_grad[1] else None
        if by_classes is not None and classes.shape[1] > ctx.spans[-1][1]:
            by_classes[:, ctx.spans[-1][1] :].zero_()
        # the factor from above goes into what is small: the batch, not the classes
        for place, (start, end) in enumerate(reversed(ctx.spans)):
            chunk, class_chunk = raw[:, start:end] * upstream, classes[:, start:end]
            if by_raw is not None:
                torch.sub((by_products[place] @ class_chunk) * upstream, raw_pulls[place] * chunk, out=by_raw[:, start:end])
            if by_classes is not None:
                pulled = torch.mul(class_chunk, -upstream * class_pulls[place].T, out=by_classes[:, start:end])
                pulled.addmm_(by_products[place].T, chunk)
        return by_raw, by_classes, by_bias * upstream if ctx.has_bias else None, None, None, None


def _products_and_inverse_norms(
    raw: Tensor, classes: Tensor, spans: Sequence[tuple[int, int]]
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """For every prefix: products ``(batch, rows)``, inverse norms of embeddings ``(batch, 1)`` and of classes ``(1, rows)``."""
    products: list[Tensor] = []
    raw_inverse: list[Tensor] = []
    class_inverse: list[Tensor] = []
    raw_energy, class_energy = raw.new_full((len(raw), 1), _NORM_FLOOR), classes.new_full((1, len(classes)), _NORM_FLOOR)
    for start, end in spans:
        chunk, class_chunk = raw[:, start:end], classes[:, start:end]
        products.append(torch.addmm(products[-1], chunk, class_chunk.T) if products else chunk @ class_chunk.T)
        raw_energy = raw_energy + chunk.square().sum(dim=1, keepdim=True)
        class_energy = class_energy + torch.linalg.vector_norm(class_chunk, dim=1).square()
        raw_inverse.append(raw_energy.rsqrt())
        class_inverse.append(class_energy.rsqrt())
    return products, raw_inverse, class_inverse
