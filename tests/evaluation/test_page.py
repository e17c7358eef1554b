"""The page: everything inside, everything escaped, pictures that can be read."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from mrl.evaluation import EvaluationResult, SystemEmbeddings, evaluate_systems, html_report, markdown_report, write_report
from mrl.evaluation.plots import det_figure, det_keys, eer_by_bytes_figure, eer_by_dim_figure, score_figure, strata_figure
from mrl.evaluation.strata import figures_of_condition, figures_of_strata, strata_of_column
from mrl.evaluation.tables import comparison_table, strata_groups, strata_summary
from mrl.trials import TrialList
from tests.embeddings.fakes import all_pairs

NASTY = '<script>alert("1")</script> & "x" \'y\''


class Page(HTMLParser):
    """Collects tags with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def make_result(names: tuple[str, ...] = ("mine", "theirs", "backbone")) -> EvaluationResult:
    random = np.random.default_rng(0)
    utterances = [f"s{s:02d}/{u}" for s in range(12) for u in range(4)]
    trials = TrialList.from_pairs(all_pairs(utterances), source="lists/list.txt")
    voices = np.repeat(random.standard_normal((12, 64)), 4, axis=0)
    matrices = {name: voices + (1.5 + 0.4 * place) * random.standard_normal((48, 64)) for place, name in enumerate(names)}
    systems = [SystemEmbeddings(name, matrix, (8, 16, 32, 64)) for name, matrix in matrices.items()]
    provenance = {"command": ["mrl", "evaluate", names[0], "--root", "a b"], "systems": [], "data_root": names[0]}
    result = evaluate_systems(systems, trials, bootstrap=100, reference=(names[-1], 64), provenance=provenance)
    gender = {name: "fm"[int(name[1:3]) % 2] for name in utterances}
    pairs = {
        name: (np.float32(matrix), np.float32(matrix + random.standard_normal((48, 64)))) for name, matrix in matrices.items()
    }
    strata = (
        *figures_of_condition(result, trials, "noise on the test side", "SNR 0 dB", pairs, note=f"a note {names[0]}"),
        *figures_of_strata(result, trials, strata_of_column(trials, "gender", gender)),
    )
    return EvaluationResult(**{**vars(result), "strata": strata})


@pytest.fixture(scope="module")
def result() -> EvaluationResult:
    return make_result()


@pytest.fixture(scope="module")
def page(result: EvaluationResult) -> Page:
    return Page(html_report(result))


def test_the_page_needs_nothing_else(page: Page) -> None:
    tags = [tag for tag, _ in page.tags]
    assert "script" not in tags and "link" not in tags and "iframe" not in tags
    references = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert len(references) == 6  # rate by dim, DET, bytes, scores, two groups of strata
    assert all(str(value).startswith("data:image/svg+xml;base64,") for value in references)
    assert all(attributes["alt"] for tag, attributes in page.tags if tag == "img")
    assert tags.count("details") == 2


def test_the_pictures_are_svg_without_outside_references(page: Page) -> None:
    for tag, attributes in page.tags:
        if tag == "img":
            svg = base64.b64decode(str(attributes["src"]).partition(",")[2]).decode()
            xml.etree.ElementTree.fromstring(svg)
            assert not re.search(r'href="(?!#)', svg)


def test_figures_and_what_is_needed_to_repeat_are_there(page: Page, result: EvaluationResult) -> None:
    for system in result.systems:
        for figures in system.figures:
            assert f"{100 * figures.equal_error_rate:.2f} [" in page.text
    for stratum in result.strata:
        if stratum.equal_error_rate is not None:
            assert f"{100 * stratum.equal_error_rate:.2f}" in page.text
    for words in ("mrl evaluate mine --root 'a b'", "seed", "hardware", "torch", "100 resamples", "f–m", "a note mine"):
        assert words in page.text
    versus = result.system("mine").at(16).versus_same_dim
    assert versus is not None
    change = 100 * versus.difference / result.system("backbone").at(16).equal_error_rate
    assert f"{change:+.1f} %".replace("-", "−") in page.text
    assert versus.difference == pytest.approx(
        result.system("mine").at(16).equal_error_rate - result.system("backbone").at(16).equal_error_rate
    )


def test_names_from_outside_are_escaped() -> None:
    text = html_report(make_result((NASTY, "b")))
    assert "<script" not in text.lower()
    page = Page(text)
    assert NASTY in page.text
    assert {tag for tag, _ in page.tags} <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "div", "figure", "img", "figcaption"),
        *("table", "thead", "tr", "th", "td", "dl", "dt", "dd", "code", "br", "details", "summary"),
    }


def test_the_same_result_gives_the_same_page(result: EvaluationResult) -> None:
    assert html_report(result) == html_report(result)


def test_the_page_is_written_beside_the_rest(result: EvaluationResult, tmp_path: Path) -> None:
    files = {path.name for path in write_report(result, tmp_path)}
    assert {"report.html", "strata.csv", "table.md"} <= files == {path.name for path in tmp_path.iterdir()}
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == html_report(result)
    lines = (tmp_path / "strata.csv").read_text().splitlines()
    assert len(lines) == 1 + len(result.strata) == 1 + 3 * 4 * 4
    report = markdown_report(result)
    assert "| gender | system |" in report and "against backbone, same dim" in report
    compared = comparison_table(result)
    assert compared is not None and len(compared.rows) == 12
    assert [len(strata_summary(result, group).rows) for group in strata_groups(result)] == [6, 12]


def _figures(result: EvaluationResult) -> list[Any]:
    figures = [function(result) for function in (eer_by_dim_figure, eer_by_bytes_figure, det_figure, score_figure)]
    return [*figures, strata_figure(result, "gender"), strata_figure(result, "noise on the test side")]


@pytest.mark.parametrize("names", [("mine", "backbone"), ("m" * 45, "another one", "third", "fourth", "unmodified backbone")])
def test_labels_do_not_overlap(names: tuple[str, ...]) -> None:
    for figure in _figures(make_result(names)):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        for axes in figure.axes:
            if not axes.get_visible():
                continue
            for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
                boxes = [label.get_window_extent(renderer) for label in labels if label.get_text()]
                for number, box in enumerate(boxes):
                    assert not any(box.overlaps(other) for other in boxes[number + 1 :])
        for legend in figure.legends:
            box = legend.get_window_extent(renderer)
            assert not any(box.overlaps(axes.get_window_extent(renderer)) for axes in figure.axes if axes.get_visible())


def test_det_shows_the_equal_error_rate_on_the_diagonal(result: EvaluationResult) -> None:
    keys = det_keys(result)
    assert keys[-1] == ("backbone", 64) and ("mine", 8) in keys and ("theirs", 64) in keys
    axes = det_figure(result, [("mine", 64)]).axes[0]
    curve, dot = axes.lines[0], axes.lines[1]
    assert dot.get_xdata()[0] == dot.get_ydata()[0]
    from statistics import NormalDist

    rate = result.system("mine").at(64).equal_error_rate
    assert NormalDist().cdf(float(dot.get_xdata()[0])) == pytest.approx(rate, abs=1e-9)
    x, y = np.array(curve.get_xdata()), np.array(curve.get_ydata())
    assert (np.diff(x) <= 0).all() and (np.diff(y) >= 0).all()


def test_a_group_without_rates_has_no_picture(result: EvaluationResult) -> None:
    mixed = tuple(one for one in result.strata if one.name == "f–m")
    assert strata_figure(EvaluationResult(**{**vars(result), "strata": mixed}), "gender") is None
