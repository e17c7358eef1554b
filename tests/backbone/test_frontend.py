"""The log-mel front end against plain float64 arithmetic, and what keeps it exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mrl.backbone import FrontEndConfig
from mrl.backbone.frontend import LogMelFrontEnd, mel_filters
from tests.backbone.networks import filled_network, noise, small_model_config


def plain_log_mel(waveform: np.ndarray, config: FrontEndConfig) -> np.ndarray:
    """Frame by frame, sum by sum, as textbooks have it; ``(frames, bands)``."""
    signal = waveform.astype(np.float64)
    if config.normalise_signal:
        signal = (signal - signal.mean()) / (signal.std() + 1e-6)
    if config.pre_emphasis:
        signal = signal - 0.97 * np.concatenate([signal[1:2], signal[:-1]])
    half = config.n_fft // 2
    signal = np.pad(signal, half, mode="reflect")
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(config.window_length) / config.window_length)
    left = (config.n_fft - config.window_length) // 2
    starts = range(0, len(waveform) + 1, config.hop_length)
    cut = [signal[start + left : start + left + config.window_length] * window for start in starts]
    power = np.abs(np.fft.rfft(np.stack(cut), n=config.n_fft)) ** 2
    corners = np.linspace(
        *(2595 * np.log10(1 + f / 700) for f in (config.lowest_frequency, config.highest_frequency)), config.bands + 2
    )
    corners = 700 * (10 ** (corners / 2595) - 1)
    frequencies = np.arange(half + 1) * config.sample_rate / config.n_fft
    filters = np.zeros((half + 1, config.bands))
    for band in range(config.bands):
        low, middle, high = corners[band : band + 3]
        rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
        filters[:, band] = np.maximum(0, np.minimum(rising, falling))
    features = np.log(power @ filters + 1e-6)
    features = features - features.mean(axis=0)
    if config.normalisation == "mvn":
        features = features / (features.std(axis=0, ddof=1) + 1e-8)
    return features


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"hop_length": 240, "bands": 60},
        {"normalise_signal": True},
        {"pre_emphasis": False},
        {"normalisation": "mvn", "bands": 40},
    ],
)
@pytest.mark.parametrize("samples", [257, 399, 4000, 4001])
def test_textbook_formula(changes: dict[str, Any], samples: int) -> None:
    config = FrontEndConfig(**changes)
    waveform = noise(samples, seed=samples)
    found = LogMelFrontEnd(config)(waveform[None])[0].numpy()
    assert found.shape == (1 + samples // config.hop_length, config.bands)
    np.testing.assert_allclose(found, plain_log_mel(waveform.numpy(), config), atol=2e-3)


def test_low_precision_networks_keep_exact_filters() -> None:
    network = filled_network(small_model_config(spec_params={"spec_norm": "bn"}))
    exact = {name: tensor.clone() for name, tensor in network.front_end.state_dict().items()}
    waveform = noise(1, 4000)
    expected = network.front_end(waveform)
    for convert in (network.bfloat16, network.half, network.double, network.float):
        convert()
        assert all(torch.equal(tensor, exact[name]) for name, tensor in network.front_end.state_dict().items())
        assert torch.equal(network.front_end(waveform), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(network.front_end(waveform), expected)


def test_filters_have_a_peak_of_one_and_nothing_outside() -> None:
    filters = mel_filters(72, 512, 16000, 20.0, 7600.0)
    assert filters.shape == (257, 72)
    assert 0.5 < filters.max() <= 1
    assert filters[0].abs().max() == 0
    assert filters[244:].abs().max() == 0  # 7625 Hz and above


def test_spec_augment_hides_bands_and_frames_in_training_only() -> None:
    torch.manual_seed(0)
    front_end = LogMelFrontEnd(FrontEndConfig(spec_augment=True, band_mask_width=(3, 4), frame_mask_width=(5, 6)))
    waveform = noise(2, 16000)
    plain = front_end.eval()(waveform)
    masked = front_end.train()(waveform)
    hidden = (masked == 0) & (plain != 0)
    for item in hidden:
        assert int(item.all(dim=0).sum()) == 3  # bands hidden over all frames
        assert int(item.all(dim=1).sum()) == 5  # frames hidden over all bands
    assert torch.equal(masked[~hidden], plain[~hidden])
