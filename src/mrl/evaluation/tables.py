"""Evaluation results as tables: on the terminal, in Markdown, CSV and JSON, and as one HTML page."""

from __future__ import annotations

import csv
import io
from typing import Any

from rich.table import Table
from rich.text import Text

from mrl.evaluation.result import BYTES_PER_NUMBER, DimFigures, EvaluationResult
from mrl.scoring.bootstrap import Interval, PairedDifference

# Tables that set systems and conditions against each other, as rows of text.


Rows = list[tuple[str, ...]]


_NONE = "–"


def comparison_rows(result: EvaluationResult) -> Rows:
    """Return a header and, dim by dim, one row for each system: its rate, and its change against the reference.

    The change is relative to the reference's whole embedding and to the reference cut to the same dim, with the two-sided p of
    the paired bootstrap over speakers. Without a reference or intervals there are no rows.
    """
    if result.reference is None or not result.resamples:
        return []
    name, whole = result.reference
    reference = result.system(name)
    rows: Rows = [("dim", "system", "EER %", f"against {name}, {whole} dims", "p", f"against {name}, same dim", "p")]
    for dim in sorted({dim for system in result.systems for dim in system.dims}):
        for system in result.systems:
            if dim not in system.dims:
                continue
            figures = system.at(dim)
            at_same = reference.at(dim) if dim in reference.dims else None
            rows.append(
                (
                    str(dim),
                    system.name,
                    f"{100 * figures.equal_error_rate:.2f}",
                    *_change(figures.versus_reference, reference.at(whole)),
                    *_change(figures.versus_same_dim, at_same),
                )
            )
    return rows


def calibrated_rows(result: EvaluationResult) -> Rows:
    """Return a header and one row for each system and dim with log-likelihood ratios; no rows where nothing is calibrated."""
    rows: Rows = [("system", "dim", "actDCF 0.01", "actDCF 0.05", "Cllr", "min Cllr")]
    for system in result.systems:
        for figures in system.figures:
            found = figures.calibrated
            if found is not None:
                costs = (found.actual_dcf[0.01], found.actual_dcf[0.05], found.cllr, found.minimum_cllr)
                rows.append((system.name, str(figures.dim), *(f"{cost:.3f}" for cost in costs)))
    return rows if len(rows) > 1 else []


def calibrated_note(result: EvaluationResult) -> str:
    """Return the sentence that a reader of :func:`calibrated_rows` needs: where the calibrations are from."""
    sources: dict[str, list[str]] = {}
    for system in result.systems:
        for figures in system.figures:
            if figures.calibrated is not None and system.name not in sources.setdefault(figures.calibrated.source, []):
                sources[figures.calibrated.source].append(system.name)
    said = "; ".join(f"{source} ({', '.join(names)})" for source, names in sources.items())
    return (
        "Log-likelihood ratios: actDCF is the normalised cost of the decisions at Bayes' threshold, Cllr and min Cllr are in "
        f"bits. Calibration: {said}."
    )


def strata_groups(result: EvaluationResult) -> list[str]:
    """Return the groups of a result's strata, in order."""
    return list(dict.fromkeys(stratum.group for stratum in result.strata))


def strata_rows(result: EvaluationResult, group: str) -> Rows:
    """Return a header and one row for each part, system and dim of a group."""
    rows: Rows = [
        (
            group,
            "system",
            "dim",
            "same-speaker trials",
            "different-speaker trials",
            "EER %",
            "false accepts %",
            "false rejects %",
        )
    ]
    for one in result.strata:
        if one.group == group:
            rows.append(
                (
                    one.name,
                    one.system,
                    str(one.dim),
                    f"{one.targets:,}",
                    f"{one.nontargets:,}",
                    _rate(one.equal_error_rate, one.equal_error_rate_interval),
                    _rate(one.false_accept_rate, None),
                    _rate(one.false_reject_rate, None),
                )
            )
    return rows


def strata_summary(result: EvaluationResult, group: str) -> Rows:
    """Return a header and one row for each part and system of a group, with the equal error rate at every dim."""
    dims = sorted({one.dim for one in result.strata if one.group == group})
    rates: dict[tuple[str, str], dict[int, str]] = {}
    for system in result.systems:
        whole = {figures.dim: _rate(figures.equal_error_rate, None) for figures in system.figures}
        rates["whole list, unchanged", system.name] = whole
    for one in result.strata:
        if one.group == group:
            rates.setdefault((one.name, one.system), {})[one.dim] = _rate(one.equal_error_rate, None)
    header = (f"EER % by {group}", "system", *map(str, dims))
    return [header, *((*key, *(cells.get(dim, _NONE) for dim in dims)) for key, cells in rates.items())]


def strata_notes(result: EvaluationResult, group: str) -> list[str]:
    """Return the sentences that a reader of :func:`strata_rows` needs."""
    lines = [
        "False accepts and rejects: at the threshold of the equal error rate on the whole, unchanged list. "
        f"{_NONE}: undefined, because one kind of trial is absent."
    ]
    said = dict.fromkeys((one.name, one.note) for one in result.strata if one.group == group and one.note)
    return [*lines, *(f"{name}: {note}." for name, note in said)]


def significance(versus: PairedDifference | None) -> str:
    """Return p with three digits, and a star below 0.05."""
    return _NONE if versus is None else f"{versus.p_value:.3f}{' *' if versus.p_value < 0.05 else ''}"


def _change(versus: PairedDifference | None, base: DimFigures | None) -> tuple[str, str]:
    if versus is None or base is None:
        return _NONE, _NONE
    if base.equal_error_rate == 0.0:  # nothing is a share of zero
        return _signed(f"{100 * versus.difference:+.2f} points"), significance(versus)
    return _signed(f"{100 * versus.difference / base.equal_error_rate:+.1f} %"), significance(versus)


def _signed(text: str) -> str:
    return text.replace("-", "−")


def _rate(value: float | None, interval: Interval | None) -> str:
    if value is None:
        return _NONE
    bounds = "" if interval is None else f" [{100 * interval.low:.2f}, {100 * interval.high:.2f}]"
    return f"{100 * value:.2f}{bounds}"


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
