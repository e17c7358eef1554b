"""Evaluation results as tables: on the terminal, in Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from mrl.evaluation.bootstrap import Interval
from mrl.evaluation.result import BYTES_PER_NUMBER, DimFigures, EvaluationResult
from mrl.files import write_json, write_text

_HEADER = ("system", "dim", "bytes", "EER %", "minDCF 0.01", "minDCF 0.05", "cosine at EER")


def table_rows(result: EvaluationResult) -> list[tuple[str, ...]]:
    """Return the header and one row of text for each system and dim."""
    compared = result.reference is not None and result.resamples > 0
    rows: list[tuple[str, ...]] = [(*_HEADER, "EER minus reference", "p") if compared else _HEADER]
    for system in result.systems:
        for figures in system.figures:
            row = (
                system.name,
                str(figures.dim),
                str(figures.dim * BYTES_PER_NUMBER),
                _with_interval(figures.equal_error_rate, figures.equal_error_rate_interval, 100, 2),
                _with_interval(figures.minimum_dcf[0.01], figures.minimum_dcf_intervals.get(0.01), 1, 3),
                _with_interval(figures.minimum_dcf[0.05], figures.minimum_dcf_intervals.get(0.05), 1, 3),
                f"{figures.threshold:.3f}",
            )
            versus = _versus(figures, is_reference=(system.name, figures.dim) == result.reference) if compared else ()
            rows.append((*row, *versus))
    return rows


def notes(result: EvaluationResult) -> list[str]:
    """Return the sentences that a reader needs to understand the table."""
    facts = result.trial_list
    speakers = "" if facts.speakers is None else f", {facts.speakers} speakers"
    lines = [
        f"{facts.trials:,} trials ({facts.targets:,} same-speaker, {facts.nontargets:,} different-speaker) over "
        f"{facts.utterances:,} utterances{speakers}; list {facts.source or 'made in memory'}"
        + (f", SHA-256 {facts.sha256[:16]}…" if facts.sha256 else "")
        + ".",
        "EER: plain, interpolated between the two neighbouring operating points. minDCF: normalised, with the prior of a "
        "same-speaker trial as given. Scores are raw cosines in [-1, 1]; a threshold holds for this data only.",
    ]
    if result.resamples:
        lines.append(
            f"[low, high]: 95 % interval, bootstrap over speakers ({result.resamples} resamples, seed {result.seed}, "
            "shared by all rows)."
        )
    if result.reference is not None and result.resamples:
        lines.append(
            f"Reference: {result.reference[0]} at {result.reference[1]} dims. Differences are in percentage points, paired over "
            "the same resamples; p is two-sided."
        )
    return lines


def rich_table(result: EvaluationResult) -> Table:
    """Return the table for a terminal."""
    header, *rows = table_rows(result)
    # As Text, because rich takes words in square brackets for markup.
    table = Table(*header, caption=Text("\n".join(notes(result))), caption_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    previous = ""
    for row in rows:
        if previous and row[0] != previous:
            table.add_section()
        table.add_row(*map(Text, row))
        previous = row[0]
    return table


def summary_table(result: EvaluationResult) -> Table:
    """Return a small table for a terminal: the equal error rate in %, one row for each system and one column for each dim."""
    dims = sorted({dim for system in result.systems for dim in system.dims})
    table = Table("EER %", *map(str, dims))
    for column in table.columns[1:]:
        column.justify = "right"
    for system in result.systems:
        rates = {figures.dim: f"{100 * figures.equal_error_rate:.2f}" for figures in system.figures}
        table.add_row(Text(system.name), *(rates.get(dim, "–") for dim in dims))
    return table


def markdown_table(result: EvaluationResult) -> str:
    """Return the table and its notes as Markdown."""
    header, *rows = table_rows(result)
    lines = [
        "| " + " | ".join(header) + " |",
        "|" + "|".join(["---", *["---:"] * (len(header) - 1)]) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n\n" + "\n\n".join(notes(result)) + "\n"


def csv_table(result: EvaluationResult) -> str:
    """Return all figures as CSV, one line for each system and dim; rates in 0..1, empty where there is none."""
    stream = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for system in result.systems:
        for figures in system.figures:
            line = _csv_line(system.name, figures)
            if writer is None:
                writer = csv.DictWriter(stream, fieldnames=list(line), lineterminator="\n")
                writer.writeheader()
            writer.writerow(line)
    return stream.getvalue()


def write_report(result: EvaluationResult, folder: str | os.PathLike[str], *, plots: bool = True) -> list[Path]:
    """Write ``report.json``, ``table.md``, ``table.csv`` and the plot ``eer_by_dim`` (PNG and SVG); return the files.

    Raises:
        MissingDependencyError: plots are wanted and matplotlib is not installed.
        OSError: the folder cannot be written to or the disk is full.
    """
    place = Path(folder)
    files = [place / "report.json", place / "table.md", place / "table.csv"]
    write_json(files[0], result.to_dict())
    write_text(files[1], markdown_table(result))
    write_text(files[2], csv_table(result))
    if plots:
        from mrl.evaluation.plots import plot_eer_by_dim

        files += [place / "eer_by_dim.png", place / "eer_by_dim.svg"]
        plot_eer_by_dim(result, *files[-2:])
    return files


def _with_interval(value: float, interval: Interval | None, factor: int, digits: int) -> str:
    text = f"{factor * value:.{digits}f}"
    return text if interval is None else f"{text} [{factor * interval.low:.{digits}f}, {factor * interval.high:.{digits}f}]"


def _versus(figures: DimFigures, *, is_reference: bool) -> tuple[str, str]:
    versus = figures.versus_reference
    if versus is None:
        return ("reference" if is_reference else "–", "–")
    low, high = 100 * versus.interval.low, 100 * versus.interval.high
    return (f"{100 * versus.difference:+.2f} [{low:+.2f}, {high:+.2f}]", f"{versus.p_value:.3f}")


def _csv_line(system: str, figures: DimFigures) -> dict[str, Any]:
    line: dict[str, Any] = {
        "system": system,
        "dim": figures.dim,
        "bytes_float32": figures.dim * BYTES_PER_NUMBER,
        "eer": figures.equal_error_rate,
        **_bounds("eer", figures.equal_error_rate_interval),
        "eer_convex_hull": figures.convex_hull_equal_error_rate,
        "threshold_at_eer": figures.threshold,
        "min_cllr_bits": figures.minimum_cllr,
    }
    for p_target, value in figures.minimum_dcf.items():
        name = f"min_dcf_{p_target:g}"
        line |= {name: value, **_bounds(name, figures.minimum_dcf_intervals.get(p_target))}
    versus = figures.versus_reference
    return line | {
        "eer_minus_reference": None if versus is None else versus.difference,
        **_bounds("eer_minus_reference", None if versus is None else versus.interval),
        "eer_minus_reference_p": None if versus is None else versus.p_value,
    }


def _bounds(name: str, interval: Interval | None) -> dict[str, float | None]:
    return {
        f"{name}_low": None if interval is None else interval.low,
        f"{name}_high": None if interval is None else interval.high,
    }
