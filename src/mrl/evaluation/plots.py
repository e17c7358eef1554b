"""Pictures of an evaluation: colours of Okabe and Ito (safe for colour-blind readers), each with its own marker for print."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mrl.errors import InputError, MissingDependencyError
from mrl.evaluation.result import EvaluationResult, SystemResult
from mrl.files import atomic_path

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Neighbouring systems are moved apart by this factor on the logarithmic axis, so that their intervals do not hide each other.
_SHIFT = 1.025


def plot_eer_by_dim(result: EvaluationResult, *paths: str | os.PathLike[str]) -> None:
    """Draw the equal error rate in % against the prefix length (logarithmic axis); the reference is a horizontal line.

    Args:
        result: what to draw.
        paths: files to write; the suffix names the format (``.png``, ``.svg``, ``.pdf``).

    Raises:
        MissingDependencyError: matplotlib is not installed.
        InputError: unknown suffix.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError('plots need matplotlib: pip install "redimnet-mrl[plots]"') from error
    figure = Figure(figsize=(7.2, 4.6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for place, system in enumerate(result.systems):
        reference = result.reference is not None and system.name == result.reference[0]
        _draw_system(axes, system, place, len(result.systems), reference=reference)
    if result.reference is not None:
        _draw_reference(axes, result)
    dims = sorted({dim for system in result.systems for dim in system.dims})
    axes.set_xscale("log", base=2)
    ticks = _ticks(dims)
    axes.set_xticks(ticks, [str(dim) for dim in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(dims[0] / 1.15, dims[-1] * 1.15)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("dimensions of the embedding (prefix length)")
    axes.set_ylabel("equal error rate (%)")
    axes.set_title(_title(result), fontsize=10)
    axes.grid(True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    if result.reference is not None:  # matplotlib lists lines before error bars; the model under test comes first here
        handles, labels = [*handles[1:], handles[0]], [*labels[1:], labels[0]]
    axes.legend(handles, labels, frameon=False, fontsize=9, loc="upper right")
    for path in paths:
        suffix = Path(path).suffix.lower().removeprefix(".")
        if suffix not in figure.canvas.get_supported_filetypes():
            raise InputError(f"{path}: a plot cannot be written as {Path(path).suffix!r}; expected .png, .svg or .pdf")
        # Text stays text in SVG, and neither date nor random ids make two equal pictures differ.
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": "mrl"}), atomic_path(path) as temporary:
            figure.savefig(temporary, format=suffix, metadata={"Date": None} if suffix == "svg" else None)


def _draw_system(axes: Any, system: SystemResult, place: int, num_systems: int, *, reference: bool) -> None:
    shift = _SHIFT ** (place - (num_systems - 1) / 2)
    rates = [100 * figures.equal_error_rate for figures in system.figures]
    intervals = [figures.equal_error_rate_interval for figures in system.figures]
    # A percentile interval need not contain the figure itself; the bar then ends at the figure on that side.
    below = [0.0 if bounds is None else max(0.0, rate - 100 * bounds.low) for rate, bounds in zip(rates, intervals, strict=True)]
    above = [0.0 if bounds is None else max(0.0, 100 * bounds.high - rate) for rate, bounds in zip(rates, intervals, strict=True)]
    axes.errorbar(
        [dim * shift for dim in system.dims],
        rates,
        yerr=None if None in intervals else [below, above],
        color=_COLOURS[place % len(_COLOURS)],
        marker=_MARKERS[place % len(_MARKERS)],
        linestyle="--" if reference else "-",
        markersize=5.5,
        linewidth=1.1 if reference else 1.6,
        elinewidth=1.0,
        capsize=3,
        label=f"{system.name}, cut to a prefix" if reference else system.name,
    )


def _draw_reference(axes: Any, result: EvaluationResult) -> None:
    assert result.reference is not None
    name, dim = result.reference
    place = [system.name for system in result.systems].index(name)
    rate = 100 * result.systems[place].at(dim).equal_error_rate
    colour = _COLOURS[place % len(_COLOURS)]
    axes.axhline(rate, color=colour, linestyle=":", linewidth=1.4, label=f"{name}, all {dim} dimensions: {rate:.2f} %", zorder=1)


def _ticks(dims: list[int]) -> list[int]:
    """Leave out dims so near to the next one that their numbers would touch."""
    kept: list[int] = []
    for dim in reversed(dims):
        if not kept or kept[-1] / dim > 1.12:
            kept.append(dim)
    return kept[::-1]


def _title(result: EvaluationResult) -> str:
    facts = result.trial_list
    intervals = f"; bars: 95 % intervals over {facts.speakers} speakers" if result.resamples else ""
    return f"{Path(facts.source).name or 'trial list'}: {facts.trials:,} trials{intervals}"
