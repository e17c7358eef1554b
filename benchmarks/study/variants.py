"""Parts 2, 4 and 5: which trained heads are compared."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.study.data import DIMS, StudyData
from benchmarks.study.heads import Recipe

BASE = Recipe()
# The row of part 2 that is best on so762-child, by the mean over 16 to 256 numbers: what configs/real-speech.yaml does.
RECIPE = replace(BASE, epochs=10)
# Nothing in it is fitted to the speakers at hand but the head itself: for few of them.
CAREFUL = replace(RECIPE, start="data_free", teacher="pretrained")


def trained_variants() -> dict[str, Recipe]:
    """Part 2: a base, and one change at a time."""
    variants = {"base": BASE}
    for start in ("rotation", "pca", "data_free", "random_rotation", "random"):
        variants[f"start: {start}"] = replace(BASE, start=start)
    for teacher in ("start", "pretrained"):
        variants[f"teacher: {teacher}"] = replace(BASE, teacher=teacher)
    for weight in (0.0, 3.0, 30.0):
        variants[f"similarity weight {weight:g}"] = replace(BASE, similarity_weight=weight)
    variants["similarity alone, no labels: data_free, teacher pretrained"] = replace(
        BASE, labels=False, start="data_free", teacher="pretrained"
    )
    variants["classes: one matrix per dim"] = replace(BASE, classes="separate")
    for margin in (0.0, 0.1, 0.3):
        variants[f"margin {margin:g}"] = replace(BASE, margin=margin)
    variants["margins from 0.1 (16) to 0.3 (256)"] = replace(BASE, dim_margins=(0.1, 0.14, 0.18, 0.22, 0.26, 0.3))
    variants["margins from 0.3 (16) to 0.1 (256)"] = replace(BASE, dim_margins=(0.3, 0.26, 0.22, 0.18, 0.14, 0.1))
    for scale in (10.0, 30.0):
        variants[f"scale {scale:g}"] = replace(BASE, scale=scale)
    variants["weights: 1/dim"] = replace(BASE, dim_weights=tuple(1 / dim for dim in BASE.dims))
    variants["weights: dim"] = replace(BASE, dim_weights=tuple(float(dim) for dim in BASE.dims))
    variants["trained dims: 8 as well"] = replace(BASE, dims=(8, *BASE.dims))
    variants["trained dims: 256 alone"] = replace(BASE, dims=(256,))
    for share in (0.3, 0.6):
        variants[f"dimension dropout {share:g}"] = replace(BASE, dim_dropout=share)
    for epochs in (10, 40, 100):
        variants[f"{epochs} epochs"] = replace(BASE, epochs=epochs)
    for rate in (1e-3, 2e-3, 8e-3):
        variants[f"learning rate {rate:g}"] = replace(BASE, learning_rate=rate)
    variants["no average of the weights"] = replace(BASE, ema_decay=0.0)
    return variants


def ceilings() -> dict[int, Recipe]:
    """Part 4: one head for each dim, trained for that dim alone."""
    return {dim: replace(RECIPE, dims=(dim,), embed_dim=dim) for dim in DIMS}


def earlier_attempt() -> dict[str, Recipe]:
    """Part 5: the recipe of the earlier public attempt, and its faults taken away one after the other."""
    first = Recipe(
        start="random",
        on="embedding",
        dims=(64, 128, 192, 256),
        classes="frozen",
        scale=30.0,
        similarity_weight=0.0,
        learning_rate=1e-3,
        epochs=40,
        ema_decay=0.0,
    )
    trained = replace(first, classes="separate")
    return {
        "as it was: new layer behind the embedding, class matrices frozen": first,
        "+ class matrices trained": trained,
        "+ the layer on pooled statistics": replace(trained, on="pooled"),
        "+ start: data-free rotation": replace(trained, on="pooled", start="data_free"),
        "+ start: LDA": replace(trained, on="pooled", start="lda"),
        "+ scale 15, similarity, short dims, 10 epochs at 4e-3 (the recipe)": RECIPE,
    }


def amounts(data: StudyData) -> dict[str, list[int]]:
    """Part 2, data: positions of the training utterances that are kept, by description.

    Speakers with several utterances only are counted: a speaker with one says nothing of the spread within speakers.
    """
    members = [one for one in data.corpus.indices_by_speaker() if len(one) > 2]
    chosen: dict[str, list[int]] = {}
    for speakers in (10, 30, 100):
        step = len(members) / speakers
        kept = [members[int(number * step)] for number in range(speakers)]
        chosen[f"{speakers} speakers, all their utterances"] = sorted(index for one in kept for index in one)
    for count in (2, 5, 10):
        chosen[f"{len(members)} speakers, {count} utterances each"] = sorted(
            one[int(number * len(one) / count)] for one in members for number in range(min(count, len(one)))
        )
    chosen[f"{len(members)} speakers, all utterances"] = sorted(index for one in members for index in one)
    chosen["all speakers, all utterances"] = list(range(len(data.corpus)))
    return chosen
