"""The tables of docs/appendix/early-exits.md, printed from early-exits.json.

python -m benchmarks.study.early_exits_tables docs/results/study/early-exits.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

_LISTS = ("so762-child", "so762-adult", "libri-test-other")
_SHOWN = ("16", "64", "192", "256")


def main() -> int:
    """Print every table."""
    found = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print("\n\n".join(tables(found)))
    return 0


def tables(found: dict[str, Any]) -> list[str]:
    """Return the tables in the order of the page: time, error rates of every list, other ways to make an exit."""
    systems = found["systems"]
    exits = [name for name in systems if "," not in name]
    others = [name for name in systems if name != exits[0]]
    return [
        time_table(found["timing"]),
        *(rate_table(systems, exits, one) for one in _LISTS),
        rate_table(systems, others, _LISTS[0]),
    ]


def time_table(timing: dict[str, Any]) -> str:
    """Milliseconds and speed of a call at 64 numbers."""
    lines = ["| after | " + " | ".join(f"{form}, ms | speed" for form in timing) + " |", "|---|" + "---:|" * 2 * len(timing)]
    depths = list(next(iter(timing.values())))
    for depth in depths:
        cells = [timing[form][depth]["64"] for form in timing]
        name = "the whole network" if depth == depths[-1] else f"{depth} stage{'s' if depth != '1' else ''}"
        lines.append(f"| {name} | " + " | ".join(f"{one['milliseconds']:.1f} | {one['speed']:.2f}x" for one in cells) + " |")
    return "\n".join(lines)


def rate_table(systems: dict[str, Any], shown: list[str], name: str) -> str:
    """Equal error rates in % with intervals, the change against the whole network, and the rate against its embeddings."""
    lines = [f"| {name} | " + " | ".join(_SHOWN) + " |", "|---|" + "---|" * len(_SHOWN)]
    for system in shown:
        by_dim = systems[system]["lists"][name]
        lines.append(f"| {system} | " + " | ".join(_cell(by_dim[dim], system) for dim in _SHOWN) + " |")
    for system in shown:
        by_dim = systems[system]["lists"][name]
        if "whole network" in shown and "eer_enrolled_by_whole_network" in by_dim[_SHOWN[0]]:
            mixed = [f"{100 * by_dim[dim]['eer_enrolled_by_whole_network']:.2f}" for dim in _SHOWN]
            lines.append(f"| {system}, enrolled by the whole network | " + " | ".join(mixed) + " |")
    return "\n".join(lines)


def _cell(figures: dict[str, Any], system: str) -> str:
    low, high = (100 * one for one in figures["eer_interval"])
    change = "" if system == "whole network" else f", {100 * (figures['relative_to_whole_network'] - 1):+.0f} %"
    return f"{100 * figures['eer']:.2f} ({low:.1f}–{high:.1f}){change}"


if __name__ == "__main__":
    sys.exit(main())
