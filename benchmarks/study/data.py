"""What the study works on: pooled statistics of one frozen backbone for the training utterances and for three trial lists."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from mrl.backbone import ReDimNet
from mrl.data import Corpus, read_manifest
from mrl.embeddings import map_files, weights_sha256
from mrl.files import atomic_path
from mrl.matryoshka import AffineMap, pretrained_map
from mrl.trials import TrialList, read_trials

DIMS = (8, 16, 32, 64, 96, 128, 192, 256)
CHOOSING = "so762-child"
REPORTING = ("so762-adult", "libri-test-other")
LISTS = (CHOOSING, *REPORTING)


@dataclasses.dataclass(frozen=True, eq=False)
class Listed:
    """A trial list and the features (utterances, pooled_dim) float64 of its utterances, in the list's order."""

    trials: TrialList
    features: torch.Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class StudyData:
    """Everything that is computed once per backbone.

    Attributes:
        backbone: the frozen network.
        base: its own embedding as a map of the features.
        corpus: the training utterances; ``labels`` are its class indices.
        features: (utterances, pooled_dim) float64 normalised pooled statistics of the whole training utterances.
        lists: the trial lists by name.
    """

    backbone: ReDimNet
    base: AffineMap
    corpus: Corpus
    features: torch.Tensor
    lists: dict[str, Listed]

    @property
    def labels(self) -> torch.Tensor:
        """Class index of every training utterance."""
        return torch.tensor(self.corpus.labels)

    def subset(self, indices: Sequence[int]) -> StudyData:
        """Return the same with only these training utterances."""
        corpus = Corpus.of(self.corpus.utterances[index] for index in indices)
        place = {one: index for index, one in enumerate(self.corpus.utterances)}
        return dataclasses.replace(self, corpus=corpus, features=self.features[[place[one] for one in corpus.utterances]])


def load_study_data(backbone: ReDimNet, corpora: Path, cache: Path) -> StudyData:
    """Read lists and manifest, and compute the pooled statistics or take them from ``cache``.

    Args:
        backbone: any ReDimNet.
        corpora: the folder with manifest.tsv and trials/.
        cache: folder for the statistics, kept per weights.
    """
    key = weights_sha256(backbone)[:16]
    corpus = read_manifest(corpora / "manifest.tsv", where={"part": "train"})
    trials = {name: read_trials(corpora / "trials" / f"{name}.txt.gz") for name in LISTS}
    with torch.inference_mode():
        train = _features(backbone, cache / f"train-{key}.npy", [one.path for one in corpus.utterances])
        lists = {
            name: Listed(one, _features(backbone, cache / f"{name}-{key}.npy", one.paths(corpora)))
            for name, one in trials.items()
        }
    return StudyData(backbone, pretrained_map(backbone), corpus, train, lists)


def _features(backbone: ReDimNet, place: Path, paths: Sequence[Path]) -> torch.Tensor:
    if not place.is_file():
        mapped = map_files(backbone.pooled_statistics, paths, description=place.stem, batch_seconds=30.0, on_error="raise")
        with atomic_path(place) as temporary:
            np.save(temporary, mapped.matrices[0])
    pooled: npt.NDArray[np.float32] = np.load(place, allow_pickle=False)
    return backbone.normalise_pooled(torch.from_numpy(pooled)).double()
