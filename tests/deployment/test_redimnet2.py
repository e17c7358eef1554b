"""Exported files of the second generation, at lengths that are no multiple of the time stride."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from mrl.deployment import export as exporting
from mrl.deployment import export_model, open_runner, writing
from mrl.deployment.formats import OPENVINO_SETTINGS
from mrl.deployment.network import ConvolutionalLogMel, export_network
from mrl.deployment.onnx_graph import to_onnx
from mrl.matryoshka import ReDimNetMRL, create_mrl
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
        # All frames of a band are the same number, about -17. The mean of a few of them is off by up to two units in its last
        # place (measured: 0 with 4 frames, 1.9e-6 with 12, 3.8e-6 with 15), so the difference is not exactly zero.
        assert silent.abs().max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"dual_agg": True, "agg_gnorm": 4}, {"pad_right_samples": 300, "before_pool_offset": 3}])
def test_a_traced_graph(changes: dict[str, object], tmp_path: Path) -> None:
    import onnxruntime

    network = filled_network(small_model_config2(**changes))
    graph = to_onnx(export_network(network, "waveform"), "waveform", network.minimum_samples)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    runtimes: list[Callable[[np.ndarray], Any]] = [lambda batch: session.run(["raw_embedding"], {"waveform": batch})[0]]
    if importlib.util.find_spec("openvino"):
        import openvino

        onnx.save(graph, str(tmp_path / "graph.onnx"))
        settings = OPENVINO_SETTINGS | {"INFERENCE_NUM_THREADS": 1}
        compiled = openvino.Core().compile_model(openvino.convert_model(str(tmp_path / "graph.onnx")), "CPU", settings)
        runtimes.append(lambda batch: compiled(batch)["raw_embedding"])
    shortest = network.minimum_samples
    for samples in (shortest, shortest + 159, shortest + 160, 5003):
        for batch in (1, 3):
            audio = noise(batch, samples, seed=samples)
            with torch.no_grad():
                expected = network(audio).numpy()
            for run in runtimes:
                found = run(audio.numpy())
                # Measured with ONNX Runtime: up to 2e-6, but 1.3e-5 for one batch of items with four frames. Against float64
                # PyTorch is off by 3e-7 at most, so that is the runtime's order of summation in a group norm.
                assert np.abs(found - expected).max() < 3e-5 * np.linalg.norm(expected, axis=1).max()


@pytest.fixture(scope="module")
def model() -> ReDimNetMRL:
    return create_mrl(filled_network(small_model_config2()), embed_dim=24, mrl_dims=[8, 24])


@pytest.fixture(scope="module")
def graph(model: ReDimNetMRL) -> onnx.ModelProto:
    return to_onnx(export_network(model, "waveform"), "waveform", model.backbone.minimum_samples)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_an_exported_model_folder(
    suffix: str, model: ReDimNetMRL, graph: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if suffix == ".xml":
        pytest.importorskip("openvino")
    model.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(writing, "to_onnx", lambda *_: graph)
    monkeypatch.setattr(exporting, "CHECKED_SHAPES", ((1, 0.3), (3, 1.0)))
    file = tmp_path / f"model{suffix}"
    report = export_model(tmp_path / "model", file, show_progress=False)
    assert report.cosine > 0.99999
    facts = report.description.front_end
    assert (facts["centre"], facts["log_floor"]) == (False, 1e-8) and facts["window"].startswith("hamming, symmetric")
    runner = open_runner(file, threads=1)
    for samples in (720, 879, 880, 5003):
        audio = noise(2, samples, seed=samples)
        with torch.no_grad():
            expected = model(audio).numpy()
        assert np.abs(runner(audio.numpy()).embedding - expected).max() < 1e-4
    if suffix == ".onnx":
        audio = noise(7003)
        with torch.no_grad():
            short = model(audio, target_dim=8).numpy()
        assert np.abs(OnnxEmbedder(file)(audio.numpy(), target_dim=8) - short).max() < 1e-5
