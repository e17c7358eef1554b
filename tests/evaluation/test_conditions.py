"""Conditions of the test side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mrl.audio import SAMPLE_RATE
from mrl.audio.channel import code_and_decode, telephone
from mrl.errors import DataError, InputError
from mrl.evaluation.conditions import Channel, Shortened, make_conditions
from tests.audio.sounds import tone
from tests.embeddings.fakes import write_tone


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    for number in range(3):
        write_tone(tmp_path / "noise" / f"{number}.wav", hertz=100 * number + 1000, seconds=0.4, seed=number)
    return tmp_path / "noise"


def test_a_cut_takes_the_middle_and_leaves_shorter_recordings_whole() -> None:
    ramp = np.arange(4 * SAMPLE_RATE, dtype=np.float32)
    cut = Shortened(1.0).apply("a", ramp)
    assert len(cut) == SAMPLE_RATE
    assert cut[0] == 1.5 * SAMPLE_RATE and cut[-1] == 2.5 * SAMPLE_RATE - 1
    assert Shortened(5.0).apply("a", ramp) is not None and len(Shortened(5.0).apply("a", ramp)) == len(ramp)
    assert Shortened(1.5).name == "1.5 s"


def test_noise_has_the_ratio_asked_for_and_is_the_same_at_every_ratio(noise: Path) -> None:
    loud, soft = make_conditions(noise=noise, snr_db=(0, 20), seed=4)
    speech = tone(SAMPLE_RATE, 1.0)
    added = [condition.apply("s1/a.wav", speech).astype(np.float64) - speech for condition in (loud, soft)]
    for ratio, part in zip((0, 20), added, strict=True):
        assert 10 * np.log10(np.mean(np.square(speech, dtype=np.float64)) / np.mean(part**2)) == pytest.approx(ratio, abs=0.01)
    np.testing.assert_allclose(added[0], 10 * added[1], atol=1e-5)
    again = make_conditions(noise=noise, snr_db=(0,), seed=4)[0].apply("s1/a.wav", speech)
    np.testing.assert_array_equal(again, loud.apply("s1/a.wav", speech))
    other = loud.apply("s1/b.wav", speech)
    assert not np.allclose(other, again, atol=1e-3)
    assert make_conditions(noise=noise, snr_db=(0,), seed=5)[0].settings() != loud.settings()


def test_channels_do_what_they_are_called() -> None:
    speech = tone(SAMPLE_RATE, 0.5, 900.0)
    np.testing.assert_array_equal(Channel("telephone").apply("a", speech), telephone(speech))
    np.testing.assert_array_equal(Channel("opus", 12.0).apply("a", speech), code_and_decode(speech, "opus", kilobits=12))
    names = [one.name for one in make_conditions(cut_seconds=(1, 2.5, 1), channels=("telephone", "opus:12", "opus"))]
    assert names == ["1 s", "2.5 s", "telephone", "opus 12 kbit/s", "opus"]


def test_what_cannot_be_used(noise: Path, tmp_path: Path) -> None:
    for wrong in ({"noise": noise}, {"snr_db": (3,)}):
        with pytest.raises(InputError, match="both a folder"):
            make_conditions(**wrong)  # type: ignore[arg-type]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no recordings"):
        make_conditions(noise=tmp_path / "empty", snr_db=(3,))
    for channels, message in ((("smoke",), "telephone"), (("telephone:8",), "no bit rate"), (("opus:x",), "'x' is no bit rate")):
        with pytest.raises(InputError, match=message):
            make_conditions(channels=channels)
    with pytest.raises(InputError, match="above 0"):
        make_conditions(cut_seconds=(0,))
