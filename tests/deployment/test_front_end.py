"""The front end as convolutions gives the features of the front end."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.backbone.convolutional import log_mel_facts
from mrl.backbone.frontend import LogMelFrontEnd
from mrl.backbone.frontend_config import FrontEndConfig
from tests.backbone.networks import noise

SMALL = FrontEndConfig(n_fft=64, window_length=50, hop_length=40, bands=10, lowest_frequency=200)


@settings(max_examples=20, deadline=None)
@given(
    window=st.integers(40, 64),
    hop=st.integers(20, 90),
    samples=st.integers(33, 400),
    pre_emphasis=st.booleans(),
    normalise_signal=st.booleans(),
    normalisation=st.sampled_from(["mn", "mvn", "bn"]),
)
def test_same_features(
    window: int, hop: int, samples: int, pre_emphasis: bool, normalise_signal: bool, normalisation: str
) -> None:
    config = dataclasses.replace(
        SMALL,
        window_length=window,
        hop_length=hop,
        pre_emphasis=pre_emphasis,
        normalise_signal=normalise_signal,
        normalisation=normalisation,
    )
    front_end = LogMelFrontEnd(config).eval()
    if front_end.norm is not None:
        assert front_end.norm.running_mean is not None and front_end.norm.running_var is not None
        torch.nn.init.uniform_(front_end.norm.running_mean, -9.0, 0.0)
        torch.nn.init.uniform_(front_end.norm.running_var, 0.5, 2.0)
    waveform = noise(2, samples, seed=samples)
    expected = front_end(waveform)
    found = front_end.time_normalisation()(front_end.as_convolutions()(waveform))
    assert found.shape == expected.shape == (2, 1 + samples // hop, 10)
    if not (normalisation == "mvn" and found.shape[1] < 3):  # few frames have no spread to divide by
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("hop", [160, 240])
def test_same_features_at_the_released_sizes(hop: int) -> None:
    front_end = LogMelFrontEnd(FrontEndConfig(hop_length=hop)).eval()
    waveform = noise(1, 16000) * torch.linspace(0, 1, 16000)  # from silence, where the floor of the logarithm counts
    found = front_end.time_normalisation()(front_end.as_convolutions()(waveform))
    torch.testing.assert_close(found, front_end(waveform), rtol=1e-4, atol=2e-4)


def test_facts_name_every_parameter() -> None:
    facts = log_mel_facts(SMALL)
    assert (facts["n_fft"], facts["window_length"], facts["hop_length"], facts["bands"]) == (64, 50, 40, 10)
    assert (facts["lowest_frequency"], facts["highest_frequency"], facts["log_floor"]) == (200, 7600, 1e-6)
    assert facts["pre_emphasis"] == 0.97 and facts["normalisation_inside_the_network"] == "mn"
