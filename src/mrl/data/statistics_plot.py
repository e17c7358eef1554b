"""A picture of how a corpus is spread: lengths of utterances, utterances and sessions per speaker."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl.data.statistics import CorpusStatistics
from mrl.errors import InputError, MissingDependencyError
from mrl.files import atomic_path

_COLOUR = "#0072B2"  # of Okabe and Ito, as in the pictures of an evaluation
_MEDIAN_COLOUR = "#D55E00"
_BINS = 40
_CLOSED_AT = 0.995  # the last bar holds the utterances beyond this quantile, so that one long recording does not flatten the rest


def plot_statistics(statistics: CorpusStatistics, path: str | os.PathLike[str], *, title: str = "") -> None:
    """Draw histograms; the last bar of each also holds what lies beyond.

    Args:
        statistics: what to draw.
        path: the suffix names the format (``.png``, ``.svg``, ``.pdf``).
        title: above the picture.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        InputError: unknown suffix.
        OSError: the file cannot be written.
    """
    figure = statistics_figure(statistics, title)
    suffix = Path(path).suffix.lower().removeprefix(".")
    if suffix not in figure.canvas.get_supported_filetypes():
        raise InputError(f"{path}: a plot cannot be written as {Path(path).suffix!r}; expected .png, .svg or .pdf")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=suffix)


def statistics_figure(statistics: CorpusStatistics, title: str = "") -> Any:
    """Return the matplotlib figure of :func:`plot_statistics`."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise MissingDependencyError('plots need matplotlib: pip install "redimnet-mrl[plots]"') from error
    panels: list[tuple[npt.NDArray[Any], str, str, bool]] = [
        (statistics.seconds, "length of an utterance (s)", "utterances", False),
        (statistics.utterances_per_speaker, "utterances of a speaker", "speakers", True),
    ]
    if len(statistics.sessions_per_speaker):
        panels.append((statistics.sessions_per_speaker, "sessions of a speaker", "speakers", True))
    figure = Figure(figsize=(4.2 * len(panels), 3.6), dpi=150, layout="constrained")
    for place, (values, what, of, whole) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), place + 1)
        counts, edges = histogram(values, whole=whole)
        axes.stairs(counts, edges, fill=True, color=_COLOUR)
        median = float(np.median(values))
        axes.axvline(
            median,
            color=_MEDIAN_COLOUR,
            linestyle="--",
            linewidth=1.2,
            label=f"median {median:g}" if whole else f"median {median:.1f} s",
        )
        axes.set_xlabel(what)
        if whole:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(of)
        axes.legend(frameon=False, fontsize=9)
        axes.grid(True, axis="y", color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    hours = f"{statistics.speakers:,} speakers, {statistics.utterances:,} utterances, {statistics.hours:,.1f} hours"
    figure.suptitle(f"{title}: {hours}" if title else hours, fontsize=10)
    return figure


def histogram(values: npt.NDArray[Any], *, whole: bool) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the heights and edges of the bars; every value is in one of them.

    Args:
        values: (n,) of what.
        whole: the values are counts: bars are centred on whole numbers.
    """
    low = float(values.min())
    high = max(float(np.quantile(values, _CLOSED_AT)), low)
    if whole:
        width = max(1, int(np.ceil((high - low + 1) / _BINS)))
        edges = np.arange(low - 0.5, np.ceil(high) + width, width, dtype=np.float64)
    else:
        edges = np.linspace(low, high if high > low else low + 1.0, _BINS + 1)
    counts, _ = np.histogram(np.minimum(values, edges[-1]), bins=edges)
    return counts.astype(np.int64), edges
