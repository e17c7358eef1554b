"""The forms that a model can be exported to, measured beside each other: size, speed, cosine, equal error rates."""

from __future__ import annotations

import importlib.util
import logging
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl.deployment.checks import (
    Reference,
    TrialParity,
    check_parity,
    compare_on_trials,
    exported_embeddings,
    row_cosines,
    synthetic_speech,
)
from mrl.deployment.formats import FORMATS, FormatName, Runner, files_of, open_runner
from mrl.deployment.onnx_graph import MINIMUM_COSINE, PRECISIONS, Precision, precisions_of
from mrl.deployment.writing import GraphBuilder
from mrl.errors import ExportError
from mrl.trials.lists import TrialList

logger = logging.getLogger(__name__)

TIMED_SECONDS = 3.0
TIMED_PAIRS = 15
NOTABLY_FASTER = 1.1
NOTABLY_SMALLER = 0.75
TOLERATED_RATE_CHANGE = (0.0005, 0.05)
"""How far an equal error rate may rise, by itself or as a share, whichever is more, before a form is not worth keeping."""

_COMPARED_SHAPES = ((4, 1.0), (4, 3.0), (1, 10.0))


@dataclass(frozen=True)
class Variant:
    """One form of a model, measured.

    Attributes:
        format, precision: which.
        num_bytes: of its files.
        speed: how many times as fast as ONNX fp32: ratio of processor times at one thread, one recording of 3 s, median of
            neighbouring pairs.
        cosine: smallest cosine with the PyTorch network.
        rates: equal error rates in 0..1 by prefix length; None without a trial list.
        rate_change: the change against the network's rate of largest size, in 0..1; None without a trial list.
        worth_keeping: whether it is faster or smaller, and good enough.
        reason: in words.
    """

    format: str
    precision: str
    num_bytes: int
    speed: float
    cosine: float
    rates: dict[int, float] | None
    rate_change: float | None
    worth_keeping: bool
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        values = asdict(self)
        if self.rates is not None:
            values["rates"] = {str(dim): rate for dim, rate in self.rates.items()}
        return values


@dataclass(frozen=True, eq=False)
class TrialData:
    """A trial list, its recordings, and the network's raw embeddings (utterances, embed_dim) of them."""

    trials: TrialList
    root: str | os.PathLike[str]
    network: npt.NDArray[np.float32]
    dims: tuple[int, ...]


def compare_variants(
    builder: GraphBuilder,
    reference: Reference,
    folder: Path,
    *,
    with_calibration: bool,
    trial_data: TrialData | None = None,
    advance: Callable[[int], None] | None = None,
) -> tuple[Variant, ...]:
    """Write every form that can be written here into ``folder`` and measure it; ONNX fp32 comes first.

    Args:
        builder: writes the forms.
        reference: the network.
        folder: an empty folder; its files are left there.
        with_calibration: whether "int8-static" can be made.
        trial_data: for equal error rates.
        advance: called after each form.
    """
    base_path = folder / f"base{FORMATS['onnx'].suffix}"
    builder.write("onnx", "fp32", base_path)
    base = open_runner(base_path, threads=1)
    base_bytes = _bytes_of(base_path)
    variants = []
    for format_name, precision in _candidates(with_calibration):
        path = folder / f"{format_name}-{precision}{FORMATS[format_name].suffix}"
        try:
            builder.write(format_name, precision, path)
        except ExportError as error:
            logger.warning("%s %s is left out: %s", format_name, precision, error)
            continue
        runner = open_runner(path, threads=1)
        cosine = min(point.cosine for point in check_parity(reference, runner, shapes=_COMPARED_SHAPES))
        rates: TrialParity | None = None
        if trial_data is not None:
            exported = exported_embeddings(reference, runner, trial_data.trials, trial_data.root)
            cosine = min(cosine, float(row_cosines(trial_data.network, exported).min()))
            rates = compare_on_trials(trial_data.network, exported, trial_data.trials, trial_data.dims)
        is_base = (format_name, precision) == ("onnx", "fp32")
        speed = 1.0 if is_base else _speed(base, runner, reference)
        num_bytes = _bytes_of(path)
        keep, reason = (True, "the reference") if is_base else _verdict(precision, num_bytes / base_bytes, speed, cosine, rates)
        change = None if rates is None else rates.largest_change()
        variants.append(
            Variant(
                format_name, precision, num_bytes, speed, cosine, None if rates is None else rates.exported, change, keep, reason
            )
        )
        if advance is not None:
            advance(1)
    return tuple(variants)


def count_candidates(with_calibration: bool) -> int:
    """Return how many forms :func:`compare_variants` tries."""
    return len(_candidates(with_calibration))


def _candidates(with_calibration: bool) -> list[tuple[FormatName, Precision]]:
    formats: tuple[FormatName, ...] = ("onnx",)
    if importlib.util.find_spec("openvino") is not None:
        formats = ("onnx", "openvino")
    wanted = [precision for precision in PRECISIONS if with_calibration or precision != "int8-static"]
    return [(name, precision) for name in formats for precision in wanted if precision in precisions_of(name)]


def _speed(base: Runner, other: Runner, reference: Reference) -> float:
    """Both take turns, so that what else the machine does hits both; processor time leaves the rest of it out."""
    feed = reference.feed(synthetic_speech(1, TIMED_SECONDS, sample_rate=reference.sample_rate))
    ratios = []
    for turn in range(TIMED_PAIRS + 2):
        start = time.process_time()
        base(feed)
        between = time.process_time()
        other(feed)
        end = time.process_time()
        if turn >= 2:  # the first turns warm up
            ratios.append((between - start) / max(end - between, 1e-9))
    return statistics.median(ratios)


def _verdict(precision: Precision, size: float, speed: float, cosine: float, rates: TrialParity | None) -> tuple[bool, str]:
    if not cosine >= MINIMUM_COSINE[precision]:
        return False, f"cosine {cosine:.4f} is below {MINIMUM_COSINE[precision]:g}"
    for dim, rate in (rates.network if rates is not None else {}).items():
        assert rates is not None
        rise = rates.exported[dim] - rate
        if rise > max(TOLERATED_RATE_CHANGE[0], TOLERATED_RATE_CHANGE[1] * rate):
            return False, f"the equal error rate rises by {100 * rise:.2f} points at dim {dim}"
    gains = []
    if speed >= NOTABLY_FASTER:
        gains.append(f"{speed:.2f} times as fast")
    if size <= NOTABLY_SMALLER:
        gains.append(f"{100 * size:.0f} % of the size")
    if not gains:
        return False, "neither faster nor smaller than ONNX fp32"
    cost = f", but takes {1 / speed:.2f} times as long" if speed < 1 / NOTABLY_FASTER else ""
    return True, " and ".join(gains) + cost


def _bytes_of(path: Path) -> int:
    return sum(part.stat().st_size for part in files_of(path))
