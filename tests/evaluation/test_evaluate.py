"""From a network and a list to figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mrl.audio import load_audio
from mrl.embeddings import embed_files
from mrl.errors import DataError, InputError
from mrl.evaluation import SystemEmbeddings, evaluate_embeddings, evaluate_model, evaluate_systems
from mrl.scoring import equal_error_rate, minimum_dcf, score_prefixes
from mrl.trials import TrialList
from tests.embeddings.fakes import SpectrumBackbone, SpectrumMatryoshka, all_pairs, write_corpus


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return folder


@pytest.fixture(scope="module")
def trials() -> TrialList:
    return TrialList.from_pairs(all_pairs([f"speaker{s}/{u}.wav" for s in range(6) for u in range(3)]))


def test_a_matryoshka_model_beside_its_backbone_from_one_pass(root: Path, trials: TrialList) -> None:
    model = SpectrumMatryoshka()
    result = evaluate_model(model, trials, root, bootstrap=100, seed=3, batch_seconds=1.0)
    assert [(system.name, system.dims) for system in result.systems] == [
        ("matryoshka", (4, 8, 16)),
        ("unmodified backbone", (4, 8, 12)),
    ]
    assert sum(len(batch) for batch in model.backbone.batches) == 18  # each utterance once, for both systems
    assert result.reference == ("unmodified backbone", 12)
    waveforms = [load_audio(path) for path in trials.paths(root)]
    model.eval()
    matrix = model.project(model.pooled_statistics(waveforms)).detach().numpy()
    for dim, scores in score_prefixes(matrix, trials, (4, 8, 16)).items():
        figures = result.system().at(dim)
        np.testing.assert_allclose(result.scores["matryoshka", dim], scores, atol=1e-5)
        assert figures.equal_error_rate == pytest.approx(equal_error_rate(scores, trials.labels), abs=1e-9)
        assert figures.minimum_dcf[0.05] == pytest.approx(minimum_dcf(scores, trials.labels, 0.05), abs=1e-9)
        assert figures.equal_error_rate_interval is not None
        assert figures.equal_error_rate_interval.low <= figures.equal_error_rate_interval.high
        assert figures.versus_reference is not None
        baseline = result.system("unmodified backbone").at(12).equal_error_rate
        assert figures.versus_reference.difference == figures.equal_error_rate - baseline
    assert result.system("unmodified backbone").at(12).versus_reference is None
    assert result.trial_list.speakers == 6
    assert 0 < result.system().at(16).equal_error_rate < 0.4  # the tones can be told apart, but not perfectly


def test_batching_and_seed_do_not_change_figures(root: Path, trials: TrialList) -> None:
    model = SpectrumMatryoshka()
    first = evaluate_model(model, trials, root, bootstrap=100, batch_seconds=0.2, num_workers=0)
    second = evaluate_model(model, trials, root, bootstrap=100, batch_seconds=50.0, num_workers=3)
    other_seed = evaluate_model(model, trials, root, bootstrap=100, seed=1)
    assert first.equal_error_rates() == pytest.approx(second.equal_error_rates(), abs=1e-9)
    assert first.equal_error_rates() == pytest.approx(other_seed.equal_error_rates(), abs=1e-9)
    assert first.system().at(4).equal_error_rate_interval != other_seed.system().at(4).equal_error_rate_interval


def test_names_say_whether_the_backbone_was_trained_and_a_baseline_gets_its_own_pass(root: Path, trials: TrialList) -> None:
    model, published = SpectrumMatryoshka(), SpectrumBackbone()
    model.backbone_is_unmodified = False
    assert evaluate_model(model, trials, root, bootstrap=0).systems[1].name == "own backbone (trained)"
    result = evaluate_model(model, trials, root, bootstrap=0, baseline=published, dims=[8])
    assert [(system.name, system.dims) for system in result.systems] == [("matryoshka", (8,)), ("baseline", (8, 12))]
    assert sum(len(batch) for batch in published.batches) == 18
    alone = evaluate_model(model, trials, root, bootstrap=0, baseline=None)
    assert len(alone.systems) == 1 and alone.reference is None


def test_a_plain_backbone_is_measured_at_prefixes_of_its_embedding(root: Path, trials: TrialList) -> None:
    result = evaluate_model(SpectrumBackbone(), trials, root, bootstrap=0)
    assert [(system.name, system.dims) for system in result.systems] == [("backbone", (12,))]
    matrix = embed_files(SpectrumBackbone(), trials.paths(root)).matrix
    foreign = evaluate_embeddings(trials.utterances, matrix, trials, [3, 12], bootstrap=0)
    assert foreign.equal_error_rates()[12] == pytest.approx(result.equal_error_rates()[12], abs=1e-9)
    figures = foreign.system().at(3)
    assert figures.equal_error_rate_interval is None and figures.minimum_dcf_intervals == {}
    assert foreign.trial_list.speakers is None


def test_foreign_embeddings_in_another_order_with_more_rows(root: Path, trials: TrialList) -> None:
    matrix = embed_files(SpectrumBackbone(), trials.paths(root)).matrix
    order = np.random.default_rng(0).permutation(18)
    ids = [trials.utterances[row] for row in order]
    extra = np.vstack([matrix[order], np.zeros((1, 12), np.float32)])
    shuffled = evaluate_embeddings([*ids, "unused"], extra, trials, bootstrap=0)
    straight = evaluate_embeddings(trials.utterances, matrix, trials, bootstrap=0)
    assert shuffled.systems == straight.systems
    with pytest.raises(DataError, match="have no embedding"):
        evaluate_embeddings(ids[:-2], matrix[order][:-2], trials, bootstrap=0)


def test_missing_and_unreadable_files_are_counted(root: Path, trials: TrialList, tmp_path: Path) -> None:
    write_corpus(tmp_path)
    (tmp_path / "speaker0/0.wav").write_text("not audio")
    (tmp_path / "speaker3/2.wav").write_bytes((tmp_path / "speaker3/2.wav").read_bytes()[:300])
    with pytest.raises(DataError, match=r"2 of 18 recordings cannot be used: .*speaker0/0\.wav.*speaker3/2\.wav"):
        evaluate_model(SpectrumBackbone(), trials, tmp_path)
    (tmp_path / "speaker1/1.wav").unlink()
    (tmp_path / "speaker5/1.wav").unlink()
    with pytest.raises(DataError, match=r"2 of 18 utterances .* the first is 'speaker1/1\.wav'"):
        evaluate_model(SpectrumBackbone(), trials, tmp_path)


def test_what_is_wrong_with_the_list_shows_before_any_embedding(root: Path) -> None:
    model = SpectrumBackbone()
    same = TrialList.from_pairs([(True, "speaker0/0.wav", "speaker0/1.wav")])
    with pytest.raises(DataError, match="needs both kinds"):
        evaluate_model(model, same, root)
    few = TrialList.from_pairs(all_pairs(["speaker0/0.wav", "speaker0/1.wav", "speaker1/0.wav"]))
    with pytest.raises(DataError, match="2 speakers"):
        evaluate_model(model, few, root)
    with pytest.raises(InputError, match=r"1\.\.12"):
        evaluate_model(model, few, root, dims=[13], bootstrap=0)
    assert model.batches == []
    assert evaluate_model(model, few, root, bootstrap=0).trial_list.trials == 3


def test_systems_need_different_names_and_a_known_reference(trials: TrialList) -> None:
    matrix = np.random.default_rng(0).standard_normal((18, 4))
    system = SystemEmbeddings("a", matrix, (2, 4))
    with pytest.raises(InputError, match="different names"):
        evaluate_systems([system, system], trials)
    with pytest.raises(InputError, match="reference"):
        evaluate_systems([system], trials, bootstrap=0, reference=("a", 3))
    with pytest.raises(InputError, match="not measured at dim 3"):
        evaluate_systems([system], trials, bootstrap=0).system().at(3)
    with pytest.raises(InputError, match="no system 'b'"):
        evaluate_systems([system], trials, bootstrap=0).system("b")


def test_the_dictionary_is_json_and_holds_what_is_needed_to_repeat(root: Path, trials: TrialList) -> None:
    result = evaluate_model(
        SpectrumMatryoshka(), trials, root, bootstrap=100, seed=7, provenance={"command": ["mrl", "evaluate"], "model": "folder"}
    )
    found = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert found["provenance"]["command"] == ["mrl", "evaluate"]
    assert found["provenance"]["data_root"] == str(root)
    assert found["provenance"]["package"].startswith("redimnet-mrl ")
    assert found["intervals"] == {"level": 0.95, "method": "bootstrap over speakers", "resamples": 100, "seed": 7}
    assert found["trial_list"]["trials"] == 153
    assert found["trial_list"]["same_speaker_trials"] == 18
    assert found["reference"] == {"system": "unmodified backbone", "dim": 12}
    first = found["systems"][0]["dims"][0]
    assert (first["dim"], first["bytes_float32"]) == (4, 16)
    assert first["eer"] == result.system().at(4).equal_error_rate
    assert len(first["eer_interval"]) == 2 and set(first["min_dcf"]) == {"0.01", "0.05"}
    assert 0 < first["eer_minus_reference"]["p_value"] <= 1
