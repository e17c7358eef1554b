"""Exits fitted to recordings: they follow the whole network, on recordings that they have not heard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.nn import functional

from mrl.errors import DataError, InputError, TrainingError
from mrl.matryoshka import create_mrl
from mrl.training import fit_exits
from tests.matryoshka.conftest import tiny_backbone


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """70 noisy hums of random pitch and timbre, 0.4 to 0.6 s."""
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("hums")
    paths = []
    for number in range(70):
        times = np.arange(int(random.integers(6400, 9600))) / 16000
        pitch = random.uniform(100, 400)
        hum = sum(np.sin(2 * np.pi * pitch * k * times) * random.uniform(0, 1) / k for k in range(1, 9))
        noise = random.normal(size=len(times)) * random.uniform(0.01, 0.3)
        paths.append(folder / f"{number}.wav")
        soundfile.write(paths[-1], 0.1 * (hum + noise), 16000)
    return paths


def test_exits_follow_the_whole_network(recordings: list[Path]) -> None:
    model = create_mrl(tiny_backbone(), embed_dim=16, mrl_dims=[16])
    audio = [soundfile.read(path, dtype="float32")[0] for path in recordings]
    with torch.inference_mode():
        before = model(audio)
    fit_exits(model, recordings[:50], show_progress=False)
    assert model.depths == (1, 2) and not model.training
    centre = functional.normalize(before[:50].mean(dim=0), dim=0)
    with torch.inference_mode():
        assert torch.equal(model(audio), before)
        early, whole = model(audio, depth=1)[50:], before[50:]
    # nearer to the whole network's embedding than the best constant, and nearest to that of the same recording
    assert (early * whole).sum(dim=1).mean() > (1 + 2 * (whole @ centre).mean()) / 3
    assert ((early @ whole.T).argmax(dim=1) == torch.arange(20)).float().mean() >= 0.6


def test_chosen_depths_again(recordings: list[Path]) -> None:
    model = create_mrl(tiny_backbone(), embed_dim=16, mrl_dims=[16])
    fit_exits(model, recordings[:20], [1], show_progress=False)
    first = model.exits["1"].projection.weight.clone()  # type: ignore[union-attr, operator]
    fit_exits(model, recordings[:20], [1, 1], ridge=10.0, max_seconds=0.4, show_progress=False)
    assert model.depths == (1, 2)
    assert model.exits["1"].projection.weight.norm() < 0.7 * first.norm()  # type: ignore[union-attr, operator]


def test_what_cannot_be_fitted(recordings: list[Path], tmp_path: Path) -> None:
    model = create_mrl(tiny_backbone(), embed_dim=16, mrl_dims=[16])
    for depths in ([2], [0], ["1"]):
        with pytest.raises(InputError, match="from 1 to 1"):
            fit_exits(model, recordings, depths)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="empty"):
        fit_exits(model, recordings, [])
    with pytest.raises(InputError, match="too few"):
        fit_exits(model, recordings[:3], show_progress=False)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"broken\.wav"):
        fit_exits(model, [*recordings[:12], tmp_path / "broken.wav"], show_progress=False)
    assert model.depths == (2,)  # nothing half done
    with pytest.raises(TrainingError, match="inference copy"):
        fit_exits(model.optimize_for_inference(), recordings)
