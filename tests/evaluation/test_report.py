"""Tables and plots."""

from __future__ import annotations

import csv
import io
import itertools
import json
import sys
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mrl.errors import InputError, MissingDependencyError
from mrl.evaluation import (
    EvaluationResult,
    SystemEmbeddings,
    csv_table,
    evaluate_systems,
    figures_table,
    plot_eer_by_dim,
    summary_table,
    write_report,
)
from mrl.scoring import error_curve
from mrl.trials import TrialList
from tests.embeddings.fakes import all_pairs


def make_result(bootstrap: int = 100) -> EvaluationResult:
    """Two systems of noisy speaker vectors, 256 and 192 dimensions."""
    random = np.random.default_rng(0)
    trials = TrialList.from_pairs(all_pairs([f"s{s}/{u}" for s in range(14) for u in range(5)]), source="lists/made-up.txt")
    spread = 0.985 ** np.arange(256)
    voices = np.repeat(random.standard_normal((14, 256)), 5, axis=0)
    matrix = (voices + 1.6 * random.standard_normal((70, 256))) * spread
    backbone = (matrix @ np.linalg.qr(random.standard_normal((256, 256)))[0])[:, :192]
    dims = (16, 32, 64, 128, 192, 256)
    systems = [SystemEmbeddings("matryoshka", matrix, dims), SystemEmbeddings("unmodified backbone", backbone, dims[:-1])]
    return evaluate_systems(systems, trials, bootstrap=bootstrap, reference=("unmodified backbone", 192))


@pytest.fixture(scope="module")
def result() -> EvaluationResult:
    return make_result()


def test_markdown_holds_every_row_and_says_what_the_figures_are(result: EvaluationResult) -> None:
    lines = figures_table(result).markdown().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert {len(row) for row in rows} == {9}
    assert [row[:3] for row in rows[2:4]] == [["matryoshka", "16", "64"], ["matryoshka", "32", "128"]]
    assert len(rows) == 2 + 11
    figures = result.system().at(16)
    interval = figures.equal_error_rate_interval
    assert interval is not None
    assert rows[2][3] == f"{100 * figures.equal_error_rate:.2f} [{100 * interval.low:.2f}, {100 * interval.high:.2f}]"
    assert rows[-1][7] == "reference"
    text = "\n".join(lines)
    for phrase in ("14 speakers", "bootstrap over speakers (100 resamples", "raw cosines", "interpolated", "2,415 trials"):
        assert phrase in text


def test_without_intervals_no_column_is_left_empty() -> None:
    table = figures_table(make_result(bootstrap=0)).markdown()
    assert " [" not in table.replace("in [-1, 1]", "") and "bootstrap" not in table and "minus reference" not in table


def test_terminal_table_shows_the_same_figures(result: EvaluationResult) -> None:
    stream = io.StringIO()
    Console(file=stream, width=170).print(figures_table(result).terminal())
    text = stream.getvalue()
    for figures in result.system().figures:
        assert f"{100 * figures.equal_error_rate:.2f} [" in text
    assert text.count("unmodified backbone") >= 5
    assert "[low, high]: 95 % interval" in text


def test_csv_is_exact(result: EvaluationResult) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_table(result))))
    assert len(rows) == 11
    for row in rows:
        figures = result.system(row["system"]).at(int(row["dim"]))
        assert float(row["eer"]) == figures.equal_error_rate
        assert float(row["min_dcf_0.05"]) == figures.minimum_dcf[0.05]
        assert float(row["threshold_at_eer"]) == figures.threshold
        assert (
            float(row["roc_auc"])
            == figures.area_under_curve
            == error_curve(result.scores[row["system"], figures.dim], result.labels).area_under_curve()
        )
    assert rows[-1]["eer_minus_reference"] == "" and rows[0]["eer_minus_reference"] != ""


def test_columns_of_the_files_that_other_programs_read(result: EvaluationResult, tmp_path: Path) -> None:
    """Columns may be added at the end; those that are there stay, in this order."""
    write_report(result, tmp_path, plots=False)
    columns = (
        "system,dim,bytes_float32,eer,eer_low,eer_high,eer_convex_hull,threshold_at_eer,min_cllr_bits,"
        "min_dcf_0.01,min_dcf_0.01_low,min_dcf_0.01_high,min_dcf_0.05,min_dcf_0.05_low,min_dcf_0.05_high,"
        "true_accept_rate_at_far_0.01,true_accept_rate_at_far_0.001,act_dcf_0.01,act_dcf_0.05,"
        "calibrated_cllr_bits,calibrated_min_cllr_bits,calibration,"
        "eer_minus_reference,eer_minus_reference_low,eer_minus_reference_high,eer_minus_reference_p,"
        "eer_minus_reference_at_same_dim,eer_minus_reference_at_same_dim_low,eer_minus_reference_at_same_dim_high,"
        "eer_minus_reference_at_same_dim_p"
    )
    assert (tmp_path / "table.csv").read_text().splitlines()[0].startswith(columns)
    headings = "| system | dim | bytes | EER % | minDCF 0.01 | minDCF 0.05 | cosine at EER | EER minus reference | p |"
    assert (tmp_path / "table.md").read_text().splitlines()[:2] == [headings, "|---|---:|---:|---:|---:|---:|---:|---:|---:|"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report) == ["provenance", "trial_list", "protocol", "intervals", "reference", "systems", "strata"]
    keys = (
        "dim bytes_float32 eer eer_interval eer_convex_hull threshold_at_eer min_dcf min_cllr_bits "
        "true_accept_rate_at_false_accept_rate calibrated eer_minus_reference eer_minus_reference_at_same_dim roc_auc"
    )
    assert set(keys.split()) <= set(report["systems"][0]["dims"][0])


def test_report_folder(result: EvaluationResult, tmp_path: Path) -> None:
    files = write_report(result, tmp_path / "new" / "folder")
    assert sorted(path.name for path in (tmp_path / "new/folder").iterdir()) == sorted(path.name for path in files)
    assert json.loads(files[0].read_text()) == json.loads(json.dumps(result.to_dict()))
    assert (tmp_path / "new/folder/eer_by_dim.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_everything_but_the_plots_is_written(
    result: EvaluationResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    files = write_report(result, tmp_path)
    assert [path.name for path in files] == ["report.json", "table.md", "table.csv", "report.html"]
    page = files[-1].read_text()
    assert "<img" not in page and "<h2>Error rate at every length</h2>" in page and "<table>" in page
    assert 'pip install "redimnet-mrl[plots]"' in caplog.text


def test_plot_shows_both_systems_and_all_dims_as_text(result: EvaluationResult, tmp_path: Path) -> None:
    plot_eer_by_dim(result, tmp_path / "a.svg", tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    root = xml.etree.ElementTree.parse(tmp_path / "a.svg").getroot()
    texts = {"".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"16", "32", "64", "128", "192", "256", "matryoshka", "equal error rate (%)"} <= texts
    rate = 100 * result.system("unmodified backbone").at(192).equal_error_rate
    assert f"unmodified backbone, all 192 dimensions: {rate:.2f} %" in texts


def test_labels_do_not_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many neighbouring dims: the numbers on the axis still stand apart, and the legend covers no point."""
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    savefig = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), savefig(self, *a, **k)))
    random = np.random.default_rng(1)
    trials = TrialList.from_pairs(all_pairs([f"s{s}/{u}" for s in range(6) for u in range(3)]))
    dims = (16, 17, 30, 32, 60, 64, 128, 190, 192, 200, 255, 256)
    plot_eer_by_dim(
        evaluate_systems([SystemEmbeddings("a", random.standard_normal((18, 256)), dims)], trials, bootstrap=0),
        tmp_path / "a.png",
    )
    plot_eer_by_dim(make_result(), tmp_path / "b.png")
    for figure in drawn:
        axes = figure.axes[0]
        boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
        assert all(left.x1 + 2 < right.x0 for left, right in itertools.pairwise(boxes))
        legend = axes.get_legend().get_window_extent()
        points = np.concatenate(
            [axes.transData.transform(line.get_xydata()) for line in axes.lines if len(line.get_xydata()) > 2]
        )
        assert not any(legend.contains(x, y) for x, y in points)


def test_no_global_state_of_pyplot_is_touched(result: EvaluationResult, tmp_path: Path) -> None:
    import sys

    before = "matplotlib.pyplot" in sys.modules
    plot_eer_by_dim(result, tmp_path / "a.png")
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_unknown_suffix_and_no_matplotlib(result: EvaluationResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"expected \.png, \.svg or \.pdf"):
        plot_eer_by_dim(result, tmp_path / "a.docx")
    assert not list(tmp_path.iterdir())
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"redimnet-mrl\[plots\]"):
        plot_eer_by_dim(result, tmp_path / "a.png")


def test_summary_has_a_row_per_system_and_a_column_per_dim(result: EvaluationResult) -> None:
    table = summary_table(result)
    dims = sorted({dim for system in result.systems for dim in system.dims})
    assert table.headings == ("EER %", *map(str, dims))
    assert [row[0] for row in table.rows] == [system.name for system in result.systems]
    for system, row in zip(result.systems, table.rows, strict=True):
        rates = {figures.dim: f"{100 * figures.equal_error_rate:.2f}" for figures in system.figures}
        assert row[1:] == tuple(rates.get(dim, "–") for dim in dims)
