"""Tables that set systems and conditions against each other, as rows of text."""

from __future__ import annotations

from mrl.evaluation.result import DimFigures, EvaluationResult
from mrl.scoring.bootstrap import Interval, PairedDifference

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
