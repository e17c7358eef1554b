"""Evaluation results as tables: on the terminal, in Markdown, CSV and JSON, and as one HTML page."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from mrl.evaluation.comparison import (
    Rows,
    calibrated_note,
    calibrated_rows,
    comparison_rows,
    strata_groups,
    strata_notes,
    strata_rows,
    strata_summary,
)
from mrl.evaluation.result import BYTES_PER_NUMBER, DimFigures, EvaluationResult
from mrl.files import write_json, write_text
from mrl.scoring.bootstrap import Interval

_HEADER = ("system", "dim", "bytes", "EER %", "minDCF 0.01", "minDCF 0.05")
_SCORES = {
    "cosine": "Scores are raw cosines in [-1, 1]",
    "mean cosine": "Scores are mean cosines in [-1, 1]",
    "centred cosine": "Scores are cosines of centred embeddings in [-1, 1]",
    "AS-Norm score": "Scores are no cosines and have no bounds",
}


def table_rows(result: EvaluationResult) -> list[tuple[str, ...]]:
    """Return the header and one row of text for each system and dim."""
    compared = result.reference is not None and result.resamples > 0
    header = (*_HEADER, f"{result.protocol.score} at EER")
    rows: list[tuple[str, ...]] = [(*header, "EER minus reference", "p") if compared else header]
    for system in result.systems:
        for figures in system.figures:
            row = (
                system.name,
                str(figures.dim),
                str(figures.dim * BYTES_PER_NUMBER),
                with_interval(figures.equal_error_rate, figures.equal_error_rate_interval, 100, 2),
                with_interval(figures.minimum_dcf[0.01], figures.minimum_dcf_intervals.get(0.01), 1, 3),
                with_interval(figures.minimum_dcf[0.05], figures.minimum_dcf_intervals.get(0.05), 1, 3),
                f"{figures.threshold:.3f}",
            )
            versus = _versus(figures, is_reference=(system.name, figures.dim) == result.reference) if compared else ()
            rows.append((*row, *versus))
    return rows


def trial_list_note(result: EvaluationResult) -> str:
    """Return the sentence that says which trials were scored."""
    facts = result.trial_list
    speakers = "" if facts.speakers is None else f", {facts.speakers} speakers"
    checksum = f", SHA-256 {facts.sha256[:16]}…" if facts.sha256 else ""
    return (
        f"{facts.trials:,} trials ({facts.targets:,} same-speaker, {facts.nontargets:,} different-speaker) over "
        f"{facts.utterances:,} utterances{speakers}; list {facts.source or 'made in memory'}{checksum}."
    )


def notes(result: EvaluationResult) -> list[str]:
    """Return the sentences that a reader needs to understand the table."""
    lines = [
        trial_list_note(result),
        f"Protocol: {result.protocol.name}. EER: plain, interpolated between the two neighbouring operating points. minDCF: "
        "normalised, with the prior of a same-speaker trial as given. "
        f"{_SCORES[result.protocol.score]}; a threshold holds for this data only.",
        *result.protocol.notes,
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
    return markdown_rows(table_rows(result)) + "\n\n" + "\n\n".join(notes(result)) + "\n"


def markdown_report(result: EvaluationResult) -> str:
    """Return :func:`markdown_table`, calibrated figures where there are any, a comparison of several systems, and the strata."""
    parts = [markdown_table(result)]
    calibrated = calibrated_rows(result)
    if calibrated:
        parts.append(markdown_rows(calibrated) + "\n\n" + calibrated_note(result) + "\n")
    compared = comparison_rows(result)
    if compared and len(result.systems) > 2:
        parts.append(markdown_rows(compared) + "\n")
    for group in strata_groups(result):
        parts.append(markdown_rows(strata_rows(result, group)) + "\n\n" + "\n\n".join(strata_notes(result, group)) + "\n")
    return "\n".join(parts)


def comparison_table(result: EvaluationResult) -> Table | None:
    """Return the systems side by side, dim by dim, for a terminal; None without a reference or intervals."""
    rows = comparison_rows(result)
    if not rows:
        return None
    note = "relative changes; p: two-sided, paired bootstrap over speakers, * below 0.05"
    return terminal_table(rows, note, words=(1,))


def calibrated_table(result: EvaluationResult) -> Table | None:
    """Return the figures of log-likelihood ratios for a terminal; None where nothing is calibrated."""
    rows = calibrated_rows(result)
    return terminal_table(rows, calibrated_note(result), words=(0,)) if rows else None


def strata_tables(result: EvaluationResult) -> list[Table]:
    """Return one table for a terminal for each group of strata: the equal error rates only."""
    return [
        terminal_table(strata_summary(result, group), "\n".join(strata_notes(result, group)[1:]), words=(0, 1))
        for group in strata_groups(result)
    ]


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


def strata_csv(result: EvaluationResult) -> str:
    """Return the figures of all strata as CSV; rates in 0..1, empty where there is none."""
    stream = io.StringIO()
    names = (
        *("group", "name", "system", "dim", "same_speaker_trials", "different_speaker_trials", "eer", "eer_low", "eer_high"),
        *("false_accept_rate", "false_reject_rate", "note"),
    )
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    for one in result.strata:
        bounds = interval_bounds("eer", one.equal_error_rate_interval).values()
        facts = (one.group, one.name, one.system, one.dim, one.targets, one.nontargets)
        writer.writerow((*facts, one.equal_error_rate, *bounds, one.false_accept_rate, one.false_reject_rate, one.note))
    return stream.getvalue()


def markdown_rows(rows: Rows) -> str:
    """Return a header and rows of text as a Markdown table; the first column is words, the others are numbers."""
    header, *body = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    lines = [
        "| " + " | ".join(header) + " |",
        "|" + "|".join(["---", *["---:"] * (len(header) - 1)]) + "|",
        *("| " + " | ".join(row) + " |" for row in body),
    ]
    return "\n".join(lines)


def terminal_table(rows: Rows, note: str, *, words: tuple[int, ...]) -> Table:
    """Return a header and rows of text as a table for a terminal; ``words`` are the columns that hold no numbers."""
    header, *body = rows
    table = Table(*header, caption=Text(note), caption_justify="left")
    for number, column in enumerate(table.columns):
        column.justify = "left" if number in words else "right"
    previous = ""
    for row in body:
        if previous and row[0] != previous:
            table.add_section()
        table.add_row(*map(Text, row))
        previous = row[0]
    return table


def with_interval(value: float, interval: Interval | None, factor: int, digits: int) -> str:
    """Return a figure times ``factor`` as text, and its interval in brackets where there is one."""
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
        **interval_bounds("eer", figures.equal_error_rate_interval),
        "eer_convex_hull": figures.convex_hull_equal_error_rate,
        "threshold_at_eer": figures.threshold,
        "min_cllr_bits": figures.minimum_cllr,
    }
    for p_target, value in figures.minimum_dcf.items():
        name = f"min_dcf_{p_target:g}"
        line |= {name: value, **interval_bounds(name, figures.minimum_dcf_intervals.get(p_target))}
    line |= {f"true_accept_rate_at_far_{rate:g}": value for rate, value in figures.true_accept_rates.items()}
    calibrated = figures.calibrated
    for p_target in figures.minimum_dcf:
        line[f"act_dcf_{p_target:g}"] = None if calibrated is None else calibrated.actual_dcf[p_target]
    line |= {
        "calibrated_cllr_bits": None if calibrated is None else calibrated.cllr,
        "calibrated_min_cllr_bits": None if calibrated is None else calibrated.minimum_cllr,
        "calibration": None if calibrated is None else calibrated.source,
    }
    versus, same = figures.versus_reference, figures.versus_same_dim
    return line | {
        "eer_minus_reference": None if versus is None else versus.difference,
        **interval_bounds("eer_minus_reference", None if versus is None else versus.interval),
        "eer_minus_reference_p": None if versus is None else versus.p_value,
        "eer_minus_reference_at_same_dim": None if same is None else same.difference,
        **interval_bounds("eer_minus_reference_at_same_dim", None if same is None else same.interval),
        "eer_minus_reference_at_same_dim_p": None if same is None else same.p_value,
    }


def interval_bounds(name: str, interval: Interval | None) -> dict[str, float | None]:
    """Return the columns ``NAME_low`` and ``NAME_high`` of a CSV file; None where there is no interval."""
    return {
        f"{name}_low": None if interval is None else interval.low,
        f"{name}_high": None if interval is None else interval.high,
    }
