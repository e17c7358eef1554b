"""Evaluations by protocols, from the files that a user names, against the functions of each protocol."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from mrl.audio import write_synthetic_corpus
from mrl.embeddings import Crops, Extraction, as_embedder, embed_files, extract, open_model, save_embeddings
from mrl.errors import DataError, InputError
from mrl.evaluation import (
    EvaluationResult,
    Protocol,
    SystemScores,
    calibrate_model,
    evaluate_specs,
    evaluate_systems,
    make_conditions,
    score_by_protocol,
)
from mrl.scoring import (
    actual_dcf,
    adaptive_symmetric_norm,
    cllr,
    equal_error_rate,
    held_out_ratios,
    minimum_cllr,
    score_crops,
    score_prefixes,
    speaker_means,
)
from mrl.trials import EnrolmentMap, TrialList
from tests.embeddings.fakes import all_pairs
from tests.embeddings.tiny import write_models, write_voices

QUIET = Extraction(num_workers=0, show_progress=False)
DIMS = (16, 192)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("protocols")
    write_models(folder)
    write_voices(folder / "voices")
    write_synthetic_corpus(folder / "cohort", num_speakers=5, utterances_per_speaker=2, seconds=(0.4, 0.6), seed=9)
    return folder


@pytest.fixture(scope="module")
def trials(place: Path) -> TrialList:
    names = sorted(str(path.relative_to(place / "voices")) for path in (place / "voices").rglob("*.flac"))
    return TrialList.from_pairs(all_pairs(names), source="all.txt")


def _rates(result: EvaluationResult, name: str) -> dict[int, float]:
    return result.equal_error_rates(name)


def test_as_norm_of_a_model_and_the_backbone_inside_it(place: Path, trials: TrialList, tmp_path: Path) -> None:
    how = {"extraction": QUIET, "cache": tmp_path / "cache"}
    protocol = Protocol(centre=True, as_norm_top=3, cohort=place / "cohort")
    arguments = ([str(place / "tiny-mrl")], [trials], place / "voices")
    result = evaluate_specs(*arguments, dims=DIMS, bootstrap=0, protocol=protocol, **how)[0]
    model = open_model(place / "tiny-mrl")
    others = sorted((place / "cohort").rglob("*.flac"))
    for name, network in (("matryoshka", model), ("unmodified backbone", model.backbone)):  # type: ignore[union-attr]
        clean, extra = (embed_files(network, paths, num_workers=0).matrix for paths in (trials.paths(place / "voices"), others))
        means, speakers = speaker_means(extra, [path.parent.name for path in others])
        assert len(speakers) == 5
        expected = score_by_protocol(protocol, clean, trials, DIMS, cohort=means)
        for dim in DIMS:
            assert result.scores[name, dim] == pytest.approx(expected[dim], abs=2e-3)
    facts = result.to_dict()["protocol"]
    assert facts["settings"]["cohort_speakers"] == 5 and facts["settings"]["cohort_recordings"] == 10
    assert "top 3" in facts["name"] and facts["score"] == "AS-Norm score"


def test_the_cohort_is_embedded_once(place: Path, trials: TrialList, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how = {"extraction": QUIET, "cache": tmp_path / "cache"}
    for protocol in (Protocol(centre=True, as_norm_top=4, cohort=place / "cohort"), Protocol(num_crops=2, crop_seconds=0.3)):
        arguments = ([str(place / "tiny-mrl")], [trials], place / "voices")
        first = evaluate_specs(*arguments, dims=DIMS, bootstrap=0, protocol=protocol, **how)[0]

        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("audio was decoded again")

        with monkeypatch.context() as patch:
            patch.setattr("mrl.embeddings.mapping.load_audio", refuse)
            second = evaluate_specs(*arguments, dims=DIMS, bootstrap=0, protocol=protocol, **how)[0]
        assert first.systems == second.systems


def test_a_file_of_embeddings_with_its_own_cohort_and_a_changed_test_side(place: Path, trials: TrialList) -> None:
    model = open_model(place / "tiny.pt")
    clean = embed_files(model, trials.paths(place / "voices"), num_workers=0).matrix
    others = sorted((place / "cohort").rglob("*.flac"))
    extra = embed_files(model, others, num_workers=0).matrix
    save_embeddings(place / "e.npz", trials.utterances, clean)
    save_embeddings(place / "c.npz", [f"{path.parent.name}/{path.name}" for path in others], extra)
    protocol = Protocol(as_norm_top=5, cohort=place / "c.npz")
    result = evaluate_specs([str(place / "e.npz")], [trials], None, dims=DIMS, bootstrap=0, protocol=protocol)[0]
    means, _ = speaker_means(extra, [path.parent.name for path in others])
    raw = score_prefixes(clean, trials, DIMS)
    expected = adaptive_symmetric_norm(raw, clean, clean, means, trials, DIMS, top=5)
    for dim in DIMS:
        assert result.scores["e", dim] == pytest.approx(expected[dim], abs=1e-6)
        assert _rates(result, "e")[dim] == equal_error_rate(expected[dim], trials.labels)
    conditions = make_conditions(cut_seconds=(30.0,))  # longer than every recording: nothing changes
    spec = [str(place / "tiny.pt")]
    changed = evaluate_specs(
        spec, [trials], place / "voices", dims=DIMS, bootstrap=0, protocol=protocol, conditions=conditions, extraction=QUIET
    )[0]
    for one in changed.strata:
        assert one.equal_error_rate == pytest.approx(_rates(changed, "backbone")[one.dim], abs=0.01)
    with pytest.raises(InputError, match="2 systems are measured"):
        evaluate_specs([str(place / "tiny-mrl")], [trials], place / "voices", protocol=protocol)
    with pytest.raises(InputError, match="has 192 dimensions per embedding and matryoshka has 256"):
        evaluate_specs(
            [str(place / "tiny-mrl")],
            [trials],
            place / "voices",
            bootstrap=0,
            own_backbone=False,
            protocol=protocol,
            extraction=QUIET,
        )
    with pytest.raises(InputError, match="must be a file of embeddings of the same network"):
        evaluate_specs([str(place / "e.npz")], [trials], None, protocol=Protocol(as_norm_top=5, cohort=place / "cohort"))


def test_crops_and_enrolment_models(place: Path, trials: TrialList) -> None:
    spec, root = [str(place / "tiny.pt")], place / "voices"
    result = evaluate_specs(
        spec, [trials], root, dims=DIMS, bootstrap=0, protocol=Protocol(num_crops=3, crop_seconds=0.3), extraction=QUIET
    )[0]
    model = open_model(place / "tiny.pt")
    crops = extract(as_embedder(model), trials.paths(root), QUIET, crops=Crops(3, 0.3)).matrices[0]
    expected = score_crops(crops, trials, DIMS)
    assert result.scores["backbone", 16] == pytest.approx(expected[16], abs=1e-4)

    names = trials.utterances
    speakers = sorted({name.split("/")[0] for name in names})
    of = {speaker: [name for name in names if name.startswith(f"{speaker}/")] for speaker in speakers}
    enrolment = EnrolmentMap({f"{one}/model": tuple(of[one][:2]) for one in speakers})
    pairs = [(one == other, f"{one}/model", of[other][2]) for one in speakers for other in speakers]
    models = TrialList.from_pairs(pairs, source="models.txt")
    protocol = Protocol(enrolment=enrolment)
    result = evaluate_specs(spec, [models], root, dims=DIMS, bootstrap=100, protocol=protocol, extraction=QUIET)[0]
    recordings = protocol.recordings(models)
    matrix = embed_files(model, [root / name for name in recordings], num_workers=0).matrix
    averages = score_by_protocol(protocol, matrix, models, DIMS)
    assert result.scores["backbone", 192] == pytest.approx(averages[192], abs=1e-4)
    assert result.system().at(192).equal_error_rate_interval is not None
    with pytest.raises(InputError, match="does not go with conditions"):
        evaluate_specs(spec, [models], root, protocol=protocol, conditions=make_conditions(cut_seconds=(1.0,)))
    with pytest.raises(DataError, match="1 of 18 utterances of models.txt are not below"):
        broken = EnrolmentMap({**enrolment.models, f"{speakers[0]}/model": ("absent.wav", of[speakers[0]][0])})
        evaluate_specs(spec, [models], root, bootstrap=0, protocol=Protocol(enrolment=broken))


def test_errors_come_before_the_work(place: Path, trials: TrialList) -> None:
    spec, root = [str(place / "tiny.pt")], place / "voices"
    with pytest.raises(InputError, match="top 6 needs as many cohort speakers"):
        evaluate_specs(spec, [trials], root, protocol=Protocol(as_norm_top=6, cohort=place / "cohort"))
    with pytest.raises(DataError, match="18 of 18 recordings of the trials are in the cohort"):
        evaluate_specs(spec, [trials], root, protocol=Protocol(as_norm_top=3, cohort=root))
    with pytest.raises(InputError, match="do not go with conditions"):
        evaluate_specs(spec, [trials], root, protocol=Protocol(num_crops=2), conditions=make_conditions(cut_seconds=(1.0,)))
    with pytest.raises(InputError, match="holds embeddings of whole recordings"):
        evaluate_specs(["x.npz"], [trials], None, protocol=Protocol(num_crops=2))


def test_a_calibrated_model_folder_gains_its_figures_where_it_is_calibrated(place: Path, trials: TrialList) -> None:
    folder = place / "calibrated-mrl"
    open_model(place / "tiny-mrl").save_pretrained(folder)  # type: ignore[union-attr]
    root = place / "voices"
    calibration = calibrate_model(folder, trials, root, dims=(16,), num_workers=0, show_progress=False)
    arguments = ([str(folder)], [trials], root)
    result = evaluate_specs(*arguments, dims=DIMS, bootstrap=0, extraction=QUIET)[0]
    from mrl.audio import audio_info

    seconds = np.array([audio_info(path).seconds for path in trials.paths(root)])
    ratios = calibration.log_likelihood_ratios(16, result.scores["matryoshka", 16], seconds[trials.enrol], seconds[trials.test])
    found = result.system().at(16).calibrated
    assert found is not None
    assert found.actual_dcf[0.05] == actual_dcf(ratios, trials.labels, 0.05)
    assert found.cllr == pytest.approx(cllr(ratios, trials.labels)) == pytest.approx(calibration.at(16).cllr, abs=1e-4)
    assert found.minimum_cllr == pytest.approx(minimum_cllr(ratios, trials.labels))
    assert result.system().at(192).calibrated is None
    assert all(one.calibrated is None for one in result.system("unmodified backbone").figures)
    for more in ({"calibrate_on": "none"}, {"protocol": Protocol(centre=True, as_norm_top=5, cohort=place / "cohort")}):
        without = evaluate_specs(*arguments, dims=(16,), bootstrap=0, extraction=QUIET, **more)[0]  # type: ignore[arg-type]
        assert without.system().at(16).calibrated is None
    assert "is not used" in without.protocol.notes[0]
    held_out = evaluate_specs(*arguments, dims=(16,), bootstrap=0, extraction=QUIET, calibrate_on="held-out")[0]
    speakers = [name.split("/")[0] for name in trials.utterances]
    fitted = held_out_ratios(held_out.scores["matryoshka", 16], trials, np.unique(speakers, return_inverse=True)[1])
    others = held_out.system().at(16).calibrated
    assert fitted is not None and others is not None and others.cllr == pytest.approx(cllr(fitted, trials.labels))
    few = TrialList.from_pairs(all_pairs(list(trials.utterances[:6])), source="few.txt")
    with pytest.raises(DataError, match=r"few.txt has too few speakers to calibrate"):
        evaluate_specs([str(folder)], [few], root, bootstrap=0, calibrate_on="held-out")
    with pytest.raises(InputError, match="calibrate_on must be one of"):
        evaluate_specs(*arguments, calibrate_on="x")  # type: ignore[arg-type]


def test_calibration_held_out_by_speaker() -> None:
    random = np.random.default_rng(0)
    names = [f"s{number // 4:02d}/{number}" for number in range(80)]
    trials = TrialList.from_pairs(all_pairs(names))
    voices = np.repeat(random.standard_normal((20, 12)), 4, axis=0)
    scores = score_prefixes(voices + 0.6 * random.standard_normal((80, 12)), trials, [12])[12]
    speakers = np.repeat(np.arange(20), 4)
    ratios = held_out_ratios(scores, trials, speakers)
    assert ratios is not None
    # By hand for the trials between parts 0 and 1: fitted on the trials among parts 2, 3 and 4.
    from mrl.scoring import fit_calibration

    part = speakers % 5
    enrol, test = part[trials.enrol], part[trials.test]
    fitted = (enrol > 1) & (test > 1)
    held = (np.minimum(enrol, test) == 0) & (np.maximum(enrol, test) == 1)
    smaller = TrialList(trials.utterances, trials.enrol[fitted], trials.test[fitted], trials.labels[fitted], "part")
    expected = fit_calibration({12: scores[fitted]}, smaller).log_likelihood_ratios(12, scores[held])
    assert ratios[held] == pytest.approx(expected, abs=1e-6)
    assert held_out_ratios(scores[:6], TrialList.from_pairs(all_pairs(names[2:6])), [0, 0, 1, 1]) is None
    everything = fit_calibration({12: scores}, trials, speakers=speakers)
    assert cllr(ratios, trials.labels) == pytest.approx(everything.at(12).cllr_held_out, abs=1e-9)


def test_scores_given_and_true_accepts() -> None:
    trials = TrialList.from_pairs(all_pairs([f"s{number // 2}/{number}" for number in range(30)]))
    random = np.random.default_rng(1)
    scores = (trials.labels + 0.5 * random.standard_normal(len(trials))).astype(np.float32)
    result = evaluate_systems([SystemScores("mine", {8: scores})], trials, bootstrap=0)
    figures = result.system().at(8)
    assert figures.equal_error_rate == equal_error_rate(scores, trials.labels)
    nontargets = np.sort(scores[~trials.labels])[::-1]
    allowed = math.floor(0.01 * len(nontargets))
    assert figures.true_accept_rates[0.01] == pytest.approx(np.mean(scores[trials.labels] > nontargets[allowed]))
    assert len(nontargets) < 1000 and figures.true_accept_rates[0.001] is None  # too few trials to state it
    with pytest.raises(InputError, match=f"one score for each of the {len(trials)} trials"):
        evaluate_systems([SystemScores("mine", {8: scores[1:]})], trials, bootstrap=0)
    scores[3] = np.nan
    with pytest.raises(DataError, match="NaN"):
        evaluate_systems([SystemScores("mine", {8: scores})], trials, bootstrap=0)
