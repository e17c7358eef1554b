"""Error rates of every head on real speech, beside the unmodified backbone: the tables and pictures of docs/appendix/results.md.

    python benchmarks/real_speech_results.py --shared ../shared --stage-1 runs/stage-1/best --stage-2 runs/stage-2/best

The closed forms are fitted to the train part of the corpora; trials are of speakers that nothing was fitted to. Writes, per list,
``report.json``, ``table.md``, ``table.csv`` and the plot, and one ``summary.md`` over all lists.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from mrl.backbone import ReDimNet
from mrl.data import read_manifest
from mrl.embeddings import map_files
from mrl.evaluation import DimFigures, EvaluationResult, SystemEmbeddings, evaluate_systems, write_report
from mrl.files import atomic_path, sha256_of, write_text
from mrl.matryoshka import AffineMap, ReDimNetMRL, data_free_rotation, fit_projection, pretrained_map
from mrl.pretrained import load_pretrained_redimnet
from mrl.trials import read_trials

Matrix = npt.NDArray[np.float32]
DIMS = (8, 16, 32, 64, 128, 192, 256)
LISTS = ("so762-child", "so762-adult", "libri-test-other")
BACKBONE = "unmodified backbone"


def main() -> int:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with corpora/")
    parser.add_argument("--stage-1", type=Path, help="model folder trained with a frozen backbone")
    parser.add_argument("--stage-2", type=Path, help="model folder trained through both stages")
    parser.add_argument("--output", type=Path, default=Path("docs/results"))
    parser.add_argument("--cache", type=Path, help="folder that keeps the backbone's pooled statistics for the next call")
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    corpora = arguments.shared / "corpora"
    weights = corpora / "checkpoints" / "b0-standin.pt"
    backbone = load_pretrained_redimnet(weights=weights)
    trained = [
        (name, ReDimNetMRL.from_pretrained(folder))
        for name, folder in (("trained, stage 1", arguments.stage_1), ("trained, stage 2", arguments.stage_2))
        if folder is not None
    ]
    corpus = read_manifest(corpora / "manifest.tsv", where={"part": "train"})
    with torch.inference_mode():
        pooled = _kept(arguments.cache, "train", backbone, [one.path for one in corpus.utterances])
        features = backbone.normalise_pooled(torch.from_numpy(pooled)).double()
        heads = closed_forms(backbone, features, torch.tensor(corpus.labels))
        results = {}
        for name in LISTS:
            trials = read_trials(corpora / "trials" / f"{name}.txt.gz")
            paths = trials.paths(corpora)
            pooled = _kept(arguments.cache, name, backbone, paths)
            vectors = backbone.normalise_pooled(torch.from_numpy(pooled)).double()
            systems = [SystemEmbeddings(BACKBONE, pretrained_map(backbone)(vectors).float().numpy(), DIMS[:-1])]
            systems += [SystemEmbeddings(head, affine(vectors).float().numpy(), DIMS) for head, affine in heads.items()]
            for label, model in trained:
                # A frozen backbone gives the statistics that are there already.
                frozen = model.backbone_is_unmodified
                raw = model.project(torch.from_numpy(pooled)).numpy() if frozen else _map(label, _projected(model), paths)
                systems.append(SystemEmbeddings(label, raw, DIMS))
            results[name] = evaluate_systems(
                systems,
                trials,
                bootstrap=arguments.bootstrap,
                seed=arguments.seed,
                reference=(BACKBONE, 192),
                provenance={"command": ["python", *sys.argv], "weights": weights.name, "weights_sha256": sha256_of(weights)},
            )
            write_report(results[name], arguments.output / name)
    text = summary(results)
    write_text(arguments.output / "summary.md", text)
    sys.stdout.write(text)
    return 0


def closed_forms(backbone: ReDimNet, features: torch.Tensor, labels: torch.Tensor) -> dict[str, AffineMap]:
    """Return the heads without gradient descent, all with 256 outputs."""
    base = pretrained_map(backbone)
    return {
        "data-free rotation": data_free_rotation(backbone).first(256),
        "rotation": fit_projection(features, labels, method="rotation", base=base),
        "PCA": fit_projection(features, labels, method="pca", base=base),
        "LDA": fit_projection(features, labels, method="lda", base=base),
    }


def summary(results: dict[str, EvaluationResult]) -> str:
    """Return Markdown: for each list one row per system and one column per length, EER in % with its interval."""
    lines = []
    for name, result in results.items():
        lines += [f"### {name}", "", "| system | " + " | ".join(map(str, DIMS)) + " |", "|---" * (len(DIMS) + 1) + "|"]
        for system in result.systems:
            cells = []
            for dim in DIMS:
                found = next((figures for figures in system.figures if figures.dim == dim), None)
                cells.append("–" if found is None else _cell(found))
            lines.append(f"| {system.name} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _cell(figures: DimFigures) -> str:
    interval = figures.equal_error_rate_interval
    return f"{100 * figures.equal_error_rate:.2f}" + (
        f" ({100 * interval.low:.1f}–{100 * interval.high:.1f})" if interval is not None else ""
    )


def _projected(model: ReDimNetMRL) -> Callable[[list[Matrix]], torch.Tensor]:
    return lambda waveforms: model.project(model.pooled_statistics(waveforms))


def _kept(cache: Path | None, name: str, backbone: ReDimNet, paths: Sequence[Path]) -> Matrix:
    if cache is None:
        return _map(name, backbone.pooled_statistics, paths)
    assert backbone.pretrained_source is not None
    place = cache / f"{name}-{backbone.pretrained_source['sha256'][:16]}.npy"
    if not place.is_file():
        with atomic_path(place) as temporary:
            np.save(temporary, _map(name, backbone.pooled_statistics, paths))
    kept: Matrix = np.load(place, allow_pickle=False)
    return kept


def _map(description: str, function: Callable[[list[Matrix]], torch.Tensor], paths: Sequence[Path]) -> Matrix:
    mapped = map_files(function, paths, description=description, batch_seconds=30.0, on_error="raise")
    return mapped.matrices[0]


if __name__ == "__main__":
    sys.exit(main())
