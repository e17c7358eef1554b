"""``mrl fit-projection``."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mrl.cli.main import run
from mrl.embeddings import head, load_embeddings, load_head, save_embeddings
from mrl.matryoshka.trained_head import HeadTraining
from tests.embeddings.test_head import fisher, make_table
from tests.embeddings.test_kaldi import write_ark


def _write(folder: Path) -> None:
    table, speakers = make_table()
    save_embeddings(folder / "train.npz", table.ids, table.matrix)
    (folder / "utt2spk").write_text("".join(f"{name} {speaker}\n" for name, speaker in speakers.items()))
    other, _ = make_table(1, speakers=12)
    write_ark(folder / "eval.ark", keys=list(other.ids), rows=other.matrix)


@pytest.mark.slow
def test_by_default_the_way_is_chosen_and_said_with_what_was_gained_and_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "HeadTraining", partial(HeadTraining, steps=20))  # seconds in place of a minute
    _write(tmp_path)
    arguments = ["fit-projection", str(tmp_path / "train.npz"), "-o", str(tmp_path / "head.safetensors"), "--dims", "2,4,24"]
    assert run([*arguments, "--labels", str(tmp_path / "utt2spk")]) == 0
    out = capsys.readouterr().out
    about = load_head(tmp_path / "head.safetensors").about
    assert f"chosen: {about['method']}, the lowest error rates on what was held out" in out
    assert " same-speaker trials): EER % of the whole embedding" in out
    lists = about["choice"]["held_out"]
    assert {" ".join(one["name"].split()[:2]) for one in lists} == {"held-out speakers", "without like"}
    assert (
        out.count("against the whole") == 3 * len(lists)
        and f"{about['method']} 24 -> 24 fitted to 200 embeddings of 40 speakers" in out
    )
    assert lists[0]["heads"][about["method"]]["4"] < lists[0]["cut"]["4"]
    assert set(lists[0]["heads"]) == {"rotation", "uncentred", "pca", "lda", "trained", "trained-rotation"}

    groups = "".join(f"{line.split()[0]} g{n % 2}\n" for n, line in enumerate((tmp_path / "utt2spk").read_text().splitlines()))
    (tmp_path / "groups").write_text(groups)  # every speaker in both: none can be held out without the other
    assert run([*arguments, "--labels", str(tmp_path / "utt2spk"), "--groups", str(tmp_path / "groups")]) == 0
    assert "without g0" not in capsys.readouterr().out

    assert run(arguments) == 0
    out = capsys.readouterr().out
    assert "likely speakers among 200 embeddings stand in for them" in out and "embeddings without labels" in out
    about = load_head(tmp_path / "head.safetensors").about
    assert about["speakers"] is None and 40 <= about["likely_speakers"] <= 200


def test_fit_apply_and_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole way of somebody with embeddings of another toolkit: fit on some speakers, judge prefixes on others."""
    _write(tmp_path)
    arguments = ["fit-projection", str(tmp_path / "train.npz"), "--labels", str(tmp_path / "utt2spk")]
    arguments += ["-o", str(tmp_path / "head.safetensors"), "--dims", "2,4,24", "--method", "rotation"]
    arguments += ["--apply", str(tmp_path / "eval.ark"), str(tmp_path / "eval.npz")]
    assert run(arguments) == 0
    out = capsys.readouterr().out
    assert "rotation 24 -> 24 fitted to 200 embeddings of 40 speakers, for prefixes of 2, 4, 24" in out
    assert "60 projected embeddings" in out
    fitted = load_head(tmp_path / "head.safetensors")
    assert fitted.dims == (2, 4, 24)
    projected, raw = load_embeddings(tmp_path / "eval.npz"), load_embeddings(tmp_path / "eval.ark")
    assert projected.ids == raw.ids
    np.testing.assert_allclose(
        projected.matrix, raw.matrix @ fitted.affine.weight.numpy().T + fitted.affine.bias.numpy(), rtol=1e-4, atol=1e-4
    )
    assert fisher(projected.matrix[:, :4]) > 3 * fisher(raw.matrix[:, :4])

    ids = projected.ids
    lines = [f"{int(a.split('/')[0] == b.split('/')[0])} {a} {b}\n" for n, a in enumerate(ids) for b in ids[n + 1 :]]
    (tmp_path / "trials.txt").write_text("".join(lines))
    judge = ["evaluate", str(tmp_path / "eval.npz"), str(tmp_path / "eval.ark"), "--trials", str(tmp_path / "trials.txt")]
    assert run([*judge, "--dims", "4,24", "--bootstrap", "100", "--output", str(tmp_path / "report")]) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    names = [system["name"] for system in report["systems"]]
    assert names == ["eval.npz", "eval.ark"]
    rates = {system["name"]: {one["dim"]: one["eer"] for one in system["dims"]} for system in report["systems"]}
    assert rates[names[0]][24] == pytest.approx(rates[names[1]][24], abs=1e-6)  # a rotation changes nothing at full length
    assert rates[names[0]][4] < rates[names[1]][4]


def test_nothing_is_written_when_something_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write(tmp_path)
    start = ["fit-projection", str(tmp_path / "train.npz"), "-o", str(tmp_path / "h.safetensors")]
    for more, message in (
        (["--labels", str(tmp_path / "absent")], "cannot be read"),
        (["--method", "lda"], "needs speaker labels"),
        (["--apply", str(tmp_path / "absent.npz"), str(tmp_path / "x.npz")], "does not exist"),
        (["--apply", str(tmp_path / "eval.ark"), str(tmp_path / "x.ark")], "no suffix of an embedding file"),
    ):
        assert run([*start, *more]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "h.safetensors").exists()
