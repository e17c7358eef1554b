"""Error rate against time: one panel for each list, one line for each dim, from the first exit to the whole network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.study.data import LISTS

from mrl.files import atomic_path

_FORM = "inference copy"
_DIMS = ("16", "64", "192", "256")
_TIMED = "64"  # the time hardly depends on the dim


def draw(found: Mapping[str, Any], place: Path) -> None:
    """Draw ``early-exits.png`` from what early-exits.json holds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.5), layout="constrained")
    timing = found["timing"][_FORM]
    systems = {depth: found["systems"].get(f"exit after {depth}", found["systems"]["whole network"]) for depth in timing}
    for axes, name in zip(figure.subplots(1, len(LISTS)), LISTS, strict=True):
        for dim in _DIMS:
            by_depth = [systems[depth]["lists"][name][dim] for depth in timing]
            rates = [100 * one["eer"] for one in by_depth]
            below = [max(0.0, rate - 100 * one["eer_interval"][0]) for rate, one in zip(rates, by_depth, strict=True)]
            above = [max(0.0, 100 * one["eer_interval"][1] - rate) for rate, one in zip(rates, by_depth, strict=True)]
            times = [timing[depth][_TIMED]["milliseconds"] for depth in timing]
            axes.errorbar(times, rates, yerr=(below, above), marker="o", capsize=2, label=f"dim {dim}")
        axes.set_xlabel("milliseconds for 3 s of audio")
        axes.set_ylabel("equal error rate, %")
        axes.set_ylim(bottom=0)
        axes.set_title(name)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    depths = ", ".join(list(timing)[:-1])
    figure.suptitle(f"Exits after {depths} stages and the whole network ({_FORM}, one thread)", fontsize=10)
    with atomic_path(place) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
