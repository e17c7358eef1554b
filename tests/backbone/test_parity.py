"""The same numbers as the official code: its recorded outputs, and golden values of our own for checkouts without them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mrl.backbone import family_of
from tests.backbone.networks import ALL_VARIATIONS, WeightRule, filled_network, weights_by_name

FIRST = ("b0", "b1", "b2", "b3", "b5", "b6", "M", "att_mvn_mfa", "fc_fwse_bn", "conv1d")
SECOND = ("r2_b3", "r2_b6", "r2_dual", "r2_no_gnorm_1d")
INPUTS = ("speech", "noise2", "short")
GOLDEN = Path(__file__).parent / "golden"
GOLDEN_FIRST = ("b0", "att_mvn_mfa", "fc_fwse_bn", "conv1d")
GOLDEN_SECOND = ("released", "two_maps", "one_dimensional")
TOLERANCE = 1e-4


def recording(shared: Path, name: str) -> Path:
    """Where the official network's record is, without its extension."""
    return shared / ("parity2" if name.startswith("r2_") else "parity") / name


def recorded_configuration(shared: Path, name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(recording(shared, name).with_suffix(".json").read_text())
    return record


def recorded_rule(shared: Path) -> WeightRule:
    specification = importlib.util.spec_from_file_location("parity_weights", shared / "parity" / "weights.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    rule: WeightRule = module.tensor_by_rule
    return rule


@pytest.mark.shared
@pytest.mark.parametrize("name", FIRST + SECOND)
def test_official_outputs_and_weights(shared: Path, name: str) -> None:
    recorded = recorded_configuration(shared, name)
    network = filled_network(recorded["model_config"], recorded_rule(shared))
    assert sum(parameter.numel() for parameter in network.parameters()) in (
        recorded.get("num_parameters"),
        recorded.get("parameters"),
    )

    _, state_dict = network.to_official()
    assert {key: list(tensor.shape) for key, tensor in state_dict.items()} == {k: v[0] for k, v in recorded["state_dict"].items()}
    again = type(network).from_official(recorded["model_config"], state_dict).to_official()[1]
    assert all(torch.equal(state_dict[key], again[key]) for key in state_dict)

    expected = np.load(recording(shared, name).with_suffix(".npz"))
    for key in INPUTS:
        waveform = torch.from_numpy(np.load(shared / "parity" / f"input_{key}.npy"))
        with torch.inference_mode():
            mel = network.front_end(waveform)
            frames = network.frame_features(mel)
            pooled = network.pooled_statistics(waveform)
            embedding = network(waveform)
        norm = np.linalg.norm(expected[f"{key}.embedding"], axis=1).min()
        assert np.abs(mel.transpose(1, 2)[:, :, :32].numpy() - expected[f"{key}.mel"]).max() < TOLERANCE * norm
        mean = mel.abs().mean(dim=1) if name in SECOND else mel.abs().mean()
        assert np.abs(mean.numpy() - expected[f"{key}.mel_mean"]).max() < (1e-4 if name in SECOND else 1e-5)
        assert np.abs(frames.transpose(1, 2)[:, :, ::16].numpy() - expected[f"{key}.frames"]).max() < TOLERANCE * norm
        assert np.abs(pooled.numpy() - expected[f"{key}.pooled"]).max() < TOLERANCE * norm
        assert np.abs(embedding.numpy() - expected[f"{key}.embedding"]).max() < TOLERANCE * norm


@pytest.mark.shared
@pytest.mark.parametrize("name", GOLDEN_FIRST)
def test_golden_configurations_are_the_recorded_ones(shared: Path, name: str) -> None:
    assert json.loads((GOLDEN / f"{name}.json").read_text()) == recorded_configuration(shared, name)["model_config"]


@pytest.mark.parametrize("name", GOLDEN_FIRST + GOLDEN_SECOND)
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


@pytest.mark.parametrize("model_config", ALL_VARIATIONS.values(), ids=ALL_VARIATIONS)
def test_conversion_round_trip_is_exact(model_config: dict[str, Any]) -> None:
    network = filled_network(model_config)
    spelled_out, state_dict = network.to_official()
    assert type(network.config).from_model_config(spelled_out) == network.config
    assert family_of(spelled_out) is type(network)
    again = type(network).from_official(spelled_out, state_dict)
    ours, theirs = network.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
