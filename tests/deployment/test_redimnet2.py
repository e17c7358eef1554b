"""Exported files of the second generation, at lengths that are no multiple of the time stride."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mrl.deployment import export as exporting
from mrl.deployment import export_model
from mrl.deployment.network import ConvolutionalLogMel, export_network
from mrl.deployment.onnx_graph import to_onnx
from mrl.matryoshka import create_mrl
from mrl.runtime import OnnxEmbedder
from tests.backbone.networks import VARIATIONS2, filled_network, noise, relative_difference, small_model_config2


@pytest.mark.parametrize("variation", VARIATIONS2)
def test_the_form_that_is_exported_gives_the_same(variation: str) -> None:
    network = filled_network(small_model_config2(**VARIATIONS2[variation]))
    exported = export_network(network, "waveform")
    with torch.no_grad():
        for samples in (network.minimum_samples, 5003, 6160):
            audio = noise(2, samples, seed=samples)
            assert relative_difference(exported(audio)[1], network(audio)) < 1e-5


def test_features_come_from_silence_too() -> None:
    network = filled_network(small_model_config2())
    log_mel = ConvolutionalLogMel(network)
    audio = noise(1, 8000) * torch.linspace(0, 1, 8000)
    with torch.no_grad():
        expected = network.front_end(audio)
        found = network.front_end.time_normalisation()(log_mel(audio))
        assert torch.allclose(found, expected, atol=1e-4)
        silent = network.front_end.time_normalisation()(log_mel(torch.zeros(1, 2000)))
        assert silent.abs().max() < 1e-5  # the mean of equal values, to rounding


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"dual_agg": True, "agg_gnorm": 4}, {"pad_right_samples": 300, "before_pool_offset": 3}])
def test_a_traced_graph(changes: dict[str, object]) -> None:
    import onnxruntime

    network = filled_network(small_model_config2(**changes))
    graph = to_onnx(export_network(network, "waveform"), "waveform", network.minimum_samples)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    shortest = network.minimum_samples
    for samples in (shortest, shortest + 159, shortest + 160, 5003):
        for batch in (1, 3):
            audio = noise(batch, samples, seed=samples)
            with torch.no_grad():
                expected = network(audio).numpy()
            found = session.run(["raw_embedding"], {"waveform": audio.numpy()})[0]
            assert np.abs(found - expected).max() < 3e-5 * np.linalg.norm(expected, axis=1).max()  # sums in another order


@pytest.mark.slow
def test_an_exported_model_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_mrl(filled_network(small_model_config2()), embed_dim=24, mrl_dims=[8, 24])
    model.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(exporting, "CHECKED_SHAPES", ((1, 0.3), (3, 1.0)))
    report = export_model(tmp_path / "model", tmp_path / "model.onnx", show_progress=False)
    assert report.cosine > 0.99999
    facts = report.description.front_end
    assert (facts["centre"], facts["log_floor"]) == (False, 1e-8) and facts["window"].startswith("hamming, symmetric")
    audio = noise(7003).numpy()
    with torch.no_grad():
        expected = model(audio, target_dim=8).numpy()
    found = OnnxEmbedder(tmp_path / "model.onnx")(audio, target_dim=8)
    assert np.abs(found - expected).max() < 1e-5
