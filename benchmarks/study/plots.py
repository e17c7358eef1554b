"""Plots of the study, from its JSON files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.study.data import DIMS, REPORTING

from mrl.files import atomic_path

_CURVES = (  # part, system, label, line
    ("closed-forms", "unmodified backbone, cut", "unmodified backbone, cut", "k-"),
    ("closed-forms", "random rotation", "random rotation", "C7:"),
    ("closed-forms", "data-free rotation", "data-free rotation", "C0--"),
    ("closed-forms", "PCA", "PCA", "C1--"),
    ("closed-forms", "LDA from embeddings, residual to 256", "LDA", "C2--"),
    ("trained-heads", "10 epochs", "trained head (the recipe)", "C3-"),
    ("independent-heads", "independent head per dim", "one head trained per dim", "C4:"),
    (
        "earlier-attempt",
        "as it was: new layer behind the embedding, class matrices frozen",
        "the earlier attempt",
        "C5-",
    ),
)
_TICKS = (0.5, 1, 2, 5, 10, 20, 40)


def plot_study(folder: Path) -> None:
    """Draw, for every reported list, error rate against dim and against bytes from the JSON files in ``folder``."""
    parts = {place.stem: json.loads(place.read_text(encoding="utf-8"))["systems"] for place in sorted(folder.glob("*.json"))}
    for name in REPORTING:
        _against_dim(parts, name, folder / f"{name}.png")
        if "storage" in parts:
            _against_bytes(parts["storage"], name, folder / f"{name}-bytes.png")


def _against_dim(parts: Mapping[str, Mapping[str, Any]], name: str, place: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for part, system, label, line in _CURVES:
        if system in parts.get(part, {}):
            by_dim = parts[part][system]["lists"][name]
            dims = [dim for dim in DIMS if str(dim) in by_dim]
            axes.plot(dims, [100 * by_dim[str(dim)]["eer"] for dim in dims], line, marker="o", markersize=4, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(DIMS, [str(dim) for dim in DIMS])
    axes.set_xlabel("dim (numbers of the prefix)")
    _finish(figure, axes, name, place)


def _against_bytes(systems: Mapping[str, Any], name: str, place: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for form, system in systems.items():
        points = [(one["bytes"], 100 * one["eer"], int(dim)) for dim, one in system["lists"][name].items()]
        axes.plot([point[0] for point in points], [point[1] for point in points], marker="o", markersize=4, label=form)
        for size, rate, dim in points if form in ("int8", "float32") else ():
            axes.annotate(str(dim), (size, rate), textcoords="offset points", xytext=(3, 4), fontsize=7)
    axes.set_xscale("log", base=2)
    sizes = [2**power for power in range(3, 11)]
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xlabel("bytes per voice (the dim beside points of float32 and int8)")
    _finish(figure, axes, name, place)


def _finish(figure: Any, axes: Any, name: str, place: Path) -> None:
    rates = [rate for line in axes.lines for rate in line.get_ydata()]
    axes.set_yscale("log")
    axes.set_yticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
    axes.set_ylim(min(rates) / 1.2, max(rates) * 1.2)
    axes.minorticks_off()
    axes.set_ylabel("equal error rate, %")
    axes.set_title(name)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    with atomic_path(place) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
