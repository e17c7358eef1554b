"""Models on the Hugging Face Hub: fetched, pinned, cached, damaged, shared. The Hub is a server on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mrl import ReDimNetMRL, load_model, load_pretrained_redimnet
from mrl.cli.main import run
from mrl.errors import CheckpointError, DownloadError, InputError, MissingDependencyError
from mrl.pretrained import find_bundled, is_hub_name
from tests.embeddings.tiny import write_models
from tests.pretrained.hub_server import GOOD_TOKEN, Hub, Repository, serving_hub

huggingface_hub = pytest.importorskip("huggingface_hub")
constants = pytest.importorskip("huggingface_hub.constants")
NAME = "some-org/some-model"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_models(tmp_path_factory.mktemp("models"))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serving_hub() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.address)
        yield served


@pytest.fixture
def shared_model(hub: Hub, models: tuple[Path, Path]) -> tuple[Hub, str]:
    repository = hub.repositories[NAME] = Repository()
    return hub, repository.commit({**files_of(models[1]), "notes.bin": b"not fetched"})


def test_from_pretrained_and_its_cache(
    shared_model: tuple[Hub, str], models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, commit = shared_model
    audio = np.random.default_rng(0).standard_normal(16000).astype(np.float32) * 0.1
    expected = ReDimNetMRL.from_pretrained(models[1])(audio).numpy()
    assert np.array_equal(ReDimNetMRL.from_pretrained(NAME)(audio).numpy(), expected)
    snapshot = tmp_path / "cache" / f"models--{NAME.replace('/', '--')}" / "snapshots" / commit
    assert sorted(path.name for path in snapshot.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert load_model(NAME).name == NAME and np.array_equal(load_model(NAME).raw([audio]).shape, (1, 256))
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert np.array_equal(ReDimNetMRL.from_pretrained(NAME)(audio).numpy(), expected) and hub.requests == []
    with pytest.raises(DownloadError, match="org/absent is not in the Hub's cache"):
        ReDimNetMRL.from_pretrained("org/absent")


def test_a_revision_is_pinned(shared_model: tuple[Hub, str], models: tuple[Path, Path], tmp_path: Path) -> None:
    hub, commit = shared_model
    other = ReDimNetMRL.from_pretrained(models[1])
    other.projection.weight.data.neg_()
    other.save_pretrained(tmp_path / "other")
    later = hub.repositories[NAME].commit(files_of(tmp_path / "other"))
    weight = ReDimNetMRL.from_pretrained(models[1]).projection.weight
    for revision, sign in ((commit, 1), (later, -1), ("main", -1), (None, -1)):
        assert ReDimNetMRL.from_pretrained(NAME, revision=revision).projection.weight.equal(sign * weight)
    assert load_model(f"{NAME}@{commit}").model_hash != load_model(NAME).model_hash == load_model(NAME, revision=later).model_hash
    with pytest.raises(DownloadError, match="no revision 'v9'"):
        ReDimNetMRL.from_pretrained(NAME, revision="v9")
    with pytest.raises(InputError, match="is no repository of the Hub"):
        ReDimNetMRL.from_pretrained("mrl-b0-demo", revision="v1")


def test_tampered_and_missing_files(shared_model: tuple[Hub, str], models: tuple[Path, Path]) -> None:
    hub, _ = shared_model
    files = files_of(models[1])
    weights = bytearray(files["model.safetensors"])
    weights[-1] ^= 1
    hub.repositories["org/tampered"] = Repository()
    hub.repositories["org/tampered"].commit({**files, "model.safetensors": bytes(weights)})
    with pytest.raises(CheckpointError, match="SHA-256 differs"):
        ReDimNetMRL.from_pretrained("org/tampered")
    hub.repositories["org/missing"] = Repository()
    hub.repositories["org/missing"].commit({"config.json": files["config.json"]})
    with pytest.raises(CheckpointError, match=r"org/missing on the Hub has no model\.safetensors"):
        ReDimNetMRL.from_pretrained("org/missing")


def test_unknown_repository_revoked_token_and_no_library(
    shared_model: tuple[Hub, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DownloadError, match="org/unknown is neither here nor on the Hub"):
        load_model("org/unknown")
    with pytest.raises(DownloadError, match="the Hub refuses your token"):
        ReDimNetMRL.from_pretrained(NAME, token="hf_revoked")
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match=r"redimnet-mrl\[hub\]"):
        ReDimNetMRL.from_pretrained(NAME)
    assert run(["embed", "x.wav", "-o", "x.npz", "--model", NAME]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_official_checkpoints(hub: Hub, models: tuple[Path, Path]) -> None:
    audio = np.random.default_rng(1).standard_normal(16000).astype(np.float32) * 0.1
    repository = hub.repositories["org/plain"] = Repository()
    repository.commit({"net.pt": models[0].read_bytes()})
    network = load_pretrained_redimnet("org/plain")
    assert np.array_equal(network(audio).numpy(), load_pretrained_redimnet(weights=models[0])(audio).numpy())
    repository.commit({"second.pt": b""})
    with pytest.raises(CheckpointError, match="found net.pt, second.pt"):
        load_pretrained_redimnet("org/plain")


def test_push_and_load_again(
    hub: Hub, models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    report = tmp_path / "report.json"
    dims = [{"dim": 16, "eer": 0.05, "eer_interval": [0.04, 0.07]}, {"dim": 256, "eer": 0.03, "eer_interval": [0.02, 0.04]}]
    facts = {"source": "lists/mine.txt", "trials": 100, "speakers": 10}
    report.write_text(json.dumps({"trial_list": facts, "systems": [{"name": "matryoshka", "dims": dims}]}))
    assert run(["push", "mrl-b0-demo", NAME, "--report", str(report)]) == 0
    assert capsys.readouterr().out.startswith(f"pushed: {hub.address}/{NAME}/commit/")
    shared = hub.repositories[NAME].commits[hub.repositories[NAME].branches["main"]]
    assert set(shared) == {".gitattributes", "README.md", "calibration.json", "config.json", "model.safetensors"}
    parsed = huggingface_hub.ModelCard(shared["README.md"].decode()).data.eval_results
    ours = [one for one in parsed if one.dataset_name == "mine.txt"]
    figures = [(one.metric_args["dim"], one.metric_value, one.metric_args["low"]) for one in ours]
    assert figures == [(16, 5.0, 4.0), (256, 3.0, 2.0)]
    bundled = find_bundled("mrl-b0-demo")
    assert bundled is not None
    stated = {(result.trial_list, rate.dim): rate for result in bundled.release.results for rate in result.model}
    assert {(one.dataset_name, one.metric_args["dim"]) for one in parsed} == {*stated, ("mine.txt", 16), ("mine.txt", 256)}
    loaded = load_model(NAME)
    assert loaded.model_hash == load_model().model_hash
    model = ReDimNetMRL.from_pretrained(models[1])
    assert "/commit/" in model.push_to_hub("org/second", revision="try", token=GOOD_TOKEN)
    assert ReDimNetMRL.from_pretrained("org/second", revision="try").embed_dim == 256
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        ReDimNetMRL.from_pretrained("org/second")
    monkeypatch.setenv("HF_TOKEN", "hf_revoked")
    assert run(["push", str(models[1]), "org/third"]) == 2
    assert "refuses your token" in capsys.readouterr().err


def test_names_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    assert is_hub_name("org/name") and is_hub_name("org/name@v1") and not is_hub_name("b2") and not is_hub_name("a/b/c")
    assert not is_hub_name("runs/absent") and not is_hub_name("./x") and not is_hub_name("../x")
    with pytest.raises(CheckpointError, match="runs/absent"):
        ReDimNetMRL.from_pretrained("runs/absent")
