"""``mrl data prepare``, ``check`` and ``stats``."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mrl.cli.data import command
from mrl.cli.main import run
from mrl.data import read_manifest
from tests.data.recordings import noise, write

VIDEO = "5r0dWxy17C8"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    root = tmp_path / "vox1"
    for seed, speaker in enumerate(("id10001", "id10002", "id10270")):
        write(root / "wav" / speaker / VIDEO / "00001.wav", noise(seed))
    write(root / "wav" / "id10001" / VIDEO / "00002.wav", noise(8, 0.3))
    write(root / "wav" / "id10001" / "x6uYqmx31kE" / "00001.wav", noise(0))
    loud = noise(9)
    loud[:100] = 1.0
    write(root / "wav" / "id10002" / VIDEO / "00003.wav", loud)
    write(root / "extra" / "music.wav", noise(10))
    return root


def test_help_names_every_subcommand_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from mrl.cli.main import run; status = run(['data', '--help'])\n"
        "heavy = [name for name in sys.modules if name.startswith(('torch', 'numpy', 'mrl.data'))]\n"
        "sys.exit(status or ' '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(command.commands) == {"prepare", "check", "stats", "shard", "listen"}
    for name, subcommand in command.commands.items():
        assert name in done.stdout and subcommand.get_short_help_str(200).split()[0] in done.stdout
    assert run(["data", "sort"]) == 2


def test_from_a_folder_to_statistics(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "vox1.parquet"
    assert run(["data", "prepare", str(corpus), "-o", str(target), "--split", "dev", "--num-workers", "1"]) == 0
    printed = capsys.readouterr()
    assert printed.err == f"{corpus}: 5 utterances, read as voxceleb\n"
    assert printed.out.splitlines() == [
        f"{target}: 3 utterances of 2 speakers, 0.00 hours (2 of 5 left out)",
        "  too-short: 1 too short",
        "  duplicate: 1 the same audio as another of the speaker's",
        f"  all are listed in {tmp_path}/vox1.faults.tsv",
        "note: 1 utterances have more than 1 % of their samples at full scale",
        "note: 2 recordings were skipped: another corpus or split, or not in the layout voxceleb",
    ]
    assert len(read_manifest(target)) == 3
    assert run(["data", "check", str(target)]) == 0
    assert capsys.readouterr().out == f"{target}: 3 utterances of 2 speakers, 0.00 hours, 0 faulty\n"
    assert run(["data", "stats", str(target), "--plot", str(tmp_path / "p.png")]) == 0
    assert capsys.readouterr().out.startswith("speakers      2 (1 with a single utterance, 0 with several sessions)\n")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert run(["data", "stats", str(target), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sample_rates"] == {"8000": 3}


def test_options_of_prepare(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "a.csv", tmp_path / "b.jsonl"
    arguments = ["--corpus", "voxceleb1", "--min-seconds", "0.2", "--max-clipped", "0.01", "--keep", "duplicate"]
    assert run(["data", "prepare", str(corpus), "-o", str(first), *arguments, "--root", str(corpus)]) == 0
    out = capsys.readouterr().out
    assert "5 utterances of 3 speakers" in out
    assert "duplicate: 1 the same audio as another of the speaker's, 1 of them kept" in out and "clipped: 1 clipped" in out
    assert "wav/id10001/" in first.read_text() and str(corpus) not in first.read_text()
    more = ["--source-root", str(corpus), "--where", "split=dev", "--where", "corpus=voxceleb1", "--header-only"]
    assert run(["data", "prepare", str(first), "-o", str(second), *more, "--silence-db", "-40"]) == 0
    assert "3 utterances of 2 speakers" in capsys.readouterr().out  # of five: one of test, one too short
    assert run(["data", "prepare", str(corpus), "-o", str(tmp_path / "m.csv"), "--silence-db", "-0.5"]) == 0
    assert "silent: 6 silent" not in capsys.readouterr().out


def test_speakers_of_trials_are_refused(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trials = tmp_path / "veri_test.txt"
    trials.write_bytes(gzip.compress(b"1 id10270/a6uYqmx31kE/00001.wav id10270/x6uYqmx31kE/00001.wav\n"))
    target = tmp_path / "m.csv"
    arguments = ["data", "prepare", str(corpus), "-o", str(target), "--eval-trials", str(trials)]
    assert run(arguments) == 2
    error = capsys.readouterr().err
    assert "mrl data: error: 1 of 3 training speakers are also in the evaluation trials (voxceleb1/id10270)" in error
    assert "--overlap leave-out" in error and not target.exists()
    assert run([*arguments, "--overlap", "leave-out"]) == 0
    assert "evaluated: 1 of speakers in the evaluation trials" in capsys.readouterr().out
    assert run([*arguments, "--overlap", "allow"]) == 0
    assert "warning: 1 of 3 training speakers" in capsys.readouterr().err
    assert "voxceleb1/id10270" in read_manifest(target).speakers


def test_check_lists_what_is_wrong(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = tmp_path / "m.csv"
    assert run(["data", "prepare", str(corpus), "-o", str(manifest)]) == 0
    gone = corpus / "wav" / "id10270" / VIDEO / "00001.wav"
    gone.unlink()
    capsys.readouterr()
    assert run(["data", "check", str(manifest)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"unreadable: {gone} (voxceleb1/id10270): there is no such file"
    assert out[1].endswith("utterances of 3 speakers, 0.00 hours, 1 faulty")
    assert run(["data", "check", str(manifest), "--json", "--min-seconds", "1", "--max-clipped", "0.001"]) == 1
    assert json.loads(capsys.readouterr().out)["counts"] == {"unreadable": 1, "too-short": 3}
    assert run(["data", "check", str(manifest), "--where", "speaker=id10001"]) == 0
    assert run(["data", "check", str(tmp_path / "none.csv")]) == 2
    assert "does not exist" in capsys.readouterr().err
