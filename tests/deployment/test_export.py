"""From a model to a file that gives the same embeddings, in every format and precision."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest

from mrl.audio import write_synthetic_corpus
from mrl.backbone import ReDimNet
from mrl.deployment import check_export, export_model, open_runner
from mrl.deployment import checks as memory
from mrl.deployment import export as exporting
from mrl.deployment.checks import Reference, check_parity, row_cosines, synthetic_speech
from mrl.deployment.export import describe
from mrl.deployment.formats import Outputs
from mrl.deployment.network import export_network
from mrl.deployment.onnx_graph import describe_in, to_onnx
from mrl.embeddings import embed_files, weights_sha256
from mrl.errors import CheckpointError, DataError, ExportError, InputError
from mrl.matryoshka import ReDimNetMRL
from mrl.runtime import OnnxEmbedder
from mrl.trials.lists import TrialList
from tests.backbone.networks import filled_network, small_model_config
from tests.embeddings.tiny import write_voices


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_traced_graph(tmp_path: Path) -> None:
    """The real exporter, on a plain network with another block and normalisation than the golden file's."""
    config = {
        "F": 8,
        "C": 4,
        "block_1d_type": "fc",
        "block_2d_type": "convnext_like",
        "stages_setup": [[2, 1, 2, [[3, 3]], 4]],
        "group_divisor": 1,
        "hop_length": 160,
        "embed_dim": 12,
        "emb_bn": True,
        "out_channels": 10,
        "spec_params": {"n_fft": 128, "win_length": 100, "f_min": 100, "spec_norm": "mvn"},
    }
    network: ReDimNet = filled_network(config)
    graph = to_onnx(export_network(network, "waveform"), "waveform", network.minimum_samples)
    assert {node.domain for node in graph.graph.node} == {""}
    assert [entry.version for entry in graph.opset_import] == [20]
    shapes = [[axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in graph.graph.input]
    assert shapes == [["batch", "samples"]]
    text = graph.SerializeToString()
    assert b".py" not in text and str(Path(__file__).parents[2]).encode() not in text
    description = describe(network, "waveform", "fp32", opset=20, calibration=None)
    assert description.kind == "backbone" and description.mrl_dims == (12,)
    describe_in(graph, description)
    onnx.save(graph, str(tmp_path / "plain.onnx"))
    points = check_parity(
        Reference(network, "waveform"), open_runner(tmp_path / "plain.onnx"), shapes=((1, 0.02), (1, 0.3), (8, 1.0), (1, 20.0))
    )
    assert min(point.cosine for point in points) > 0.999999


def test_a_traced_graph_with_features_in(tmp_path: Path) -> None:
    """Features in, with the layers that are written in another form: attention, grouped convolutions, norms."""
    network = filled_network(small_model_config(block_2d_type="convnext_like", group_divisor=2))
    graph = to_onnx(export_network(network, "features"), "features", network.minimum_samples)
    shapes = [[axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in graph.graph.input]
    assert shapes == [["batch", "frames", network.config.bands]]
    describe_in(graph, describe(network, "features", "fp32", opset=20, calibration=None))
    onnx.save(graph, str(tmp_path / "features.onnx"))
    reference, runner = Reference(network, "features"), open_runner(tmp_path / "features.onnx")
    points = check_parity(reference, runner, shapes=((1, 0.02), (3, 0.3), (2, 5.0)))
    assert min(point.cosine for point in points) > 0.999999
    # Its own front end, as the file describes it, feeds the network just as well.
    waveforms = synthetic_speech(2, 0.7)
    facts = runner.description.front_end
    signal = waveforms - facts["pre_emphasis"] * np.concatenate([waveforms[:, 1:2], waveforms[:, :-1]], axis=1)
    half, length, step = facts["n_fft"] // 2, facts["window_length"], facts["hop_length"]
    padded = np.pad(signal.astype(np.float64), ((0, 0), (half, half)), mode="reflect")
    before = (facts["n_fft"] - length) // 2
    window = np.zeros(facts["n_fft"])
    window[before : before + length] = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(length) / length)
    frames = np.lib.stride_tricks.sliding_window_view(padded, facts["n_fft"], axis=1)[:, ::step] * window
    power = np.abs(np.fft.rfft(frames)) ** 2
    lowest, highest = (2595 * math.log10(1 + facts[f"{end}_frequency"] / 700) for end in ("lowest", "highest"))
    edges = 700 * (10 ** (np.linspace(lowest, highest, facts["bands"] + 2) / 2595) - 1)
    bins = np.linspace(0, facts["sample_rate"] / 2, facts["n_fft"] // 2 + 1)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    features = np.log(power @ np.maximum(0, np.minimum(rising, falling)) + facts["log_floor"])
    found = runner(features.astype(np.float32))
    assert row_cosines(found.raw, reference.raw(waveforms)).min() > 0.99999


@pytest.mark.usefixtures("traced")
class TestForms:
    """What follows the tracing."""

    def test_fp32(self, model: ReDimNetMRL, model_folder: Path, tmp_path: Path) -> None:
        output = tmp_path / "new" / "model.onnx"
        report = export_model(model_folder, output, show_progress=False)
        assert report.cosine > 0.9999999 and len(report.points) == 2 and report.num_bytes == output.stat().st_size
        assert _names(output.parent) == ["model.onnx", "model.onnx.check.safetensors", "model.onnx.json"]
        embedder = OnnxEmbedder(output)
        assert embedder.model_hash == weights_sha256(model) == embedder.metadata["weights_sha256"]
        card = json.loads((tmp_path / "new" / "model.onnx.json").read_text())
        assert {name: card[name] for name in embedder.metadata} == embedder.metadata
        checked = check_export(output)
        assert checked.cosine > 0.9999999 and checked.minimum == 0.99999

    def test_smaller_weights(self, model_folder: Path, tmp_path: Path) -> None:
        whole = export_model(model_folder, tmp_path / "whole.onnx", show_progress=False)
        half = export_model(model_folder, tmp_path / "half.onnx", precision="fp16", show_progress=False)
        assert half.num_bytes < 0.9 * whole.num_bytes
        assert 0.9999 < half.cosine < whole.cosine
        assert OnnxEmbedder(half.path).model_hash == OnnxEmbedder(whole.path).model_hash
        types = {tensor.name: tensor.data_type for tensor in onnx.load(str(half.path)).graph.initializer}
        assert types["log_mel.kernels"] == onnx.TensorProto.FLOAT
        assert types["network.head.weight.half"] == onnx.TensorProto.FLOAT16

    def test_little_memory(
        self, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(memory, "free_bytes", lambda: 2**20)
        monkeypatch.setattr(exporting, "CHECKED_SHAPES", ((1, 0.3), (8, 60.0)))
        report = export_model(model_folder, tmp_path / "m.onnx", show_progress=False)
        assert [(point.batch, point.seconds) for point in report.points] == [(1, 0.3)]
        assert caplog.messages == ["a batch of 8 x 60 s is not compared with PyTorch: too little memory is free"]

    @pytest.mark.parametrize("precision", ["int8-dynamic", "int8-static"])
    def test_eight_bits(self, precision: str, model: ReDimNetMRL, model_folder: Path, tmp_path: Path) -> None:
        write_synthetic_corpus(tmp_path / "audio", num_speakers=3, utterances_per_speaker=1, seconds=(1.0, 1.2), seed=0)
        report = export_model(
            model_folder,
            tmp_path / "int8.onnx",
            precision=precision,  # type: ignore[arg-type]
            calibration_audio=tmp_path / "audio",
            show_progress=False,
        )
        assert 0.9 < report.cosine < 0.999999
        graph = onnx.load(str(report.path)).graph
        assert any(tensor.data_type == onnx.TensorProto.INT8 for tensor in graph.initializer)
        assert OnnxEmbedder(report.path).model_hash != weights_sha256(model)
        assert check_export(report.path).precision == precision

    def test_openvino(self, model: ReDimNetMRL, model_folder: Path, tmp_path: Path) -> None:
        report = export_model(model_folder, tmp_path / "m.xml", show_progress=False)
        assert report.cosine > 0.999999
        names = {"m.xml", "m.bin", "m.xml.json", "m.xml.check.safetensors"}
        assert set(_names(tmp_path)) == names
        assert report.num_bytes == sum((tmp_path / name).stat().st_size for name in ("m.xml", "m.bin"))
        assert check_export(report.path).cosine > 0.999999
        # With OpenVINO's cache of shapes a single frame made all that followed wrong.
        reference, runner = Reference(model, "waveform"), open_runner(report.path, threads=1)
        for samples in (model.backbone.minimum_samples, 5003, 8000):
            waveforms = synthetic_speech(1, samples / 16000)
            assert row_cosines(runner(waveforms).raw, reference.raw(waveforms)).min() > 0.999999
        (tmp_path / "m.bin").write_bytes(b"\0" * (tmp_path / "m.bin").stat().st_size)
        with pytest.raises(CheckpointError, match=r"m.bin is not the file that m.xml.json beside it describes"):
            check_export(report.path)

    def test_comparison_of_all_forms(self, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from mrl.deployment import comparison

        monkeypatch.setattr(comparison, "TIMED_PAIRS", 3)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # without OpenVINO
        names = write_voices(tmp_path)
        pairs = [(a.split("/")[0] == b.split("/")[0], a, b) for a in names[:8] for b in names[:8] if a < b]
        report = export_model(
            model_folder,
            tmp_path / "m.onnx",
            trials=TrialList.from_pairs(pairs),
            root=tmp_path,
            compare=True,
            show_progress=False,
        )
        assert report.rates is not None and report.rates.exported == report.rates.network
        assert [variant.precision for variant in report.variants] == ["fp32", "fp16", "int8-dynamic"]
        card = json.loads((tmp_path / "m.onnx.json").read_text())
        assert [variant["precision"] for variant in card["variants"]] == ["fp32", "fp16", "int8-dynamic"]
        assert set(card["equal_error_rates"]["network"]) == {"8", "16", "24"}
        fp32, fp16, _ = report.variants
        assert fp32.speed == 1.0 and fp32.worth_keeping and fp32.rate_change == 0.0
        assert fp16.num_bytes < fp32.num_bytes and 0.2 < fp16.speed < 5

    def test_a_file_that_differs_is_not_written(
        self, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        output = tmp_path / "m.onnx"
        export_model(model_folder, output, show_progress=False)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

        class Other:
            description = open_runner(output).description

            def __call__(self, batch: np.ndarray) -> Outputs:
                found = open_runner(output)(batch)
                raw = found.raw + np.float32(0.02) * np.roll(found.raw, 1)
                return Outputs(raw / np.linalg.norm(raw, axis=1, keepdims=True), raw)

        monkeypatch.setattr(exporting, "open_runner", lambda path: Other())
        with pytest.raises(ExportError, match=r"differs from the network in 2 of 2 comparisons: cosine 0\.999"):
            export_model(model_folder, output, show_progress=False)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    def test_a_full_disk_leaves_what_was_there(self, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        output = tmp_path / "m.onnx"
        export_model(model_folder, output, show_progress=False)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(exporting, "write_self_test", full)
        with pytest.raises(OSError, match="No space left"):
            export_model(model_folder, output, precision="fp16", show_progress=False)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    def test_arguments(self, model_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        for settings, error, message in (
            ({"output": "m.bin"}, InputError, r"unsupported extension '\.bin' for an exported model"),
            ({"kind": "audio"}, InputError, "input 'audio' is unknown"),
            ({"precision": "int4"}, InputError, "precision 'int4' is unknown"),
            ({"output": "m.pt2", "precision": "fp16"}, InputError, "pt2 files are written in fp32, not in fp16"),
            ({"precision": "int8-static"}, InputError, "--calibration-audio"),
            ({"root": tmp_path}, InputError, "go together"),
            ({"precision": "int8-static", "calibration_audio": tmp_path / "empty"}, DataError, "can be used for calibration"),
        ):
            arguments = {"output": "m.onnx", **settings}
            output = tmp_path / str(arguments.pop("output"))
            with pytest.raises(error, match=message):
                export_model(model_folder, output, show_progress=False, **arguments)  # type: ignore[arg-type]
        assert _names(tmp_path) == ["empty"]


def test_features_in_as_a_program(
    model: ReDimNetMRL, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.export traces the network anew, here with features coming in."""
    monkeypatch.setattr(exporting, "CHECKED_SHAPES", ((1, 0.3), (3, 1.0)))
    report = export_model(model_folder, tmp_path / "m.pt2", kind="features", show_progress=False)
    assert report.cosine > 0.9999999 and report.description.input == "features"
    assert check_export(report.path).cosine > 0.9999999
    reference = Reference(model, "features")
    waveforms = synthetic_speech(2, 0.7)
    found = open_runner(report.path)(reference.feed(waveforms))
    assert row_cosines(found.raw, reference.raw(waveforms)).min() > 0.9999999
    (tmp_path / "cut.pt2").write_bytes(report.path.read_bytes()[:4000])
    with pytest.raises(CheckpointError, match="cut.pt2 is damaged or not an exported program"):
        open_runner(tmp_path / "cut.pt2")


def test_exported_files_are_not_exported_again(tmp_path: Path) -> None:
    from tests.runtime.golden.record import EXPORTED

    with pytest.raises(InputError, match="is an exported file already"):
        export_model(EXPORTED, tmp_path / "m.onnx")


def test_describing_keeps_no_path_of_the_machine(model: ReDimNetMRL) -> None:
    model.backbone.pretrained_source = {"file": "/somewhere/else/b2.pt", "licence": "CC-BY-4.0"}
    try:
        description = describe(model, "waveform", "fp32", opset=20, calibration=None)
    finally:
        model.backbone.pretrained_source = None
    assert description.source == {"file": "b2.pt", "licence": "CC-BY-4.0"} and description.licence == "CC-BY-4.0"
    assert dataclasses.replace(description, source=None).to_dict()["mrl_dims"] == [8, 16, 24]


@pytest.mark.shared
@pytest.mark.slow
def test_a_real_network_on_real_speech(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """b0, traced, on recordings of so762: the same error rates from both."""
    from mrl.trials.lists import read_trials

    monkeypatch.setattr(exporting, "CHECKED_SHAPES", ((1, 0.3), (8, 1.0), (1, 10.0)))
    everything = read_trials(shared / "corpora/trials/so762-adult.txt.gz")
    names = sorted(everything.utterances)[:400:10]  # forty recordings of twenty speakers
    numbers = {everything.utterances.index(name) for name in names}
    pairs = [
        (bool(label), everything.utterances[first], everything.utterances[second])
        for label, first, second in zip(everything.labels, everything.enrol, everything.test, strict=True)
        if first in numbers and second in numbers
    ]
    root = shared / "corpora"
    trials = TrialList.from_pairs(pairs)
    weights = shared / "corpora/checkpoints/b0-standin.pt"
    report = export_model("b0", tmp_path / "b0.onnx", weights=weights, trials=trials, root=root, show_progress=False)
    assert report.cosine > 0.99999 and report.rates is not None
    assert report.rates.exported == pytest.approx(report.rates.network, abs=1e-9)
    files = trials.paths(root)[:2]
    from mrl.embeddings import open_model

    by_torch = embed_files(open_model(weights), files, show_progress=False).matrix
    by_file = embed_files(open_model(tmp_path / "b0.onnx"), files, show_progress=False).matrix
    np.testing.assert_allclose(by_file, by_torch, atol=1e-3 * np.abs(by_torch).max())
