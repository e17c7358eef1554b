"""``mrl trials fetch|make|check``."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrl.cli.main import run
from mrl.trials import read_trials
from tests.embeddings.fakes import write_corpus
from tests.pretrained.servers import Answers, serving
from tests.trials.test_voxceleb_lists import content


def test_fetch_from_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    files = {"veri_test.txt": content(37_720, 18_860), "veri_test2.txt": content(37_611, 18_802)}
    with serving(Answers(files=files)) as address:
        assert run(["trials", "fetch", "voxceleb1-o", "vox1-o-cleaned", "--source", address]) == 0
        out = capsys.readouterr().out.splitlines()
        assert run(["trials", "fetch", "voxceleb1-h", "--source", address]) == 2
    assert out == [
        "trials/voxceleb1-o.txt: 37,720 trials, 18,860 of them of one speaker",
        "trials/voxceleb1-o-cleaned.txt: 37,611 trials, 18,802 of them of one speaker",
    ]
    assert read_trials("trials/voxceleb1-o-cleaned.txt").num_nontarget == 18_809
    error = capsys.readouterr().err
    assert error.startswith("mrl trials: error: voxceleb1-h cannot be fetched: ") and "404" in error
    assert run(["trials", "fetch", "voxceleb1-x"]) == 2
    assert "there are voxceleb1-o," in capsys.readouterr().err


def test_make_then_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = write_corpus(tmp_path / "voices", num_speakers=4, per_speaker=3)
    rows = "".join(f"voices/{name},{name[:8]},{'f' if name[7] in '01' else 'm'},eval\n" for name in names)
    manifest = tmp_path / "m.csv"
    manifest.write_text("path,speaker,sex,part\n" + rows)
    made = tmp_path / "list.txt"
    arguments = ["trials", "make", str(manifest), "-o", str(made), "--max-targets", "8", "--max-nontargets", "20"]
    more = ["--same-gender-share", "0.5", "--gender-column", "sex", "--where", "part=eval", "--seed", "3"]
    assert run([*arguments, *more]) == 0
    assert f"{made}: 8 same-speaker and 20 different-speaker trials" in capsys.readouterr().out
    lines = [line.split() for line in made.read_text().splitlines()]
    same = sum((a[14] in "01") == (b[14] in "01") for label, a, b in lines if label == "0")
    assert (len(lines), same) == (28, 10)
    again = made.read_bytes()
    assert run([*arguments, *more]) == 0 and made.read_bytes() == again
    assert run(["trials", "check", str(made), "--root", str(tmp_path), "--decode"]) == 0
    assert capsys.readouterr().out.endswith("no errors\n")
    (tmp_path / "voices" / names[0]).unlink()
    made.write_text(made.read_text() + f"1 voices/{names[0]} voices/{names[-1]}\n")
    assert run(["trials", "check", str(made), "--root", str(tmp_path)]) == 2
    out = capsys.readouterr().out
    assert "error: 1 recordings that are missing" in out and f"  voices/{names[0]}\n" in out
    assert "error: 1 labels that contradict the folders' names" in out and "no errors" not in out


def test_check_of_a_list_with_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = write_corpus(tmp_path / "data", num_speakers=2, per_speaker=3)
    (tmp_path / "key.lst").write_text(f"m0 {names[2]} tgt\nm1 {names[2]} imp\n")
    (tmp_path / "enroll.map").write_text(f"m0 {names[0]} {names[1]}\nm1 {names[3]} {names[4]}\n")
    arguments = ["trials", "check", str(tmp_path / "key.lst"), "--root", str(tmp_path / "data"), "--enrolment"]
    assert run([*arguments, str(tmp_path / "enroll.map")]) == 0
    assert "not checked: speakers" in capsys.readouterr().out
    assert run([*arguments, str(tmp_path / "enroll.map"), "--enrolment-prefix", "../data/"]) == 0
    assert run([*arguments, str(tmp_path / "enroll.map"), "--enrolment-prefix", "other/"]) == 2
    assert "error: 4 recordings that are missing" in capsys.readouterr().out
    (tmp_path / "spk").write_text(f"m0 a\nm1 b\n{names[2]} a\n")
    assert run([*arguments, str(tmp_path / "enroll.map"), "--speakers", str(tmp_path / "spk")]) == 0


def test_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["trials", "make", str(tmp_path), "-o", "x", "--where", "eval"]) == 2
    assert "COLUMN=VALUE" in capsys.readouterr().err
    assert run(["trials", "check", str(tmp_path / "absent")]) == 2
    assert "does not exist" in capsys.readouterr().err
