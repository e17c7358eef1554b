"""What an evaluation says, as tables of text and as records of exact values."""

from __future__ import annotations

from collections.abc import Iterator

from mrl.evaluation.figures import BYTES_PER_NUMBER, DimFigures, interval_bounds
from mrl.evaluation.result import EvaluationResult, SystemResult
from mrl.scoring.bootstrap import Interval, PairedDifference
from mrl.tables import ABSENT, Table, records_csv

_SCORES = {
    "cosine": "Scores are raw cosines in [-1, 1]",
    "mean cosine": "Scores are mean cosines in [-1, 1]",
    "centred cosine": "Scores are cosines of centred embeddings in [-1, 1]",
    "AS-Norm score": "Scores are not cosines and have no bounds",
}


def figures_table(result: EvaluationResult) -> Table:
    """Return one row for each system and dim."""
    compared = result.reference is not None and result.resamples > 0
    headings = ("system", "dim", "bytes", "EER %", "minDCF 0.01", "minDCF 0.05", f"{result.protocol.score} at EER")
    rows = []
    for system, figures in _figures(result):
        versus = _versus(figures, is_reference=(system.name, figures.dim) == result.reference) if compared else ()
        rows.append(
            (
                system.name,
                str(figures.dim),
                str(figures.dim * BYTES_PER_NUMBER),
                with_interval(figures.equal_error_rate, figures.equal_error_rate_interval, 100, 2),
                with_interval(figures.minimum_dcf[0.01], figures.minimum_dcf_intervals.get(0.01), 1, 3),
                with_interval(figures.minimum_dcf[0.05], figures.minimum_dcf_intervals.get(0.05), 1, 3),
                f"{figures.threshold:.3f}",
                *versus,
            )
        )
    return Table((*headings, "EER minus reference", "p") if compared else headings, tuple(rows), notes=tuple(_notes(result)))


def summary_table(result: EvaluationResult) -> Table:
    """Return a small table: the equal error rate in %, one row for each system and one column for each dim."""
    dims = sorted({figures.dim for _, figures in _figures(result)})
    rates = {(system.name, figures.dim): f"{100 * figures.equal_error_rate:.2f}" for system, figures in _figures(result)}
    rows = tuple((system.name, *(rates.get((system.name, dim), ABSENT) for dim in dims)) for system in result.systems)
    return Table(("EER %", *map(str, dims)), rows, group=None)


def comparison_table(result: EvaluationResult) -> Table | None:
    """Return, dim by dim, one row for each system: its rate, and its change against the reference.

    The change is relative to the reference's whole embedding and to the reference cut to the same dim, with the two-sided p of
    the paired bootstrap over speakers. Without a reference or intervals there is no table.
    """
    if result.reference is None or not result.resamples:
        return None
    name, whole = result.reference
    reference = result.system(name)
    rows = []
    for system, figures in sorted(_figures(result), key=lambda pair: pair[1].dim):
        at_same = reference.at(figures.dim) if figures.dim in reference.dims else None
        rows.append(
            (
                str(figures.dim),
                system.name,
                f"{100 * figures.equal_error_rate:.2f}",
                *_change(figures.versus_reference, reference.at(whole)),
                *_change(figures.versus_same_dim, at_same),
            )
        )
    return Table(
        ("dim", "system", "EER %", f"against {name}, {whole} dims", "p", f"against {name}, same dim", "p"),
        tuple(rows),
        words=(1,),
        notes=("relative changes; p: two-sided, paired bootstrap over speakers, * below 0.05",),
    )


def calibrated_table(result: EvaluationResult) -> Table | None:
    """Return one row for each system and dim with log-likelihood ratios; None where nothing is calibrated."""
    rows = []
    sources: dict[str, list[str]] = {}
    for system, figures in _figures(result):
        calibrated = figures.calibrated
        if calibrated is not None:
            costs = (calibrated.actual_dcf[0.01], calibrated.actual_dcf[0.05], calibrated.cllr, calibrated.minimum_cllr)
            rows.append((system.name, str(figures.dim), *(f"{cost:.3f}" for cost in costs)))
            names = sources.setdefault(calibrated.source, [])
            if system.name not in names:
                names.append(system.name)
    if not rows:
        return None
    origin = "; ".join(f"{source} ({', '.join(names)})" for source, names in sources.items())
    note = (
        "Log-likelihood ratios: actDCF is the normalised cost of the decisions at Bayes' threshold, Cllr and min Cllr are in "
        f"bits. Calibration: {origin}."
    )
    return Table(("system", "dim", "actDCF 0.01", "actDCF 0.05", "Cllr", "min Cllr"), tuple(rows), notes=(note,))


def strata_groups(result: EvaluationResult) -> list[str]:
    """Return the groups of a result's strata, in order."""
    return list(dict.fromkeys(stratum.group for stratum in result.strata))


def strata_table(result: EvaluationResult, group: str) -> Table:
    """Return one row for each part, system and dim of a group."""
    threshold_note = (
        "False accepts and rejects: at the threshold of the equal error rate on the whole, unchanged list. "
        f"{ABSENT}: undefined, because one kind of trial is absent."
    )
    trials = ("same-speaker trials", "different-speaker trials")
    rows = tuple(
        (
            stratum.name,
            stratum.system,
            str(stratum.dim),
            f"{stratum.targets:,}",
            f"{stratum.nontargets:,}",
            _rate(stratum.equal_error_rate, stratum.equal_error_rate_interval),
            _rate(stratum.false_accept_rate, None),
            _rate(stratum.false_reject_rate, None),
        )
        for stratum in result.strata
        if stratum.group == group
    )
    return Table(
        (group, "system", "dim", *trials, "EER %", "false accepts %", "false rejects %"),
        rows,
        words=(0, 1),
        notes=(threshold_note, *_strata_notes(result, group)),
    )


def strata_summary(result: EvaluationResult, group: str) -> Table:
    """Return one row for each part and system of a group, with the equal error rate in % at every dim."""
    dims = sorted({stratum.dim for stratum in result.strata if stratum.group == group})
    rates: dict[tuple[str, str], dict[int, str]] = {}
    for system in result.systems:
        whole = {figures.dim: _rate(figures.equal_error_rate, None) for figures in system.figures}
        rates["whole list, unchanged", system.name] = whole
    for stratum in result.strata:
        if stratum.group == group:
            rates.setdefault((stratum.name, stratum.system), {})[stratum.dim] = _rate(stratum.equal_error_rate, None)
    rows = tuple((*key, *(cells.get(dim, ABSENT) for dim in dims)) for key, cells in rates.items())
    headings = (f"EER % by {group}", "system", *map(str, dims))
    return Table(headings, rows, words=(0, 1), notes=tuple(_strata_notes(result, group)))


def csv_table(result: EvaluationResult) -> str:
    """Return all figures as CSV, one line for each system and dim; rates in 0..1, empty where there is none."""
    return records_csv([{"system": system.name, **figures.to_record()} for system, figures in _figures(result)])


def strata_csv(result: EvaluationResult) -> str:
    """Return the figures of all strata as CSV; rates in 0..1, empty where there is none."""
    return records_csv(
        [
            {
                "group": stratum.group,
                "name": stratum.name,
                "system": stratum.system,
                "dim": stratum.dim,
                "same_speaker_trials": stratum.targets,
                "different_speaker_trials": stratum.nontargets,
                "eer": stratum.equal_error_rate,
                **interval_bounds("eer", stratum.equal_error_rate_interval),
                "false_accept_rate": stratum.false_accept_rate,
                "false_reject_rate": stratum.false_reject_rate,
                "note": stratum.note,
            }
            for stratum in result.strata
        ]
    )


def trial_list_note(result: EvaluationResult) -> str:
    """Return the sentence that says which trials were scored."""
    facts = result.trial_list
    speakers = "" if facts.speakers is None else f", {facts.speakers} speakers"
    checksum = f", SHA-256 {facts.sha256[:16]}…" if facts.sha256 else ""
    return (
        f"{facts.trials:,} trials ({facts.targets:,} same-speaker, {facts.nontargets:,} different-speaker) over "
        f"{facts.utterances:,} utterances{speakers}; list {facts.source or 'made in memory'}{checksum}."
    )


def with_interval(value: float, interval: Interval | None, factor: int, digits: int) -> str:
    """Return a figure times ``factor`` as text, and its interval in brackets where there is one."""
    text = f"{factor * value:.{digits}f}"
    return text if interval is None else f"{text} [{factor * interval.low:.{digits}f}, {factor * interval.high:.{digits}f}]"


def _figures(result: EvaluationResult) -> Iterator[tuple[SystemResult, DimFigures]]:
    for system in result.systems:
        for figures in system.figures:
            yield system, figures


def _notes(result: EvaluationResult) -> list[str]:
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


def _strata_notes(result: EvaluationResult, group: str) -> list[str]:
    notes = dict.fromkeys((stratum.name, stratum.note) for stratum in result.strata if stratum.group == group and stratum.note)
    return [f"{name}: {note}." for name, note in notes]


def _versus(figures: DimFigures, *, is_reference: bool) -> tuple[str, str]:
    versus = figures.versus_reference
    if versus is None:
        return ("reference" if is_reference else ABSENT, ABSENT)
    low, high = 100 * versus.interval.low, 100 * versus.interval.high
    return (f"{100 * versus.difference:+.2f} [{low:+.2f}, {high:+.2f}]", f"{versus.p_value:.3f}")


def _significance(versus: PairedDifference | None) -> str:
    """Return p with three digits, and a star below 0.05."""
    return ABSENT if versus is None else f"{versus.p_value:.3f}{' *' if versus.p_value < 0.05 else ''}"


def _change(versus: PairedDifference | None, base: DimFigures | None) -> tuple[str, str]:
    if versus is None or base is None:
        return ABSENT, ABSENT
    if base.equal_error_rate == 0.0:  # nothing is a share of zero
        return _signed(f"{100 * versus.difference:+.2f} points"), _significance(versus)
    return _signed(f"{100 * versus.difference / base.equal_error_rate:+.1f} %"), _significance(versus)


def _signed(text: str) -> str:
    return text.replace("-", "−")


def _rate(value: float | None, interval: Interval | None) -> str:
    if value is None:
        return ABSENT
    bounds = "" if interval is None else f" [{100 * interval.low:.2f}, {100 * interval.high:.2f}]"
    return f"{100 * value:.2f}{bounds}"
