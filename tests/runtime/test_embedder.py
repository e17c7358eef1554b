"""An exported file without torch, held against the network that it was made from."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
import torch

from mrl.deployment.onnx_graph import describe_in
from mrl.errors import AudioLoadingError, CheckpointError, InputError
from mrl.matryoshka import ReDimNetMRL
from mrl.runtime import Description, OnnxEmbedder
from tests.backbone.networks import noise
from tests.runtime.golden.record import EXPORTED, golden_model


@pytest.fixture(scope="module")
def model() -> ReDimNetMRL:
    return golden_model()


@pytest.fixture(scope="module")
def embedder() -> OnnxEmbedder:
    return OnnxEmbedder(EXPORTED, threads=1)


def _expected(model: ReDimNetMRL, audio: object, target_dim: int | None = None) -> np.ndarray:
    with torch.inference_mode():
        return model(audio, target_dim=target_dim).numpy()  # type: ignore[call-overload,no-any-return]


def test_what_it_says_about_itself(model: ReDimNetMRL, embedder: OnnxEmbedder) -> None:
    assert (embedder.embed_dim, embedder.mrl_dims, embedder.sample_rate) == (24, (8, 16, 24), 16000)
    assert len(embedder.model_hash) == 64 and embedder.metadata["model_hash"] == embedder.model_hash
    assert embedder.metadata["model_config"] == model.backbone.config.to_model_config()
    assert embedder.metadata["front_end"]["hop_length"] == 240 and embedder.metadata["opset"] == 20


@pytest.mark.parametrize("samples", [33, 100, 239, 240, 4800, 16001])
@pytest.mark.parametrize("target_dim", [None, 1, 8, 13])
def test_one_waveform(model: ReDimNetMRL, embedder: OnnxEmbedder, samples: int, target_dim: int | None) -> None:
    waveform = noise(samples, seed=samples).numpy()
    found = embedder(waveform, target_dim)
    assert found.shape == (target_dim or 24,) and found.dtype == np.float32
    np.testing.assert_allclose(found, _expected(model, waveform, target_dim), atol=2e-5)
    np.testing.assert_allclose(np.linalg.norm(found), 1.0, atol=1e-6)


def test_batches_lists_and_integers(model: ReDimNetMRL, embedder: OnnxEmbedder) -> None:
    batch = noise(3, 4000).numpy()
    expected = _expected(model, batch)
    np.testing.assert_allclose(embedder(batch), expected, atol=2e-5)
    np.testing.assert_allclose(embedder(batch[:, None]), expected, atol=2e-5)
    np.testing.assert_allclose(embedder(torch.from_numpy(batch)), expected, atol=2e-5)  # type: ignore[arg-type]
    unequal = [noise(length, seed=length).numpy() for length in (3000, 900, 3000, 5000)]
    np.testing.assert_allclose(embedder(unequal, 8), _expected(model, unequal, 8), atol=2e-5)
    pcm = np.round(batch[0] * 2**15).astype(np.int16)
    np.testing.assert_allclose(embedder(pcm), _expected(model, pcm), atol=2e-5)
    assert np.array_equal(embedder(pcm), embedder(pcm.astype(np.float64) / 2**15))


def test_a_path_at_any_rate(model: ReDimNetMRL, embedder: OnnxEmbedder, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(12000).numpy(), 22050)
    alone = embedder(tmp_path / "a.wav", 16)
    np.testing.assert_allclose(alone, _expected(model, str(tmp_path / "a.wav"), 16), atol=2e-5)
    np.testing.assert_allclose(embedder([str(tmp_path / "a.wav")], 16)[0], alone, atol=1e-6)
    with pytest.raises(AudioLoadingError, match="no such file"):
        embedder(tmp_path / "absent.wav")


def test_the_same_words_as_the_network(model: ReDimNetMRL, embedder: OnnxEmbedder) -> None:
    bad = np.zeros(4000, np.float32)
    bad[7] = np.nan
    for audio in (
        np.zeros(10, np.float32),
        np.zeros((2, 10), np.float32),
        np.zeros(0, np.float32),
        np.zeros((2, 2, 4000), np.float32),
        np.zeros((0, 4000), np.float32),
        bad,
        [],
        [np.zeros(4000, np.float32), bad],
        [np.zeros(4000, np.float32), np.zeros(10, np.float32)],
        [np.zeros((2, 4000), np.float32)],
        3.0,
    ):
        with pytest.raises(InputError) as by_network:
            model(audio)
        with pytest.raises(InputError) as by_file:
            embedder(audio)  # type: ignore[arg-type]
        assert str(by_file.value) == str(by_network.value)
    for dim in (0, 25, -1, True, 2.0):
        with pytest.raises(InputError) as by_network:
            model(noise(4000), target_dim=dim)  # type: ignore[call-overload]
        with pytest.raises(InputError) as by_file:
            embedder(noise(4000).numpy(), dim)  # type: ignore[arg-type]
        assert str(by_file.value) == str(by_network.value)
    with pytest.raises(InputError, match="array of complex64"):
        embedder(np.zeros(4000, np.complex64))


def test_several_threads_at_once(embedder: OnnxEmbedder) -> None:
    waveforms = [noise(3000 + 100 * place, seed=place).numpy() for place in range(6)]
    expected = [embedder(waveform) for waveform in waveforms]
    with ThreadPoolExecutor(3) as executor:
        for found, alone in zip(executor.map(embedder, waveforms), expected, strict=True):
            np.testing.assert_allclose(found, alone, atol=1e-6)


def test_threads_belong_to_the_instance() -> None:
    before = torch.get_num_threads()
    two = OnnxEmbedder(EXPORTED, threads=2)
    assert two._session.get_session_options().intra_op_num_threads == 2
    assert OnnxEmbedder(EXPORTED, threads=1)._session.get_session_options().intra_op_num_threads == 1
    assert torch.get_num_threads() == before
    for threads in (0, -1, True, 1.5):
        with pytest.raises(InputError, match="threads="):
            OnnxEmbedder(EXPORTED, threads=threads)  # type: ignore[arg-type]


def test_no_torch() -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"  # importing it now fails
        "import numpy as np\n"
        "from mrl import OnnxEmbedder\n"
        f"e = OnnxEmbedder({str(EXPORTED)!r}, threads=1)\n"
        "print(round(float(e(np.sin(np.arange(8000) / 9).astype('f4'), 8) @ e(np.ones(100, 'f4'), 8)), 4))"
    )
    finished = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    here = OnnxEmbedder(EXPORTED, threads=1)
    expected = here(np.sin(np.arange(8000) / 9).astype("f4"), 8) @ here(np.ones(100, "f4"), 8)
    assert float(finished.stdout) == pytest.approx(float(expected), abs=2e-4)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    whole = EXPORTED.read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "text.onnx").write_text("not a model")
    for name in ("cut", "empty", "text"):
        with pytest.raises(CheckpointError, match=f"{name}.onnx is damaged or not an ONNX model"):
            OnnxEmbedder(tmp_path / f"{name}.onnx")
    with pytest.raises(InputError, match="does not exist"):
        OnnxEmbedder(tmp_path / "absent.onnx")
    model = onnx.load(str(EXPORTED))
    description = Description.from_properties({entry.key: entry.value for entry in model.metadata_props}, "tiny.onnx")
    del model.metadata_props[:]
    onnx.save(model, str(tmp_path / "foreign.onnx"))
    with pytest.raises(CheckpointError, match="foreign.onnx was not written by mrl export"):
        OnnxEmbedder(tmp_path / "foreign.onnx")
    values = {**description.to_dict(), "input": "features"}
    describe_in(model, Description.from_dict(values, "tiny.onnx"))
    onnx.save(model, str(tmp_path / "features.onnx"))
    with pytest.raises(InputError, match="takes features from your own front end"):
        OnnxEmbedder(tmp_path / "features.onnx")


def test_without_the_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    from mrl.errors import MissingDependencyError

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"redimnet-mrl\[onnx\]"):
        OnnxEmbedder(EXPORTED)


def test_weights_that_give_nan_are_not_passed_on(tmp_path: Path) -> None:
    model = onnx.load(str(EXPORTED))
    head = next(tensor for tensor in model.graph.initializer if tensor.name == "network.head.bias")
    head.CopyFrom(onnx.numpy_helper.from_array(np.full(24, np.nan, np.float32), head.name))
    onnx.save(model, str(tmp_path / "nan.onnx"))
    with pytest.raises(CheckpointError, match="gave NaN or infinity"):
        OnnxEmbedder(tmp_path / "nan.onnx")(noise(4000).numpy())
