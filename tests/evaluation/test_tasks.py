"""Several systems on several lists, under conditions, from the files that a user names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mrl.embeddings import Extraction, embed_files, open_model, save_embeddings
from mrl.errors import DataError, InputError
from mrl.evaluation import evaluate_specs, make_conditions, report_folders
from mrl.evaluation.conditions import Shortened
from mrl.scoring import equal_error_rate, score_prefixes
from mrl.scoring.cosine import with_changed_test_side
from mrl.trials import TrialList
from tests.embeddings.fakes import all_pairs, write_tone
from tests.embeddings.tiny import write_models, write_voices

QUIET = Extraction(num_workers=0, show_progress=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("specs")
    write_models(folder)
    names = write_voices(folder / "voices")
    (folder / "manifest.csv").write_text(
        "path,speaker,room\n" + "".join(f"voices/{name},x,{'ab'[int(name[10:11]) % 2]}\n" for name in names)
    )
    write_tone(folder / "noise" / "n.wav", hertz=700, seconds=0.3)
    embedded = embed_files(open_model(folder / "tiny.pt"), [folder / "voices" / name for name in names], num_workers=0)
    save_embeddings(folder / "foreign.npz", names, embedded.matrix)
    return folder


@pytest.fixture(scope="module")
def lists(place: Path) -> list[TrialList]:
    names = sorted(str(path.relative_to(place / "voices")) for path in (place / "voices").rglob("*.flac"))
    pairs = all_pairs(names)
    return [TrialList.from_pairs(pairs, source="all.txt"), TrialList.from_pairs(pairs[::2], source="half.txt")]


def test_a_model_its_backbone_and_a_file_side_by_side_on_two_lists(place: Path, lists: list[TrialList]) -> None:
    specs = [str(place / name) for name in ("tiny-mrl", "foreign.npz")]
    results = evaluate_specs(specs, lists, place / "voices", dims=(16, 192), bootstrap=100, extraction=QUIET)
    assert [result.trial_list.source for result in results] == ["all.txt", "half.txt"]
    for result, trials in zip(results, lists, strict=True):
        assert [system.name for system in result.systems] == ["tiny-mrl", "foreign", "unmodified backbone"]
        assert result.reference == ("unmodified backbone", 192)
        assert result.trial_list.trials == len(trials)
        # The file holds the backbone's embeddings, so the two agree at every dim, and nothing is significant.
        for dim in (16, 192):
            ours, theirs = result.system("foreign").at(dim), result.system("unmodified backbone").at(dim)
            assert ours.equal_error_rate == pytest.approx(theirs.equal_error_rate, abs=1e-9)
            assert ours.versus_same_dim is not None and ours.versus_same_dim.p_value == 1.0
        single = evaluate_specs([str(place / "foreign.npz")], [trials], None, dims=(16,), bootstrap=0)[0]
        assert result.system("foreign").at(16).equal_error_rate == single.system().at(16).equal_error_rate
    systems = results[0].provenance["systems"]
    assert [system["name"] for system in systems] == ["tiny-mrl", "foreign"] and all(len(one["sha256"]) == 64 for one in systems)
    json.dumps(results[0].to_dict(), allow_nan=False)


def test_conditions_and_strata_of_one_model(place: Path, lists: list[TrialList]) -> None:
    conditions = make_conditions(cut_seconds=(0.4, 9.0), noise=place / "noise", snr_db=(0,), channels=("telephone",))
    result = evaluate_specs(
        [str(place / "tiny.pt")],
        lists[:1],
        place / "voices",
        dims=(16, 192),
        bootstrap=100,
        conditions=conditions,
        strata=["room"],
        manifest=place / "manifest.csv",
        extraction=QUIET,
    )[0]
    parts = list(dict.fromkeys((one.group, one.name) for one in result.strata))
    assert parts == [
        ("length of the test side", "0.4 s"),
        ("length of the test side", "9 s"),
        ("noise on the test side", "SNR 0 dB"),
        ("channel of the test side", "telephone"),
        ("room", "a–a"),
        ("room", "a–b"),
        ("room", "b–b"),
    ]
    by_name = {(one.name, one.dim): one for one in result.strata}
    whole = result.system().at(192)
    # Longer than every recording, so nothing is cut.
    assert by_name["9 s", 192].equal_error_rate == pytest.approx(whole.equal_error_rate, abs=1e-9)
    assert by_name["9 s", 192].note == "17 of 17 test recordings are shorter and whole"
    for name in ("SNR 0 dB", "telephone", "0.4 s"):
        assert by_name[name, 192].equal_error_rate != whole.equal_error_rate
    # By hand: cut the test side, score it against whole enrolments.
    from mrl.audio import load_audio

    trials, model = lists[0], open_model(place / "tiny.pt")
    waveforms = [load_audio(path) for path in trials.paths(place / "voices")]
    clean, cut = (model(audio).detach().numpy() for audio in (waveforms, [Shortened(0.4).apply("", one) for one in waveforms]))
    scores = score_prefixes(np.concatenate([clean, cut]), with_changed_test_side(trials), (16, 192))
    for dim in (16, 192):
        assert by_name["0.4 s", dim].equal_error_rate == pytest.approx(equal_error_rate(scores[dim], trials.labels), abs=0.02)


def test_the_cache_serves_the_next_evaluation(
    place: Path, lists: list[TrialList], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = {"extraction": QUIET, "cache": tmp_path / "cache"}
    conditions = make_conditions(channels=("mulaw",))
    arguments = ([str(place / "tiny-mrl")], lists, place / "voices")
    first = evaluate_specs(*arguments, bootstrap=0, conditions=conditions, **how)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("audio was decoded again")

    monkeypatch.setattr("mrl.embeddings.mapping.load_audio", refuse)
    second = evaluate_specs(*arguments, bootstrap=0, conditions=conditions, **how)
    for one, other in zip(first, second, strict=True):
        assert one.systems == other.systems and one.strata == other.strata


def test_what_does_not_go_together(place: Path, lists: list[TrialList]) -> None:
    table, model = str(place / "foreign.npz"), str(place / "tiny.pt")
    root = place / "voices"
    with pytest.raises(InputError, match="conditions on the test side need recordings"):
        evaluate_specs([model, table], lists, root, conditions=[Shortened(1.0)])
    with pytest.raises(InputError, match="cache does not go with"):
        evaluate_specs([table], lists, None, cache="x")
    with pytest.raises(InputError, match="max_seconds does not go with"):
        evaluate_specs([table], lists, None, extraction=Extraction(max_seconds=1.0))
    with pytest.raises(InputError, match="no setting dim; expected .*dims"):
        evaluate_specs([table], lists, None, dim=3)
    with pytest.raises(InputError, match="found only one"):
        evaluate_specs([model], lists, root, strata=["room"])
    with pytest.raises(InputError, match="no trial list"):
        evaluate_specs([model], [], root)
    with pytest.raises(DataError, match="18 of 18 utterances"):
        evaluate_specs([model], lists, place)


def test_a_report_for_each_list() -> None:
    output = Path("out")
    assert report_folders([Path("a.txt.gz")], output) == [output]
    assert report_folders([Path("x/a.txt.gz"), Path("b.txt"), Path("c")], output) == [output / "a", output / "b", output / "c"]
    assert report_folders([Path("a"), Path("b")], None) == [None, None]
    with pytest.raises(InputError, match="different names"):
        report_folders([Path("x/a.txt"), Path("y/a.txt.gz")], output)
