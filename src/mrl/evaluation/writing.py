"""Evaluation results as tables: on the terminal, in Markdown, CSV and JSON, and as one HTML page."""

from __future__ import annotations

import os
from pathlib import Path

from mrl.evaluation.result import EvaluationResult
from mrl.evaluation.tables import (
    csv_table,
    markdown_report,
    strata_csv,
)
from mrl.files import write_json, write_text


def write_report(result: EvaluationResult, folder: str | os.PathLike[str], *, plots: bool = True) -> list[Path]:
    """Write ``report.json``, ``table.md``, ``table.csv``, the plot ``eer_by_dim`` (PNG and SVG) and the page ``report.html``.

    With strata there is ``strata.csv``, too. The page holds all pictures and tables and needs no other file and no network.

    Returns:
        The files.

    Raises:
        MissingDependencyError: plots are wanted and matplotlib is not installed.
        OSError: the folder cannot be written to or the disk is full.
    """
    place = Path(folder)
    files = [place / "report.json", place / "table.md", place / "table.csv"]
    write_json(files[0], result.to_dict())
    write_text(files[1], markdown_report(result))
    write_text(files[2], csv_table(result))
    if result.strata:
        files.append(place / "strata.csv")
        write_text(files[-1], strata_csv(result))
    if plots:
        from mrl.evaluation.page import html_report
        from mrl.evaluation.plots import plot_eer_by_dim

        files += [place / "eer_by_dim.png", place / "eer_by_dim.svg"]
        plot_eer_by_dim(result, *files[-2:])
        files.append(place / "report.html")
        write_text(files[-1], html_report(result))
    return files
