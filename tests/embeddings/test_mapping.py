"""Running a function over many recordings."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mrl.embeddings import map_files
from mrl.embeddings.mapping import failure_summary
from mrl.errors import DataError, InputError
from tests.embeddings.fakes import SpectrumBackbone, write_corpus, write_tone


@pytest.fixture
def tones(tmp_path: Path) -> list[Path]:
    lengths = [0.31, 0.1, 0.5, 0.22, 0.1, 0.43, 0.05]
    return [write_tone(tmp_path / f"{i}.wav", hertz=400 + 300 * i, seconds=length, seed=i) for i, length in enumerate(lengths)]


def _length_and_peak(waveforms: list[np.ndarray]) -> np.ndarray:
    return np.array([[len(waveform), np.abs(waveform).max()] for waveform in waveforms], dtype=np.float32)


@pytest.mark.parametrize("num_workers", [0, 3])
@pytest.mark.parametrize("batch_seconds", [0.01, 0.6, 100.0])
def test_rows_come_in_the_order_given_whatever_the_batches(tones: list[Path], num_workers: int, batch_seconds: float) -> None:
    mapped = map_files(_length_and_peak, tones, batch_seconds=batch_seconds, num_workers=num_workers)
    expected = [soundfile.read(tone, dtype="float32")[0] for tone in tones]
    assert mapped.kept == tuple(range(len(tones)))
    assert mapped.failures == ()
    np.testing.assert_array_equal(mapped.matrices[0], _length_and_peak(expected))


def test_batches_hold_similar_lengths_longest_first_and_stay_within_the_limit(tones: list[Path]) -> None:
    batches: list[list[int]] = []

    def note(waveforms: list[np.ndarray]) -> np.ndarray:
        batches.append([len(waveform) for waveform in waveforms])
        return np.zeros((len(waveforms), 1))

    map_files(note, tones, batch_seconds=0.7, num_workers=2)
    assert batches == [[8000], [6880], [4960, 3520], [1600, 1600, 800]]


def test_at_most_three_batches_are_decoded_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mrl.embeddings import mapping

    files = [write_tone(tmp_path / f"{i}.wav", hertz=500, seconds=0.1) for i in range(12)]
    decoded, most_waiting, lock = 0, 0, threading.Lock()
    decode = mapping.load_audio

    def count(*args: object, **kwargs: object) -> np.ndarray:
        nonlocal decoded
        with lock:
            decoded += 1
        return decode(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(mapping, "load_audio", count)
    done = 0

    def function(waveforms: list[np.ndarray]) -> np.ndarray:
        nonlocal done, most_waiting
        most_waiting = max(most_waiting, decoded - done)
        done += len(waveforms)
        return np.zeros((len(waveforms), 1))

    map_files(function, files, batch_seconds=0.2, num_workers=4)
    assert done == 12
    assert most_waiting <= 3 * 2


def test_several_outputs_and_tensors(tones: list[Path]) -> None:
    def two(waveforms: list[np.ndarray]) -> tuple[torch.Tensor, np.ndarray]:
        assert torch.is_inference_mode_enabled()
        peaks = _length_and_peak(waveforms)
        return torch.from_numpy(peaks).double(), -peaks[:, :1]

    first, second = map_files(two, tones).matrices
    assert first.dtype == np.float32
    np.testing.assert_array_equal(second[:, 0], -first[:, 0])


def test_unusable_recordings_are_listed_and_the_rest_goes_on(tones: list[Path], tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("this is no recording")
    paths = [tmp_path / "absent.wav", *tones, tmp_path / "text.wav"]
    mapped = map_files(_length_and_peak, paths, batch_seconds=0.6)
    assert mapped.kept == tuple(range(1, 8))
    assert [failure.path for failure in mapped.failures] == [paths[0], paths[-1]]
    assert all(failure.reason for failure in mapped.failures)
    assert mapped.matrices[0][1, 0] == 1600


def test_raise_counts_all_of_them_and_computes_nothing_in_vain(tones: list[Path], tmp_path: Path) -> None:
    absent = [tmp_path / f"absent{i}.wav" for i in range(7)]

    def never(waveforms: list[np.ndarray]) -> np.ndarray:
        raise AssertionError("a batch was computed although the result is lost")

    with pytest.raises(DataError, match=r"^7 of 14 recordings cannot be used: .*absent0\.wav.*; and 2 more$"):
        map_files(never, [*absent, *tones], on_error="raise")


def test_a_recording_that_the_function_refuses_does_not_cost_its_batch(tones: list[Path], tmp_path: Path) -> None:
    short = write_tone(tmp_path / "short.wav", hertz=400, seconds=0.02)
    mapped = map_files(SpectrumBackbone().eval(), [*tones, short], batch_seconds=100)
    assert mapped.kept == tuple(range(7))
    assert mapped.failures[0].path == short
    assert "needs at least 400" in mapped.failures[0].reason


def test_a_row_that_is_not_finite_is_a_failure_of_that_recording(tones: list[Path]) -> None:
    def sometimes_nan(waveforms: list[np.ndarray]) -> np.ndarray:
        return np.array([[np.nan if len(waveform) == 8000 else 1.0] for waveform in waveforms])

    mapped = map_files(sometimes_nan, tones)
    assert mapped.kept == (0, 1, 3, 4, 5, 6)
    assert mapped.failures[0].path == tones[2]
    assert "NaN" in mapped.failures[0].reason
    assert np.isfinite(mapped.matrices[0]).all()


def test_other_errors_of_the_function_are_not_swallowed(tones: list[Path]) -> None:
    def broken(waveforms: list[np.ndarray]) -> np.ndarray:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        map_files(broken, tones)


def test_wrong_number_of_rows_is_an_error(tones: list[Path]) -> None:
    with pytest.raises(DataError, match=r"must give \(batch, width\)"):
        map_files(lambda waveforms: np.zeros((len(waveforms) + 1, 2)), tones)


def test_max_seconds_cuts_what_is_read(tones: list[Path]) -> None:
    mapped = map_files(_length_and_peak, tones, max_seconds=0.2)
    assert mapped.matrices[0][:, 0].tolist() == [3200, 1600, 3200, 3200, 1600, 3200, 800]


def test_no_recordings_give_no_rows() -> None:
    mapped = map_files(_length_and_peak, [])
    assert (mapped.kept, mapped.matrices, mapped.failures) == ((), (), ())


@pytest.mark.parametrize("wrong", [{"batch_seconds": 0}, {"num_workers": -1}, {"max_seconds": 0}, {"on_error": "ignore"}])
def test_unusable_settings(wrong: dict[str, object], tones: list[Path]) -> None:
    with pytest.raises(InputError):
        map_files(_length_and_peak, tones, **wrong)  # type: ignore[arg-type]


def test_summary_names_each_file_once(tmp_path: Path) -> None:
    mapped = map_files(_length_and_peak, [tmp_path / "absent.wav"])
    assert failure_summary(mapped.failures, 1).count("absent.wav") == 1


def test_a_change_sees_every_recording_by_its_number(tmp_path: Path) -> None:
    names = write_corpus(tmp_path)
    paths = [tmp_path / name for name in names]

    def louder(index: int, waveform: np.ndarray) -> np.ndarray:
        if index == 4:
            raise InputError("this one cannot be changed")
        return waveform * np.float32(index + 1)

    def level(waveforms: list[np.ndarray]) -> np.ndarray:
        return np.array([[np.abs(waveform).max()] for waveform in waveforms])

    plain = map_files(level, paths, batch_seconds=0.5, show_progress=False)
    changed = map_files(level, paths, batch_seconds=0.5, change=louder, show_progress=False)
    assert changed.failures[0].path == paths[4] and "cannot be changed" in changed.failures[0].reason
    kept = [index for index in range(18) if index != 4]
    assert list(changed.kept) == kept
    np.testing.assert_allclose(changed.matrices[0][:, 0], plain.matrices[0][kept, 0] * (np.array(kept) + 1), rtol=1e-6)
