"""The picture and the table of the README, from one report of ``mrl evaluate``.

    python -m docs.readme_figures

To show another model: evaluate it (the command is in docs/appendix/results.md), then change the constants.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from mrl.files import atomic_path, write_text

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "docs" / "results" / "mrl-b0-demo" / "report.json"
MODEL, BACKBONE = "matryoshka", "unmodified backbone"  # as the report calls them
LABEL = "mrl-b0-demo"
PICTURE = ROOT / "docs" / "images" / "eer-by-dim.png"
README = ROOT / "README.md"
TABLE_DIMS = (256, 128, 64, 32, 16)
_PLACE = re.compile(r"(<!-- table: eer-by-dim -->\n).*?(<!-- end -->)", re.DOTALL)

System = dict[int, Any]


def main() -> int:
    """Fill the table and draw the picture."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    report = json.loads(REPORT.read_text(encoding="utf-8"))
    write_text(README, filled(README.read_text(encoding="utf-8"), report))
    draw(report, PICTURE)
    return 0


def filled(text: str, report: dict[str, Any]) -> str:
    """Return the page with its table made from the report."""
    return _PLACE.sub(lambda place: f"{place[1]}{table(report)}\n{place[2]}", text)


def table(report: dict[str, Any]) -> str:
    """Return the Markdown table: bytes, error rate with its interval, and the change against the whole backbone."""
    model, backbone = _systems(report)
    full = max(backbone)
    lines = [
        f"| dimensions | bytes (float32) | bytes (int8) | EER | against the backbone's {full} ({_percent(backbone[full])}) |",
        "|---:|---:|---:|---:|---:|",
    ]
    for dim in TABLE_DIMS:
        change = model[dim]["eer"] / backbone[full]["eer"] - 1.0
        low, high = (100 * end for end in model[dim]["eer_interval"])
        rate = f"{_percent(model[dim])} ({low:.1f}–{high:.1f})"
        lines.append(f"| {dim} | {4 * dim} | {dim + 4} | {rate} | {100 * change:+.0f} % |")
    return "\n".join(lines)


def draw(report: dict[str, Any], path: Path) -> None:
    """Draw the error rates of the model and of its backbone cut to the same dimensions, with their intervals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    model, backbone = _systems(report)
    full = max(backbone)
    figure = Figure(figsize=(7.2, 3.6), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    for name, system, colour, marker in (
        ("the backbone's embedding, truncated", backbone, "#8a8a8a", "s"),
        (f"{LABEL}, truncated", model, "#0072B2", "o"),
    ):
        dims = sorted(system)
        rates = [100 * system[dim]["eer"] for dim in dims]
        low, high = zip(*(system[dim]["eer_interval"] for dim in dims), strict=True)
        axes.fill_between(dims, [100 * end for end in low], [100 * end for end in high], color=colour, alpha=0.13, linewidth=0)
        axes.plot(dims, rates, color=colour, marker=marker, markersize=6, linewidth=1.8, label=name)
    note = f"all {full} dimensions of the backbone: {_percent(backbone[full])}"
    axes.axhline(100 * backbone[full]["eer"], color="#8a8a8a", linestyle=":", linewidth=1.2, label=note)
    axes.legend(frameon=False, loc="upper right")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(model), [str(dim) for dim in sorted(model)])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("dimensions kept")
    axes.set_ylabel("equal error rate (%)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    FigureCanvasAgg(figure)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def _systems(report: dict[str, Any]) -> tuple[System, System]:
    """Return the figures of the model and of its backbone, by dim."""
    by_name = {system["name"]: {figures["dim"]: figures for figures in system["dims"]} for system in report["systems"]}
    return by_name[MODEL], by_name[BACKBONE]


def _percent(figures: dict[str, Any]) -> str:
    return f"{100 * figures['eer']:.2f} %"


if __name__ == "__main__":
    sys.exit(main())
