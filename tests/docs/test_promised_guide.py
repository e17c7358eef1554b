"""What users were shown before there was a package works as shown, with recordings and networks of test size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mrl import load_audio
from mrl.cli.main import run
from mrl.errors import InputError
from mrl.training import load_config
from tests.docs.markdown import ROOT

Loader = list[tuple[torch.Tensor, torch.Tensor]]

PROMISED_CONFIG = """
# Advanced section
advanced:
  # Enable pretrained model loading
  use_pretrained: true
  model_name: 'b2'          # Choose variant
  train_type: 'ft_lm'       # Use fine-tuned
  pretrained_dataset: 'vox2'

  # Two-stage training
  freeze_backbone_epochs: 5  # Stage 1 duration
"""


def test_load_a_pretrained_model(user: Path) -> None:
    from mrl import load_pretrained_redimnet

    model = load_pretrained_redimnet(model_name="b2", train_type="ft_lm", dataset="vox2")
    audio = load_audio("speaker.wav")
    embedding = model(audio)
    assert embedding.shape == (192,)
    assert abs(embedding.detach().norm().item() - 1.0) > 1e-3  # raw, as the official network returns it
    assert (user / "torch" / "hub" / "checkpoints" / "b2-vox2-ft_lm.pt").is_file()


def test_make_a_matryoshka_model(user: Path) -> None:
    from mrl import create_mrl_from_pretrained

    mrl_model = create_mrl_from_pretrained(
        model_name="b2",
        train_type="ft_lm",
        dataset="vox2",
        embed_dim=256,
        mrl_dims=[64, 128, 192, 256],
        freeze_backbone=False,
    )
    audio = load_audio("speaker.wav")
    emb_64d = mrl_model(audio, target_dim=64)
    emb_256d = mrl_model(audio, target_dim=256)
    assert (emb_64d.shape, emb_256d.shape) == ((64,), (256,))
    torch.testing.assert_close(emb_64d, emb_256d[:64] / emb_256d[:64].norm())
    assert any(parameter.requires_grad for parameter in mrl_model.backbone.parameters())


def test_train_in_two_stages(user: Path, train_loader: Loader) -> None:
    from mrl import create_mrl_from_pretrained, train_full_model, train_projection_head, unfreeze_backbone

    model = create_mrl_from_pretrained(
        model_name="b2", train_type="ft_lm", embed_dim=256, mrl_dims=[64, 128, 192, 256], freeze_backbone=True
    )
    pretrained = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    head = model.projection.weight.clone()

    stage_1 = train_projection_head(model, train_loader, num_epochs=5)
    assert len(stage_1.loss) == 5 and stage_1.num_classes == 4
    assert stage_1.loss[-1] < stage_1.loss[0] < stage_1.chance_level
    assert not torch.equal(model.projection.weight, head)
    assert all(torch.equal(value, pretrained[name]) for name, value in model.backbone.state_dict().items())

    unfreeze_backbone(model)
    stage_2 = train_full_model(model, train_loader, num_epochs=4)  # 50 in the guide
    assert len(stage_2.loss) == 4 and max(stage_2.loss) < stage_1.loss[0]
    moved = [name for name, value in model.backbone.state_dict().items() if not torch.equal(value, pretrained[name])]
    assert any(name.startswith("encoder.") for name in moved)


def test_the_number_of_epochs_was_promised_a_default() -> None:
    import inspect

    from mrl import train_full_model, train_projection_head

    for function, epochs in ((train_projection_head, 5), (train_full_model, 50)):
        names = list(inspect.signature(function).parameters)
        assert names[:3] == ["model", "train_loader", "num_epochs"]
        assert inspect.signature(function).parameters["num_epochs"].default == epochs


@pytest.mark.parametrize(
    ("model_name", "embed_dim", "mrl_dims"),
    [("b5", 256, None), ("b6", 256, None), ("b2", 256, None), ("b0", 128, [32, 64, 128])],
    ids=["accuracy", "more accuracy", "balanced", "edge"],
)
def test_selection_by_use_case(user: Path, model_name: str, embed_dim: int, mrl_dims: list[int] | None) -> None:
    from mrl import create_mrl_from_pretrained

    chosen = {} if mrl_dims is None else {"mrl_dims": mrl_dims}
    model = create_mrl_from_pretrained(model_name=model_name, train_type="ft_lm", embed_dim=embed_dim, **chosen)
    assert model.embed_dim == embed_dim
    assert list(model.mrl_dims) == (mrl_dims or [16, 32, 64, 128, 192, 256])
    assert model("speaker.wav", target_dim=32).shape == (32,)


def test_the_cross_domain_model_that_was_never_released(user: Path) -> None:
    from mrl import create_mrl_from_pretrained

    with pytest.raises(InputError, match="model_name='b3', train_type='ft_mix'") as caught:
        create_mrl_from_pretrained(model_name="b3", train_type="ft_mix", dataset="vb2+vox2+cnc", embed_dim=256)
    assert "M-vb2+vox2+cnc-ft_mix" in str(caught.value) and "b3-vox2-ft_lm" in str(caught.value)
    # What the guide says to take instead.
    for model_name in ("M", "S"):
        model = create_mrl_from_pretrained(model_name=model_name, train_type="ft_mix", dataset="vb2+vox2+cnc", embed_dim=256)
        assert model.backbone.pretrained_source is not None
        assert model.backbone.pretrained_source["licence"] == "CC-BY-NC-SA-4.0"


def test_train_from_the_promised_configuration(user: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (user / "config.yaml").write_text(PROMISED_CONFIG, encoding="utf-8")
    data = ["data.train_dataset=data/train", "data.val_dataset=data/validation"]
    assert run(["train", "--config", "config.yaml", *data, "training.num_epochs=6", "data.crop_seconds=0.3"]) == 0
    assert "\nEpoch 5: Unfreezing backbone (Stage 1 → Stage 2)\n" in capfd.readouterr().err
    assert (user / "runs" / "mrl" / "best" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("training:\n  num_epochs: 20\nadvanced:\n  use_pretrained: true\n  freeze_backbone_epochs: 5\n", "quick-finetune"),
        ("training:\n  num_epochs: 100\nadvanced:\n  use_pretrained: true\n  freeze_backbone_epochs: 10\n", "full-finetune"),
        ("advanced:\n  use_pretrained: false\n", "from-scratch"),
        ("training:\n  batch_size: 32\n  accumulation_steps: 2\n", None),
        ("advanced:\n  model_name: 'b2'\n", None),
    ],
)
def test_promised_settings(text: str, expected: str | None, tmp_path: Path) -> None:
    path = tmp_path / "promised.yaml"
    path.write_text(text, encoding="utf-8")
    promised = load_config([path])
    if expected is not None:
        ready = load_config([ROOT / "configs" / f"{expected}.yaml"])
        assert ready.stage_1_epochs == promised.stage_1_epochs
        assert ready.advanced.use_pretrained is promised.advanced.use_pretrained
        if promised.advanced.use_pretrained:
            assert ready.training.num_epochs == promised.training.num_epochs


def test_choose_the_cache_and_load_again(user: Path) -> None:
    from mrl import load_pretrained_redimnet

    torch.hub.set_dir(str(user / "elsewhere"))
    load_pretrained_redimnet(model_name="b2", force_reload=True)
    assert (user / "elsewhere" / "checkpoints" / "b2-vox2-ft_lm.pt").is_file()
