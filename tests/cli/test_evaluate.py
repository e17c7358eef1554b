"""``mrl evaluate``."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from pathlib import Path

import pytest

from mrl.audio import write_synthetic_corpus
from mrl.cli.main import run
from mrl.embeddings import open_model, weights_sha256
from mrl.evaluation import evaluate_model
from mrl.trials import read_trials
from tests.embeddings.fakes import all_pairs
from tests.embeddings.tiny import write_models, write_voices


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    write_models(folder)
    lines = "".join(f"{int(label)} {a} {b}\n" for label, a, b in all_pairs(write_voices(folder / "voices")))
    (folder / "trials.txt.gz").write_bytes(gzip.compress(lines.encode()))
    return folder


def _arguments(place: Path, model: str, *more: str) -> list[str]:
    return ["evaluate", str(place / model), "--trials", str(place / "trials.txt.gz"), "--bootstrap", "100", *more]


def test_a_model_folder(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = _arguments(place, "tiny-mrl", "--root", str(place / "voices"), "--dims", "16,192,256", "--output", str(tmp_path))
    assert run(arguments) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    trials = read_trials(place / "trials.txt.gz")
    model = open_model(place / "tiny-mrl")
    expected = evaluate_model(model, trials, place / "voices", dims=(16, 192, 256), bootstrap=0).equal_error_rates()
    found = {figures["dim"]: figures["eer"] for figures in report["systems"][0]["dims"]}
    assert found == pytest.approx(expected, abs=1e-9)
    # The head starts as a rotation of the backbone's embedding, so its figures at 192 and 256 are the backbone's.
    assert [system["name"] for system in report["systems"]] == ["matryoshka", "unmodified backbone"]
    assert found[192] == found[256] == report["systems"][1]["dims"][-1]["eer"]
    provenance = report["provenance"]
    assert provenance["model_sha256"] == weights_sha256(model)
    assert provenance["data_root"] == str(place / "voices")
    assert report["trial_list"]["sha256"] == hashlib.sha256(gzip.decompress((place / "trials.txt.gz").read_bytes())).hexdigest()
    out = capsys.readouterr().out
    for figures in report["systems"][0]["dims"]:
        assert f"{100 * figures['eer']:.2f} [" in out
    names = {"report.json", "table.md", "table.csv", "eer_by_dim.png", "eer_by_dim.svg", "report.html"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert out.count("written: ") == 6


def test_without_backbone_and_with_another_baseline(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = _arguments(place, "tiny-mrl", "--root", str(place / "voices"), "--dims", "32")
    assert run([*arguments, "--no-backbone"]) == 0
    assert "backbone" not in capsys.readouterr().out
    assert run([*arguments, "--baseline", str(place / "tiny.pt")]) == 0
    out = capsys.readouterr().out
    assert "baseline" in out and "unmodified backbone" not in out


def test_a_checkpoint_and_its_embedding_file_give_the_same_figures(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tmp_path / "checkpoint"
    assert run(_arguments(place, "tiny.pt", "--root", str(place / "voices"), "--output", str(checkpoint))) == 0
    monkeypatch.chdir(place / "voices")
    assert (
        run(["embed", *sorted(path.name for path in Path().iterdir()), "-o", "../e.npz", "--model", str(place / "tiny.pt")]) == 0
    )
    assert run(_arguments(place, "e.npz", "--output", str(tmp_path / "file"))) == 0
    first, second = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("checkpoint", "file"))
    assert [figures["dim"] for figures in second["systems"][0]["dims"]] == [16, 32, 64, 128, 192]
    assert first["systems"][0]["dims"] == second["systems"][0]["dims"]
    assert second["provenance"]["embeddings_metadata"]["model"] == str(place / "tiny.pt")


def test_speakers_from_a_file(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trials = read_trials(place / "trials.txt.gz")
    speakers = tmp_path / "utt2spk"
    speakers.write_text("".join(f"{name} {name.split('/')[0]}-x\n" for name in trials.utterances))
    arguments = _arguments(place, "tiny.pt", "--root", str(place / "voices"), "--dims", "16")
    assert run([*arguments, "--speakers", str(speakers)]) == 0
    speakers.write_text("".join(f"{name} everyone\n" for name in trials.utterances))
    assert run([*arguments, "--speakers", str(speakers)]) == 2
    assert "contradict the speakers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        ("tiny.pt", [], "--root"),
        ("tiny.pt", ["--root", "nowhere"], "is not a folder"),
        ("tiny.pt", ["--root", "."], "18 of 18 utterances"),
        ("tiny.pt", ["--root", ".", "--dims", "16,a"], "not a list of whole numbers"),
        ("tiny.pt", ["--root", ".", "--dims", "193"], "1..192"),
        ("absent.npz", [], "does not exist"),
        ("absent.npz", ["--root", "."], "root does not go with"),
        ("absent", ["--root", "."], "no released checkpoint"),
    ],
)
def test_errors(
    model: str,
    more: list[str],
    message: str,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(_arguments(place, model, *more)) == 2
    assert message in capsys.readouterr().err


def test_side_by_side_on_two_lists_with_conditions(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = gzip.decompress((place / "trials.txt.gz").read_bytes()).decode().splitlines(keepends=True)
    (tmp_path / "second.txt").write_text("".join(lines[::2]))
    (tmp_path / "manifest.tsv").write_text(
        "path\troom\n" + "".join(f"{name}\t{name[10]}\n" for name in read_trials(place / "trials.txt.gz").utterances)
    )
    arguments = _arguments(place, "tiny-mrl", str(place / "tiny.pt"), "--root", str(place / "voices"), "--dims", "16,192")
    arguments += ["--trials", str(tmp_path / "second.txt"), "--output", str(tmp_path / "report")]
    arguments += ["--cut-seconds", "0.3", "--codec", "telephone", "--cache", str(tmp_path / "cache")]
    arguments += ["--strata", "room", "--manifest", str(tmp_path / "manifest.tsv")]
    assert run(arguments) == 0
    out = capsys.readouterr().out
    assert "against tiny, same dim" in out and "EER % by channel of the test side" in out
    for name in ("trials", "second"):
        folder = tmp_path / "report" / name
        report = json.loads((folder / "report.json").read_text())
        assert [system["name"] for system in report["systems"]] == ["tiny-mrl", "tiny"]
        assert report["reference"] == {"system": "tiny", "dim": 192}
        assert {"0.3 s", "telephone", "0–0"} <= {stratum["name"] for stratum in report["strata"]}
        assert (folder / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_noise_needs_a_ratio(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = _arguments(place, "tiny.pt", "--root", str(place / "voices"))
    assert run([*arguments, "--snr", "10"]) == 2
    assert "both a folder (--noise)" in capsys.readouterr().err
    assert run([*arguments, "--cut-seconds", "a"]) == 2
    assert "seconds such as" in capsys.readouterr().err


def test_as_norm_with_calibration_from_end_to_end(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_synthetic_corpus(tmp_path / "cohort", num_speakers=4, utterances_per_speaker=1, seconds=(0.4, 0.5), seed=5)
    arguments = _arguments(
        place, "tiny-mrl", "--root", str(place / "voices"), "--dims", "16,192", "--output", str(tmp_path / "r")
    )
    cache = ["--cache", str(tmp_path / "cache")]
    assert run([*arguments, *cache, "--centre", "--as-norm", "3", "--cohort", str(tmp_path / "cohort")]) == 0
    assert "AS-Norm score" in capsys.readouterr().out
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert report["protocol"]["settings"]["as_norm_top"] == 3 and report["protocol"]["settings"]["cohort_speakers"] == 4
    words = "AS-Norm with the top 3 cohort speakers of each side"
    assert words in (tmp_path / "r" / "report.html").read_text() and words in (tmp_path / "r" / "table.md").read_text()
    assert report["systems"][0]["dims"][0]["calibrated"] is None
    header, first, *_ = (tmp_path / "r" / "table.csv").read_text().splitlines()
    cells = dict(zip(header.split(","), first.split(","), strict=True))
    assert cells["act_dcf_0.01"] == "" and 0 <= float(cells["true_accept_rate_at_far_0.01"]) <= 1
    # Calibrated from end to end: the folder's own file, at the dims that it covers.
    shutil.copytree(place / "tiny-mrl", tmp_path / "tiny-mrl")
    listed = ["--trials", str(place / "trials.txt.gz"), "--root", str(place / "voices"), "--dims", "16"]
    assert run(["calibrate", str(tmp_path / "tiny-mrl"), *listed]) == 0
    arguments[1] = str(tmp_path / "tiny-mrl")
    capsys.readouterr()
    assert run([*arguments, *cache]) == 0
    assert "actDCF" in capsys.readouterr().out
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    at_16, at_192 = report["systems"][0]["dims"]
    assert at_16["calibrated"]["source"].endswith("fitted on this very list") and at_192["calibrated"] is None
    assert at_16["calibrated"]["min_cllr_bits"] <= at_16["calibrated"]["cllr_bits"]
    assert "actDCF 0.01" in (tmp_path / "r" / "table.md").read_text()
    assert run([*arguments, "--as-norm", "3"]) == 2
    assert (err := capsys.readouterr().err).count("\n") == 1 and "need a cohort" in err
    assert run([*arguments, *cache, "--calibrate-on", "held-out"]) == 0
    assert "fitted on the list's other speakers" in " ".join(capsys.readouterr().out.split())


def test_crops_and_an_enrolment_map(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = _arguments(place, "tiny.pt", "--root", str(place / "voices"), "--dims", "16", "--bootstrap", "0")
    assert run([*arguments, "--crops", "2", "--crop-seconds", "0.3"]) == 0
    assert "2 crops of 0.3 s" in " ".join(capsys.readouterr().out.split())
    names = read_trials(place / "trials.txt.gz").utterances
    of = {speaker: [name for name in names if name.startswith(f"{speaker}/")] for speaker in {one.split("/")[0] for one in names}}
    (tmp_path / "map").write_text("".join(f"{speaker}-model {' '.join(here[:2])}\n" for speaker, here in of.items()))
    pairs = [f"{int(one == other)} {one}-model voices/{of[other][2]}\n" for one in of for other in of]
    (tmp_path / "models.txt").write_text("".join(pairs))
    arguments = ["evaluate", str(place / "tiny.pt"), "--trials", str(tmp_path / "models.txt"), "--root", str(place)]
    arguments += ["--dims", "16", "--bootstrap", "0", "--enrolment-map", str(tmp_path / "map")]
    assert run([*arguments, "--enrolment-prefix", "voices/"]) == 0
    assert "average of several recordings (map)" in " ".join(capsys.readouterr().out.split())
    assert run(arguments) == 2
    assert "12 of 18 utterances" in capsys.readouterr().err
