"""A Matryoshka head for embeddings, trained by gradient in seconds.

Every prefix is asked for two things. Its cosines follow those of the full embedding (:class:`SimilarityPreservationLoss`), which
keeps what the network knows of voices unlike those at hand. And every utterance lies nearer to its own speaker's mean than to the
means of others (AAM-Softmax). The means are mapped by the head itself, so that nothing but the head is learnt, and a few hundred
steps are enough. To many utterances the difference of two utterances of some speaker is added, so that speakers with a single
utterance vary, too; the cosines asked for are those without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mrl.errors import InputError
from mrl.matryoshka.class_objectives import MarginSoftmax
from mrl.matryoshka.losses import SimilarityPreservationLoss
from mrl.matryoshka.prefix_gradients import PrefixTerm, prefix_class_loss
from mrl.matryoshka.projection import AffineMap

# Enough to know how utterances of a speaker differ; more would be stored for nothing.
_MOST_DIFFERENCES = 20_000
_ROUNDS, _MOST_OF_A_SPEAKER = 4, 5


@dataclass(frozen=True)
class HeadTraining:
    """How :func:`train_head` trains.

    Attributes:
        steps: of AdamW, with a cosine schedule down to 0.
        batch_size: utterances per step.
        learning_rate: of the first step.
        similarity_weight: of the loss that keeps the cosines of the full embedding.
        speaker_weight: of the loss that tells speakers apart.
        margin: of that loss, radians.
        scale: of that loss: what cosines are multiplied by.
        speakers_per_step: means that an utterance is compared with in a step, its own among them.
        variation: how much of the difference of two utterances of a speaker is added.
        varied: share of the utterances that it is added to.
        balance: how much rarer utterances of large corpora are drawn: 0: as they come; 1: as many of each corpus.
        seed: of the order of utterances and of what is added.
    """

    steps: int = 300
    batch_size: int = 128
    learning_rate: float = 4e-3
    similarity_weight: float = 20.0
    speaker_weight: float = 1.0
    margin: float = 0.4
    scale: float = 20.0
    speakers_per_step: int = 300
    variation: float = 0.7
    varied: float = 0.5
    balance: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 2 or self.speakers_per_step < 2:
            raise InputError(
                f"steps={self.steps}, batch_size={self.batch_size}, speakers_per_step={self.speakers_per_step} cannot be used; "
                "expected at least 1 step, and 2 utterances and 2 speakers in it"
            )
        if not 0.0 < self.learning_rate < math.inf or not 0.0 <= self.varied <= 1.0 or not 0.0 <= self.balance <= 1.0:
            raise InputError(
                f"learning_rate={self.learning_rate}, varied={self.varied}, balance={self.balance} cannot be used; "
                "expected a positive rate and two shares"
            )


def train_head(
    features: Tensor,
    labels: Tensor,
    *,
    dims: Sequence[int],
    start: AffineMap,
    base: AffineMap | None = None,
    groups: Tensor | None = None,
    how: HeadTraining | None = None,
    advance: Callable[[int], None] | None = None,
) -> AffineMap:
    """Train a head from a closed-form start.

    Args:
        features: ``(utterances, feature_dim)``: embeddings of any scale, or normalised pooled statistics.
        labels: ``(utterances,)`` speakers.
        dims: prefix lengths to train, none longer than ``start`` has outputs.
        start: the head to start from, a map of ``features``.
        base: the full embedding as a map of ``features``; None: the features themselves.
        groups: ``(utterances,)`` numbers of the corpora that they come from, so that no large one drowns the others; None: one.
        how: settings.
        advance: called with 1 after every step.

    Returns:
        The head, with as many outputs as ``start``, float64. Outputs beyond the longest of ``dims`` stay as they were.

    Raises:
        InputError: shapes or lengths that do not fit; fewer than two speakers.
    """
    how = HeadTraining() if how is None else how
    ordered = tuple(sorted(set(dims)))
    if start.inputs != features.shape[1] or not ordered or ordered[0] < 1 or ordered[-1] > start.outputs:
        raise InputError(
            f"features of {features.shape[1]} numbers, a start {start.inputs} -> {start.outputs} and dims={list(ordered)} "
            "do not fit"
        )
    _, speakers, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    if len(counts) < 2 or len(speakers) != len(features):
        raise InputError(f"{len(features)} utterances of {len(counts)} speakers; expected a label each and two speakers or more")
    # Features, and what the head makes of them, of about unit length: the learning rate then means the same for every toolkit.
    scale = 1.0 / _mean_length(features.double())
    scaled = (features.double() * scale).float()
    teacher = scaled if base is None else base(features.double()).float()
    gain = 1.0 / _mean_length(start(features.double()))
    weight = nn.Parameter((start.weight * (gain / scale)).float())
    bias = nn.Parameter((start.bias * gain).float())
    means = torch.zeros(len(counts), features.shape[1]).index_add_(0, speakers, scaled) / counts.unsqueeze(1)

    random = torch.Generator().manual_seed(how.seed)
    cumulative = _chances(len(speakers), groups, how.balance).cumsum(0)
    differences = _differences(scaled, speakers, random)
    similarity = SimilarityPreservationLoss(ordered, _rising(ordered))
    objective = MarginSoftmax(how.scale)
    terms = [PrefixTerm(dim, 1.0 / len(ordered), how.margin) for dim in ordered]
    optimizer = torch.optim.AdamW([weight, bias], lr=how.learning_rate, weight_decay=0.0)
    for step in range(how.steps):
        for group in optimizer.param_groups:
            group["lr"] = how.learning_rate * 0.5 * (1.0 + math.cos(math.pi * step / how.steps))
        rows = torch.searchsorted(cumulative, torch.rand(how.batch_size, dtype=torch.float64, generator=random) * cumulative[-1])
        rows = rows.clamp(max=len(scaled) - 1)
        batch = scaled[rows]
        if len(differences):
            batch = batch + how.variation * _added(differences, len(rows), how.varied, random)
        compared, targets = _compared(speakers[rows], len(counts), how.speakers_per_step, random)
        raw = functional.linear(batch, weight, bias)
        classes = functional.linear(means[compared], weight, bias)
        apart, _, _ = prefix_class_loss(raw, classes, None, targets, terms, objective)
        loss = how.speaker_weight * apart + how.similarity_weight * similarity(raw, teacher[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if advance is not None:
            advance(1)
    return AffineMap(weight.detach().double() * scale, bias.detach().double())


def _mean_length(vectors: Tensor) -> float:
    length = float(torch.linalg.vector_norm(vectors, dim=1).mean())
    if not 0.0 < length < math.inf:
        raise InputError("the embeddings are all zero, or hold NaN or infinite values; find the recordings they come from")
    return length


def _rising(dims: Sequence[int]) -> dict[int, float]:
    """Weights of the similarity: a short prefix cannot follow all cosines and tell voices apart, too; a long one can."""
    return {dim: dim**1.65 for dim in dims}


def _chances(utterances: int, groups: Tensor | None, balance: float) -> Tensor:
    """Return how often each utterance is drawn, up to a factor, ``(utterances,)`` float64."""
    if groups is None:
        return torch.ones(utterances, dtype=torch.float64)
    index = torch.unique(groups, return_inverse=True)[1]
    return torch.bincount(index)[index].double() ** -balance


def _compared(own: Tensor, speakers: int, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the speakers that a batch is compared with, ascending, and the positions of the batch's own among them."""
    if count >= speakers:
        return torch.arange(speakers), own
    drawn = torch.randint(speakers, (count,), generator=random)
    compared = torch.unique(torch.cat([own, drawn]))
    return compared, torch.searchsorted(compared, own)


def _added(differences: Tensor, count: int, share: float, random: torch.Generator) -> Tensor:
    """Return random differences, zero but for a share of the rows."""
    drawn = differences[torch.randint(len(differences), (count,), generator=random)]
    signs = torch.randint(2, (count, 1), generator=random) * 2 - 1
    return drawn * signs * (torch.rand(count, 1, generator=random) < share)


def _differences(features: Tensor, speakers: Tensor, random: torch.Generator) -> Tensor:
    """Return differences of two utterances of one speaker, scaled to the spread of a single one around its mean.

    Neighbours in random orders of each speaker's utterances, so that a speaker of many does not outweigh one of two.
    """
    drawn = []
    for _ in range(_ROUNDS):
        shuffled = torch.randperm(len(features), generator=random)
        order = shuffled[torch.argsort(speakers[shuffled], stable=True)]
        first, second = order[:-1], order[1:]
        same = (speakers[first] == speakers[second]).nonzero().squeeze(1)
        # the first few of each speaker: an utterance's place among those of its speaker, counted from where the speaker begins
        begins = torch.searchsorted(speakers[order], speakers[first[same]])
        few = same[same - begins < _MOST_OF_A_SPEAKER]
        drawn.append(torch.stack([first[few], second[few]]))
    pairs = torch.cat(drawn, dim=1)
    pairs = pairs[:, torch.randperm(pairs.shape[1], generator=random)[:_MOST_DIFFERENCES]]
    return (features[pairs[0]] - features[pairs[1]]) / math.sqrt(2.0)


def rotation_with_prefixes_of(head: AffineMap) -> AffineMap:
    """Return the rotation whose prefixes span what those of a head of embeddings span.

    Gram and Schmidt, row by row. A rotation of all dimensions scores as the embeddings themselves do, so nothing can be lost at
    full length; its prefixes are nearly as good as the head's.
    """
    q, r = torch.linalg.qr(head.weight.double().T)
    rows = (q * torch.where(r.diagonal() < 0, -1.0, 1.0)).T
    return AffineMap(rows.contiguous(), rows.new_zeros(len(rows)))
