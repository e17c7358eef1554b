"""The same numbers as the official code: its recorded outputs, and golden values of our own for checkouts without them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mrl.backbone import ReDimNet, ReDimNetConfig
from tests.backbone.networks import WeightRule, filled_network, weights_by_name

CONFIGURATIONS = ("b0", "b1", "b2", "b3", "b5", "b6", "M", "att_mvn_mfa", "fc_fwse_bn", "conv1d")
INPUTS = ("speech", "noise2", "short")
GOLDEN = Path(__file__).parent / "golden"
GOLDEN_CONFIGURATIONS = ("b0", "att_mvn_mfa", "fc_fwse_bn", "conv1d")
TOLERANCE = 1e-4


def recorded_configuration(shared: Path, name: str) -> dict[str, Any]:
    recorded: dict[str, Any] = json.loads((shared / "parity" / f"{name}.json").read_text())
    return recorded


def recorded_rule(shared: Path) -> WeightRule:
    specification = importlib.util.spec_from_file_location("parity_weights", shared / "parity" / "weights.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    rule: WeightRule = module.tensor_by_rule
    return rule


@pytest.mark.shared
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_official_outputs_and_weights(shared: Path, name: str) -> None:
    recorded = recorded_configuration(shared, name)
    network = filled_network(recorded["model_config"], recorded_rule(shared))
    assert sum(parameter.numel() for parameter in network.parameters()) == recorded["num_parameters"]

    _, state_dict = network.to_official()
    assert {key: list(tensor.shape) for key, tensor in state_dict.items()} == {k: v[0] for k, v in recorded["state_dict"].items()}
    again = ReDimNet.from_official(recorded["model_config"], state_dict).to_official()[1]
    assert all(torch.equal(state_dict[key], again[key]) for key in state_dict)

    expected = np.load(shared / "parity" / f"{name}.npz")
    for key in INPUTS:
        waveform = torch.from_numpy(np.load(shared / "parity" / f"input_{key}.npy"))
        with torch.inference_mode():
            mel = network.front_end(waveform)
            frames = network.frame_features(mel)
            pooled = network.pooled_statistics(waveform)
            embedding = network(waveform)
        norm = np.linalg.norm(expected[f"{key}.embedding"], axis=1).min()
        assert np.abs(mel.transpose(1, 2)[:, :, :32].numpy() - expected[f"{key}.mel"]).max() < TOLERANCE * norm
        assert np.abs(mel.abs().mean().item() - expected[f"{key}.mel_mean"]) < 1e-5
        assert np.abs(frames.transpose(1, 2)[:, :, ::16].numpy() - expected[f"{key}.frames"]).max() < TOLERANCE * norm
        assert np.abs(pooled.numpy() - expected[f"{key}.pooled"]).max() < TOLERANCE * norm
        assert np.abs(embedding.numpy() - expected[f"{key}.embedding"]).max() < TOLERANCE * norm


@pytest.mark.shared
@pytest.mark.parametrize("name", GOLDEN_CONFIGURATIONS)
def test_golden_configurations_are_the_recorded_ones(shared: Path, name: str) -> None:
    assert json.loads((GOLDEN / f"{name}.json").read_text()) == recorded_configuration(shared, name)["model_config"]


@pytest.mark.parametrize("name", GOLDEN_CONFIGURATIONS)
def test_golden_outputs(name: str) -> None:
    """Recorded from this network while it agreed with the official outputs by :func:`test_official_outputs_and_weights`."""
    network = filled_network(json.loads((GOLDEN / f"{name}.json").read_text()), weights_by_name)
    waveform = np.load(GOLDEN / "waveform.npy")
    expected = np.load(GOLDEN / f"{name}.npz")
    with torch.inference_mode():
        pooled = network.pooled_statistics(waveform)[0].numpy()
        embedding = network(waveform).numpy()
    norm = np.linalg.norm(expected["embedding"])
    assert norm > 1
    assert np.abs(pooled - expected["pooled"]).max() < TOLERANCE * norm
    assert np.abs(embedding - expected["embedding"]).max() < TOLERANCE * norm


@pytest.mark.parametrize("name", GOLDEN_CONFIGURATIONS)
def test_conversion_round_trip_is_exact(name: str) -> None:
    model_config = json.loads((GOLDEN / f"{name}.json").read_text())
    network = filled_network(model_config)
    spelled_out, state_dict = network.to_official()
    assert ReDimNetConfig.from_model_config(spelled_out) == ReDimNetConfig.from_model_config(model_config)
    again = ReDimNet.from_official(spelled_out, state_dict)
    ours, theirs = network.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
