"""Picture of a comparison of storage formats."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mrl.evaluation.plots import COLOURS, MARKERS, figure_and_axes, save_figure
from mrl.evaluation.quantisation import QuantisationResult

# Neighbouring formats are moved apart by this factor on the logarithmic axis, so that their intervals do not hide each other.
_SHIFT = 1.02


def plot_storage_formats(result: QuantisationResult, *paths: str | os.PathLike[str]) -> None:
    """Draw the equal error rate in % against the bytes of one voice (logarithmic axis), one line for each format.

    Args:
        result: what to draw.
        paths: files to write; the suffix names the format (``.png``, ``.svg``, ``.pdf``).

    Raises:
        MissingDependencyError: matplotlib is not installed.
        InputError: unknown suffix.
    """
    save_figure(storage_formats_figure(result), *paths)


def storage_formats_figure(result: QuantisationResult) -> Any:
    """Return the matplotlib figure of :func:`plot_storage_formats`."""
    figure, axes = figure_and_axes(width=8.2, height=4.8)
    forms = list(dict.fromkeys(row.form for row in result.rows))
    for place, form in enumerate(forms):
        rows = [row for row in result.rows if row.form == form]
        rates = [100 * row.figures.equal_error_rate for row in rows]
        intervals = [row.figures.equal_error_rate_interval for row in rows]
        # A percentile interval need not contain the figure itself; the bar then ends at the figure on that side.
        errors = [
            [0.0 if one is None else max(0.0, rate - 100 * one.low) for rate, one in zip(rates, intervals, strict=True)],
            [0.0 if one is None else max(0.0, 100 * one.high - rate) for rate, one in zip(rates, intervals, strict=True)],
        ]
        shift = _SHIFT ** (place - (len(forms) - 1) / 2)
        axes.errorbar(
            [row.bytes_per_voice * shift for row in rows],
            rates,
            yerr=None if None in intervals else errors,
            color=COLOURS[place % len(COLOURS)],
            marker=MARKERS[place % len(MARKERS)],
            markersize=5.5,
            linewidth=1.6,
            elinewidth=0.9,
            capsize=2.5,
            label=form,
        )
        for row, rate in zip(rows, rates, strict=True):
            if row.is_best_for_its_bytes:
                where = (row.bytes_per_voice * shift, rate)
                axes.annotate(str(row.dim), where, (-4, -11), textcoords="offset points", ha="right", fontsize=7.5)
    sizes = sorted({row.bytes_per_voice for row in result.rows})
    powers = [2**power for power in range(sizes[0].bit_length() - 1, sizes[-1].bit_length() + 1)]
    axes.set_xscale("log", base=2)
    axes.set_xticks(powers, [f"{power:,}" for power in powers])
    axes.set_xticks([], minor=True)
    axes.set_xlim(sizes[0] / 1.3, sizes[-1] * 1.3)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("bytes of one voice")
    axes.set_ylabel("equal error rate (%)")
    facts = result.evaluation.trial_list
    bars = f"; bars: 95 % intervals over {facts.speakers} speakers" if result.evaluation.resamples else ""
    axes.set_title(f"{Path(facts.source).name or 'trial list'}: {facts.trials:,} trials{bars}", fontsize=10)
    axes.legend(frameon=False, fontsize=9, loc="upper right", title="numbers: dims, where best for the bytes", title_fontsize=8)
    return figure
