"""The part of a model card that tells what its makers state: use, limits, data, error rates, how it was made."""

from __future__ import annotations

from mrl.pretrained import Release, ReleaseRate, ReleaseResult


def release_sections(release: Release) -> list[str]:
    """Return the lines of these sections, as Markdown."""
    lines = ["", "## For what, and for what not", ""]
    lines += [f"- {sentence}" for sentence in (*release.intended_use, *release.limits)]
    lines += ["", "## Error rates", ""]
    lines.append(
        "Equal error rates in %, cosine scores of whole recordings, with 95 % intervals that resample speakers. "
        "No speaker of these lists was trained on. They are not comparable with figures on other lists."
    )
    for result in release.results:
        lines += ["", *_table(result)]
    lines += ["", "## Data", "", "| recordings | for | speakers | utterances | hours | licence | source |", "|---" * 7 + "|"]
    lines += [
        f"| {one.name} | {one.purpose} | {'–' if one.speakers is None else one.speakers} | {one.utterances:,} "
        f"| {one.hours:.1f} | {one.licence} | {one.source} |"
        for one in release.corpora
    ]
    lines += ["", "## How it was made", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in release.making.items()]
    return lines


def _table(result: ReleaseResult) -> list[str]:
    note = f"; {result.note}" if result.note else ""
    lines = [f"**{result.trial_list}** ({result.trials:,} trials of {result.speakers} speakers{note})", ""]
    rows = [*result.model, *result.baseline]
    dims = sorted({rate.dim for rate in rows})
    lines += ["| numbers | " + " | ".join(map(str, dims)) + " |", "|---" * (len(dims) + 1) + "|"]
    for system in dict.fromkeys(rate.system for rate in rows):
        found = {rate.dim: _cell(rate) for rate in rows if rate.system == system}
        lines.append(f"| {system} | " + " | ".join(found.get(dim, "–") for dim in dims) + " |")
    return lines


def _cell(rate: ReleaseRate) -> str:
    return f"{100 * rate.equal_error_rate:.2f} ({100 * rate.low:.1f}–{100 * rate.high:.1f})"
