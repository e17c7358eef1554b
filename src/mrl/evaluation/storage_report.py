"""A comparison of storage formats as tables, in Markdown, CSV and JSON, and as a plot."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mrl.evaluation.figures import interval_bounds
from mrl.evaluation.plots import COLOURS, MARKERS, figure_and_axes, plots_wanted, save_figure
from mrl.evaluation.storage import RANKS, FormatFigures, QuantisationResult, Recall
from mrl.evaluation.tables import trial_list_note, with_interval
from mrl.files import write_json, write_text
from mrl.tables import ABSENT, Table, records_csv

# Neighbouring formats are moved apart by this factor on the logarithmic axis, so that their intervals do not hide each other.
_SHIFT = 1.02


def plot_storage_formats(result: QuantisationResult, *paths: str | os.PathLike[str]) -> None:
    """Draw the equal error rate in % against the bytes of one voice (logarithmic axis), one line for each format.

    Args:
        result: what to draw.
        paths: files to write; the suffix names the format (``.png``, ``.svg``, ``.pdf``).

    Raises:
        MissingDependencyError: matplotlib is not installed.
        InputError: unknown suffix.
    """
    save_figure(storage_formats_figure(result), *paths)


def storage_formats_figure(result: QuantisationResult) -> Any:
    """Return the matplotlib figure of :func:`plot_storage_formats`."""
    figure, axes = figure_and_axes(width=8.2, height=4.8)
    forms = list(dict.fromkeys(row.form for row in result.rows))
    for place, form in enumerate(forms):
        rows = [row for row in result.rows if row.form == form]
        rates = [100 * row.figures.equal_error_rate for row in rows]
        intervals = [row.figures.equal_error_rate_interval for row in rows]
        # A percentile interval need not contain the figure itself; the bar then ends at the figure on that side.
        errors = [
            [0.0 if bars is None else max(0.0, rate - 100 * bars.low) for rate, bars in zip(rates, intervals, strict=True)],
            [0.0 if bars is None else max(0.0, 100 * bars.high - rate) for rate, bars in zip(rates, intervals, strict=True)],
        ]
        shift = _SHIFT ** (place - (len(forms) - 1) / 2)
        axes.errorbar(
            [row.bytes_per_voice * shift for row in rows],
            rates,
            yerr=None if None in intervals else errors,
            color=COLOURS[place % len(COLOURS)],
            marker=MARKERS[place % len(MARKERS)],
            markersize=5.5,
            linewidth=1.6,
            elinewidth=0.9,
            capsize=2.5,
            label=form,
        )
        for row, rate in zip(rows, rates, strict=True):
            if row.is_best_for_its_bytes:
                where = (row.bytes_per_voice * shift, rate)
                axes.annotate(str(row.dim), where, (-4, -11), textcoords="offset points", ha="right", fontsize=7.5)
    sizes = sorted({row.bytes_per_voice for row in result.rows})
    powers = [2**power for power in range(sizes[0].bit_length() - 1, sizes[-1].bit_length() + 1)]
    axes.set_xscale("log", base=2)
    axes.set_xticks(powers, [f"{power:,}" for power in powers])
    axes.set_xticks([], minor=True)
    axes.set_xlim(sizes[0] / 1.3, sizes[-1] * 1.3)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("bytes of one voice")
    axes.set_ylabel("equal error rate (%)")
    facts = result.evaluation.trial_list
    bars = f"; bars: 95 % intervals over {facts.speakers} speakers" if result.evaluation.resamples else ""
    axes.set_title(f"{Path(facts.source).name or 'trial list'}: {facts.trials:,} trials{bars}", fontsize=10)
    axes.legend(frameon=False, fontsize=9, loc="upper right", title="numbers: dims, where best for the bytes", title_fontsize=8)
    return figure


def quantisation_table(result: QuantisationResult) -> Table:
    """Return one row for each format and dim."""
    headings = ("format", "dim", "bytes", "EER %", "minus float32", "relative", "minDCF 0.01", "minDCF 0.05", "cosine at EER")
    ranks = RANKS if result.closed_set is not None else ()
    rows = []
    for row in result.rows:
        figures = row.figures
        star = " *" if row.is_best_for_its_bytes else ""
        rows.append(
            (
                row.form,
                str(row.dim),
                f"{row.bytes_per_voice}{star}",
                with_interval(figures.equal_error_rate, figures.equal_error_rate_interval, 100, 2),
                *_versus(row, result),
                with_interval(figures.minimum_dcf[0.01], figures.minimum_dcf_intervals.get(0.01), 1, 3),
                with_interval(figures.minimum_dcf[0.05], figures.minimum_dcf_intervals.get(0.05), 1, 3),
                f"{figures.threshold:.3f}",
                *(_recall(row.recall.get(rank)) for rank in ranks),
            )
        )
    recall = (f"recall@{rank} %" for rank in ranks)
    return Table((*headings, *recall), tuple(rows), notes=tuple(_notes(result)))


def quantisation_dict(result: QuantisationResult) -> dict[str, Any]:
    """Return everything as values that JSON can hold; rates in 0..1."""
    whole = result.evaluation.to_dict()
    chosen = result.closed_set
    return {
        **{key: whole[key] for key in ("provenance", "trial_list", "protocol", "intervals")},
        "notes": list(result.notes),
        "identification": None
        if chosen is None
        else {"enrolled": len(chosen.enrolled), "queries": len(chosen.queries), "seed": chosen.seed},
        "rows": [_record(row) for row in result.rows],
    }


def write_quantisation_report(
    result: QuantisationResult, folder: str | os.PathLike[str], *, plots: bool | None = None
) -> list[Path]:
    """Write ``report.json``, ``table.md``, ``table.csv`` and the plot ``eer_by_bytes`` (PNG and SVG); return the files.

    Raises:
        MissingDependencyError: plots are wanted and matplotlib is not installed.
        OSError: the folder cannot be written to or the disk is full.
    """
    place = Path(folder)
    files = [place / "report.json", place / "table.md", place / "table.csv"]
    write_json(files[0], quantisation_dict(result))
    write_text(files[1], quantisation_table(result).markdown())
    write_text(files[2], records_csv([_record(row) for row in result.rows]))
    if plots_wanted(plots):
        files += [place / "eer_by_bytes.png", place / "eer_by_bytes.svg"]
        plot_storage_formats(result, *files[-2:])
    return files


def _notes(result: QuantisationResult) -> list[str]:
    """Return the sentences that a reader needs to understand the table."""
    evaluation = result.evaluation
    lines = [
        trial_list_note(evaluation),
        "bytes: of one voice, without its name; *: no other row has both as few bytes and as low an EER. Every embedding is cut "
        "to its dim, brought to unit length and encoded; scores are cosines of what both sides then hold, so a threshold for "
        "one format does not hold for another. EER: plain, interpolated; minDCF: normalised, prior as given.",
        "minus float32: EER minus that of float32 at the same dim in percentage points; relative: the same as a share of it.",
    ]
    if evaluation.resamples:
        lines.append(
            f"[low, high]: 95 % interval, bootstrap over speakers ({evaluation.resamples} resamples, seed {evaluation.seed}, "
            "shared by all rows; differences are paired). Those of recall resample who asks, not who is enrolled."
        )
    if result.closed_set is not None:
        chosen = result.closed_set
        lines.append(
            f"recall: one utterance of each of {len(chosen.enrolled):,} speakers, drawn with seed {chosen.seed}, is enrolled, "
            f"the other {len(chosen.queries):,} are queries; share of them whose speaker is among the 1 or 10 highest cosines, "
            "equal ones in random order. –: too few speakers for it to mean anything."
        )
    return [*lines, *result.notes]


def _versus(row: FormatFigures, result: QuantisationResult) -> tuple[str, str]:
    if row.form == "float32":
        return (ABSENT, ABSENT)
    difference = row.figures.equal_error_rate - result.at("float32", row.dim).figures.equal_error_rate
    versus = row.figures.versus_same_dim
    interval = "" if versus is None else f" [{100 * versus.interval.low:+.2f}, {100 * versus.interval.high:+.2f}]"
    relative = ABSENT if row.relative_to_float32 is None else f"{100 * row.relative_to_float32:+.1f} %"
    return (f"{100 * difference:+.2f}{interval}", relative)


def _recall(recall: Recall | None) -> str:
    return ABSENT if recall is None else with_interval(recall.value, recall.interval, 100, 1)


def _record(row: FormatFigures) -> dict[str, Any]:
    figures, versus = row.figures, row.figures.versus_same_dim
    record: dict[str, Any] = {
        "format": row.form,
        "dim": row.dim,
        "bytes": row.bytes_per_voice,
        "best_for_its_bytes": row.is_best_for_its_bytes,
        "eer": figures.equal_error_rate,
        **interval_bounds("eer", figures.equal_error_rate_interval),
        "eer_relative_to_float32": row.relative_to_float32,
        **interval_bounds("eer_minus_float32", None if versus is None else versus.interval),
        "eer_minus_float32_p": None if versus is None else versus.p_value,
        "eer_convex_hull": figures.convex_hull_equal_error_rate,
        "threshold_at_eer": figures.threshold,
        "min_cllr_bits": figures.minimum_cllr,
    }
    for p_target, value in figures.minimum_dcf.items():
        name = f"min_dcf_{p_target:g}"
        record |= {name: value, **interval_bounds(name, figures.minimum_dcf_intervals.get(p_target))}
    for rank in RANKS:
        recall = row.recall.get(rank)
        record[f"recall_at_{rank}"] = None if recall is None else recall.value
        record |= interval_bounds(f"recall_at_{rank}", None if recall is None else recall.interval)
    return record
