"""Figures in the pages are those of the registry, so that a correction in one place cannot be forgotten in the other."""

from __future__ import annotations

import json
import re

import pytest

from mrl.pretrained import PretrainedCheckpoint, find_by_name, list_pretrained
from tests.docs.markdown import ROOT

REFERENCE = ROOT / "docs" / "reference"
GUIDE = (REFERENCE / "pretrained-models.md").read_text(encoding="utf-8")
CHOICE = (ROOT / "docs" / "how-to" / "choose-a-model.md").read_text(encoding="utf-8")
SECOND = (REFERENCE / "redimnet2.md").read_text(encoding="utf-8")
FIRST_GENERATION = [checkpoint for checkpoint in list_pretrained() if checkpoint.family == "redimnet"]


def _row(model_name: str) -> list[str]:
    line = re.search(rf"^\| {model_name} \|(.*)\|$", GUIDE, re.MULTILINE)
    assert line, f"no row for {model_name}"
    return [cell.strip() for cell in line[1].split("|")]


def _number(cell: str) -> float | None:
    return None if cell == "–" else float(cell.strip("~M").replace(",", "")) * (1e6 if cell.endswith("M") else 1.0)


@pytest.mark.parametrize("model_name", sorted({checkpoint.model_name for checkpoint in FIRST_GENERATION}))
def test_the_table_of_networks(model_name: str) -> None:
    checkpoint = find_by_name(model_name)
    parameters, published_parameters, gmacs, original, extended, hard = _row(model_name)
    assert _number(parameters) == checkpoint.num_parameters
    if checkpoint.num_parameters is not None:
        assert parameters.startswith("~") is not checkpoint.num_parameters_exact
    assert _number(published_parameters) == checkpoint.paper_parameters
    assert _number(gmacs) == checkpoint.paper_gmacs
    assert checkpoint.eer is not None
    found = tuple(map(_number, (original, extended, hard)))
    assert found == (checkpoint.eer.original, checkpoint.eer.extended, checkpoint.eer.hard)


def test_figures_in_sentences() -> None:
    assert f"These {len(FIRST_GENERATION)} combinations are all there are" in GUIDE
    assert {(checkpoint.train_type, checkpoint.dataset) for checkpoint in FIRST_GENERATION} == {
        ("ptn", "vox2"),
        ("ft_lm", "vox2"),
        ("ptn", "vb2"),
        ("ft_mix", "vb2+vox2+cnc"),
    }
    medium = dict(find_by_name("M").other_eers)
    named = ", ".join(f"{test_set} {medium[test_set]:.3f}" for test_set in ("SITW", "VOiCES", "CN-Celeb"))
    assert f"Published for M: {named}." in " ".join(CHOICE.split())
    second = dict(find_by_name("redimnet2-b6-vb2+vox2+cnc2_v0-lm").other_eers)
    named = ", ".join(f"{test_set} {second[test_set]:.2f}" for test_set in ("SITW", "VOiCES", "CN-Celeb"))
    assert f"For redimnet2-b6 with `vb2+vox2+cnc2_v0`: {named}." in " ".join(CHOICE.split())
    times_b2 = {name: round(_gmacs(name) / _gmacs("b2")) for name in ("b5", "b6", "b3")}
    assert times_b2 == {"b5": 11, "b6": 23, "b3": 3} and "about 11 and 23 times the operations of b2" in CHOICE
    rates = {item.model_name: item.eer for item in FIRST_GENERATION if item.dataset == "vox2" and item.eer is not None}
    lower = [model_name for model_name, eer in rates.items() if eer.original < 0.6]
    assert lower == ["b2", "b3", "b4", "b5", "b6"] and "on Vox1-O, b2 to b6 are published below 0.6 %" in " ".join(CHOICE.split())


def test_non_commercial_weights_are_named() -> None:
    restricted = {checkpoint.model_name for checkpoint in FIRST_GENERATION if checkpoint.non_commercial}
    assert restricted == {"S", "M"}
    licences: dict[bool, set[str]] = {
        flag: {checkpoint.licence for checkpoint in list_pretrained() if checkpoint.non_commercial is flag}
        for flag in (True, False)
    }
    assert licences == {True: {"CC-BY-NC-SA-4.0"}, False: {"CC-BY-4.0"}}
    assert "| S and M (`vb2` in the data set) | CC-BY-NC-SA-4.0 |" in GUIDE
    assert "| b0 to b6 (`vox2`) | treated as CC-BY-4.0 |" in GUIDE


def test_the_table_of_the_second_generation() -> None:
    rows = re.findall(r"^\| (redimnet2-\S+) `(\S+)`, (\S+)( \*)? \|(.*)\|$", SECOND, re.MULTILINE)
    assert len(rows) == 10
    for model_name, train_type, dataset, star, cells in rows:
        checkpoint = find_by_name(f"{model_name}-{dataset}-{train_type}")
        assert checkpoint.non_commercial is bool(star)
        assert checkpoint.eer is not None
        published = (checkpoint.eer.original, checkpoint.eer.extended, checkpoint.eer.hard)
        assert tuple(float(cell) for cell in cells.split("|")[2:5]) == published, model_name


def test_the_table_of_both_generations() -> None:
    """Rates of the registry beside the times that were measured."""
    measured = json.loads((ROOT / "docs" / "results" / "speed" / "sizes.json").read_text(encoding="utf-8"))
    times = {row["model"]: row["median_ms"] for row in measured["rows"]}
    for size in (f"b{number}" for number in range(7)):
        cells = []
        for name in (size, f"redimnet2-{size}"):
            eer = find_by_name(name).eer
            assert eer is not None
            cells += [f"{times[name]:.0f}", f"{eer.original:.2f} / {eer.hard:.2f}"]
        assert f"| {size} | {' | '.join(cells)} |" in CHOICE, (size, cells)


def test_the_table_of_speed_of_the_second_generation() -> None:
    files = sorted((ROOT / "docs" / "results" / "speed").glob("redimnet2-*.json"))
    rows = [row for file in files for row in json.loads(file.read_text(encoding="utf-8"))["rows"]]
    assert len(rows) >= 9
    for row in rows:
        if row["form"] == "official":
            start = f"| {row['model']} | {row['batch']} × {row['seconds']:g} | {row['rounds']} |"
            assert SECOND.count(start) == 1
        else:
            line = SECOND.partition(start)[2].partition("\n")[0]
            assert f"{row['processor_time_ratio']:.2f} ({row['ratio']:.2f})" in line


def _gmacs(model_name: str) -> float:
    checkpoint: PretrainedCheckpoint = find_by_name(model_name)
    assert checkpoint.paper_gmacs is not None
    return checkpoint.paper_gmacs
