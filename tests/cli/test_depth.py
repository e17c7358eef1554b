"""``mrl fit-exits``, and ``--depth`` of the verbs that can leave a network early."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mrl.cli.main import run
from mrl.deployment import export as exporting
from mrl.embeddings import embed_files, load_calibration, load_embeddings, open_model, weights_sha256
from mrl.evaluation import evaluate_model
from mrl.matryoshka import ReDimNetMRL
from mrl.trials import read_trials
from tests.embeddings.fakes import all_pairs
from tests.embeddings.tiny import write_models, write_voices


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, 18 recordings, trials, a calibrated folder, and ``exits``: the same with an exit after the first stage."""
    folder = tmp_path_factory.mktemp("depth")
    write_models(folder)
    lines = "".join(f"{int(label)} {a} {b}\n" for label, a, b in all_pairs(write_voices(folder / "voices")))
    (folder / "trials.txt.gz").write_bytes(gzip.compress(lines.encode()))
    listed = ["--trials", str(folder / "trials.txt.gz"), "--root", str(folder / "voices")]
    assert run(["calibrate", str(folder / "tiny-mrl"), *listed, "--dims", "16", "--quality", "none"]) == 0
    assert run(["fit-exits", str(folder / "tiny-mrl"), str(folder / "voices"), "-o", str(folder / "exits")]) == 0
    return folder


@pytest.fixture
def model(place: Path) -> ReDimNetMRL:
    return ReDimNetMRL.from_pretrained(place / "exits")


def _recordings(place: Path) -> list[str]:
    return sorted(map(str, (place / "voices").glob("*/*.flac")))


def _trials(place: Path, *more: str) -> list[str]:
    return ["--trials", str(place / "trials.txt.gz"), "--root", str(place / "voices"), "--bootstrap", "0", *more]


def test_fit_exits(place: Path, model: ReDimNetMRL, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = ReDimNetMRL.from_pretrained(place / "tiny-mrl")
    assert model.depths == (1, 2) and whole.depths == (2,)
    assert weights_sha256(model) == weights_sha256(whole)
    config = json.loads((place / "exits" / "config.json").read_text())
    assert config["training"] == {"early exits": "after 1 of 2 stages, last fitted to 18 recordings"}
    # The calibration is of the whole network, which is what it was.
    kept, original = load_calibration(place / "exits"), load_calibration(place / "tiny-mrl")
    assert kept is not None and original is not None
    assert kept.dims == original.dims and kept.weights_sha256 != original.weights_sha256
    # Nearer to the whole network than the embeddings of other recordings are, on the recordings fitted to.
    with torch.inference_mode():
        audio = _recordings(place)
        early, full = (torch.stack([model(path, depth=depth) for path in audio]) for depth in model.depths)
    assert (early * full).sum(dim=1).mean() > (early @ full.T).mean() + 0.005

    capsys.readouterr()
    arguments = ["fit-exits", str(place / "exits"), str(place / "voices"), "-o", str(tmp_path / "new"), "--max-seconds", "0.5"]
    assert run([*arguments, "--depths", "1"]) == 0
    out = capsys.readouterr().out
    size = (tmp_path / "new" / "model.safetensors").stat().st_size
    assert "fitted to 18 recordings; depths: 1, 2 (2 is the whole network)" in out and f"{size:,} bytes of weights" in out
    again = ReDimNetMRL.from_pretrained(tmp_path / "new")
    assert (again._exit(1).projection.weight - model._exit(1).projection.weight).abs().max() > 1e-4  # heard less


def test_the_card_of_a_released_model_with_exits(place: Path, tmp_path: Path) -> None:
    """Data and licence go along, and the example loads this folder, not the package's model without exits."""
    voices = [*_recordings(place), "--max-seconds", "0.5", "--depths", "1"]
    assert run(["fit-exits", "mrl-b0-demo", *voices, "-o", str(tmp_path / "demo")]) == 0
    card = (tmp_path / "demo" / "README.md").read_text()
    assert "CC-BY-4.0" in card and 'from_pretrained("THIS_FOLDER")' in card and "after 1 of 5 stages" in card
    assert weights_sha256(open_model(tmp_path / "demo")) == weights_sha256(open_model("mrl-b0-demo"))


def test_weights_in_half_precision_stay_so(place: Path, tmp_path: Path) -> None:
    model = ReDimNetMRL.from_pretrained(place / "tiny-mrl")
    model.save_pretrained(tmp_path / "half", dtype=torch.float16)
    assert run(["fit-exits", str(tmp_path / "half"), str(place / "voices"), "-o", str(tmp_path / "exits")]) == 0
    assert json.loads((tmp_path / "exits" / "config.json").read_text())["weights_dtype"] == "float16"
    half, exits = open_model(tmp_path / "half"), open_model(tmp_path / "exits")
    assert weights_sha256(half) == weights_sha256(exits)


def test_fit_exits_errors(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    voices, new = str(place / "voices"), str(tmp_path / "new")
    for arguments, message in (
        ([str(place / "tiny-mrl"), voices, "-o", str(tmp_path / "full")], "is there already"),
        ([str(place / "exits"), voices, "-o", str(place / "exits")], "is there already"),
        ([str(place / "tiny-mrl"), voices, "-o", new, "--depths", "2"], "from 1 to 1"),
        ([str(place / "tiny-mrl"), *_recordings(place)[:3], "-o", new], "too few"),
        ([str(place / "tiny.pt"), voices, "-o", new], "expected a model folder"),
        (["b2", voices, "-o", new], "expected a model folder"),
    ):
        assert run(["fit-exits", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and error.startswith("mrl fit-exits: error: ") and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_embed(place: Path, model: ReDimNetMRL, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["embed", str(place / "voices"), "--model", str(place / "exits"), "--dim", "16"]
    assert run([*arguments, "--depth", "1", "-o", str(tmp_path / "early.npz")]) == 0
    assert run([*arguments, "--depth", "2", "-o", str(tmp_path / "whole.npz")]) == 0
    early, whole = (load_embeddings(tmp_path / f"{name}.npz") for name in ("early", "whole"))
    with torch.inference_mode():
        expected = [np.stack([model(path, None, 16, depth=depth).numpy() for path in early.ids]) for depth in (1, 2)]
    np.testing.assert_allclose(early.matrix, expected[0], atol=1e-4)
    np.testing.assert_allclose(whole.matrix, expected[1], atol=1e-4)
    assert early.metadata["depth"] == 1 and early.metadata["unit_length"] is True
    # Which network made them, and which ones they may be compared with.
    assert early.metadata["whole_model_sha256"] == whole.metadata["model_sha256"] != early.metadata["model_sha256"]
    assert "depth" not in whole.metadata
    # Shards of different depths do not end up in one folder.
    assert run([*arguments, "--depth", "1", "-o", str(tmp_path / "shards")]) == 0
    capsys.readouterr()
    assert run([*arguments, "-o", str(tmp_path / "shards")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert load_embeddings(tmp_path / "shards").metadata["depth"] == 1


def test_verify(place: Path, model: ReDimNetMRL, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = _recordings(place)[0], _recordings(place)[4]
    arguments = ["verify", first, second, "--model", str(place / "exits"), "--dim", "16"]
    for depth in (1, 2):
        assert run([*arguments, "--depth", str(depth)]) == 0
        out = capsys.readouterr().out
        with torch.inference_mode():
            one, two = (model(path, target_dim=16, depth=depth) for path in (first, second))
        assert f"score: {float(one @ two):.4f}" in out
        # The folder's calibration was made with the whole network.
        assert ("log-likelihood ratio: " in out) == (depth == 2)
    assert run([*arguments, "--depth", "1", "--prior", "0.5"]) == 2
    assert "a calibration is of the whole network, not of depth 1" in capsys.readouterr().err


def test_evaluate(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exits, cache = str(place / "exits"), ["--dims", "16,256", "--cache", str(tmp_path / "cache")]
    found = {}
    for depth in (1, 2, 1):  # the last one is from the cache
        output = tmp_path / f"depth-{depth}"
        assert run(["evaluate", exits, *_trials(place, "--depth", str(depth), "--output", str(output), *cache)]) == 0
        found[depth] = json.loads((output / "report.json").read_text())
    trials = read_trials(place / "trials.txt.gz")
    for depth, report in found.items():
        network = open_model(place / "exits", depth=depth)
        expected = evaluate_model(network, trials, place / "voices", dims=(16, 256), bootstrap=0).equal_error_rates()
        rates = {one["dim"]: one["eer"] for one in report["systems"][0]["dims"]}
        assert rates == pytest.approx(expected, abs=1e-9)
    early, whole = found[1], found[2]
    assert [system["name"] for system in early["systems"]] == ["matryoshka (depth 1)"]
    assert [system["name"] for system in whole["systems"]] == ["matryoshka (depth 2)", "unmodified backbone"]
    facts = early["provenance"]
    assert facts["depth"] == "1 of 2 stages" and facts["systems"][0]["depth"] == 1
    assert facts["whole_model_sha256"] == whole["provenance"]["model_sha256"] != facts["model_sha256"]
    assert early["systems"][0]["dims"][0]["calibrated"] is None and whole["systems"][0]["dims"][0]["calibrated"] is not None
    assert "is of the whole network, not of depth 1" in " ".join((tmp_path / "depth-1" / "table.md").read_text().split())
    capsys.readouterr()
    assert run(["evaluate", exits, *_trials(place, "--depth", "1", "--baseline", exits, *cache)]) == 0
    out = capsys.readouterr().out
    assert "matryoshka (depth 1)" in out and "baseline" in out


def test_wrong_depths(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two, exits = _recordings(place)[:2], str(place / "exits")
    shutil.copyfile(place / "tiny.pt", tmp_path / "fake.onnx")
    assert run(["embed", *two, "--model", exits, "-o", str(tmp_path / "e.npz")]) == 0
    capsys.readouterr()
    missing = "depth=3 is not available; this model has 1, 2 (2 is the whole network)"
    for arguments, message in (
        (["verify", *two, "--model", exits, "--depth", "3"], missing),
        (["embed", *two, "--model", exits, "--depth", "3", "-o", str(tmp_path / "x.npz")], missing),
        (["evaluate", exits, *_trials(place, "--depth", "3")], missing),
        (["export", exits, "-o", str(tmp_path / "x.onnx"), "--depth", "3"], missing),
        (["verify", *two, "--model", str(place / "tiny-mrl"), "--depth", "1"], "this model has 2 (2 is the whole network)"),
        (["verify", *two, "--model", str(place / "tiny.pt"), "--depth", "1"], "is a plain ReDimNet without exits"),
        (["verify", *two, "--model", "b2", "--depth", "1"], "b2 is a plain ReDimNet without exits"),
        (["verify", *two, "--model", str(tmp_path / "fake.onnx"), "--depth", "1"], "is an exported file, which has no exits"),
        (["evaluate", str(tmp_path / "e.npz"), *_trials(place, "--depth", "1")], "does not go with a file of embeddings"),
        (["verify", "voice:anna", two[0], "--depth", "1", "--store", str(tmp_path / "s")], "--depth is for two recordings"),
    ):
        assert run(arguments) == 2, arguments
        error = capsys.readouterr().err
        assert message in error, error
        assert error.count("\n") == 1 or error.startswith("Usage: ")
    assert {path.name for path in tmp_path.iterdir()} == {"fake.onnx", "e.npz"}


def test_an_exported_exit(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(exporting, "CHECKED_SHAPES", ((1, 0.3), (3, 1.0)))
    output = tmp_path / "early.onnx"
    assert run(["export", str(place / "exits"), "-o", str(output), "--depth", "1"]) == 0
    out = capsys.readouterr().out
    assert "the first 1 of 2 stages, by an early exit" in out and "smallest cosine " in out
    assert run(["export", "--check", str(output)]) == 0
    exported, network = open_model(output), open_model(place / "exits", depth=1)
    files = _recordings(place)[:3]
    found, expected = (embed_files(one, files, target_dim=32).matrix for one in (exported, network))
    assert (found * expected).sum(axis=1).min() > 0.99999
    assert weights_sha256(exported) == weights_sha256(network)
    card = json.loads((tmp_path / "early.onnx.json").read_text())
    assert card["cut"]["whole_sha256"] == weights_sha256(open_model(place / "exits")) and card["calibration"] is None
    assert run(["embed", *files, "--model", str(output), "-o", str(tmp_path / "e.npz")]) == 0
    assert load_embeddings(tmp_path / "e.npz").metadata["depth"] == 1
