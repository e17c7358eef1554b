"""``mrl export``, and exported files as MODEL of other verbs."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from mrl.cli.main import run
from mrl.deployment.onnx_graph import describe_in
from mrl.evaluation.calibrating import calibrate_model
from mrl.runtime import Description
from mrl.trials.lists import TrialList
from tests.deployment.conftest import model, model_folder, traced  # noqa: F401 - fixtures
from tests.embeddings.tiny import write_voices
from tests.runtime.golden.record import EXPORTED


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("voices")
    names = write_voices(folder)
    lines = [f"{int(a.split('/')[0] == b.split('/')[0])} {a} {b}" for place, a in enumerate(names) for b in names[place + 1 :]]
    (folder / "trials.txt").write_text("\n".join(lines) + "\n")
    return folder


def _two(voices: Path) -> list[str]:
    files = sorted(voices.glob("*/*.flac"))
    return [str(files[0]), str(files[4])]


@pytest.mark.usefixtures("traced")
def test_export_and_check(model_folder: Path, voices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    output = str(tmp_path / "m.onnx")
    trials = ["--trials", str(voices / "trials.txt"), "--root", str(voices)]
    assert run(["export", str(model_folder), "-o", output, *trials]) == 0
    out = capsys.readouterr().out
    assert "matryoshka, waveform in, 24 dimensions out, fp32" in out and "smallest cosine 1.0000000" in out
    assert "equal error rate at dim 8:" in out and "change +0.0000 points" in out
    assert run(["export", "--check", output]) == 0
    assert "m.onnx: good: fp32, cosine 1.0000000" in capsys.readouterr().out
    Path(output).write_bytes(b"damaged")
    assert run(["export", "--check", output]) == 2
    assert "error: " in (error := capsys.readouterr().err) and "SHA-256 differs" in error and error.count("\n") == 1


def test_usage(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    for arguments, message in (
        (["export"], "give MODEL and --output FILE"),
        (["export", "m", "--check", "x.onnx"], "stands alone"),
        (["export", str(model_folder), "-o", str(tmp_path / "m.tflite")], "unsupported extension '.tflite'"),
        (["export", str(model_folder), "-o", str(tmp_path / "m.onnx"), "--precision", "int8-static"], "--calibration-audio"),
        (["export", str(EXPORTED), "-o", str(tmp_path / "m.onnx")], "is an exported file already"),
    ):
        assert run(arguments) == 2
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_verify_with_an_exported_file(
    model_folder: Path,  # noqa: F811
    voices: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    outputs = []
    for spec in (model_folder, EXPORTED):
        assert run(["verify", *_two(voices), "--model", str(spec), "--dim", "8"]) == 0
        outputs.append(capsys.readouterr().out.replace(str(spec), "MODEL"))
    assert outputs[0] == outputs[1]
    assert run(["verify", _two(voices)[0], "absent.wav", "--model", str(EXPORTED)]) == 2
    assert "1 of 2 recordings cannot be used: absent.wav" in capsys.readouterr().err
    assert run(["verify", *_two(voices), "--model", str(EXPORTED), "--dim", "25"]) == 2
    assert "must lie in 1..24" in capsys.readouterr().err


def test_a_calibration_travels_with_the_file(
    model_folder: Path,  # noqa: F811
    voices: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "calibrated"
    shutil.copytree(model_folder, folder)
    from mrl.trials.lists import read_trials

    trials: TrialList = read_trials(voices / "trials.txt")
    calibration = calibrate_model(folder, trials, voices, dims=[8], show_progress=False)
    graph = onnx.load(str(EXPORTED))
    description = Description.from_properties({entry.key: entry.value for entry in graph.metadata_props}, "tiny.onnx")
    describe_in(graph, dataclasses.replace(description, calibration=calibration.to_dict()))
    onnx.save(graph, str(tmp_path / "calibrated.onnx"))
    outputs = []
    for spec in (folder, tmp_path / "calibrated.onnx"):
        for options in (["--dim", "8"], ["--dim", "8", "--prior", "0.5"], ["--dim", "16"], ["--dim", "8", "--threshold", "0.5"]):
            assert run(["verify", *_two(voices), "--model", str(spec), *options]) == 0
            outputs.append(capsys.readouterr().out.replace(str(spec), "MODEL"))
    assert outputs[:4] == outputs[4:]
    assert "log-likelihood ratio" in outputs[0]


def test_int8_scores_need_a_calibration_of_their_own(
    model_folder: Path,  # noqa: F811
    voices: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The calibration that an int8 file carries is not used, for two files or for a voice; one of the file itself is."""
    folder = tmp_path / "calibrated"
    shutil.copytree(model_folder, folder)
    arguments = ["--trials", str(voices / "trials.txt"), "--root", str(voices), "--dims", "8", "--quality", "none"]
    assert run(["calibrate", str(folder), *arguments]) == 0
    graph = onnx.load(str(EXPORTED))
    description = Description.from_properties({entry.key: entry.value for entry in graph.metadata_props}, "tiny.onnx")
    carried = json.loads((folder / "calibration.json").read_text())
    changes = {"calibration": carried, "precision": "int8-dynamic", "model_hash": "8" * 64}
    describe_in(graph, dataclasses.replace(description, **changes))
    exported = tmp_path / "int8.onnx"
    onnx.save(graph, str(exported))
    first, second = _two(voices)
    common = ["--model", str(exported), "--store", str(tmp_path / "v.sqlite")]
    assert run(["enroll", "anna", first, *common]) == 0
    verify = [["verify", who, second, *common, "--dim", "8"] for who in (first, "anna")]
    capsys.readouterr()
    said = []
    for command in verify:
        assert run(command) == 0
        printed = capsys.readouterr().out.splitlines()
        assert printed[0].startswith("score: ") and printed[1].startswith("no decision: ")
        said.append(printed[1])
        assert run([*command, "--max-far", "0.1"]) == 2
        assert capsys.readouterr().err.splitlines()[-1] == f"mrl verify: error: {printed[1].removeprefix('no decision: ')}"
    assert said[0] == said[1]
    assert "was made with fp32 scores, and those of int8-dynamic differ" in said[0]
    assert f"calibrate the file itself (mrl calibrate {exported})" in said[0]

    assert run(["calibrate", str(exported), *arguments]) == 0
    beside = tmp_path / "int8.onnx.calibration.json"
    assert f"written: {beside}" in capsys.readouterr().out
    assert json.loads(beside.read_text())["weights_sha256"] == "8" * 64
    answers = []
    for command in verify:
        assert run(command) == 0
        answers.append([line for line in capsys.readouterr().out.splitlines() if "score" not in line])
    assert answers[0] == answers[1] and "prior 0.01: threshold 4.595" in answers[0][-1]
    beside.write_text(json.dumps({**json.loads(beside.read_text()), "weights_sha256": "9" * 64}))
    assert run(verify[0]) == 2
    assert "int8.onnx.calibration.json was made for other weights than" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["embed", "enroll"])
def test_other_verbs_without_torch(verb: str, voices: Path, tmp_path: Path) -> None:
    files, exported = _two(voices), ["--model", str(EXPORTED)]
    commands = {
        "embed": ["embed", *files, "-o", str(tmp_path / "e.npz"), *exported],
        "enroll": ["enroll", "anna", *files, "--store", str(tmp_path / "v.sqlite"), *exported],
    }
    program = f"import sys; sys.modules['torch'] = None\nfrom mrl.cli.main import run\nsys.exit(run({commands[verb]!r}))"
    finished = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


def test_verify_without_torch(voices: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from mrl.cli.main import run\n"
        f"sys.exit(run(['verify', *{_two(voices)!r}, '--model', {str(EXPORTED)!r}]))"
    )
    finished = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith("score: ")


def test_embed_and_evaluate(
    model_folder: Path,  # noqa: F811
    voices: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from mrl.embeddings import load_embeddings

    assert run(["embed", str(voices), "-o", str(tmp_path / "e.npz"), "--model", str(EXPORTED), "--dim", "8"]) == 0
    assert load_embeddings(tmp_path / "e.npz").matrix.shape == (18, 8)
    reports = []
    for spec in (model_folder, EXPORTED):
        output = tmp_path / spec.name
        common = ["--trials", str(voices / "trials.txt"), "--root", str(voices), "--bootstrap", "0", "--no-backbone"]
        assert run(["evaluate", str(spec), *common, "--output", str(output), "--cache", str(tmp_path / "cache")]) == 0
        reports.append(json.loads((output / "report.json").read_text()))
    capsys.readouterr()
    by_folder, by_file = ([(dim["dim"], dim["eer"], dim["min_dcf"]) for dim in one["systems"][0]["dims"]] for one in reports)
    assert by_folder == by_file and [dim for dim, _, _ in by_file] == [8, 16, 24]
    assert reports[1]["systems"][0]["name"] == "matryoshka"
