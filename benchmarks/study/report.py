"""Tables and plots of the study, from its JSON files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.study.data import DIMS, LISTS, REPORTING

from mrl.files import atomic_path, write_text

_PLOTTED = {
    "closed-forms": (
        "unmodified backbone, cut",
        "random rotation",
        "data-free rotation",
        "PCA",
        "LDA from embeddings, residual to 256",
    ),
    "trained-heads": ("recipe",),
    "independent-heads": ("independent head per dim",),
    "earlier-attempt": ("as it was: random layer behind the embedding, class matrices never trained",),
}


def write_study_report(folder: Path) -> None:
    """Write ``tables.md`` and one plot per list beside the JSON files in ``folder``."""
    parts = {place.stem: json.loads(place.read_text(encoding="utf-8")) for place in sorted(folder.glob("*.json"))}
    lines: list[str] = []
    for part, content in parts.items():
        for name in LISTS:
            lines += [f"### {part}, {name}", "", *table(content["systems"], name), ""]
    write_text(folder / "tables.md", "\n".join(lines))
    for name in REPORTING:
        _plot({part: content["systems"] for part, content in parts.items()}, name, folder / f"{name}.png")


def table(systems: Mapping[str, Any], name: str) -> list[str]:
    """Return the lines of a Markdown table: EER % by dim; a star marks p < 0.05 against the unmodified backbone at 192."""
    lines = ["| system | " + " | ".join(map(str, DIMS)) + " |", "|---" * (len(DIMS) + 1) + "|"]
    for system, found in systems.items():
        by_dim = found["lists"][name]
        lines.append(f"| {system} | " + " | ".join(_cell(by_dim.get(str(dim)), found["seeds"]) for dim in DIMS) + " |")
    return lines


def _cell(figures: Mapping[str, Any] | None, seeds: int) -> str:
    if figures is None:
        return "–"
    spread = f" ±{100 * figures['eer_deviation_over_seeds']:.2f}" if seeds > 1 else ""
    return f"{100 * figures['eer']:.2f}{spread}{' *' if figures['p'] < 0.05 else ''}"


def _plot(parts: Mapping[str, Mapping[str, Any]], name: str, place: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for part, systems in _PLOTTED.items():
        for system in systems:
            if system not in parts.get(part, {}):
                continue
            by_dim = parts[part][system]["lists"][name]
            dims = [dim for dim in DIMS if str(dim) in by_dim]
            label = {"recipe": "trained head (the recipe)"}.get(system, system).split(":")[0]
            if part == "earlier-attempt":
                label = "recipe of the earlier attempt"
            axes.plot(dims, [100 * by_dim[str(dim)]["eer"] for dim in dims], marker="o", label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(DIMS, [str(dim) for dim in DIMS])
    ticks = [0.5, 1, 2, 5, 10, 20, 40]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("dim (numbers of the prefix)")
    axes.set_ylabel("equal error rate, %")
    axes.set_title(name)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    with atomic_path(place) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
