"""What may be passed as audio, and what is said when it cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mrl.backbone import ReDimNet
from mrl.errors import AudioLoadingError, InputError
from tests.backbone.networks import filled_network, noise, relative_difference, small_model_config


@pytest.fixture(scope="module")
def network() -> ReDimNet:
    return filled_network(small_model_config())


@torch.no_grad()
def test_all_forms_of_one_recording_give_one_embedding(network: ReDimNet, tmp_path: Path) -> None:
    pcm = (noise(4000) * 2**15).to(torch.int16)
    waveform = pcm / 2.0**15
    expected = network(waveform)
    assert expected.shape == (16,)
    path = tmp_path / "speech.wav"
    soundfile.write(path, pcm.numpy(), 16000, subtype="PCM_16")
    for single in (waveform.numpy(), waveform.double(), pcm, pcm.numpy(), pcm.to(torch.int32) << 16, str(path), path):
        found = network(single)
        assert found.shape == (16,)
        assert torch.equal(found, expected)
    for batch in (
        waveform[None],
        waveform[None, None],
        [waveform],
        [pcm.numpy()],
        [path],
        (waveform[None],),
        waveform.numpy()[None],
    ):
        found = network(batch)
        assert found.shape == (1, 16)
        assert torch.equal(found[0], expected)


@torch.no_grad()
def test_list_of_mixed_forms(network: ReDimNet, tmp_path: Path) -> None:
    waveform = noise(3000, seed=3)
    path = tmp_path / "other.wav"
    soundfile.write(path, waveform.numpy(), 16000, subtype="FLOAT")
    found = network([noise(2000, seed=4).numpy(), path, waveform])
    assert relative_difference(found[1], found[2]) < 1e-6
    assert relative_difference(found[0], network(noise(2000, seed=4))) < 1e-4


@torch.no_grad()
def test_shortest_waveform_and_one_sample_less(network: ReDimNet) -> None:
    assert torch.isfinite(network(noise(257))).all()
    with pytest.raises(InputError, match=r"256 samples \(16.0 ms.*at least 257 \(16.1 ms\)"):
        network(noise(256))
    with pytest.raises(InputError, match=r"item 1 of the list has 100 samples .* at least 257"):
        network([noise(400), noise(100)])
    with pytest.raises(InputError, match=r"200 samples .* at least 257"):
        network(noise(2, 400), lengths=[400, 200])
    with pytest.raises(InputError, match=r"0 samples .* at least 257"):
        network(torch.zeros(1, 0))


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (torch.zeros(2, 2, 400), r"shape \(2, 2, 400\)"),
        (torch.zeros(0, 400), r"shape \(0, 400\)"),
        (torch.tensor(1.0), r"shape \(\)"),
        ([], "empty list"),
        ([torch.zeros(2, 400)], r"item 0 of the list has the shape \(2, 400\)"),
        (3.5, "is a float"),
        ({"audio": 1}, "is a dict"),
        ([None], "is a NoneType"),
        (torch.zeros(400, dtype=torch.int64), "torch.int64"),
        (torch.zeros(400, dtype=torch.complex64), "torch.complex64"),
        (np.zeros(400, dtype=np.complex64), "complex64"),
        (np.array(["a"] * 400), "<U1"),
        (np.full(400, np.nan, dtype=np.float32), "NaN or infinite"),
        ([np.ones(400, dtype=np.float32), np.full(400, np.inf, dtype=np.float32)], "item 1 of the list contains NaN"),
    ],
)
def test_unusable_audio_is_named(network: ReDimNet, audio: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        network(audio)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([400], r"shape \(1,\)"),
        ([[400, 400]], r"shape \(1, 2\)"),
        ([400.0, 400.0], "torch.float32"),
        ([True, True], "torch.bool"),
        ([400, 401], "up to 401 samples, but the batch holds only 400"),
        ([400, -5], "-5 samples"),
    ],
)
def test_unusable_lengths_are_named(network: ReDimNet, lengths: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        network(torch.zeros(2, 400), lengths=lengths)  # type: ignore[arg-type]


def test_lengths_beside_a_list_are_refused(network: ReDimNet) -> None:
    with pytest.raises(InputError, match="carries its own lengths"):
        network([torch.zeros(400)], lengths=[400])


def test_absent_file(network: ReDimNet, tmp_path: Path) -> None:
    with pytest.raises(AudioLoadingError, match=r"absent\.wav"):
        network(tmp_path / "absent.wav")
