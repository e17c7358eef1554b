"""What the exits see: pooled statistics after every stage, for the training utterances and the trial lists."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from benchmarks.study.data import LISTS, StudyData
from torch import Tensor

from mrl.backbone import ReDimNet
from mrl.embeddings import map_files, weights_sha256
from mrl.files import atomic_path
from mrl.matryoshka.exits import EarlyExit


@dataclasses.dataclass(frozen=True, eq=False)
class ExitStatistics:
    """Statistics (utterances, pooled_dim) float32 by depth, of the training utterances and of every list."""

    train: dict[int, Tensor]
    lists: dict[str, dict[int, Tensor]]


def load_exit_statistics(data: StudyData, corpora: Path, cache: Path) -> ExitStatistics:
    """Compute them (minutes on one core) or take them from ``cache``."""
    key = weights_sha256(data.backbone)[:16]
    train = _statistics(data.backbone, cache / f"exits-train-{key}.npy", [one.path for one in data.corpus.utterances])
    lists = {
        name: _statistics(data.backbone, cache / f"exits-{name}-{key}.npy", data.lists[name].trials.paths(corpora))
        for name in LISTS
    }
    return ExitStatistics(train, lists)


def _statistics(backbone: ReDimNet, place: Path, paths: Sequence[Path]) -> dict[int, Tensor]:
    depths = range(1, len(backbone.config.stages))
    if not place.is_file():
        sums = [EarlyExit(backbone, depth, 1).weighted_sum for depth in depths]
        mapped = map_files(
            lambda waves: tuple(backbone.early_statistics(waves, sums=sums)),
            paths,
            description=place.stem,
            batch_seconds=30.0,
            on_error="raise",
        )
        with atomic_path(place) as temporary:
            np.save(temporary, np.concatenate(mapped.matrices, axis=1))
    parts = torch.from_numpy(np.load(place, allow_pickle=False)).chunk(len(depths), dim=1)
    return dict(zip(depths, parts, strict=True))
