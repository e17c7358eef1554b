"""Heads trained on cached pooled statistics: the loop of stage 1 with nothing around it."""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import torch
from benchmarks.study.closed_forms import random_rotation
from benchmarks.study.data import StudyData
from torch import nn

from mrl.data import SpeakerBalancedSampler
from mrl.matryoshka import AffineMap, MatryoshkaLoss, SimilarityPreservationLoss, data_free_rotation, fit_projection
from mrl.matryoshka.closed_form import Method
from mrl.training.updates import WeightAverage, learning_rate_factor

_LONGEST = 256


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One way to train a head; the defaults are the base that part 2 changes one thing of.

    Attributes:
        start: lda, pca, rotation, data_free, random_rotation, or random (a new linear layer).
        on: pooled (the statistics behind the pretrained layer) or embedding (a layer behind the pretrained embedding).
        dims: trained prefix lengths.
        embed_dim: length of the head.
        classes: shared, separate (a matrix per dim), or frozen (random, separate, never trained).
        margin, scale: of AAM-Softmax.
        dim_margins, dim_weights: of the trained dims; None: all equal.
        dim_dropout: share of dims left out of each step.
        similarity_weight: prefix cosines follow those of ``teacher``.
        teacher: start (the whole head before training), pretrained (the embedding that was released), or a closed form: pca, lda,
            rotation, data_free.
        labels: whether the margin loss is used at all.
        epochs, batch_size, learning_rate, weight_decay: of AdamW with a cosine schedule.
        ema_decay: of the average of the weights that is taken in the end, as in the trainer; 0: the last weights.
    """

    start: str = "lda"
    on: str = "pooled"
    dims: tuple[int, ...] = (16, 32, 64, 128, 192, 256)
    embed_dim: int = 256
    classes: str = "shared"
    margin: float = 0.2
    scale: float = 15.0
    dim_margins: tuple[float, ...] | None = None
    dim_weights: tuple[float, ...] | None = None
    dim_dropout: float = 0.0
    similarity_weight: float = 10.0
    teacher: str = "pca"
    labels: bool = True
    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 4e-3
    weight_decay: float = 1e-4
    ema_decay: float = 0.999


@functools.lru_cache(maxsize=8)
def _closed_form(data: StudyData, method: Method | Literal["data_free"]) -> AffineMap:
    if method == "data_free":
        return data_free_rotation(data.backbone)
    return fit_projection(data.features, data.labels, method=method, base=data.base, embed_dim=_LONGEST)


def start_map(data: StudyData, recipe: Recipe, seed: int) -> AffineMap:
    """Return the head before training, as a map of the features, ``recipe.embed_dim`` long."""
    base = data.base
    if recipe.start in ("lda", "pca", "rotation", "data_free"):
        return _closed_form(data, recipe.start).first(recipe.embed_dim)
    if recipe.start == "random_rotation":
        return base.rotated(random_rotation(base.outputs, seed)).first(recipe.embed_dim)
    inputs = base.outputs if recipe.on == "embedding" else base.inputs
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = nn.Linear(inputs, recipe.embed_dim, dtype=torch.float64)
    new = AffineMap(layer.weight.detach(), layer.bias.detach())
    return base.then(new) if recipe.on == "embedding" else new


def _teacher(data: StudyData, recipe: Recipe, seed: int) -> torch.Tensor:
    if recipe.teacher == "pretrained":
        teacher = data.base
    elif recipe.teacher == "start":
        teacher = start_map(data, dataclasses.replace(recipe, embed_dim=_LONGEST), seed)
    else:
        teacher = _closed_form(data, recipe.teacher)
    return teacher(data.features).float()


def train_head(data: StudyData, recipe: Recipe, seed: int) -> AffineMap:
    """Train a head as the recipe says.

    With ``on="embedding"`` the layer is trained behind the (fixed) pretrained embedding, otherwise on the pooled statistics.
    """
    start = start_map(data, recipe, seed)
    inputs, head = data.features, start
    if recipe.on == "embedding":
        inputs = data.base(data.features)
        # the layer alone: start = layer o base, and base has full row rank
        weight = torch.linalg.lstsq(data.base.weight.T, start.weight.T).solution.T
        head = AffineMap(weight, start.bias - weight @ data.base.bias)
    trained = _descend(data, inputs.float(), head, recipe, seed)
    return data.base.then(trained) if recipe.on == "embedding" else trained


def _descend(data: StudyData, inputs: torch.Tensor, head: AffineMap, recipe: Recipe, seed: int) -> AffineMap:
    labels, teacher = data.labels, _teacher(data, recipe, seed)
    torch.manual_seed(seed)
    layer = nn.Linear(head.inputs, head.outputs)
    with torch.no_grad():
        layer.weight.copy_(head.weight)
        layer.bias.copy_(head.bias)
    loss = MatryoshkaLoss(
        recipe.dims,
        len(data.corpus.speakers),
        margin=recipe.margin,
        scale=recipe.scale,
        margins=recipe.dim_margins,
        dim_weights=recipe.dim_weights,
        shared_classes=recipe.classes == "shared",
        dim_dropout=recipe.dim_dropout,
    )
    if recipe.classes == "frozen":
        loss.requires_grad_(False)
    else:
        with torch.no_grad():
            loss.initialise_from_class_means(layer(inputs), labels)
    similarity = SimilarityPreservationLoss(recipe.dims)
    decayed = [layer.weight, *(one for one in loss.parameters() if one.requires_grad)]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": [layer.bias], "weight_decay": 0.0}],
        betas=(0.9, 0.98),
    )
    average = WeightAverage(layer, recipe.ema_decay) if recipe.ema_decay else None
    sampler = SpeakerBalancedSampler(data.corpus, seed=seed)
    steps_per_epoch = -(-len(sampler) // recipe.batch_size)
    step = 0
    for epoch in range(recipe.epochs):
        draws = [draw.utterance for draw in sampler.epoch(epoch)]
        for first in range(0, len(draws), recipe.batch_size):
            chosen = draws[first : first + recipe.batch_size]
            factor = learning_rate_factor(
                step,
                total_steps=recipe.epochs * steps_per_epoch,
                warmup_steps=steps_per_epoch // 2,
                schedule="cosine",
                final_ratio=0.01,
            )
            for group in optimizer.param_groups:
                group["lr"] = factor * recipe.learning_rate
            loss.start_step(step)
            raw = layer(inputs[chosen])
            total = loss(raw, labels[chosen]).total if recipe.labels else raw.new_zeros(())
            if recipe.similarity_weight and len(chosen) > 1:
                total = total + recipe.similarity_weight * similarity(raw, teacher[chosen])
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            nn.utils.clip_grad_norm_([one for group in optimizer.param_groups for one in group["params"]], 5.0)
            optimizer.step()
            if average is not None:
                average.update(layer)
            step += 1
    if average is not None:
        average.copy_to(layer)
    return AffineMap(layer.weight.detach().double(), layer.bias.detach().double())
