"""Whether an exported file gives what the PyTorch network gives: over lengths and batch sizes, and on a trial list."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mrl.deployment.memory import estimated_bytes, fits_memory
from mrl.deployment.network import backbone_of
from mrl.deployment.reference import Reference, synthetic_speech
from mrl.deployment.runners import Runner
from mrl.embeddings.mapping import map_files
from mrl.errors import DataError, ExportError
from mrl.scoring.cosine import score_prefixes
from mrl.scoring.metrics import equal_error_rate
from mrl.trials.lists import TrialList

Matrix = npt.NDArray[np.float32]

CHECKED_SHAPES = tuple((batch, seconds) for seconds in (0.3, 1.0, 3.0, 10.0, 60.0) for batch in (1, 8))
"""(recordings, seconds) of the comparisons."""

SAME_RATE = 5e-6
"""Equal error rates this near are the same to 0.001 percentage points, the last digit that anybody reports."""

_UNIT_LENGTH_TOLERANCE = 1e-4


@dataclass(frozen=True)
class ParityPoint:
    """One comparison.

    Attributes:
        batch: recordings in the batch.
        seconds: length of each.
        cosine: smallest cosine between the file's embedding and the network's.
    """

    batch: int
    seconds: float
    cosine: float


@dataclass(frozen=True)
class TrialParity:
    """Equal error rates on a list, in 0..1, by prefix length: of the network, and of the file."""

    source: str
    trials: int
    network: dict[int, float]
    exported: dict[int, float]

    def largest_change(self) -> float:
        """Return the difference of largest size, exported minus network."""
        return max((self.exported[dim] - self.network[dim] for dim in self.network), key=abs)


def check_parity(
    reference: Reference,
    runner: Runner,
    *,
    shapes: Sequence[tuple[int, float]] = CHECKED_SHAPES,
    advance: Callable[[int], None] | None = None,
) -> tuple[ParityPoint, ...]:
    """Compare a file with the network on synthetic voices.

    Args:
        reference: the network.
        runner: the file.
        shapes: (recordings, seconds) of every comparison.
        advance: told after each comparison.

    Raises:
        ExportError: the file fails, gives another shape, NaN, or embeddings that are not of unit length.
    """
    points = []
    for batch, length in shapes:
        waveforms = synthetic_speech(batch, length, sample_rate=reference.sample_rate)
        expected = reference.raw(waveforms)
        try:
            found = runner(reference.feed(waveforms))
        except Exception as error:
            # Runtimes raise errors of their own kinds.
            detail = " ".join(str(error).split())[:160]
            raise ExportError(f"the exported file fails on a batch of {batch} x {length:g} s: {detail}") from error
        lengths = np.linalg.norm(found.embedding, axis=1)
        if found.embedding.shape != expected.shape or not np.allclose(lengths, 1.0, atol=_UNIT_LENGTH_TOLERANCE):
            raise ExportError(
                f"the exported file gives {found.embedding.shape} with lengths around {float(lengths.mean()):g} on a batch "
                f"of {batch} x {length:g} s; expected {expected.shape} of unit length"
            )
        smallest = min(row_cosines(expected, found.raw).min(), row_cosines(expected, found.embedding).min())
        points.append(ParityPoint(batch, length, float(smallest)))
        if advance is not None:
            advance(1)
    return tuple(points)


def shapes_that_fit(reference: Reference, shapes: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """Return the shapes, (recordings, seconds), whose comparison is sure not to take more than half of the free memory."""
    backbone = backbone_of(reference.model)
    return tuple(shape for shape in shapes if fits_memory(estimated_bytes(backbone, *shape)))


def require_cosine(points: Sequence[ParityPoint], minimum: float) -> None:
    """Raise :class:`ExportError` where a cosine lies below ``minimum``, NaN included."""
    failed = [point for point in points if not point.cosine >= minimum]
    if failed:
        worst = min(failed, key=lambda point: -np.inf if np.isnan(point.cosine) else point.cosine)
        raise ExportError(
            f"the exported file differs from the network in {len(failed)} of {len(points)} comparisons: cosine "
            f"{worst.cosine:.6f} on a batch of {worst.batch} x {worst.seconds:g} s, at least {minimum:g} is required; "
            "nothing was written"
        )


def row_cosines(first: Matrix, second: Matrix) -> npt.NDArray[np.float64]:
    """Return the cosine of each pair of rows, in float64."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    cosines: npt.NDArray[np.float64] = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return cosines


def network_embeddings(reference: Reference, trials: TrialList, root: str | os.PathLike[str]) -> Matrix:
    """Return the network's raw embeddings (utterances, embed_dim) of a trial list.

    Raises:
        DataError: missing or unreadable recordings (all counted).
    """
    return _embeddings(lambda batch: reference.raw(batch), trials, root, "embedding with PyTorch")


def exported_embeddings(reference: Reference, runner: Runner, trials: TrialList, root: str | os.PathLike[str]) -> Matrix:
    """Return a file's raw embeddings (utterances, embed_dim) of a trial list.

    Raises:
        DataError: missing or unreadable recordings (all counted).
    """
    return _embeddings(lambda batch: runner(reference.feed(batch)).raw, trials, root, "embedding with the exported file")


def compare_on_trials(network: Matrix, exported: Matrix, trials: TrialList, dims: Sequence[int]) -> TrialParity:
    """Return the equal error rates of two sets of embeddings (utterances, embed_dim) at each prefix length."""
    rates: list[Mapping[int, float]] = []
    for matrix in (network, exported):
        scores = score_prefixes(matrix, trials, dims)
        rates.append({dim: equal_error_rate(scores[dim], trials.labels) for dim in dims})
    return TrialParity(trials.source, len(trials), dict(rates[0]), dict(rates[1]))


def require_same_rates(found: TrialParity) -> None:
    """Raise :class:`ExportError` where an equal error rate of the file is another one than the network's."""
    for dim, rate in found.network.items():
        if abs(found.exported[dim] - rate) > SAME_RATE:
            raise ExportError(
                f"on {found.source} the exported file has an equal error rate of {100 * found.exported[dim]:.4f} % at dim {dim}, "
                f"the network {100 * rate:.4f} %; they must be the same, nothing was written"
            )


def _embeddings(run: Callable[[Matrix], Matrix], trials: TrialList, root: str | os.PathLike[str], description: str) -> Matrix:
    missing = trials.missing_files(root)
    if missing:
        raise DataError(
            f"{len(missing)} of {len(trials.utterances)} utterances of {trials.source} are not below {os.fspath(root)}, "
            f"the first is {missing[0]!r}"
        )

    def one_by_one(waveforms: list[Matrix]) -> Matrix:
        return np.concatenate([run(waveform[None]) for waveform in waveforms])

    return map_files(one_by_one, trials.paths(root), on_error="raise", description=description).matrices[0]
