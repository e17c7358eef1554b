from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mrl.backbone import ReDimNet2, scratch_backbone
from mrl.errors import CheckpointError, ConfigError, DownloadError, InputError
from mrl.files import sha256_of
from mrl.pretrained import (
    find_by_name,
    load_pretrained_redimnet,
    read_official_checkpoint,
    verify_checkpoint,
    write_official_checkpoint,
)
from tests.pretrained.servers import Answers
from tests.pretrained.small import small_network, write_small_checkpoint


@pytest.fixture
def file(tmp_path: Path, cache: Path) -> Path:
    path = tmp_path / "small.pt"
    write_small_checkpoint(path)
    return path


def rewrite(path: Path, change: Any) -> Path:
    official = read_official_checkpoint(path)
    change(official.model_config, official.state_dict)
    write_official_checkpoint(path, official.model_config, official.state_dict)
    return path


def refusal(kind: type[Exception], path: Path) -> str:
    with pytest.raises(kind) as caught:
        load_pretrained_redimnet(weights=path)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


def test_loaded_network_is_the_saved_one(file: Path) -> None:
    model = load_pretrained_redimnet(weights=file)
    assert not any(module.training for module in model.modules())
    expected = small_network()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    audio = torch.randn(2, 8000, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(model(audio), expected(audio))


def test_source_of_an_own_file(file: Path) -> None:
    source = load_pretrained_redimnet("any name", weights=file).pretrained_source
    assert source == {
        "file": str(file),
        "sha256": sha256_of(file),
        "model_name": None,
        "train_type": None,
        "dataset": None,
        "licence": None,
    }
    assert copy.deepcopy(load_pretrained_redimnet(weights=file)).pretrained_source == source


def test_a_name_that_the_file_is_not(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "mine.pt"
    write_official_checkpoint(path, *scratch_backbone("tiny").to_official())
    with pytest.raises(InputError, match=r"mine\.pt holds tiny, but model_name='b6' was asked for; leave the name out"):
        load_pretrained_redimnet("b6", weights=path)
    with pytest.raises(InputError, match=r"mine\.pt holds tiny, but model_name='redimnet2-b6' was asked for"):
        load_pretrained_redimnet("redimnet2-b6", weights=path)
    named = path.rename(tmp_path / "b0-vox2-ptn.pt")
    with pytest.raises(InputError, match=r"b0-vox2-ptn\.pt holds b0, but model_name='b6' was asked for"):
        load_pretrained_redimnet("b6", weights=named)
    unnamed = load_pretrained_redimnet(weights=named)
    assert load_pretrained_redimnet("b0", weights=named).pretrained_source == unnamed.pretrained_source


def test_second_generation_by_name(tmp_path: Path, cache: Path) -> None:
    network = scratch_backbone("redimnet2-tiny").eval()
    (tmp_path / "mirror").mkdir()
    write_official_checkpoint(tmp_path / "mirror" / "b6-vox2-ptn.pt", *network.to_official())
    model = load_pretrained_redimnet("redimnet2-b6", "ptn", weights=tmp_path / "mirror")
    assert isinstance(model, ReDimNet2) and model.pretrained_source is not None
    assert (model.pretrained_source["model_name"], model.pretrained_source["dataset"]) == ("redimnet2-b6", "vox2")
    audio = torch.randn(2, 8000, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(model(audio), network(audio))
    # The same file by itself: what is in it decides between two released files of one name.
    source = load_pretrained_redimnet(weights=tmp_path / "mirror" / "b6-vox2-ptn.pt").pretrained_source
    assert source is not None and source["model_name"] == "redimnet2-b6"
    with pytest.raises(InputError, match="holds redimnet2-b6, but model_name='b6' was asked for"):
        load_pretrained_redimnet("b6", weights=tmp_path / "mirror" / "b6-vox2-ptn.pt")


def test_by_name_through_a_mirror(
    server: str, answers: Answers, file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "S-vb2+vox2+cnc-ft_mix.pt"
    answers.files[name] = file.read_bytes()
    monkeypatch.setenv("MRL_MIRROR", server)
    model = load_pretrained_redimnet("S", "ft_mix", "vb2+vox2+cnc")
    assert model.pretrained_source == {
        "file": str(cache / name),
        "sha256": sha256_of(file),
        "model_name": "S",
        "train_type": "ft_mix",
        "dataset": "vb2+vox2+cnc",
        "licence": "CC-BY-NC-SA-4.0",
    }
    load_pretrained_redimnet("S", "ft_mix", "vb2+vox2+cnc")
    assert len(answers.requests) == 1
    load_pretrained_redimnet("S", "ft_mix", "vb2+vox2+cnc", force_reload=True)
    assert len(answers.requests) == 2


def test_weights_as_mirrors_and_address(server: str, answers: Answers, file: Path, tmp_path: Path) -> None:
    answers.files = {"b0-vox2-ptn.pt": file.read_bytes(), "mine.pt": file.read_bytes()}
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "b0-vox2-ptn.pt").write_bytes(file.read_bytes())
    for weights in (server, tmp_path / "mirror", (tmp_path / "mirror").as_uri()):
        source = load_pretrained_redimnet("b0", "ptn", weights=weights).pretrained_source
        assert source is not None and (source["model_name"], source["train_type"]) == ("b0", "ptn")
    source = load_pretrained_redimnet("any name", weights=server + "mine.pt").pretrained_source
    assert source is not None and source["model_name"] is None


def test_names_matter_for_a_mirror(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(InputError, match="nearest first: b3-"):
        load_pretrained_redimnet("b3", "ft_mix", weights=tmp_path)


def test_released_hash_is_enforced_in_a_mirror(file: Path, tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    file.rename(tmp_path / "mirror" / "b2-vox2-ft_lm.pt")
    with pytest.raises(DownloadError, match=str(find_by_name("b2").sha256)):
        load_pretrained_redimnet(weights=tmp_path / "mirror")


def test_missing_entry(file: Path) -> None:
    message = refusal(CheckpointError, rewrite(file, lambda _, tensors: tensors.pop("linear.weight")))
    assert "linear.weight" in message


def test_surplus_entry(file: Path) -> None:
    message = refusal(CheckpointError, rewrite(file, lambda _, tensors: tensors.update({"extra.weight": torch.ones(1)})))
    assert "extra.weight" in message


def test_wrong_shape(file: Path) -> None:
    message = refusal(CheckpointError, rewrite(file, lambda _, tensors: tensors.update({"linear.bias": torch.ones(9)})))
    assert re.search(r"linear\.bias.*\(9,\).*\(8,\)", message)


def test_unknown_option(file: Path) -> None:
    message = refusal(ConfigError, rewrite(file, lambda config, _: config.update({"pooling_func": "MAGIC"})))
    assert "MAGIC" in message


def test_unusable_device(file: Path) -> None:
    with pytest.raises(InputError, match="device='nowhere' cannot be used here"):
        load_pretrained_redimnet(weights=file, device="nowhere")


def test_subnormal_weights_are_flushed(file: Path) -> None:
    def make_subnormal(_: object, tensors: dict[str, torch.Tensor]) -> None:
        tensors["linear.weight"][0] = 1e-41

    model = load_pretrained_redimnet(weights=rewrite(file, make_subnormal))
    _, tensors = model.to_official()
    assert torch.count_nonzero(tensors["linear.weight"][0]) == 0
    assert torch.equal(tensors["linear.weight"][1:], small_network().to_official()[1]["linear.weight"][1:])


def test_verify_own_file(file: Path) -> None:
    report = verify_checkpoint(file)
    assert report.num_parameters == sum(parameter.numel() for parameter in small_network().parameters())
    assert (report.path, report.sha256, report.num_bytes) == (file, sha256_of(file), file.stat().st_size)
    assert (report.embed_dim, report.hash_check, report.checkpoint) == (8, "none", None)


def test_verify_cached_checkpoint(file: Path, cache: Path) -> None:
    checkpoint = find_by_name("b0-vox2-ptn")
    with pytest.raises(DownloadError, match="mrl pretrained download"):
        verify_checkpoint(checkpoint)
    cache.mkdir(parents=True)
    file.rename(cache / checkpoint.file_name)
    report = verify_checkpoint(checkpoint)
    assert (report.hash_check, report.checkpoint) == ("first use", checkpoint)
    write_official_checkpoint(cache / checkpoint.file_name, {"F": 1}, {"w": torch.ones(1)})
    with pytest.raises(DownloadError, match="at first use it had"):
        verify_checkpoint(checkpoint)


@pytest.mark.shared
def test_stand_in_checkpoint(shared: Path, cache: Path) -> None:
    path = shared / "corpora" / "checkpoints" / "b0-standin.pt"
    model = load_pretrained_redimnet(weights=path)
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_004_251
    assert (model.embed_dim, model.pooled_dim) == (192, 1200)
    speech = np.load(shared / "parity" / "input_speech.npy").reshape(-1)[:32000].astype(np.float32)
    with torch.inference_mode():
        embedding = model(speech)
    assert embedding.shape == (192,) and bool(torch.isfinite(embedding).all())
    assert float(embedding.norm()) > 1.0
    assert verify_checkpoint(path).num_parameters == find_by_name("b0").num_parameters
