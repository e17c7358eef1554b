"""Heads on a strong embedding: every figure of docs/explanation/strong-network.md.

    python -m benchmarks.study.strong_heads --shared ../shared --output docs/results/study/strong

Writes heads.json (fitted to all labelled training utterances), foreign.json (every corpus judged by heads that were fitted
without it) and the plots made of them. Systems that are there already are kept unless --again is given.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from benchmarks.study.measuring import Bench
from benchmarks.study.provenance import provenance
from benchmarks.study.strong_data import DIMS, FIRST_DELIVERY, LEFT_OUT, StrongData, identity, load_strong_data
from benchmarks.study.strong_plots import plot_strong

from mrl.embeddings import likely_speakers
from mrl.embeddings.head import HeadMethod, fit_head
from mrl.files import write_json
from mrl.matryoshka import AffineMap, fit_projection
from mrl.matryoshka.trained_head import HeadTraining, rotation_with_prefixes_of, train_head

SEEDS = (0, 1, 2)
METHODS: tuple[HeadMethod, ...] = ("trained", "trained-rotation", "rotation", "uncentred", "pca", "lda")
Rows = npt.NDArray[np.int64]
_FITTED: dict[object, AffineMap] = {}  # a trained head and its rotation are trained once

CHANGES: dict[str, HeadTraining] = {
    "trained, speakers alone": HeadTraining(similarity_weight=0.0),
    "trained, similarity alone": HeadTraining(speaker_weight=0.0),
    "trained, nothing added": HeadTraining(variation=0.0),
}


def main() -> int:
    """Parse, measure, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with corpora/ and strong/")
    parser.add_argument("--output", type=Path, default=Path("docs/results/study/strong"))
    parser.add_argument("--parts", nargs="+", choices=["heads", "foreign"], default=["heads", "foreign"])
    parser.add_argument("--resamples", type=int, default=100, help="of the speakers, for the intervals")
    parser.add_argument("--only", help="regular expression: only systems whose name begins so")
    parser.add_argument("--again", action="store_true", help="measure systems anew that are there already")
    arguments = parser.parse_args()
    data = load_strong_data(arguments.shared)
    origin = provenance("strong_heads", arguments.shared / "strong" / "campplus.npz", seeds=SEEDS, resamples=arguments.resamples)
    for part in arguments.parts:
        place = arguments.output / f"{part}.json"
        bench, systems = _PARTS[part](data, arguments.resamples)
        for name, measured in systems.items():
            kept = json.loads(place.read_text(encoding="utf-8"))["systems"] if place.is_file() else {}
            wanted = arguments.only is None or re.match(arguments.only, name) is not None
            if wanted and (arguments.again or name not in kept):
                kept[name] = measured(bench)
                _write(place, origin, kept, list(systems))
    plot_strong(arguments.output)
    return 0


def _write(place: Path, origin: Mapping[str, Any], measured: dict[str, Any], order: Sequence[str]) -> None:
    """Write after each system, so that nothing measured is lost; others may have written meanwhile."""
    place.parent.mkdir(parents=True, exist_ok=True)
    meanwhile = json.loads(place.read_text(encoding="utf-8"))["systems"] if place.is_file() else {}
    together = {**meanwhile, **measured}
    write_json(place, {**origin, "systems": {name: together[name] for name in order if name in together}})


def _heads(data: StrongData, resamples: int) -> tuple[Bench, dict[str, Callable[[Bench], dict[str, Any]]]]:
    rows, few, unlabelled = data.rows(), data.rows(only=FIRST_DELIVERY), data.rows(labelled=False)

    def of(maps: Callable[[], list[AffineMap]]) -> Callable[[Bench], dict[str, Any]]:
        return lambda bench: bench.measure(maps(), DIMS)

    systems = {"embedding, cut": of(lambda: [identity(data.embeddings.shape[1])])}
    for method in METHODS:
        seeds = SEEDS if method == "trained" else SEEDS[:1]
        systems[method] = of(lambda method=method, seeds=seeds: [_fit(data, rows, method, seed=seed) for seed in seeds])
    systems["no labels: trained"] = of(lambda: [_fit_unlabelled(data, unlabelled)])
    systems["no labels: trained-rotation"] = of(lambda: [rotation_with_prefixes_of(_fit_unlabelled(data, unlabelled))])
    for method in ("trained", "lda"):
        systems[f"376 speakers: {method}"] = of(lambda method=method: [_fit(data, few, method)])
    for name, how in CHANGES.items():
        systems[name] = of(lambda how=how: [_fit(data, rows, "trained", how)])
    systems["trained, from 1,024 pooled statistics"] = lambda bench: _from_pooled(data, rows, bench)
    return Bench(data, resamples=resamples), systems


def _foreign(data: StrongData, resamples: int) -> tuple[Bench, dict[str, Callable[[Bench], dict[str, Any]]]]:
    foreign = replace(data, lists=data.foreign_lists())

    def of(fitted: Callable[[tuple[str, ...]], AffineMap]) -> Callable[[Bench], dict[str, Any]]:
        def measured(bench: Bench) -> dict[str, Any]:
            embedded = {
                f"without-{name}": fitted(corpora)(foreign.lists[f"without-{name}"].features).float().numpy()
                for name, corpora in LEFT_OUT.items()
            }
            return bench.measure_embeddings([embedded], DIMS)

        return measured

    systems = {"embedding, cut": of(lambda corpora: identity(data.embeddings.shape[1]))}
    for method in METHODS:
        systems[method] = of(lambda corpora, method=method: _fit(data, data.rows(without=corpora), method))
    return Bench(foreign, resamples=resamples), systems


_PARTS = {"heads": _heads, "foreign": _foreign}


def _fit(data: StrongData, rows: Rows, method: HeadMethod, how: HeadTraining | None = None, *, seed: int = 0) -> AffineMap:
    how = HeadTraining(seed=seed) if how is None else how
    if method == "trained-rotation":
        return rotation_with_prefixes_of(_fit(data, rows, "trained", how))
    key = (data.embeddings.shape, rows.tobytes(), method, how)
    if key not in _FITTED:
        groups = {data.ids[row]: str(data.corpora[row]) for row in rows}
        _FITTED[key] = fit_head(data.table(rows), data.speaker_of(rows), method=method, training=how, groups=groups).affine
    return _FITTED[key]


def _fit_unlabelled(data: StrongData, rows: Rows) -> AffineMap:
    key = (rows.tobytes(), "no labels")
    if key in _FITTED:
        return _FITTED[key]
    table = data.table(rows)
    likely = {name: str(group) for name, group in zip(table.ids, likely_speakers(table.matrix), strict=True)}
    groups = {data.ids[row]: str(data.corpora[row]) for row in rows}
    _FITTED[key] = fit_head(table, likely, method="trained", groups=groups).affine
    return _FITTED[key]


def _from_pooled(data: StrongData, rows: Rows, bench: Bench) -> dict[str, Any]:
    pooled = torch.from_numpy(data.pooled[rows])
    labels = torch.from_numpy(np.unique(data.speakers[rows], return_inverse=True)[1])
    start = fit_projection(pooled, method="uncentred", embed_dim=data.layer.outputs, base=data.layer)
    groups = torch.from_numpy(np.unique(data.corpora[rows], return_inverse=True)[1])
    head = train_head(pooled, labels, dims=DIMS, start=start, base=data.layer, groups=groups)
    embedded = {
        name: head(torch.from_numpy(data.pooled[listed.trials.indices_into(data.ids)]).double()).float().numpy()
        for name, listed in data.lists.items()
    }
    return bench.measure_embeddings([embedded], DIMS)


if __name__ == "__main__":
    sys.exit(main())
