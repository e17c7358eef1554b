"""Ways to make an exit from its cached statistics, all with the network frozen: closed forms and gradient descent."""

from __future__ import annotations

import torch
from benchmarks.study.data import StudyData
from torch import Tensor, nn

from mrl.backbone import ReDimNet
from mrl.data import SpeakerBalancedSampler
from mrl.matryoshka import AffineMap, MatryoshkaLoss, SimilarityPreservationLoss, fit_projection
from mrl.matryoshka.exits import EarlyExit
from mrl.training.updates import learning_rate_factor

DIMS = (16, 32, 64, 128, 192, 256)


def regression(backbone: ReDimNet, depth: int, pooled: Tensor, teacher: Tensor) -> EarlyExit:
    """The library's exit: ridge regression onto the whole network's embedding ``teacher`` (utterances, embed_dim)."""
    result = EarlyExit(backbone, depth, teacher.shape[1])
    result.fit(pooled, teacher)
    return result


def discriminant(data: StudyData, fitted: EarlyExit, pooled: Tensor) -> AffineMap:
    """LDA on the exit's standardised statistics (those of ``fitted``): labels and no teacher."""
    return fit_projection(fitted.norm(pooled).double(), data.labels, method="lda", embed_dim=DIMS[-1])


def descended(
    data: StudyData, fitted: EarlyExit, pooled: Tensor, teacher: Tensor, *, labels: bool, seed: int, epochs: int = 40
) -> AffineMap:
    """The regression trained on: prefix cosines follow the teacher's, and with ``labels`` the margin loss of the recipe.

    AdamW, cosine schedule and batches as in stage 1; the learning rate is a fifth of its, as the head is nearly there.
    """
    torch.manual_seed(seed)
    inputs = fitted.norm(pooled)
    head = nn.Linear(inputs.shape[1], teacher.shape[1])
    head.load_state_dict({"weight": fitted.projection.weight, "bias": fitted.projection.bias})
    classes = MatryoshkaLoss(DIMS, len(data.corpus.speakers), margin=0.2, scale=15.0, shared_classes=True)
    with torch.no_grad():
        classes.initialise_from_class_means(head(inputs), data.labels)
    similarity = SimilarityPreservationLoss(DIMS)
    decayed = [head.weight, *(classes.parameters() if labels else ())]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 1e-4}, {"params": [head.bias], "weight_decay": 0.0}], betas=(0.9, 0.98)
    )
    sampler, size = SpeakerBalancedSampler(data.corpus, seed=seed), 128
    steps = -(-len(sampler) // size)
    for epoch in range(epochs):
        draws = [draw.utterance for draw in sampler.epoch(epoch)]
        for number, first in enumerate(range(0, len(draws), size)):
            chosen = draws[first : first + size]
            factor = learning_rate_factor(
                epoch * steps + number, total_steps=epochs * steps, warmup_steps=steps // 2, schedule="cosine", final_ratio=0.01
            )
            for group in optimizer.param_groups:
                group["lr"] = 4e-4 * factor
            raw = head(inputs[chosen])
            loss = 10 * similarity(raw, teacher[chosen])
            if labels:
                loss = loss + classes(raw, data.labels[chosen]).total
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return AffineMap(head.weight.detach().double(), head.bias.detach().double())
