"""The accuracy study on one frozen backbone: every figure of docs/appendix/accuracy-study.md but those of full fine-tuning.

    python -m benchmarks.study.run --shared ../shared --output docs/results/study/standin-b0
    python -m benchmarks.study.run --weights runs/from-scratch-b0/best/official.pt --output docs/results/study/from-scratch-b0

Writes one JSON file per part (1: closed forms, 2: trained heads, data: how much data, 4: independent heads, 5: the earlier
attempt, storage: fewer bits per number), and the plots made of them. Parts that are there already are kept
unless --again is given.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks.study.closed_forms import SEEDS, closed_forms
from benchmarks.study.data import StudyData, load_study_data
from benchmarks.study.heads import train_head
from benchmarks.study.measuring import Bench
from benchmarks.study.plots import plot_study
from benchmarks.study.provenance import provenance
from benchmarks.study.variants import CAREFUL, RECIPE, amounts, ceilings, earlier_attempt, trained_variants

from mrl.embeddings.compact import EMBEDDING_FORMATS, bytes_per_embedding
from mrl.files import write_json
from mrl.matryoshka import fit_projection
from mrl.pretrained import load_pretrained_redimnet
from mrl.progress import progress_bar

Part = Callable[[StudyData, Bench], dict[str, Any]]


def main() -> int:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with corpora/")
    parser.add_argument("--weights", type=Path, help="backbone in the official format; default: the stand-in")
    parser.add_argument("--output", type=Path, default=Path("docs/results/study/standin-b0"))
    parser.add_argument("--cache", type=Path, default=Path("runs/study"), help="keeps the backbone's pooled statistics")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--resamples", type=int, default=500, help="of the speakers, for the intervals")
    parser.add_argument("--again", action="store_true", help="measure parts anew that are there already")
    arguments = parser.parse_args()
    corpora = arguments.shared / "corpora"
    weights = arguments.weights or corpora / "checkpoints" / "b0-standin.pt"
    todo = [part for part in arguments.parts if arguments.again or not (arguments.output / f"{part}.json").is_file()]
    if todo:
        data = load_study_data(load_pretrained_redimnet(weights=weights), corpora, arguments.cache)
        bench = Bench(data, resamples=arguments.resamples)
        origin = provenance("run", weights, seeds=SEEDS, resamples=arguments.resamples)
        for part in todo:
            write_json(arguments.output / f"{part}.json", {**origin, "systems": PARTS[part](data, bench)})
    plot_study(arguments.output)
    return 0


def _closed_forms(data: StudyData, bench: Bench) -> dict[str, Any]:
    return {name: bench.measure(maps) for name, maps in closed_forms(data).items()}


def _trained(data: StudyData, bench: Bench) -> dict[str, Any]:
    found = {}
    variants = trained_variants()
    with progress_bar("trained heads", len(variants), unit="recipes") as advance:
        for name, recipe in variants.items():
            found[name] = bench.measure([train_head(data, recipe, seed) for seed in SEEDS])
            advance(1)
    return found


def _amounts(data: StudyData, bench: Bench) -> dict[str, Any]:
    found = {}
    chosen = amounts(data)
    with progress_bar("amounts of data", len(chosen), unit="subsets") as advance:
        for name, indices in chosen.items():
            part = data.subset(indices)
            lda = fit_projection(part.features, part.labels, method="lda", base=part.base)
            found[f"LDA: {name}"] = bench.measure([lda])
            found[f"recipe: {name}"] = bench.measure([train_head(part, RECIPE, seed) for seed in SEEDS])
            found[f"careful: {name}"] = bench.measure([train_head(part, CAREFUL, seed) for seed in SEEDS])
            advance(1)
    return found


def _ceilings(data: StudyData, bench: Bench) -> dict[str, Any]:
    heads = {}
    with progress_bar("independent heads", len(ceilings()), unit="dims") as advance:
        for dim, recipe in ceilings().items():
            heads[dim] = [train_head(data, recipe, seed) for seed in SEEDS]
            advance(1)
    return {"independent head per dim": bench.measure_separate(heads)}


def _earlier_attempt(data: StudyData, bench: Bench) -> dict[str, Any]:
    return {name: bench.measure([train_head(data, recipe, seed) for seed in SEEDS]) for name, recipe in earlier_attempt().items()}


def _storage(data: StudyData, bench: Bench) -> dict[str, Any]:
    heads = [train_head(data, RECIPE, seed) for seed in SEEDS]
    found: dict[str, Any] = {}
    for form in EMBEDDING_FORMATS:
        found[form] = bench.measure(heads, form=form)
        for by_dim in found[form]["lists"].values():
            for dim, figures in by_dim.items():
                figures["bytes"] = bytes_per_embedding(form, int(dim))
    return found


PARTS: dict[str, Part] = {
    "closed-forms": _closed_forms,
    "trained-heads": _trained,
    "amounts": _amounts,
    "independent-heads": _ceilings,
    "earlier-attempt": _earlier_attempt,
    "storage": _storage,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
