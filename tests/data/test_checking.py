"""Everything that is wrong with a manifest's recordings."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrl.data import Limits, check_manifest
from mrl.errors import DataError
from tests.data.recordings import noise, write


def test_all_faults_are_found(tmp_path: Path) -> None:
    for seed, name in enumerate(("good", "longer", "cut", "short")):
        write(tmp_path / f"{name}.wav", noise(seed, 0.3 if name == "short" else 0.6))
    (tmp_path / "cut.wav").write_bytes((tmp_path / "cut.wav").read_bytes()[:-3000])
    write(tmp_path / "zero.wav", noise(9) * 0)
    manifest = tmp_path / "m.csv"
    rows = ["good.wav,s,,0.6", "longer.wav,s,,0.9", "cut.wav,s,,0.6", "zero.wav,t,,0.6", "none.wav,t,,0.6", "short.wav,t,,0.3"]
    rows += ["good.wav,t,0.3,0.2"]
    manifest.write_text("path,speaker,start,seconds\n" + "\n".join(rows) + "\n")
    found = check_manifest(manifest)
    assert [(one.path.name, one.kind) for one in found.faulty] == [
        ("cut.wav", "unreadable"),
        ("longer.wav", "unreadable"),
        ("none.wav", "unreadable"),
        ("zero.wav", "silent"),
    ]
    reasons = {one.path.name: one.reason for one in found.faulty}
    assert "cut off: 0.41 s found of 0.60 s" in reasons["cut.wav"]
    assert reasons["longer.wav"] == "the stretch from 0 s to 0.9 s is past the end, the recording has 0.60 s"
    assert reasons["none.wav"] == "there is no such file"
    assert (found.utterances, found.speakers) == (7, 2)
    assert found.seconds == pytest.approx(0.6 + 0.6 + 0.3 + 0.2)
    plain = found.to_dict()
    assert plain["counts"] == {"unreadable": 3, "silent": 1}
    assert plain["faulty"][3] == {
        "path": str(tmp_path / "zero.wav"),
        "speaker": "t",
        "start": 0.0,
        "fault": "silent",
        "reason": "every sample is zero",
    }
    short = check_manifest(manifest, where={"speaker": "t"}, limits=Limits(min_seconds=0.4))
    assert short.counts() == {"unreadable": 1, "silent": 1, "too-short": 2}


def test_root_and_missing_manifest(tmp_path: Path) -> None:
    write(tmp_path / "data" / "a.wav", noise(1))
    (tmp_path / "m.csv").write_text("path,speaker\na.wav,s\n")
    assert check_manifest(tmp_path / "m.csv", root=tmp_path / "data").faulty == ()
    assert check_manifest(tmp_path / "m.csv").counts() == {"unreadable": 1}
    with pytest.raises(DataError, match="does not exist"):
        check_manifest(tmp_path / "none.csv")
