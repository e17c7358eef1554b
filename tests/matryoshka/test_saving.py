"""Model folders: what is saved comes back bit for bit; what is damaged is refused in one line."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch

from mrl.backbone import ReDimNet
from mrl.errors import CheckpointError
from mrl.matryoshka import ReDimNetMRL, create_mrl


def test_round_trip(backbone: ReDimNet, waveforms: torch.Tensor, tmp_path: Path) -> None:
    backbone.pretrained_source = {"file": "/somewhere/private/b0.pt", "sha256": "0" * 64, "licence": "CC-BY-4.0"}
    model = create_mrl(backbone, embed_dim=200, mrl_dims=[8, 64])
    model.save_pretrained(tmp_path / "model", training={"data": "ten voices", "EER at 64": "1.2 %"})
    again = ReDimNetMRL.from_pretrained(tmp_path / "model")
    assert not again.training
    assert again.mrl_dims == (8, 64, 200)
    with torch.inference_mode():
        assert torch.equal(again(waveforms), model(waveforms))
    card = (tmp_path / "model" / "README.md").read_text()
    assert "8, 64, 200" in card and "CC-BY-4.0" in card and "ten voices" in card and "unmodified" in card
    assert "private" not in card + (tmp_path / "model" / "config.json").read_text()
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_saving_leaves_other_files_alone(backbone: ReDimNet, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    create_mrl(backbone).save_pretrained(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def damage_nothing(folder: Path) -> None:
    (folder / "config.json").unlink()


def truncate_weights(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def truncate_config(folder: Path) -> None:
    (folder / "config.json").write_text((folder / "config.json").read_text()[:50])


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def other_format(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bert"}')


def edit(key: str, value: object, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    if value is None:
        del config[key]
    else:
        config[key] = value
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "damage, message",
    [
        (damage_nothing, "has no config.json"),
        (truncate_weights, "SHA-256 differs"),
        (truncate_config, "is not JSON"),
        (remove_weights, "has no model.safetensors"),
        (other_format, "has the format None"),
        (lambda folder: edit("embed_dim", 128, folder), "does not hold the model"),
        (lambda folder: edit("mrl_dims", [999], folder), "does not hold the model"),
        (lambda folder: edit("weights_sha256", None, folder), "lacks weights_sha256"),
        (lambda folder: edit("model_config", {"F": 24, "surprise": 1}, folder), "surprise"),
    ],
)
def test_damaged_folders_are_refused_in_one_line(backbone: ReDimNet, tmp_path: Path, damage: object, message: str) -> None:
    create_mrl(backbone).save_pretrained(tmp_path / "model")
    damage(tmp_path / "model")  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=message) as caught:
        ReDimNetMRL.from_pretrained(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_absent_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a folder"):
        ReDimNetMRL.from_pretrained(tmp_path / "nowhere")


def test_full_disk_keeps_the_old_model(
    backbone: ReDimNet, waveforms: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = create_mrl(backbone)
    old.save_pretrained(tmp_path)
    with torch.inference_mode():
        expected = old(waveforms)

    def no_space(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    changed = create_mrl(backbone)
    with torch.no_grad():
        changed.projection.weight.mul_(2).add_(0.1)
    monkeypatch.setattr("safetensors.torch.save_file", no_space)
    with pytest.raises(OSError, match="No space"):
        changed.save_pretrained(tmp_path)
    with torch.inference_mode():
        assert torch.equal(ReDimNetMRL.from_pretrained(tmp_path)(waveforms), expected)
    assert not list(tmp_path.glob(".*tmp*"))
