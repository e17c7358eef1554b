"""Plots of the heads on a strong embedding, one for each question, from the JSON files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.study.strong_data import DIMS

from mrl.files import atomic_path

_LINES = {
    "embedding, cut": ("the embedding, cut", "k-"),
    "rotation": ("rotation", "C0--"),
    "uncentred": ("uncentred", "C1--"),
    "pca": ("pca", "C4--"),
    "lda": ("lda", "C2--"),
    "trained": ("trained", "C3-"),
    "trained-rotation": ("trained, as a rotation", "C6:"),
    "no labels: trained": ("trained without labels", "C3:"),
    "376 speakers: trained": ("trained on 376 speakers", "C5-."),
}
_TICKS = (0.4, 0.5, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20)


def plot_strong(folder: Path) -> None:
    """Draw heads.png, labels.png and foreign.png from heads.json and foreign.json in ``folder``, those that are there."""
    parts = {
        part: json.loads((folder / f"{part}.json").read_text(encoding="utf-8"))["systems"]
        for part in ("heads", "foreign")
        if (folder / f"{part}.json").is_file()
    }
    lists = ("so762-adult", "so762-child")
    if "heads" in parts:
        methods = ("embedding, cut", "rotation", "uncentred", "pca", "lda", "trained", "trained-rotation")
        _plot(parts["heads"], methods, lists, "Which head? Fitted to 4,746 speakers", folder / "heads.png")
        means = ("embedding, cut", "trained", "no labels: trained", "376 speakers: trained")
        _plot(parts["heads"], means, lists, "How much do labels and speakers matter?", folder / "labels.png")
    if "foreign" in parts:
        found = tuple(parts["foreign"]["embedding, cut"]["lists"])
        methods = ("embedding, cut", "uncentred", "pca", "lda", "trained")
        _plot(parts["foreign"], methods, found, "What is kept on a corpus not fitted to?", folder / "foreign.png")


def _plot(systems: Mapping[str, Any], names: Sequence[str], lists: Sequence[str], title: str, place: Path) -> None:
    from matplotlib.figure import Figure

    columns = 2
    rows = -(-len(lists) // columns)
    figure = Figure(figsize=(9, 3.9 * rows), layout="constrained")
    figure.suptitle(title)
    for axes, of_list in zip(figure.subplots(rows, columns, squeeze=False).flat, lists, strict=False):
        for name in names:
            if name not in systems:
                continue
            label, line = _LINES[name]
            by_dim = systems[name]["lists"][of_list]
            dims = [dim for dim in DIMS if str(dim) in by_dim]
            rates = [by_dim[str(dim)]["relative_to_backbone_192"] for dim in dims]
            axes.plot(dims, rates, line, marker="o", markersize=4, label=label)
        values = [rate for line in axes.lines for rate in line.get_ydata()]
        axes.axhline(1.0, color="0.6", linewidth=0.8, zorder=0)
        axes.set_xscale("log", base=2)
        axes.set_xticks(DIMS, [str(dim) for dim in DIMS])
        axes.set_yscale("log")
        axes.set_yticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
        axes.set_ylim(min(0.9, *values) / 1.1, max(values) * 1.1)
        axes.minorticks_off()
        axes.set_xlabel("dim")
        axes.set_ylabel("EER over that of all 192")
        axes.set_title(of_list)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    with atomic_path(place) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
