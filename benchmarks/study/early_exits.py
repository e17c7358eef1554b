r"""Early exits on a frozen backbone: error rate against milliseconds for each (depth, dim); all of docs/appendix/early-exits.md.

    python train.py --config configs/real-speech.yaml training.num_epochs=40 advanced.freeze_backbone_epochs=40 \
        training.learning_rate=2e-3 training.validate_every_epochs=4 advanced.teacher_init=null \
        training.output_dir=runs/real-speech-stage-1
    python -m benchmarks.study.early_exits --shared ../shared --model runs/real-speech-stage-1/best

The whole network is the stand-in, unmodified, with the Matryoshka head of stage 1; the exits are made from the same recordings.
Writes early-exits.json and early-exits.png. A quarter of an hour on one core, most of it one pass over the recordings, whose
statistics are kept in --cache.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.study.data import LISTS, StudyData, load_study_data
from benchmarks.study.early_exits_data import ExitStatistics, load_exit_statistics
from benchmarks.study.early_exits_heads import DIMS, descended, discriminant, regression
from benchmarks.study.early_exits_plot import draw
from benchmarks.study.early_exits_timing import time_depths
from benchmarks.study.measuring import Bench
from torch import Tensor
from torch.nn.functional import normalize

from mrl.files import sha256_of, write_json
from mrl.hardware import hardware_line
from mrl.matryoshka import AffineMap, ReDimNetMRL
from mrl.scoring import equal_error_rate
from mrl.trials import TrialList

WHOLE = "whole network"
TIMED_DIMS = (64, 192, 256)


def main() -> int:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with corpora/")
    parser.add_argument("--model", type=Path, default=Path("runs/real-speech-stage-1/best"), help="model folder of stage 1")
    parser.add_argument("--seed", type=int, default=0, help="of the exits that are trained by gradient descent")
    parser.add_argument("--trained", type=int, nargs="*", default=[1, 2, 3], help="depths of these")
    parser.add_argument("--output", type=Path, default=Path("docs/results/study"))
    parser.add_argument(
        "--cache", type=Path, default=Path("runs/study"), help="keeps the statistics of both whole network and exits"
    )
    parser.add_argument("--resamples", type=int, default=500, help="of the speakers, for the intervals")
    parser.add_argument("--rounds", type=int, default=100, help="of the timing")
    parser.add_argument("--only-timing", action="store_true", help="keep the error rates that are in early-exits.json")
    arguments = parser.parse_args()
    corpora = arguments.shared / "corpora"
    model = ReDimNetMRL.from_pretrained(arguments.model)
    data = load_study_data(model.backbone, corpora, arguments.cache)
    place = arguments.output / "early-exits.json"
    if arguments.only_timing:
        systems = json.loads(place.read_text(encoding="utf-8"))["systems"]
    else:
        with torch.no_grad():
            seen = load_exit_statistics(data, corpora, arguments.cache)
        bench = Bench(data, resamples=arguments.resamples)
        systems = error_rates(data, model.projection.as_affine(), seen, bench, arguments.trained, arguments.seed)
    model.add_exits(range(1, model.depths[-1]))
    found = {
        "command": ["python", "-m", "benchmarks.study.early_exits", *sys.argv[1:]],
        "weights_sha256": sha256_of(arguments.model / "model.safetensors"),
        "seed": arguments.seed,
        "resamples": arguments.resamples,
        "threads": torch.get_num_threads(),
        "hardware": hardware_line(),
        "timing": time_depths(model, TIMED_DIMS, rounds=arguments.rounds),
        "systems": systems,
    }
    write_json(place, found)
    draw(found, arguments.output / "early-exits.png")
    return 0


def error_rates(
    data: StudyData, whole: AffineMap, seen: ExitStatistics, bench: Bench, trained: Sequence[int], seed: int
) -> dict[str, Any]:
    """Return the figures of every system by name; ``whole`` is the head of the whole network."""
    teacher = whole(data.features).float()
    found: dict[str, Any] = {WHOLE: bench.measure([whole], DIMS)}
    for depth, pooled in seen.train.items():
        fitted = regression(data.backbone, depth, pooled, teacher)
        with torch.no_grad():
            inputs = {name: fitted.norm(seen.lists[name][depth]).double() for name in LISTS}
        heads = {"": fitted.projection.as_affine(), ", LDA": discriminant(data, fitted, pooled)}
        if depth in trained:
            heads[", follows cosines"] = descended(data, fitted, pooled, teacher, labels=False, seed=seed)
            heads[", follows cosines, and labels"] = descended(data, fitted, pooled, teacher, labels=True, seed=seed)
        for kind, head in heads.items():
            embedded = {name: head(inputs[name]).float().numpy() for name in LISTS}
            found[f"exit after {depth}{kind}"] = bench.measure_embeddings([embedded], DIMS)
        for name in LISTS:
            mixed = mixed_error_rates(data.lists[name].trials, whole(data.lists[name].features), heads[""](inputs[name]))
            for dim, rate in mixed.items():
                found[f"exit after {depth}"]["lists"][name][str(dim)]["eer_enrolled_by_whole_network"] = rate
    for name in LISTS:
        for one in found.values():
            for dim, figures in one["lists"][name].items():
                figures["relative_to_whole_network"] = figures["eer"] / found[WHOLE]["lists"][name][dim]["eer"]
    return found


def mixed_error_rates(trials: TrialList, enrolled: Tensor, tested: Tensor) -> dict[int, float]:
    """Return the equal error rate by dim where the first side of each trial was embedded otherwise than the second."""
    rates = {}
    for dim in DIMS:
        one, other = (normalize(matrix[:, :dim].float(), dim=1).numpy() for matrix in (enrolled, tested))
        rates[dim] = equal_error_rate((one[trials.enrol] * other[trials.test]).sum(axis=1), trials.labels)
    return rates


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
