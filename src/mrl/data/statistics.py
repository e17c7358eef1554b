"""How much a corpus holds and how it is spread: speakers, sessions, hours, lengths."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl.data.corpora import Recording, find_recordings
from mrl.data.manifest import FilterValue
from mrl.data.surveying import survey
from mrl.errors import DataError, InputError, MissingDependencyError
from mrl.files import atomic_path
from mrl.tables import Table

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True, eq=False)
class CorpusStatistics:
    """What a manifest holds.

    Attributes:
        speakers: number of speakers.
        seconds: (utterances,) length of each utterance, seconds.
        utterances_per_speaker, sessions_per_speaker: (speakers,) counts; sessions only of speakers whose sessions are known.
        without_session: utterances whose session is not known.
        sample_rates: Hz -> utterances.
        corpora: name -> utterances; empty if the manifest has no such column.
    """

    speakers: int
    seconds: npt.NDArray[np.float64]
    utterances_per_speaker: npt.NDArray[np.int64]
    sessions_per_speaker: npt.NDArray[np.int64]
    without_session: int
    sample_rates: dict[int, int]
    corpora: dict[str, int]

    @property
    def utterances(self) -> int:
        """Number of utterances."""
        return len(self.seconds)

    @property
    def hours(self) -> float:
        """Length of all utterances together, hours."""
        return float(self.seconds.sum()) / 3600

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; quantiles by their percentage."""
        return {
            "speakers": self.speakers,
            "utterances": self.utterances,
            "hours": round(self.hours, 4),
            "sessions": int(self.sessions_per_speaker.sum()),
            "utterances_without_session": self.without_session,
            "speakers_with_one_utterance": int((self.utterances_per_speaker == 1).sum()),
            "speakers_with_several_sessions": int((self.sessions_per_speaker > 1).sum()),
            "utterance_seconds": quantiles(self.seconds),
            "utterances_per_speaker": quantiles(self.utterances_per_speaker),
            "sessions_per_speaker": quantiles(self.sessions_per_speaker),
            "sample_rates": {str(rate): count for rate, count in self.sample_rates.items()},
            "corpora": self.corpora,
        }


def quantiles(values: Sequence[float] | npt.NDArray[Any]) -> dict[str, float]:
    """Return the quantiles of :data:`QUANTILES` by their percentage, and the mean; empty without values."""
    if not len(values):
        return {}
    levels = np.quantile(np.asarray(values, dtype=np.float64), QUANTILES)
    named = {f"{100 * share:g}%": round(float(value), 3) for share, value in zip(QUANTILES, levels, strict=True)}
    return {**named, "mean": round(float(np.mean(values)), 3)}


def manifest_statistics(
    path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    where: Mapping[str, FilterValue] | None = None,
    num_workers: int | None = None,
    show_progress: bool = True,
) -> CorpusStatistics:
    """Count what a manifest holds; recordings are opened (headers only) where it does not state length and sample rate.

    Args:
        path: the manifest.
        root, where: as for :func:`mrl.data.read_manifest`.
        num_workers: processes that read headers; None: one per processor.
        show_progress: draw a bar (on a terminal only).

    Raises:
        DataError: the manifest cannot be read, or a recording must be opened and cannot be.
    """
    manifest = find_recordings(path, corpus="manifest", root=root, where=where, trust_lengths=True)
    manifest.corpus()  # the same stretch twice is an error here as in training
    recordings = manifest.recordings
    seconds, rates = _lengths_and_rates(recordings, num_workers, show_progress)
    sessions: dict[str, set[str]] = {}
    for recording in recordings:
        if recording.session is not None:
            sessions.setdefault(recording.full_speaker, set()).add(recording.session)
    per_speaker = Counter(recording.full_speaker for recording in recordings)
    return CorpusStatistics(
        speakers=len(per_speaker),
        seconds=np.array(seconds, dtype=np.float64),
        utterances_per_speaker=np.array(list(per_speaker.values()), dtype=np.int64),
        sessions_per_speaker=np.array([len(names) for names in sessions.values()], dtype=np.int64),
        without_session=sum(recording.session is None for recording in recordings),
        sample_rates=dict(sorted(Counter(rates).items())),
        corpora=dict(sorted(Counter(recording.corpus for recording in recordings if recording.corpus is not None).items())),
    )


def _lengths_and_rates(
    recordings: Sequence[Recording], num_workers: int | None, show_progress: bool
) -> tuple[list[float], list[int]]:
    """Return seconds and Hz of each utterance, as stated or else from the headers."""
    lacking = [index for index, recording in enumerate(recordings) if recording.seconds is None or recording.sample_rate is None]
    stretches = [recordings[index].stretch for index in lacking]
    facts = survey(stretches, decode=False, num_workers=num_workers, description="reading headers", show_progress=show_progress)
    bad = [(stretch.path, fact.error) for stretch, fact in zip(stretches, facts, strict=True) if fact.error is not None]
    if bad:
        raise DataError(
            f"{len(bad):,} of {len(stretches):,} recordings cannot be read, the first is {bad[0][0]} ({bad[0][1]}); "
            "`mrl data check` lists them all"
        )
    asked = dict(zip(lacking, facts, strict=True))
    stated = [asked.get(index, recording) for index, recording in enumerate(recordings)]
    return [each.seconds or 0.0 for each in stated], [each.sample_rate or 0 for each in stated]


def statistics_lines(statistics: CorpusStatistics) -> list[str]:
    """Return what is counted, one line each."""
    plain = statistics.to_dict()
    sessions = f"{plain['sessions']:,}"
    if statistics.without_session:
        sessions += f" ({statistics.without_session:,} utterances without one)"
    lines = [
        f"speakers      {statistics.speakers:,} ({plain['speakers_with_one_utterance']:,} with a single utterance, "
        f"{plain['speakers_with_several_sessions']:,} with several sessions)",
        f"utterances    {statistics.utterances:,}",
        f"hours         {statistics.hours:,.2f}",
        f"sessions      {sessions}",
        "sample rates  " + ", ".join(f"{rate:,} Hz: {count:,}" for rate, count in statistics.sample_rates.items()),
    ]
    if statistics.corpora:
        lines.append("corpora       " + ", ".join(f"{name}: {count:,}" for name, count in statistics.corpora.items()))
    return lines


def quantiles_table(statistics: CorpusStatistics) -> Table:
    """Return how lengths, utterances and sessions are spread, one row each."""
    plain = statistics.to_dict()
    spread = {
        "utterance, seconds": plain["utterance_seconds"],
        "utterances per speaker": plain["utterances_per_speaker"],
        "sessions per speaker": plain["sessions_per_speaker"],
    }
    heads = ("min", *(f"{100 * share:g}%" for share in QUANTILES[1:-1]), "max", "mean")
    rows = ((name, *(f"{value:,.5g}" for value in values.values())) for name, values in spread.items() if values)
    return Table(("", *heads), tuple(rows), group=None, frame=False)


# A picture of how a corpus is spread: lengths of utterances, utterances and sessions per speaker.


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
