"""``mrl enroll``, ``identify``, ``voices`` and ``verify NAME FILE``, from the first recording to the last deletion."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from mrl.cli.main import run
from mrl.embeddings import embed_recording, load_calibration, open_embedder
from mrl.identification import VoiceStore, default_store
from tests.embeddings.fakes import all_pairs
from tests.embeddings.tiny import write_models, write_voices


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("voices")
    write_models(folder)
    names = write_voices(folder / "speech")
    lines = "".join(f"{int(label)} {a} {b}\n" for label, a, b in all_pairs(names))
    (folder / "trials.txt").write_text(lines)
    shutil.copytree(folder / "tiny-mrl", folder / "calibrated")
    arguments = ["--trials", str(folder / "trials.txt"), "--root", str(folder / "speech"), "--dims", "64,256"]
    assert run(["calibrate", str(folder / "calibrated"), *arguments, "--prior", "0.2", "--max-far", "0.1"]) == 0
    return folder


def _speakers(place: Path) -> list[list[str]]:
    files = sorted((place / "speech").rglob("*.flac"))
    return [[str(file) for file in files[first : first + 3]] for first in range(0, len(files), 3)]


def test_the_whole_life_of_voices(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ["--store", str(tmp_path / "v.sqlite")]
    model = ["--model", str(place / "calibrated")]
    speakers = _speakers(place)
    for number, files in enumerate(speakers[:4]):
        assert run(["enroll", f"speaker {number}", *files[:2], *store, *model]) == 0
    captured = capsys.readouterr()
    assert "speaker 3: 2 recordings, " in captured.out and "of speech; below 1 s" in captured.err
    assert run(["enroll", "speaker 0", speakers[0][2], *store, *model]) == 2
    assert "is enrolled in" in capsys.readouterr().err
    assert run(["enroll", "speaker 0", speakers[0][2], "--add", *store, *model]) == 0
    assert "speaker 0: 3 recordings" in capsys.readouterr().out

    assert run(["identify", speakers[2][0], "--top", "2", *store, *model]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[0].endswith("  speaker 2") and "log-likelihood ratio" in lines[0]
    assert "(prior 0.2 among 4 voices: threshold 2.944)" in lines[2]  # log(0.95 / 0.05)
    ratio = float(lines[0].split("ratio")[1].split()[0])
    assert lines[2].startswith(f"decision: {'speaker 2' if ratio >= 2.944 else 'unknown'} ")
    assert run(["identify", speakers[2][0], "--max-far", "1e-9", *store, *model]) == 0
    out = capsys.readouterr().out
    assert "decision: unknown (false accept rate 1e-09 among 4 voices, by the calibration at 2.5e-10 per voice" in out
    assert run(["identify", speakers[2][0], "--dim", "32", "--search", "approximate", *store, *model]) == 0
    out = capsys.readouterr().out
    assert "at dim 32: its calibration covers the dims 64, 256" in out and "no decision" in out
    assert run(["identify", speakers[2][0], "--threshold", "-1", *store, *model]) == 0
    captured = capsys.readouterr()
    assert "decision: speaker 2 (raw cosine: threshold -1.000)" in captured.out
    assert "takes no account of the 4 voices" in captured.err

    assert run(["verify", "speaker 1", speakers[1][2], "--dim", "64", *store, *model]) == 0
    out = capsys.readouterr().out
    voice = VoiceStore(tmp_path / "v.sqlite").embedding("speaker 1", 64)
    heard = embed_recording(open_embedder(place / "calibrated"), speakers[1][2]).embedding[:64]
    score = float(voice @ heard / (heard @ heard) ** 0.5)
    assert f"score: {score:.4f} " in out and "(prior 0.2: threshold 1.386)" in out
    calibration = load_calibration(place / "calibrated")
    assert calibration is not None
    assert run(["verify", "speaker 1", speakers[1][2], "--max-far", "0.1", *store, *model]) == 0
    assert f"(false accept rate 0.1: threshold {calibration.threshold(256, max_false_accept=0.1):.3f})" in capsys.readouterr().out

    assert run(["voices", "list", "--json", *store]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(voice["name"], voice["recordings"]) for voice in listed] == [("speaker 0", 3)] + [
        (f"speaker {number}", 2) for number in (1, 2, 3)
    ]
    assert all(voice["calibration_hash"] == open_embedder(place / "calibrated").calibration_hash for voice in listed)
    assert run(["voices", "export", "speaker 0", "speaker 2", "-o", str(tmp_path / "two.jsonl"), *store]) == 0
    assert "2 voices written" in capsys.readouterr().out
    assert run(["voices", "remove", "speaker 0", "speaker 2", *store]) == 0
    assert run(["voices", "import", str(tmp_path / "two.jsonl"), *store]) == 0
    capsys.readouterr()
    assert run(["voices", "list", *store]) == 0
    captured = capsys.readouterr()
    assert [line.split("\t")[0] for line in captured.out.splitlines()] == [f"speaker {number}" for number in range(4)]
    assert captured.err == "4 voices\n"
    monkeypatch.setenv("TERM", "dumb")  # no colours
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run(["voices", "list", *store]) == 0
    headings, *rows = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert headings.split() == ["voice", "recordings", "seconds", "model", "changed"]
    assert [row.split()[:3] for row in rows] == [["speaker", str(number), recordings] for number, recordings in enumerate("3222")]


def test_rename_merge_and_many_files(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, model = ["--store", str(tmp_path / "v.sqlite")], ["--model", str(place / "tiny-mrl")]
    speakers = _speakers(place)
    for name, files in (("a", speakers[0]), ("b", speakers[1])):
        assert run(["enroll", name, files[0], *store, *model, "-q"]) == 0
    assert "warning" not in capsys.readouterr().err
    assert run(["voices", "export", "-o", str(tmp_path / "both.jsonl"), *store]) == 0
    before = VoiceStore(tmp_path / "v.sqlite").embedding("a")
    assert run(["voices", "rename", "a", "Anna", *store]) == 0
    assert (VoiceStore(tmp_path / "v.sqlite").embedding("Anna") == before).all() and "a" not in VoiceStore(tmp_path / "v.sqlite")
    for arguments, message in ((["a", "c"], "no voice 'a'"), (["Anna", "b"], "'b' is enrolled in")):
        capsys.readouterr()
        assert run(["voices", "rename", *arguments, *store]) == 2
        assert message in capsys.readouterr().err
    assert run(["voices", "import", str(tmp_path / "both.jsonl"), *store]) == 2
    assert "'b' is enrolled in" in capsys.readouterr().err
    assert run(["voices", "import", str(tmp_path / "both.jsonl"), "--merge", "--json", *store]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["voices"] == 1 and "1 voices are left out, since their names are taken: b" in captured.err
    assert sorted(voice.name for voice in VoiceStore(tmp_path / "v.sqlite").voices()) == ["Anna", "a", "b"]

    files = [speakers[0][0], str(tmp_path / "absent.wav"), speakers[1][0]]
    assert run(["identify", *files, "--top", "1", "--threshold", "0.99", "--json", *store, *model]) == 1
    captured = capsys.readouterr()
    answers = json.loads(captured.out)
    assert [answer["file"] for answer in answers] == [files[0], files[2]] and answers[1]["name"] == "b"
    assert answers[1]["candidates"][0]["score"] == pytest.approx(1.0, abs=1e-5)
    assert "absent.wav" in captured.err and "1 of 3 recordings could not be used" in captured.err
    assert run(["identify", *files[::2], "--top", "1", *store, *model]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.endswith(":")] == [f"{file}:" for file in files[::2]]
    assert run(["verify", files[0], files[2], "--dim", "999", *model]) == 2
    assert "--dim" in capsys.readouterr().err


def test_models_do_not_mix(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, files = ["--store", str(tmp_path / "v.sqlite")], _speakers(place)[0]
    assert run(["enroll", "x", files[0], *store, "--model", str(place / "tiny.pt"), "--format", "int8"]) == 0
    other = ["--model", str(place / "tiny-mrl")]
    for arguments in (["enroll", "y", files[1]], ["identify", files[1]], ["verify", "x", files[1]]):
        capsys.readouterr()
        assert run([*arguments, *store, *other]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert "another model" in error or "holds embeddings of 192 numbers, this model gives 256" in error


def test_names_and_files(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("MRL_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    assert default_store() == tmp_path / "data" / "redimnet-mrl" / "voices.sqlite"
    files, model = _speakers(place)[0], ["--model", str(place / "tiny-mrl")]
    assert run(["identify", files[0], *model]) == 2
    assert "there is no voice store" in capsys.readouterr().err
    assert run(["enroll", "anna", files[0], *model]) == 0
    assert default_store().is_file()
    assert run(["verify", "anna", files[0], *model]) == 0
    out = capsys.readouterr().out
    assert "score: 1.0000 " in out and "no decision" in out
    shutil.copy(files[1], tmp_path / "anna")
    assert run(["verify", "anna", files[0], *model]) == 2
    assert "write ./anna for the file, voice:anna for the voice" in capsys.readouterr().err
    assert run(["verify", "voice:anna", files[0], *model]) == 0
    assert "score: 1.0000 " in capsys.readouterr().out
    assert run(["verify", "./anna", files[1], *model]) == 0
    assert "score: 1.0000 " in capsys.readouterr().out
    assert run(["verify", "berta", files[0], *model]) == 2
    assert "'berta' is neither a file here nor a voice in" in capsys.readouterr().err
    assert run(["voices", "remove", "berta"]) == 2
    assert "there is no voice 'berta'" in capsys.readouterr().err
    monkeypatch.setenv("MRL_STORE", str(tmp_path / "other.sqlite"))
    assert run(["voices", "list"]) == 2
    assert "other.sqlite" in capsys.readouterr().err
