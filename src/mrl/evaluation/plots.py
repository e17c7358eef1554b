"""Pictures of an evaluation: colours of Okabe and Ito (safe for colour-blind readers), each with its own marker for print."""

from __future__ import annotations

import importlib.util
import io
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl.errors import InputError, MissingDependencyError
from mrl.evaluation.figures import BYTES_PER_NUMBER
from mrl.evaluation.result import EvaluationResult, SystemResult
from mrl.files import atomic_path
from mrl.scoring.metrics import error_curve

logger = logging.getLogger(__name__)

# Colours and markers of the lines in a plot, by their place.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
# Neighbouring systems are moved apart by this factor on the logarithmic axis, so that their intervals do not hide each other.
_SHIFT = 1.025
_DET_TICKS = (0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
_DET_POINTS = 600

_Key = tuple[str, int]


def plot_eer_by_dim(result: EvaluationResult, *paths: str | os.PathLike[str]) -> None:
    """Draw the equal error rate in % against the prefix length (logarithmic axis); the reference is a horizontal line.

    Args:
        result: what to draw.
        paths: files to write; the suffix names the format (``.png``, ``.svg``, ``.pdf``).

    Raises:
        MissingDependencyError: matplotlib is not installed.
        InputError: unknown suffix.
    """
    save_figure(eer_by_dim_figure(result), *paths)


def save_figure(figure: Any, *paths: str | os.PathLike[str]) -> None:
    """Write a matplotlib figure, atomically, in the format that the suffix of each path names.

    Raises:
        InputError: unknown suffix.
    """
    for path in paths:
        suffix = Path(path).suffix.lower().removeprefix(".")
        if suffix not in figure.canvas.get_supported_filetypes():
            raise InputError(f"{path}: a plot cannot be written as {Path(path).suffix!r}; expected .png, .svg or .pdf")
        # Text stays text in SVG, and neither date nor random ids make two equal pictures differ.
        with _style("none"), atomic_path(path) as temporary:
            figure.savefig(temporary, format=suffix, metadata={"Date": None} if suffix == "svg" else None)


def svg_of(figure: Any) -> str:
    """Return a figure as SVG with its letters drawn as shapes, so that it looks the same wherever it is shown."""
    memory = io.StringIO()
    with _style("path"):
        figure.savefig(memory, format="svg", metadata={"Date": None})
    return memory.getvalue()


def eer_by_dim_figure(result: EvaluationResult) -> Any:
    """Return the matplotlib figure of :func:`plot_eer_by_dim`."""
    figure, axes = figure_and_axes()
    for place, system in enumerate(result.systems):
        _draw_system(axes, system, place, len(result.systems), reference=_is_reference(result, system.name))
    if result.reference is not None:
        _draw_reference(axes, result)
    dims = _all_dims(result)
    _logarithmic(axes, dims, [str(dim) for dim in dims])
    axes.set_xlabel("dimensions of the embedding (prefix length)")
    axes.set_ylabel("equal error rate (%)")
    axes.set_title(_title(result), fontsize=10)
    handles, labels = axes.get_legend_handles_labels()
    if result.reference is not None:  # matplotlib lists lines before error bars; the model under test comes first here
        handles, labels = [*handles[1:], handles[0]], [*labels[1:], labels[0]]
    axes.legend(handles, labels, frameon=False, fontsize=9, loc="upper right")
    return figure


def eer_by_bytes_figure(result: EvaluationResult) -> Any:
    """Return a figure of the equal error rate against the bytes of one embedding (float32), both axes logarithmic."""
    figure, axes = figure_and_axes()
    floor = 0.01  # %: a rate of 0 has no place on a logarithmic axis, and no list can tell less
    for place, system in enumerate(result.systems):
        axes.plot(
            [dim * BYTES_PER_NUMBER for dim in system.dims],
            [max(floor, 100 * figures.equal_error_rate) for figures in system.figures],
            color=COLOURS[place % len(COLOURS)],
            marker=MARKERS[place % len(MARKERS)],
            linestyle="--" if _is_reference(result, system.name) else "-",
            markersize=5.5,
            linewidth=1.4,
            label=system.name,
        )
    sizes = [dim * BYTES_PER_NUMBER for dim in _all_dims(result)]
    _logarithmic(axes, sizes, [f"{size:,}" for size in sizes])
    axes.set_yscale("log")
    rates = [max(floor, 100 * figures.equal_error_rate) for system in result.systems for figures in system.figures]
    low, high = min(rates) / 1.2, max(rates) * 1.35
    axes.set_ylim(low, high)
    ticks = [tick for tick in _rate_ticks() if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_xlabel("bytes of one embedding (float32)")
    axes.set_ylabel("equal error rate (%)")
    axes.legend(frameon=False, fontsize=9, loc="upper right")
    return figure


def det_figure(result: EvaluationResult, keys: Sequence[_Key] | None = None) -> Any:
    """Return detection error trade-off curves: false rejects against false accepts, both on axes of normal deviates.

    Source: A. Martin et al., "The DET curve in assessment of detection task performance", Eurospeech 1997.

    Args:
        result: what to draw.
        keys: (system, dim) of each curve; by default a few of each system and the reference.
    """
    chosen = list(keys) if keys is not None else det_keys(result)
    figure, axes = figure_and_axes(width=6.4, height=6.6)
    names = [system.name for system in result.systems]
    many = len({name for name, _ in chosen if not _is_reference(result, name)}) > 1
    smallest = 0.5 / max(result.trial_list.targets, result.trial_list.nontargets)
    low, high = max(min(_DET_TICKS), smallest), 0.05
    counts: dict[str, int] = dict.fromkeys(names, 0)
    for number, (name, dim) in enumerate(chosen):
        false_accept, false_reject = _det_points(result.scores[name, dim], result.labels)
        colour = names.index(name) if many else number
        dash = counts[name] if many else number % len(_DASHES)
        counts[name] += 1
        black = _is_reference(result, name)
        line = axes.plot(
            _probit(false_accept, smallest),
            _probit(false_reject, smallest),
            color="#000000" if black else COLOURS[colour % (len(COLOURS) - 1)],
            linestyle=_DASHES[(2 if black and not counts[name] > 1 else dash) % len(_DASHES)],
            linewidth=1.6,
            label=f"{name}, {dim} dimensions",
        )[0]
        rate = result.system(name).at(dim).equal_error_rate
        if rate > 0:
            axes.plot(*[_probit(np.array([rate]), smallest)] * 2, marker="o", markersize=5, color=line.get_color())
        high = max(high, min(0.8, 4 * rate))
    limits = _probit(np.array([low, high]), low)
    ticks = _apart([tick for tick in _DET_TICKS if low <= tick <= high], low, (limits[1] - limits[0]) / 14)
    places = _probit(np.array(ticks), low)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.set_xticks(places, [f"{100 * tick:g}" for tick in ticks])
    axes.set_yticks(places, [f"{100 * tick:g}" for tick in ticks])
    axes.plot(limits, limits, color="#BBBBBB", linewidth=0.8, zorder=0)
    axes.set_xlabel("false accepts (%)")
    axes.set_ylabel("false rejects (%)")
    axes.set_title("dots: equal error rate", fontsize=10)
    figure.legend(frameon=False, fontsize=8.5, loc="outside lower center", ncols=2)
    return figure


def det_keys(result: EvaluationResult) -> list[_Key]:
    """Return the curves that :func:`det_figure` draws by default: up to four of one system, two of several, and the reference."""
    under_test = [system for system in result.systems if not _is_reference(result, system.name)] or list(result.systems)
    per_system = 4 if len(under_test) == 1 else 2
    keys = [(system.name, dim) for system in under_test for dim in _spread(system.dims, per_system)]
    return keys if result.reference is None or result.reference in keys else [*keys, result.reference]


def score_figure(result: EvaluationResult) -> Any:
    """Return histograms of the scores of both kinds of trial: one row for each system, a few dims side by side."""
    figure_class = _figure_class()
    rows = [(system.name, _spread(system.dims, 3)) for system in result.systems]
    columns = max(len(dims) for _, dims in rows)
    figure = figure_class(figsize=(2.9 * columns + 0.6, 2.15 * len(rows) + 0.75), dpi=150, layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False, sharex=True)
    same = result.labels
    for axes_row, (name, dims) in zip(grid, rows, strict=True):
        for axes in axes_row[len(dims) :]:
            axes.set_visible(False)
        for axes, dim in zip(axes_row, dims, strict=False):
            scores = result.scores[name, dim]
            edges = np.linspace(float(scores.min()), float(scores.max()) + 1e-6, 61)
            for members, colour, hatch, kind in ((same, COLOURS[0], None, "same"), (~same, COLOURS[1], "///", "different")):
                heights, _ = np.histogram(scores[members], bins=edges, density=True)
                axes.stairs(heights, edges, fill=True, color=colour, alpha=0.28, hatch=hatch, linewidth=0)
                axes.stairs(heights, edges, color=colour, linewidth=1.2, label=f"{kind} speaker")
            figures = result.system(name).at(dim)
            axes.axvline(figures.threshold, color="#000000", linestyle="--", linewidth=1.0, label="threshold at equal error rate")
            axes.set_title(f"{name}\n{dim} dims, {100 * figures.equal_error_rate:.2f} %", fontsize=8.5)
            axes.set_yticks([])
            axes.locator_params(axis="x", nbins=5)
            axes.tick_params(labelsize=8, labelbottom=True)
            axes.spines[["top", "right", "left"]].set_visible(False)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8.5, loc="outside upper center", ncols=3)
    what = "raw cosine" if result.protocol.score == "cosine" else result.protocol.score
    figure.supxlabel(f"score ({what})", fontsize=9)
    return figure


def strata_figure(result: EvaluationResult, group: str) -> Any | None:
    """Return a figure of the equal error rate in each part of one group at a few dims; None where no part has a rate.

    Bars of one colour are one dim of the first system; its figure on the whole, unchanged list is the first bar group.
    """
    first = result.system()
    dims = _spread(first.dims, 3)
    strata = [part for part in result.strata if part.group == group and part.system == first.name and part.dim in dims]
    names = list(dict.fromkeys(part.name for part in strata if part.equal_error_rate is not None))
    if not names:
        return None
    rows: dict[tuple[str, int], tuple[float, Any]] = {
        ("whole list", dim): (first.at(dim).equal_error_rate, first.at(dim).equal_error_rate_interval) for dim in dims
    }
    for part in strata:
        if part.equal_error_rate is not None:
            rows[part.name, part.dim] = (part.equal_error_rate, part.equal_error_rate_interval)
    places = ["whole list", *names]
    figure, axes = figure_and_axes(width=max(5.6, 1.15 * len(places) + 2.2), height=3.6)
    width = 0.8 / len(dims)
    for number, dim in enumerate(dims):
        for position, name in enumerate(places):
            rate, interval = rows[name, dim]
            errors = None
            if interval is not None:
                errors = [[max(0.0, 100 * (rate - interval.low))], [max(0.0, 100 * (interval.high - rate))]]
            axes.bar(
                position + (number - (len(dims) - 1) / 2) * width,
                100 * rate,
                width * 0.92,
                color=COLOURS[number],
                hatch=(None, "///", "...")[number],
                edgecolor="white",
                linewidth=0,
                yerr=errors,
                error_kw={"elinewidth": 1.0, "capsize": 2, "ecolor": "#333333"},
                label=f"{dim} dimensions" if position == 0 else None,
            )
    axes.set_xticks(range(len(places)), [name.replace(" ", "\n", 1) if len(name) > 10 else name for name in places], fontsize=9)
    axes.set_ylabel("equal error rate (%)")
    axes.set_title(f"{first.name}: {group}", fontsize=10)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.18)
    axes.grid(False, axis="x")
    axes.legend(frameon=False, fontsize=8.5, loc="upper left", ncols=len(dims))
    return figure


def plots_wanted(plots: bool | None) -> bool:
    """Return whether a report gets plots; None means wherever matplotlib is installed, and its absence is logged."""
    if plots is None and importlib.util.find_spec("matplotlib") is None:
        logger.warning('the report has no plots: they need matplotlib (pip install "redimnet-mrl[plots]")')
        return False
    return plots is not False


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError('plots need matplotlib: pip install "redimnet-mrl[plots]"') from error
    return Figure


def figure_and_axes(width: float = 7.2, height: float = 4.6) -> tuple[Any, Any]:
    """Return an empty matplotlib figure, sized in inches, and its axes, in the look of all plots here.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    figure = _figure_class()(figsize=(width, height), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.grid(True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _style(font_type: str) -> Any:
    from matplotlib import rc_context

    return rc_context({"svg.fonttype": font_type, "svg.hashsalt": "mrl"})


def _logarithmic(axes: Any, values: list[int], labels: list[str]) -> None:
    axes.set_xscale("log", base=2)
    ticks = _ticks(values)
    axes.set_xticks(ticks, [labels[values.index(tick)] for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(values[0] / 1.15, values[-1] * 1.15)
    axes.set_ylim(bottom=0)


def _all_dims(result: EvaluationResult) -> list[int]:
    return sorted({dim for system in result.systems for dim in system.dims})


def _is_reference(result: EvaluationResult, name: str) -> bool:
    return result.reference is not None and name == result.reference[0]


def _rate_ticks() -> list[float]:
    return [digit * 10.0**power for power in range(-2, 2) for digit in (1, 1.5, 2, 3, 5, 7)]


def _spread(dims: Sequence[int], count: int) -> list[int]:
    """Return up to ``count`` dims, the smallest and the largest among them, evenly by rank."""
    places = np.unique(np.round(np.linspace(0, len(dims) - 1, min(count, len(dims)))).astype(int))
    return [dims[place] for place in places]


def _probit(rates: npt.NDArray[np.float64], smallest: float) -> npt.NDArray[np.float64]:
    """Return normal deviates; rates of 0 and 1 are drawn at the edge of the picture."""
    normal = NormalDist()
    clipped = np.clip(rates, smallest / 4, 1 - smallest / 4)
    return np.array([normal.inv_cdf(float(rate)) for rate in clipped])


def _det_points(
    scores: npt.NDArray[np.float32], labels: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return a curve's (false accepts, false rejects), thinned to what a picture can show."""
    curve = error_curve(scores, labels)
    false_accept, false_reject = curve.false_accept, curve.false_reject
    if len(false_accept) <= _DET_POINTS:
        return false_accept, false_reject
    # Even steps of either rate on a scale that gives small rates their room.
    smallest = 0.5 / len(labels)
    accept = np.searchsorted(-false_accept, -np.geomspace(1, smallest, _DET_POINTS // 2))
    reject = np.searchsorted(false_reject, np.geomspace(smallest, 1, _DET_POINTS // 2))
    kept = np.unique(np.clip(np.concatenate([accept, reject, [0, len(false_accept) - 1]]), 0, len(false_accept) - 1))
    return false_accept[kept], false_reject[kept]


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
        color=COLOURS[place % len(COLOURS)],
        marker=MARKERS[place % len(MARKERS)],
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
    colour = COLOURS[place % len(COLOURS)]
    axes.axhline(rate, color=colour, linestyle=":", linewidth=1.4, label=f"{name}, all {dim} dimensions: {rate:.2f} %", zorder=1)


def _apart(ticks: list[float], smallest: float, distance: float) -> list[float]:
    """Leave out ticks of a DET axis that are nearer than ``distance`` to the next larger one."""
    kept: list[float] = []
    for tick in reversed(ticks):
        if not kept or _probit(np.array([kept[-1]]), smallest)[0] - _probit(np.array([tick]), smallest)[0] >= distance:
            kept.append(tick)
    return kept[::-1]


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
