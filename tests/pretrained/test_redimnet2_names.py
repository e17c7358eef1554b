"""Files of the second generation by the names of the registry, wherever a network can be named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mrl.audio import write_synthetic_corpus
from mrl.backbone import ReDimNet2
from mrl.cli.main import run
from mrl.embeddings import load_embeddings
from mrl.errors import CheckpointError, InputError
from mrl.matryoshka import create_mrl_from_pretrained
from mrl.pretrained import load_pretrained_redimnet, read_official_checkpoint, write_official_checkpoint
from mrl.training import load_config
from mrl.training.building import build_encoder
from tests.backbone.networks import filled_network, noise, small_model_config2
from tests.evaluation.test_reproduction import write_lists, write_voxceleb
from tests.pretrained.servers import Answers

ROOT = Path(__file__).resolve().parents[2]
NAMES = {"model_name": "redimnet2-b6", "train_type": "ptn", "dataset": "vb2+vox2_v0"}  # its hash is not published
FILE = "b6-vb2+vox2_v0-ptn.pt"


@pytest.fixture(scope="module")
def network() -> ReDimNet2:
    return filled_network(small_model_config2())


@pytest.fixture
def mirror(network: ReDimNet2, tmp_path: Path, cache: Path) -> Path:
    """A folder in which a small network stands in for a released file."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    write_official_checkpoint(folder / FILE, *network.to_official())
    return folder


def assert_same(model: Any, network: ReDimNet2) -> None:
    audio = noise(2, 5003)
    with torch.inference_mode():
        assert torch.equal(model(audio), network(audio))


def test_load_pretrained(network: ReDimNet2, mirror: Path) -> None:
    model = load_pretrained_redimnet(**NAMES, weights=mirror)
    assert_same(model, network)
    assert model.pretrained_source is not None and model.pretrained_source["licence"] == "CC-BY-NC-SA-4.0"


def test_a_plus_in_the_address(network: ReDimNet2, mirror: Path, server: str, answers: Answers, cache: Path) -> None:
    answers.files = {FILE: (mirror / FILE).read_bytes(), FILE.replace("+", "%2B"): (mirror / FILE).read_bytes()}
    assert_same(load_pretrained_redimnet(**NAMES, weights=server, progress=False), network)
    assert (cache / f"redimnet2-{FILE}").is_file()
    source = load_pretrained_redimnet(weights=server + FILE.replace("+", "%2B"), progress=False).pretrained_source
    assert source is not None and (source["model_name"], source["dataset"]) == ("redimnet2-b6", "vb2+vox2_v0")


def test_create_mrl(network: ReDimNet2, mirror: Path) -> None:
    model = create_mrl_from_pretrained(**NAMES, weights=mirror, embed_dim=24, mrl_dims=[8, 24])
    assert_same(model.backbone, network)
    with torch.inference_mode():
        assert model(noise(5003), target_dim=8).norm() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("entry_point", ["redimnet", "redimnet_mrl"])
def test_torch_hub(entry_point: str, network: ReDimNet2, mirror: Path) -> None:
    more = {} if entry_point == "redimnet" else {"embed_dim": 16, "mrl_dims": [8, 16]}
    model = torch.hub.load(str(ROOT), entry_point, source="local", weights=str(mirror), **NAMES, **more)
    assert_same(model if entry_point == "redimnet" else model.backbone, network)


def test_configuration(network: ReDimNet2, mirror: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "data: {train: {folder: speech}, validation: {folder: speech}}\n"
        "model: {embed_dim: 16, mrl_dims: [8, 16]}\n"
        "advanced: {model_name: redimnet2-b6, train_type: ptn, pretrained_dataset: vb2+vox2_v0, "
        f"weights: {mirror}}}\n"
    )
    assert_same(build_encoder(load_config([tmp_path / "config.yaml"])).backbone, network)


def test_command_line(network: ReDimNet2, mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRL_MIRROR", str(mirror))
    write_synthetic_corpus(tmp_path / "speech", num_speakers=2, utterances_per_speaker=1, seconds=(0.5, 0.6), seed=3)
    output = tmp_path / "embeddings.npz"
    assert run(["embed", str(tmp_path / "speech"), "-o", str(output), "--model", f"redimnet2-{FILE[:-3]}"]) == 0
    found = load_embeddings(output)
    paths = sorted((tmp_path / "speech").rglob("*.flac"))
    with torch.inference_mode():
        expected = torch.stack([network(path) for path in paths]).numpy()
    assert np.abs(found.matrix - expected).max() < 1e-5 * np.linalg.norm(expected, axis=1).max()


def test_reproduction(mirror: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_lists(tmp_path / "vox1" / "trials", write_voxceleb(tmp_path / "vox1"))
    names = ["--model", "redimnet2-b6", "--train-type", "ptn", "--dataset", "vb2+vox2_v0", "--weights", str(mirror)]
    more = ["--no-fetch", "--any-list", "--bootstrap", "0", "--tolerance", "100", "--lists", "O,H"]
    assert run(["reproduce", "voxceleb", "--root", str(tmp_path / "vox1"), *names, *more]) == 0
    out = capsys.readouterr().out
    assert all(words in out for words in (f"redimnet2-{FILE[:-3]}", "0.29", "0.94", "reproduced"))


def test_a_combination_that_does_not_exist_lists_those_that_do(mirror: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"nearest first: redimnet2-b6-vb2\+vox2_v0-dis, redimnet2-b3-vb2\+vox2\+cnc2_v0-"):
        create_mrl_from_pretrained("redimnet2-b3", "dis", "vb2+vox2+cnc2_v0", weights=mirror)
    assert run(["pretrained", "info", "redimnet2-b3-vox2-dis"]) == 2
    assert "'redimnet2-b3-vox2-dis'; released" in (error := capsys.readouterr().err) and "nearest first: redimnet2-b" in error


@pytest.mark.parametrize("key", ["backbone.fin_wght1d.w", "backbone.stage2.2.weight", "spec.torchfbank.2.melbanks_pt"])
@pytest.mark.parametrize("change", ["left out", "of another shape", "one too many"])
def test_files_are_loaded_strictly(key: str, change: str, mirror: Path) -> None:
    official = read_official_checkpoint(mirror / FILE)
    if change == "left out":
        del official.state_dict[key]
    elif change == "of another shape":
        official.state_dict[key] = torch.cat([official.state_dict[key]] * 2)
    else:
        official.state_dict[f"{key}.more"] = torch.zeros(1)
    write_official_checkpoint(mirror / FILE, official.model_config, official.state_dict)
    with pytest.raises(CheckpointError, match=re.escape(f"{mirror / FILE}: ") + f".*{re.escape(key)}"):
        load_pretrained_redimnet(weights=mirror / FILE)
