"""The report of an evaluation: JSON, Markdown and CSV, and one HTML page with all pictures inside, no script and no network."""

from __future__ import annotations

import base64
import html
import os
import shlex
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mrl.evaluation.figures import DimFigures
from mrl.evaluation.plots import (
    det_figure,
    eer_by_bytes_figure,
    eer_by_dim_figure,
    plot_eer_by_dim,
    plots_wanted,
    score_figure,
    strata_figure,
    svg_of,
)
from mrl.evaluation.result import EvaluationResult
from mrl.evaluation.tables import (
    calibrated_table,
    comparison_table,
    csv_table,
    figures_table,
    strata_csv,
    strata_groups,
    strata_summary,
    strata_table,
)
from mrl.files import write_json, write_text
from mrl.tables import Table

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 1180px; margin: 0 auto; padding: 24px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 36px 0 8px; border-bottom: 1px solid #ccc; }
p.lead { margin: 0 0 16px; color: #444; } p.note { color: #444; font-size: 13px; margin: 4px 0; }
figure { margin: 12px 0; } figure img { max-width: 100%; height: auto; } figcaption { font-size: 13px; color: #444; }
div.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 20px; align-items: start; }
div.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; margin: 8px 0; }
th, td { padding: 4px 8px; text-align: right; white-space: nowrap; }
th { border-bottom: 1.5px solid #333; vertical-align: bottom; white-space: normal; } td { border-bottom: 1px solid #e4e4e4; }
th.word, td.word { text-align: left; } tr.first td { border-top: 2px solid #888; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 16px; font-size: 13px; }
dt { color: #444; } dd { margin: 0; overflow-wrap: anywhere; } code { font: 12.5px ui-monospace, Consolas, monospace; }
summary { cursor: pointer; font-size: 13px; color: #0b4f8a; margin: 6px 0; }
@media print { body { max-width: none; padding: 0; } figure, table { break-inside: avoid; } div.scroll { overflow: visible; } }
"""


def write_report(result: EvaluationResult, folder: str | os.PathLike[str], *, plots: bool | None = None) -> list[Path]:
    """Write ``report.json``, ``table.md``, ``table.csv``, the plot ``eer_by_dim`` (PNG and SVG) and the page ``report.html``.

    With strata there is ``strata.csv``, too. The page holds all pictures and tables and needs no other file and no network.

    Args:
        result: the evaluation.
        folder: made if absent.
        plots: draw them; by default wherever matplotlib is installed. Without them the page has tables only.

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
    drawn = plots_wanted(plots)
    if drawn:
        files += [place / "eer_by_dim.png", place / "eer_by_dim.svg"]
        plot_eer_by_dim(result, *files[-2:])
    files.append(place / "report.html")
    write_text(files[-1], html_report(result, plots=drawn))
    return files


def markdown_report(result: EvaluationResult) -> str:
    """Return the figures, calibrated ones where there are any, a comparison of several systems, and the strata, in Markdown."""
    compared = comparison_table(result) if len(result.systems) > 2 else None
    tables = [
        figures_table(result),
        calibrated_table(result),
        None if compared is None else replace(compared, notes=()),
        *(strata_table(result, group) for group in strata_groups(result)),
    ]
    return "\n".join(table.markdown() for table in tables if table is not None)


def html_report(result: EvaluationResult, *, plots: bool = True) -> str:
    """Return the page: what was found in one sentence, pictures, tables, and how to repeat it.

    Everything that came from outside (names, paths, commands) is escaped.

    Raises:
        MissingDependencyError: plots are wanted and matplotlib is not installed.
    """

    def picture(draw: Callable[..., Any], caption: str, *about: str) -> str:
        figure = draw(result, *about) if plots else None
        return "" if figure is None else _picture(figure, caption)

    source = Path(result.trial_list.source).name or "trial list"
    figures = figures_table(result)
    parts = [
        f"<h1>{_text(', '.join(system.name for system in result.systems[:4]))}</h1>",
        f'<p class="lead">on {_text(source)}. {_text(headline(result))} Protocol: {_text(result.protocol.name)}.</p>',
        "<h2>Error rate at every length</h2>",
        picture(eer_by_dim_figure, "Equal error rate against the number of dimensions."),
        _table(figures),
        *_notes(figures.notes),
    ]
    calibrated = calibrated_table(result)
    if calibrated is not None:
        parts += ["<h2>Calibrated scores</h2>", _table(calibrated), *_notes(calibrated.notes)]
    compared = comparison_table(result)
    if compared is not None:
        parts += [
            "<h2>Systems side by side</h2>",
            _table(compared),
            '<p class="note">Changes are relative: −10 % means that one error in ten is gone. p: two-sided, paired bootstrap '
            "over speakers; * below 0.05. With many rows, some of them fall below 0.05 by chance.</p>",
        ]
    parts += [
        "<h2>Operating points, scores and storage</h2>" if plots else "",
        '<div class="pair">',
        picture(det_figure, "Detection error trade-off; both axes in normal deviates. Nearer to the lower left is better."),
        picture(eer_by_bytes_figure, "What an embedding costs to store, and how often it errs."),
        "</div>",
        picture(score_figure, "Scores of same-speaker (plain) and different-speaker trials (hatched), as densities."),
    ]
    for group in strata_groups(result):
        strata = strata_table(result, group)
        parts += [
            f"<h2>By {_text(group)}</h2>",
            picture(strata_figure, f"Equal error rate by {group}; bars: 95 % intervals over speakers.", group),
            _table(strata_summary(result, group)),
            f"<details><summary>Intervals, trials, and errors at one threshold: by {_text(group)}</summary>",
            _table(strata),
            "</details>",
            *_notes(strata.notes),
        ]
    parts += ["<h2>How to repeat this</h2>", _facts(result)]
    title = _text(f"{result.systems[0].name} on {source}")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )


def headline(result: EvaluationResult) -> str:
    """Return what was found in one or two sentences."""
    first = result.system()
    best = first.at(max(first.dims))
    small = first.at(min(first.dims))
    text = f"{first.name}: {_percent(best)} equal error rate with all {best.dim} dimensions"
    if small.dim != best.dim:
        text += f", {_percent(small)} with {small.dim}"
    if result.reference is not None and result.reference[0] != first.name:
        name, dim = result.reference
        text += f". The reference, {name} with {dim}: {_percent(result.system(name).at(dim))}"
    return text + "."


def _percent(figures: DimFigures) -> str:
    interval = figures.equal_error_rate_interval
    bounds = "" if interval is None else f" [{100 * interval.low:.2f}, {100 * interval.high:.2f}]"
    return f"{100 * figures.equal_error_rate:.2f} %{bounds}"


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _picture(figure: Any, caption: str) -> str:
    data = base64.b64encode(svg_of(figure).encode()).decode()
    width = round(96 * figure.get_size_inches()[0])
    source = f"data:image/svg+xml;base64,{data}"
    return (
        f'<figure><img src="{source}" width="{width}" alt="{_text(caption)}"><figcaption>{_text(caption)}</figcaption></figure>'
    )


def _table(table: Table) -> str:
    return f'<div class="scroll">{table.html()}</div>'


def _notes(lines: Iterable[str]) -> list[str]:
    return [f'<p class="note">{_text(line)}</p>' for line in lines]


def _facts(result: EvaluationResult) -> str:
    known = dict(result.provenance)
    command = known.pop("command", None)
    facts: list[tuple[str, str]] = []
    if command:
        facts.append(("command", f"<code>{_text(shlex.join(map(str, command)))}</code>"))
    facts.append(("trial list", _text(result.trial_list.source or "made in memory")))
    if result.trial_list.sha256:
        facts.append(("SHA-256 of the list", f"<code>{_text(result.trial_list.sha256)}</code>"))
    for system in known.pop("systems", []):
        words = f"{system['name']}: {system['given_as']}"
        facts.append(("system", f"{_text(words)}<br><code>SHA-256 of the weights {_text(system['sha256'])}</code>"))
    facts.append(("protocol", _text(result.protocol.name)))
    for name, value in result.protocol.settings.items():
        facts.append((name.replace("_", " "), _text(value)))
    facts.append(("seed", _text(f"{result.seed} ({result.resamples} resamples of the speakers)")))
    for name, value in known.items():
        if value is not None:
            facts.append((name.replace("_", " ").replace("sha256", "SHA-256"), _text(value)))
    return "<dl>" + "".join(f"<dt>{_text(name)}</dt><dd>{value}</dd>" for name, value in facts) + "</dl>"
