"""Error rates and recall of every storage format."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mrl.embeddings import save_embeddings
from mrl.embeddings.compact import EMBEDDING_FORMATS, EmbeddingFormat, bytes_per_embedding, encode_embeddings, encoded_cosines
from mrl.errors import DataError, InputError
from mrl.evaluation import (
    QuantisationResult,
    evaluate_embeddings,
    measure_formats,
    quantisation_table,
    quantise_spec,
    write_quantisation_report,
)
from mrl.evaluation.storage import score_encoded
from mrl.scoring import equal_error_rate
from mrl.trials import TrialList
from tests.embeddings.fakes import all_pairs

DIMS = (8, 20, 64)


def _voices(num_speakers: int = 14) -> tuple[TrialList, np.ndarray]:
    """Noisy speaker vectors whose numbers shrink from the first to the last, and all pairs of them."""
    random = np.random.default_rng(0)
    names = [f"s{speaker}/{number}" for speaker in range(num_speakers) for number in range(5)]
    trials = TrialList.from_pairs(all_pairs(names), source="lists/made-up.txt")
    voices = np.repeat(random.standard_normal((num_speakers, 64)), 5, axis=0)
    matrix = (voices + 1.5 * random.standard_normal((5 * num_speakers, 64))) * 0.97 ** np.arange(64)
    return trials, matrix.astype(np.float32)


@pytest.fixture(scope="module")
def result() -> QuantisationResult:
    trials, matrix = _voices()
    return measure_formats(matrix, trials, DIMS, bootstrap=100, seed=4)


@pytest.mark.parametrize("form", EMBEDDING_FORMATS)
@pytest.mark.parametrize("dim", [1, 20, 64])
def test_scores_of_trials_are_the_cosines_of_what_is_stored(form: EmbeddingFormat, dim: int) -> None:
    trials, matrix = _voices()
    encoded = encode_embeddings(matrix[:, :dim], form)
    scores = score_encoded(encoded, form, dim, trials)
    expected = encoded_cosines(encoded, encoded, form, dim)[trials.enrol, trials.test]
    np.testing.assert_allclose(scores, expected, atol=3e-7)
    if form == "binary":
        np.testing.assert_array_equal(scores, expected)
        assert len(np.unique(scores)) <= dim + 1
    with pytest.raises(InputError, match="bytes"):
        score_encoded(encoded[:-1], form, dim, trials)


def test_float32_is_what_an_evaluation_finds(result: QuantisationResult) -> None:
    trials, matrix = _voices()
    whole = evaluate_embeddings(trials.utterances, matrix, trials, DIMS, bootstrap=100, seed=4).system()
    for dim in DIMS:
        found, expected = result.at("float32", dim).figures, whole.at(dim)
        assert found.equal_error_rate == pytest.approx(expected.equal_error_rate, abs=1e-3)
        assert found.equal_error_rate_interval is not None and expected.equal_error_rate_interval is not None
        assert found.equal_error_rate_interval.low == pytest.approx(expected.equal_error_rate_interval.low, abs=2e-3)


def test_every_combination_has_its_own_figures(result: QuantisationResult) -> None:
    trials, matrix = _voices()
    assert [(row.form, row.dim) for row in result.rows] == [(form, dim) for form in EMBEDDING_FORMATS for dim in DIMS]
    for row in result.rows:
        encoded = encode_embeddings(matrix[:, : row.dim], row.form)
        cosines = encoded_cosines(encoded, encoded, row.form, row.dim)[trials.enrol, trials.test]
        assert row.figures.equal_error_rate == pytest.approx(equal_error_rate(cosines, trials.labels), abs=1e-3)
        assert row.bytes_per_voice == encoded.shape[1] == bytes_per_embedding(row.form, row.dim)
        base = result.at("float32", row.dim).figures.equal_error_rate
        assert row.relative_to_float32 == pytest.approx(row.figures.equal_error_rate / base - 1)
        versus = row.figures.versus_same_dim
        if row.form != "float32":
            assert versus is not None
            assert versus.difference == pytest.approx(row.figures.equal_error_rate - base)
    assert abs(result.at("int8", 64).relative_to_float32 or 0) < 0.02
    assert result.at("binary", 8).figures.equal_error_rate > 1.2 * result.at("float32", 8).figures.equal_error_rate


def test_the_best_for_their_bytes(result: QuantisationResult) -> None:
    for row in result.rows:
        beaten = [
            other
            for other in result.rows
            if other.bytes_per_voice <= row.bytes_per_voice
            and other.figures.equal_error_rate <= row.figures.equal_error_rate
            and (other.bytes_per_voice, other.figures.equal_error_rate) != (row.bytes_per_voice, row.figures.equal_error_rate)
        ]
        assert row.is_best_for_its_bytes == (not beaten)


def test_recall_against_bytes(result: QuantisationResult) -> None:
    assert result.closed_set is not None and len(result.closed_set.enrolled) == 14
    for row in result.rows:
        first, tenth = row.recall[1], row.recall[10]
        assert first is not None and tenth is not None and first.interval is not None
        assert 0 < first.value <= tenth.value <= 1
    worst, best = result.at("binary", 8).recall[1], result.at("float32", 64).recall[1]
    assert worst is not None and best is not None and worst.value < best.value


def test_the_same_seed_gives_the_same_and_another_enrols_others() -> None:
    trials, matrix = _voices()
    one, same, other = (measure_formats(matrix, trials, [20], bootstrap=0, seed=seed) for seed in (1, 1, 2))
    assert one.rows == same.rows
    assert one.at("int8", 20).recall != other.at("int8", 20).recall
    assert one.at("int8", 20).figures == other.at("int8", 20).figures


def test_tables_say_the_same(result: QuantisationResult, tmp_path: Path) -> None:
    write_quantisation_report(result, tmp_path, plots=False)
    markdown = (tmp_path / "table.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 12 and {len(row) for row in rows} == {11}
    csv_rows = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    stream = io.StringIO()
    Console(file=stream, width=220).print(quantisation_table(result).terminal())
    for cells, line, row in zip(rows[2:], csv_rows, result.rows, strict=True):
        figures = row.figures
        assert cells[:3] == [row.form, str(row.dim), f"{row.bytes_per_voice}{' *' if row.is_best_for_its_bytes else ''}"]
        assert cells[3].startswith(f"{100 * figures.equal_error_rate:.2f} [") and cells[3] in stream.getvalue()
        assert (line["format"], int(line["dim"]), int(line["bytes"])) == (row.form, row.dim, row.bytes_per_voice)
        assert float(line["eer"]) == figures.equal_error_rate and float(line["min_dcf_0.05"]) == figures.minimum_dcf[0.05]
        recall = row.recall[10]
        assert recall is not None and float(line["recall_at_10"]) == recall.value
        assert cells[10].startswith(f"{100 * recall.value:.1f} [")
    for phrase in ("14 speakers", "drawn with seed 4", "100 resamples", "other 56 are queries", "2,415 trials"):
        assert phrase in markdown


def test_the_report_of_a_file_of_embeddings(tmp_path: Path) -> None:
    trials, matrix = _voices()
    save_embeddings(tmp_path / "e.npz", trials.utterances, matrix, {"model": "made up"})
    found = quantise_spec(str(tmp_path / "e.npz"), trials, None, dims=DIMS, bootstrap=100, seed=4, command=["mrl"])
    assert found is not None
    files = write_quantisation_report(found, tmp_path / "report")
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == sorted(path.name for path in files)
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["identification"] == {"enrolled": 14, "queries": 56, "seed": 4}
    assert [row["eer"] for row in report["rows"]] == [row.figures.equal_error_rate for row in found.rows]
    assert report["provenance"]["embeddings_metadata"] == {"model": "made up"} and report["intervals"]["resamples"] == 100
    assert (tmp_path / "report" / "eer_by_bytes.png").read_bytes().startswith(b"\x89PNG")
    text = "".join(xml.etree.ElementTree.parse(tmp_path / "report" / "eer_by_bytes.svg").getroot().itertext())
    for phrase in (*EMBEDDING_FORMATS, "bytes of one voice", "equal error rate (%)", "made-up.txt"):
        assert phrase in text
    with pytest.raises(InputError, match="root does not go with"):
        quantise_spec(str(tmp_path / "e.npz"), trials, tmp_path, bootstrap=0)


def test_unknown_speakers_leave_out_what_needs_them() -> None:
    trials, matrix = _voices()
    flat = TrialList(tuple(name.replace("/", "-") for name in trials.utterances), trials.enrol, trials.test, trials.labels, "x")
    found = measure_formats(matrix, flat, [64], bootstrap=100)
    assert found.closed_set is None and found.evaluation.resamples == 0 and found.at("int8", 64).recall == {}
    assert "No intervals and no identification: cannot tell the speaker" in found.notes[0]
    table = quantisation_table(found).markdown()
    assert found.notes[0] in table and "recall@1" not in table
    known = dict(zip(flat.utterances, (name.split("/")[0] for name in trials.utterances), strict=True))
    assert measure_formats(matrix, flat, [64], bootstrap=0, speakers=known).closed_set is not None
    with pytest.raises(DataError, match="70 of 70 utterances have no speaker"):
        measure_formats(matrix, flat, [64], bootstrap=0, speakers={"a": "b"})


def test_few_speakers_have_no_intervals_and_recall_only_where_it_means_something() -> None:
    trials, matrix = _voices(num_speakers=4)
    found = measure_formats(matrix, trials, [64], bootstrap=100)
    assert found.evaluation.resamples == 0 and "4 speakers" in found.notes[0]
    recall = found.at("float32", 64).recall
    assert recall[1] is not None and recall[1].interval is None and recall[10] is None


def test_damaged_embeddings_are_named() -> None:
    trials, matrix = _voices()
    matrix[3, 5] = np.nan
    with pytest.raises(DataError, match="'s0/3'"):
        measure_formats(matrix, trials, DIMS)
    matrix[3] = 0
    with pytest.raises(DataError, match="all zero"):
        measure_formats(matrix, trials, DIMS)
    with pytest.raises(InputError, match="utterances, dim"):
        measure_formats(matrix[1:], trials, DIMS)
