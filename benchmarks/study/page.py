"""Puts the study's figures into the pages that quote them, so that no figure there is typed by hand.

    python -m benchmarks.study.page docs/appendix/accuracy-study.md

A page says where a table belongs by a pair of comments around it, and which systems it shows (all without a pattern):

    <!-- table: standin-b0/closed-forms so762-adult -->
    <!-- table: standin-b0/trained-heads so762-adult recipe|start -->
    <!-- end -->
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.study.data import DIMS

from mrl.files import write_text

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "study"
_PLACE = re.compile(r"(<!-- table: (\S+) (\S+)(?: ([^\n]+?))? -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> int:
    """Fill the tables of the named pages anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", type=Path, nargs="+")
    for page in parser.parse_args().pages:
        write_text(page, filled(page.read_text(encoding="utf-8")))
    return 0


def filled(text: str, results: Path = RESULTS) -> str:
    """Return the page with every table made anew from the JSON files below ``results``."""

    def one(place: re.Match[str]) -> str:
        opening, part, name, pattern, closing = place.groups()
        systems = json.loads((results / f"{part}.json").read_text(encoding="utf-8"))["systems"]
        chosen = {system: found for system, found in systems.items() if pattern is None or re.match(pattern, system)}
        return "\n".join([opening.rstrip("\n"), *table(chosen, name), closing])

    return _PLACE.sub(one, text)


def table(systems: Mapping[str, Any], name: str) -> list[str]:
    """Return the lines of a Markdown table: EER % by dim, its deviation over seeds where there are several.

    A star marks p < 0.05 against the unmodified backbone at 192 (paired, speakers resampled).
    """
    measured = {dim for found in systems.values() for dim in found["lists"][name]}
    dims = [dim for dim in DIMS if str(dim) in measured]
    lines = ["| system | " + " | ".join(map(str, dims)) + " |", "|---" * (len(dims) + 1) + "|"]
    for system, found in systems.items():
        by_dim = found["lists"][name]
        lines.append(f"| {system} | " + " | ".join(_cell(by_dim.get(str(dim)), found["seeds"]) for dim in dims) + " |")
    return lines


def _cell(figures: Mapping[str, Any] | None, seeds: int) -> str:
    if figures is None:
        return "–"
    spread = f" ±{100 * figures['eer_deviation_over_seeds']:.2f}" if seeds > 1 else ""
    return f"{100 * figures['eer']:.2f}{spread}{' *' if figures['p'] < 0.05 else ''}"


if __name__ == "__main__":
    sys.exit(main())
