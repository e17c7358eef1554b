"""From folders to a manifest: what is left out and why, and that training reads what is left."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import pytest

from mrl.audio import load_audio
from mrl.data import Limits, find_recordings, prepare_manifest, read_manifest
from mrl.data import preparing as preparing_module
from mrl.errors import DataError, InputError
from tests.data.recordings import noise, write

VIDEO = "5r0dWxy17C8"


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """Speakers with one of each fault."""
    root = tmp_path / "data"
    write(root / "ann" / "1.wav", noise(1))
    write(root / "ann" / "2.wav", noise(2))
    write(root / "ann" / "copy-of-1.flac", noise(1))
    write(root / "ann" / "short.wav", noise(3, 0.2))
    write(root / "ann" / "zero.wav", noise(4) * 0)
    write(root / "bob" / "monday" / "1.wav", noise(5))
    write(root / "bob" / "monday" / "quiet.wav", noise(6, level=0.0005))
    write(root / "bob" / "monday" / "zero.wav", noise(4) * 0)
    write(root / "cid" / "1.wav", noise(7))
    write(root / "cid" / "also-dans.wav", noise(8))
    write(root / "dan" / "1.wav", noise(9))
    write(root / "dan" / "also-cids.wav", noise(8))
    loud = noise(10)
    loud[:48] = 1.0
    write(root / "dan" / "clipped.wav", loud)
    (root / "dan" / "broken.wav").write_bytes(b"RIFF but nothing else")
    return root


def report(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return {Path(row["path"]).name: row for row in csv.DictReader(stream, delimiter="\t")}


def names(manifest: Path, **options: Any) -> list[str]:
    return [f"{one.speaker}/{one.path.name}" for one in read_manifest(manifest, **options).utterances]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_faulty_utterances_are_left_out_and_listed(faulty: Path, tmp_path: Path, suffix: str) -> None:
    done = prepare_manifest(find_recordings(faulty), tmp_path / f"m.{suffix}")
    assert names(done.manifest) == ["ann/1.wav", "ann/2.wav", "bob/1.wav", "cid/1.wav", "dan/1.wav", "dan/clipped.wav"]
    assert (done.found, done.utterances, done.speakers, done.layout) == (14, 6, 4, "folders")
    assert done.seconds == pytest.approx(3.6)
    assert done.faults == {"unreadable": 1, "silent": 3, "too-short": 1, "duplicate": 1, "contradictory": 2}
    assert (done.kept, done.clipped) == ({}, 0)  # exactly 1 % of the clipped one's samples are at full scale
    rows = report(done.report)
    assert done.report == tmp_path / "m.faults.tsv" and len(rows) == 7  # of eight: zero.wav stands there twice
    assert rows["short.wav"]["reason"] == "0.20 s"
    assert rows["quiet.wav"]["reason"] == "the loudest sample is at -66 dB"
    assert rows["zero.wav"]["reason"] == "every sample is zero"
    assert rows["copy-of-1.flac"]["reason"] == f"the same audio as {faulty}/ann/1.wav"
    assert rows["also-dans.wav"]["reason"].startswith("the same audio is listed under 2 speakers (cid: ")
    assert rows["broken.wav"]["fault"] == "unreadable" and {row["kept"] for row in rows.values()} == {"no"}
    corpus = read_manifest(done.manifest)
    sessions = {one.speaker: one.session for one in corpus.utterances}
    assert sessions == {"ann": None, "bob": "monday", "cid": None, "dan": None}
    assert [one.seconds for one in corpus.utterances] == [0.6] * 6
    assert all(len(load_audio(one.path)) == 9600 for one in corpus.utterances)
    assert {path.name for path in tmp_path.iterdir()} == {"data", "m.faults.tsv", f"m.{suffix}"}  # no journal is left


def test_limits_and_keeping(faulty: Path, tmp_path: Path) -> None:
    found = find_recordings(faulty)
    limits = Limits(min_seconds=0.1, silence_db=-70.0, max_clipped_share=0.009)
    done = prepare_manifest(found, tmp_path / "m.csv", limits=limits, keep=["duplicate", "contradictory", "silent"])
    assert done.faults == {"unreadable": 1, "silent": 2, "clipped": 1, "duplicate": 1, "contradictory": 2}
    assert done.kept == {"silent": 2, "duplicate": 1, "contradictory": 2}
    assert done.utterances == 14 - 2
    rows = report(done.report)
    assert rows["clipped.wav"]["reason"] == "1.00 % of the samples are at full scale"
    assert (rows["copy-of-1.flac"]["kept"], rows["clipped.wav"]["kept"]) == ("yes", "no")
    with pytest.raises(InputError, match="'unreadable' cannot be kept; expected silent"):
        prepare_manifest(found, tmp_path / "m.csv", keep=["unreadable"])
    for wrong in ({"min_seconds": -1.0}, {"silence_db": 3.0}, {"max_clipped_share": 1.5}, {"min_seconds": float("nan")}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            Limits(**wrong)


def test_headers_only(faulty: Path, tmp_path: Path) -> None:
    done = prepare_manifest(find_recordings(faulty), tmp_path / "m.csv", decode=False)
    assert done.faults == {"unreadable": 1, "too-short": 1}


def test_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "data" / "ann" / "1.wav", noise(1))
    monkeypatch.chdir(tmp_path)
    found = find_recordings("data")

    def paths(**options: Any) -> str:
        prepare_manifest(found, **options)
        with Path(options["output"]).open() as stream:
            return next(csv.DictReader(stream))["path"]

    assert paths(output="m.csv") == "data/ann/1.wav"
    assert paths(output="data/m.csv") == "ann/1.wav"
    assert paths(output="lists/m.csv") == f"{tmp_path}/data/ann/1.wav"
    assert read_manifest("lists/m.csv").utterances[0].path.is_file()
    assert paths(output="lists/m.csv", root="data") == "ann/1.wav"
    assert read_manifest("lists/m.csv", root="data").utterances[0].path.is_file()


def test_a_manifest_is_prepared_again_with_its_stretches_and_columns(tmp_path: Path) -> None:
    write(tmp_path / "long.wav", noise(1, 3.0))
    write(tmp_path / "whole.wav", noise(2, 1.00003))
    (tmp_path / "a.csv").write_text(
        "path,speaker,start,duration,corpus,age\n"
        "long.wav,s,0,1.0,k,7\nlong.wav,s,1.0,1.0,k,\nlong.wav,t,2.5,1.0,k,8\nwhole.wav,t,,,k,\n"
    )
    done = prepare_manifest(find_recordings(tmp_path / "a.csv"), tmp_path / "b.parquet")
    assert done.faults == {"unreadable": 1}
    corpus = read_manifest(done.manifest)
    found = [(one.speaker, one.path.name, one.start, one.seconds) for one in corpus.utterances]
    assert found == [("k/s", "long.wav", 0.0, 1.0), ("k/s", "long.wav", 1.0, 1.0), ("k/t", "whole.wav", 0.0, 1.0)]
    assert len(read_manifest(done.manifest, where={"age": 7})) == 1
    again = prepare_manifest(find_recordings(done.manifest), tmp_path / "c.jsonl")
    assert read_manifest(again.manifest) == corpus and again.faults == {}


def test_evaluation_speakers(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, speaker in enumerate(("id10001", "id10002", "id10270")):
        write(tmp_path / "wav" / speaker / VIDEO / "00001.wav", noise(seed))
    found = find_recordings(tmp_path / "wav")
    trials = ["id10270/x6uYqmx31kE/00001.wav", "id10271/x6uYqmx31kE/00001.wav"]
    target = tmp_path / "m.csv"
    with monkeypatch.context() as patch:
        patch.setattr(preparing_module, "survey", None)  # refused before hours of reading
        with pytest.raises(DataError, match=r"1 of 3 training speakers .* VoxCeleb1-O .* --overlap leave-out"):
            prepare_manifest(found, target, evaluation=trials)
    assert not target.exists()
    done = prepare_manifest(found, target, evaluation=trials, overlap="leave-out")
    assert names(target) == ["voxceleb1/id10001/00001.wav", "voxceleb1/id10002/00001.wav"] and done.faults == {"evaluated": 1}
    assert not caplog.messages
    done = prepare_manifest(found, target, evaluation=trials, overlap="allow")
    assert done.utterances == 3 and "error rates on those trials will look better than they are" in caplog.text


def test_nothing_left(tmp_path: Path) -> None:
    write(tmp_path / "data" / "ann" / "1.wav", noise(1) * 0)
    with pytest.raises(
        DataError, match=r"all 1 utterances are faulty, the first is silent \(every sample is zero\); see .*faults"
    ):
        prepare_manifest(find_recordings(tmp_path / "data"), tmp_path / "m.csv")
    assert not (tmp_path / "m.csv").exists() and (tmp_path / "m.faults.tsv").exists()
    with pytest.raises(InputError, match="unsupported extension '.txt'"):
        prepare_manifest(find_recordings(tmp_path / "data"), tmp_path / "m.txt")


def test_a_name_of_another_encoding(tmp_path: Path) -> None:
    write(tmp_path / "data" / "ann" / "1.wav", noise(1))
    try:
        os.rename(tmp_path / "data/ann/1.wav", os.fsencode(tmp_path) + b"/data/ann/caf\xe9.wav")  # noqa: PTH104  (bytes)
    except OSError:
        pytest.skip("this file system keeps names in UTF-8")
    write(tmp_path / "data" / "ann" / "2.wav", noise(2))
    done = prepare_manifest(find_recordings(tmp_path / "data"), tmp_path / "m.parquet")
    assert done.faults == {"unreadable": 1} and names(done.manifest) == ["ann/2.wav"]
    assert report(done.report)["caf\\udce9.wav"]["reason"] == "the name is not valid UTF-8; rename the file"


@pytest.mark.shared
def test_real_speech(shared: Path, tmp_path: Path) -> None:
    some = {"corpus": "so762_child", "speaker": ["so0003", "so0044"]}
    stated = read_manifest(shared / "corpora" / "manifest.tsv", where=some)
    done = prepare_manifest(find_recordings(shared / "corpora" / "manifest.tsv", where=some), tmp_path / "m.parquet")
    assert (done.utterances, done.speakers, done.faults, done.clipped) == (len(stated), 2, {}, 0)
    prepared = read_manifest(done.manifest, where={"part": "eval"})
    assert [one.path for one in prepared.utterances] == [one.path for one in stated.utterances]
    for one, before in zip(prepared.utterances, stated.utterances, strict=True):
        assert one.seconds == pytest.approx(before.seconds, abs=0.02)
