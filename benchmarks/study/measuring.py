"""Equal error rates over seeds, with intervals and paired differences that resample speakers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from benchmarks.study.data import DIMS, Listed

from mrl.embeddings.compact import EmbeddingFormat, encode_embeddings
from mrl.evaluation.storage import score_encoded
from mrl.matryoshka import AffineMap
from mrl.scoring import equal_error_rate, score_prefixes
from mrl.scoring.bootstrap import SpeakerResamples, bootstrap_metrics, interval_of, paired_difference
from mrl.trials import TrialList

REFERENCE_DIM = 192
Rates = npt.NDArray[np.float64]
Embeddings = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, eq=False)
class _Measured:
    """The mean rate over seeds, its deviation over seeds, and the mean over seeds in every resample of the speakers."""

    rate: float
    deviation: float
    replicates: Rates


class Listing(Protocol):
    """Trial lists with the features of their utterances, and the unmodified embedding as a map of these."""

    @property
    def lists(self) -> Mapping[str, Listed]:
        """By name."""
        ...

    @property
    def base(self) -> AffineMap:
        """The embedding that systems are measured against."""
        ...


class Bench:
    """Measures systems on every list against the unmodified backbone at 192 numbers.

    Args:
        data: features and lists.
        resamples: of the speakers, for the intervals.
        seed: of these resamples; all systems share them.
    """

    def __init__(self, data: Listing, *, resamples: int = 500, seed: int = 0) -> None:
        self._data = data
        self._resamples = {name: SpeakerResamples.draw(data.lists[name].trials, resamples, seed=seed) for name in data.lists}
        self._reference = {name: self._measure(name, [data.base], (REFERENCE_DIM,))[REFERENCE_DIM] for name in data.lists}

    def measure(
        self, maps: Sequence[AffineMap], dims: Sequence[int] = DIMS, *, form: EmbeddingFormat = "float32"
    ) -> dict[str, Any]:
        """Return the figures of one system as JSON values.

        Args:
            maps: the system's head for each seed.
            dims: prefix lengths; those beyond the head are left out.
            form: how the embeddings are stored before they are compared.
        """
        kept = tuple(dim for dim in dims if dim <= maps[0].outputs)
        return self._describe({name: self._measure(name, maps, kept, form) for name in self._data.lists}, len(maps))

    def measure_embeddings(self, embedded: Sequence[Mapping[str, Embeddings]], dims: Sequence[int] = DIMS) -> dict[str, Any]:
        """The same for embeddings (utterances, dim) of every list, for each seed."""
        found = {name: self._measure_embedded(name, [one[name] for one in embedded], dims) for name in self._data.lists}
        return self._describe(found, len(embedded))

    def measure_separate(self, maps: Mapping[int, Sequence[AffineMap]]) -> dict[str, Any]:
        """The same for one head of its own for each dim, measured at its whole length."""
        found = {
            name: {dim: self._measure(name, heads, (dim,))[dim] for dim, heads in sorted(maps.items())}
            for name in self._data.lists
        }
        return self._describe(found, len(next(iter(maps.values()))))

    def _measure(
        self, name: str, maps: Sequence[AffineMap], dims: Sequence[int], form: EmbeddingFormat = "float32"
    ) -> dict[int, _Measured]:
        return self._measure_embedded(name, [_embed(affine, self._data.lists[name].features) for affine in maps], dims, form)

    def _measure_embedded(
        self, name: str, embedded: Sequence[Embeddings], dims: Sequence[int], form: EmbeddingFormat = "float32"
    ) -> dict[int, _Measured]:
        trials = self._data.lists[name].trials
        rates: dict[int, list[float]] = {dim: [] for dim in dims}
        replicates: dict[int, list[Rates]] = {dim: [] for dim in dims}
        for matrix in embedded:
            scores = score_prefixes(matrix, trials, dims) if form == "float32" else _score_stored(matrix, trials, dims, form)
            found = bootstrap_metrics([scores[dim] for dim in dims], self._resamples[name], p_targets=())
            for dim, one in zip(dims, found, strict=True):
                rates[dim].append(equal_error_rate(scores[dim], trials.labels))
                replicates[dim].append(one.equal_error_rate)
        return {
            dim: _Measured(float(np.mean(rates[dim])), float(np.std(rates[dim])), np.mean(replicates[dim], axis=0))
            for dim in dims
        }

    def _describe(self, found: Mapping[str, Mapping[int, _Measured]], seeds: int) -> dict[str, Any]:
        described: dict[str, Any] = {"seeds": seeds, "lists": {}}
        for name, by_dim in found.items():
            reference = self._reference[name]
            described["lists"][name] = {}
            for dim, one in by_dim.items():
                interval = interval_of(one.replicates)
                versus = paired_difference(one.rate, reference.rate, one.replicates, reference.replicates)
                described["lists"][name][str(dim)] = {
                    "eer": one.rate,
                    "eer_deviation_over_seeds": one.deviation,
                    "eer_interval": [interval.low, interval.high],
                    "relative_to_backbone_192": one.rate / reference.rate if reference.rate else None,
                    "difference_interval": [versus.interval.low, versus.interval.high],
                    "p": versus.p_value,
                }
        return described


def _score_stored(
    matrix: Embeddings, trials: TrialList, dims: Sequence[int], form: EmbeddingFormat
) -> dict[int, npt.NDArray[np.float32]]:
    return {dim: score_encoded(encode_embeddings(matrix[:, :dim], form), form, dim, trials) for dim in dims}


def _embed(affine: AffineMap, features: torch.Tensor) -> Embeddings:
    embedded: Embeddings = affine(features).float().numpy()
    return embedded
