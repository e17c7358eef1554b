"""Part 5, continued: what the earlier attempt did to the backbone itself, before its head saw anything.

    python -m benchmarks.study.earlier_backbone --shared ../shared --output docs/results/study/standin-b0

Two faults: the network was rebuilt with a last 1x1 convolution of 512 channels that the checkpoint lacks, so that this layer and
those behind it (pooling, embedding) kept random weights; and it was left in training mode while "frozen", so that the running
statistics of every BatchNorm followed the batches. Both are made here, alone and together, and the attempt's head (random layer
behind the embedding, class matrices never trained) is trained on what comes out. Writes ``earlier-backbone.json``. About 20
minutes on one core.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path
from typing import Any

import torch
from benchmarks.study.closed_forms import SEEDS
from benchmarks.study.data import DIMS, LISTS, StudyData, load_study_data
from benchmarks.study.heads import train_head
from benchmarks.study.measuring import Bench
from benchmarks.study.provenance import provenance
from benchmarks.study.variants import earlier_attempt

from mrl.backbone import ReDimNet
from mrl.data import Corpus, CropDataset, SpeakerBalancedSampler, load_batches
from mrl.files import write_json
from mrl.matryoshka import AffineMap
from mrl.pretrained import load_pretrained_redimnet
from mrl.progress import progress_bar

BATCHES, BATCH_SIZE, CROP_SECONDS = 60, 32, 3.0
REBUILT_CHANNELS = 512


def main() -> int:
    """Parse, spoil, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with corpora/")
    parser.add_argument("--cache", type=Path, default=Path("runs/study"), help="keeps the backbones' pooled statistics")
    parser.add_argument("--output", type=Path, default=Path("docs/results/study/standin-b0"))
    parser.add_argument("--resamples", type=int, default=500, help="of the speakers, for the intervals")
    arguments = parser.parse_args()
    corpora = arguments.shared / "corpora"
    weights = corpora / "checkpoints" / "b0-standin.pt"
    backbone = load_pretrained_redimnet(weights=weights)
    data = load_study_data(backbone, corpora, arguments.cache)
    bench = Bench(data, resamples=arguments.resamples)
    recipe = next(iter(earlier_attempt().values()))
    systems: dict[str, Any] = {}
    for name, spoilt in _spoilt(backbone, data.corpus).items():
        seen = load_study_data(spoilt, corpora, arguments.cache)
        systems[f"{name}: embedding"] = _measure(bench, seen, [seen.base])
        systems[f"{name}: the attempt's head"] = _measure(bench, seen, [train_head(seen, recipe, seed) for seed in SEEDS])
    write_json(
        arguments.output / "earlier-backbone.json",
        {
            **provenance("earlier_backbone", weights, seeds=SEEDS, resamples=arguments.resamples),
            "systems": systems,
        },
    )
    return 0


def _spoilt(backbone: ReDimNet, corpus: Corpus) -> dict[str, ReDimNet]:
    rebuilt = _rebuilt(backbone)
    return {
        "BatchNorm statistics moved": _moved(backbone, corpus),
        "rebuilt with a random 1x1 convolution and pooling": rebuilt,
        "both": _moved(rebuilt, corpus),
    }


def _rebuilt(backbone: ReDimNet) -> ReDimNet:
    """Return the network with a last 1x1 convolution; every tensor that does not fit keeps its random start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ReDimNet(backbone.config.replace(frame_dim=REBUILT_CHANNELS))
    own = network.state_dict()
    fitting = {name: value for name, value in backbone.state_dict().items() if own[name].shape == value.shape}
    network.load_state_dict(fitting, strict=False)
    return network.eval()


@torch.no_grad()
def _moved(backbone: ReDimNet, corpus: Corpus) -> ReDimNet:
    """Return a copy whose running statistics followed training batches; all weights are as they were."""
    network = copy.deepcopy(backbone).train()
    sampler = SpeakerBalancedSampler(corpus, seed=0)
    draws = [draw for epoch in range(2) for draw in sampler.epoch(epoch)][: BATCHES * BATCH_SIZE]
    groups = [draws[first : first + BATCH_SIZE] for first in range(0, len(draws), BATCH_SIZE)]
    with progress_bar("moving BatchNorm", len(groups), unit="batches") as advance:
        for batch in load_batches(CropDataset(corpus, CROP_SECONDS), groups):
            network(batch.audio)
            advance(1)
    return network.eval()


def _measure(bench: Bench, data: StudyData, maps: list[AffineMap]) -> dict[str, Any]:
    embedded = [{name: affine(data.lists[name].features).float().numpy() for name in LISTS} for affine in maps]
    dims = tuple(dim for dim in DIMS if dim <= maps[0].outputs)
    return bench.measure_embeddings(embedded, dims)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
