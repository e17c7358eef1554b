"""Augmented examples: files, measures, page; the same twice; what cannot be shown is said."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mrl.data import CropDataset, Draw, read_shards, write_shards
from mrl.errors import DataError, InputError
from mrl.training.config import AugmentationConfig, SimulatedRoomsConfig, SpecAugmentConfig, TrainDataConfig
from mrl.training.data import build_augmenter, read_corpus
from mrl.training.listening import write_examples

ROOMS = SimulatedRoomsConfig(count=2, rt60_seconds=(0.15, 0.2))


def test_each_kind_and_all_together(voices: Path, tmp_path: Path) -> None:
    config = AugmentationConfig(
        noise_folders=[str(voices / "validation")],
        rir_folders=[str(voices / "validation")],
        noise_snr_db=(5.0, 5.0),
        gain_probability=0.5,
        simulated_rooms=ROOMS,
        spec_augment=SpecAugmentConfig(time_masks=1),
    )
    written = write_examples(voices / "train", tmp_path / "one", config, crop_seconds=0.5, count=2, seed=3)
    assert written.left_out == {}
    kinds = ["clean", "speed", "room", "simulated_room", "noise", "babble", "gain", "clipping", "band", "codec", "configured"]
    assert [one.kind for one in written.examples] == kinds * 2
    assert written.examples[4].file == "001-noise.wav"
    facts = written.examples[4].facts
    assert len(facts) == 1 and "asked for 5.00 dB" in facts[0] and facts[0].endswith("measured 5.00 dB")
    clean, _ = soundfile.read(str(tmp_path / "one" / "001-clean.wav"), dtype="float32")
    for one in written.examples[1:10]:
        changed, rate = soundfile.read(str(tmp_path / "one" / one.file), dtype="float32")
        assert (rate, changed.shape) == (16000, (8000,))
        assert not np.array_equal(changed, clean)
        assert len(one.facts) == 1
    page = (tmp_path / "one" / "index.html").read_text(encoding="utf-8")
    assert page.count("<audio ") == 22 and 'src="002-simulated-room.wav"' in page and "SpecAugment masks" in page
    table = (tmp_path / "one" / "examples.tsv").read_text(encoding="utf-8").splitlines()
    assert len(table) == 23 and table[1].split("\t")[2] == "clean"
    write_examples(voices / "train", tmp_path / "two", config, crop_seconds=0.5, count=2, seed=3)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(names) == 24
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    other = write_examples(voices / "train", tmp_path / "three", config, crop_seconds=0.5, count=2, seed=4)
    assert (other.folder / "001-clean.wav").read_bytes() != (written.folder / "001-clean.wav").read_bytes()


def test_the_configured_example_is_what_training_gets(voices: Path, tmp_path: Path) -> None:
    config = AugmentationConfig(speed_probability=0.5, clipping_probability=0.5, babble_probability=0.5, simulated_rooms=ROOMS)
    written = write_examples(voices / "validation", tmp_path, config, crop_seconds=0.4, count=9, seed=2)
    corpus = read_corpus(TrainDataConfig(folder=str(voices / "validation")))
    crops = CropDataset(corpus, 0.4, seed=2, augment=build_augmenter(config, corpus))
    for number in range(9):
        expected = crops[Draw(number, 0, number)][0]
        found, _ = soundfile.read(str(tmp_path / f"{number + 1:03d}-configured.wav"), dtype="float32")
        assert np.max(np.abs(found - np.clip(expected, -1.0, 1.0 - 2.0**-15))) <= 2.0**-15
    assert {len(one.facts) for one in written.examples if one.kind == "configured"} >= {1, 2}


def test_what_cannot_be_shown_is_said(voices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = importlib.import_module

    def absent(name: str, *rest: str) -> object:
        if name == "pyroomacoustics":
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    written = write_examples(voices / "validation", tmp_path, AugmentationConfig(), crop_seconds=0.3, count=1)
    assert set(written.left_out) == {"room", "noise", "simulated_room", "configured"}
    assert "redimnet-mrl[rooms]" in written.left_out["simulated_room"]
    assert "data.augmentation.noise_folders is empty" in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert [one.kind for one in written.examples] == ["clean", "speed", "babble", "gain", "clipping", "band", "codec"]


def test_examples_come_from_shards_too(voices: Path, tmp_path: Path) -> None:
    corpus = read_corpus(TrainDataConfig(folder=str(voices / "validation")))
    shards = tmp_path / "shards"
    write_shards(corpus, shards, shard_megabytes=0.06, root=voices / "validation")
    config = AugmentationConfig(clipping_probability=1.0, clipping_level=(0.3, 0.3), simulated_rooms=ROOMS)
    written = write_examples(shards, tmp_path / "out", config, crop_seconds=0.4, count=3)
    assert [one.kind for one in written.examples].count("babble") == 3
    clipped = [one for one in written.examples if one.kind == "clipping"]
    assert all("at 0.30 of the peak" in one.facts[0] for one in clipped)
    utterance = next(one for one in read_shards(shards).utterances if str(one.path).endswith(clipped[0].utterance))
    clean, _ = soundfile.read(str(tmp_path / "out" / "001-clean.wav"), dtype="float32")
    expected = CropDataset(read_shards(shards), 0.4, seed=0)[Draw(read_shards(shards).utterances.index(utterance), 0, 0)][0]
    assert np.max(np.abs(clean - expected)) <= 2.0**-15
    (shards / "shards.json").unlink()
    with pytest.raises(DataError, match="unfinished shards"):
        write_examples(shards, tmp_path / "out", config)


def test_faults(voices: Path, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="no recordings in it"):
        write_examples(tmp_path / "bare", tmp_path / "out", AugmentationConfig())
    with pytest.raises(InputError, match="count is 0"):
        write_examples(voices / "train", tmp_path / "out", AugmentationConfig(), count=0)
    assert not (tmp_path / "out").exists()
