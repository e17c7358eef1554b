"""Parts 2, 4 and 5: which trained heads are compared. Each changes one thing of the recipe at a time."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.study.data import DIMS, StudyData
from benchmarks.study.heads import Recipe

RECIPE = Recipe()


def trained_variants() -> dict[str, Recipe]:
    """Part 2: the recipe, and one change at a time."""
    variants = {"recipe": RECIPE}
    for start in ("rotation", "pca", "data_free", "random_rotation", "random"):
        variants[f"start: {start}"] = replace(RECIPE, start=start)
    variants["classes: one matrix per dim"] = replace(RECIPE, classes="separate")
    for margin in (0.0, 0.1, 0.3):
        variants[f"margin {margin:g}"] = replace(RECIPE, margin=margin)
    for scale in (10.0, 30.0):
        variants[f"scale {scale:g}"] = replace(RECIPE, scale=scale)
    variants["weights: 1/dim"] = replace(RECIPE, dim_weights=tuple(1 / dim for dim in RECIPE.dims))
    variants["weights: dim"] = replace(RECIPE, dim_weights=tuple(float(dim) for dim in RECIPE.dims))
    variants["trained dims: 8 as well"] = replace(RECIPE, dims=(8, *RECIPE.dims))
    variants["trained dims: 256 alone"] = replace(RECIPE, dims=(256,))
    for share in (0.3, 0.6):
        variants[f"dimension dropout {share:g}"] = replace(RECIPE, dim_dropout=share)
    for weight in (0.0, 3.0, 30.0):
        variants[f"similarity weight {weight:g}"] = replace(RECIPE, similarity_weight=weight)
    variants["similarity to the pretrained embedding"] = replace(RECIPE, teacher="pretrained")
    variants["similarity alone, no labels, from data_free"] = replace(RECIPE, labels=False, start="data_free")
    for epochs in (10, 100):
        variants[f"{epochs} epochs"] = replace(RECIPE, epochs=epochs)
    for rate in (5e-4, 5e-3):
        variants[f"learning rate {rate:g}"] = replace(RECIPE, learning_rate=rate)
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
    )
    trained = replace(first, classes="separate")
    return {
        "as it was: random layer behind the embedding, class matrices never trained": first,
        "+ class matrices trained": trained,
        "+ the layer on pooled statistics": replace(trained, on="pooled"),
        "+ start: data-free rotation": replace(trained, on="pooled", start="data_free"),
        "+ start: LDA": replace(trained, on="pooled", start="lda"),
        "+ scale 15, shared classes, similarity, short dims (the recipe)": RECIPE,
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
