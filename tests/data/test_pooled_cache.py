"""The cache of pooled statistics: contents, resume after a kill, damage, key."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mrl.data import Corpus, PooledCache, Utterance, View, ViewSettings, build_pooled_cache, cache_key, finish_pooled_cache
from mrl.data import pooled_cache as module
from mrl.errors import DataError, InputError

RATE = 16000
SETTINGS = ViewSettings(views=3, max_seconds=0.3, crop_seconds=0.1, seed=5)


def pooled(audio: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """A backbone that respects padding: mean, largest value and length."""
    lengths = torch.full((len(audio),), audio.shape[1]) if lengths is None else lengths
    return torch.stack([audio.sum(1) / lengths, audio.amax(1), lengths.float()], dim=1)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    random = np.random.default_rng(0)
    utterances = []
    for i in range(7):
        path = tmp_path / f"{i}.wav"
        soundfile.write(path, random.uniform(-0.5, 0.5, 2000 + 800 * i).astype(np.float32), RATE, subtype="FLOAT")
        utterances.append(Utterance(path, f"s{i % 3}"))
    return Corpus.of(utterances)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHARD_UTTERANCES", 3)
    monkeypatch.setattr(module, "_OPEN_SHARDS", 2)


def _build(folder: Path, corpus: Corpus, **more: object) -> PooledCache:
    build_pooled_cache(folder, corpus, SETTINGS, pooled, 3, batch_seconds=0.5, **more)  # type: ignore[arg-type]
    return finish_pooled_cache(folder, corpus, SETTINGS, 3)


def test_contents(tmp_path: Path, corpus: Corpus) -> None:
    cache = _build(tmp_path / "cache", corpus, augment=lambda speech, seed: np.full_like(speech, (seed % 1000) / 1000))
    assert (cache.utterances, cache.views, cache.pooled_dim, cache.shards) == (7, 3, 3, 3)
    for index, one in enumerate(corpus.utterances):
        audio, _ = soundfile.read(one.path, dtype="float32")
        audio = audio[: int(0.3 * RATE)]
        clean, first, second = cache.read([View(index, 0), View(index, 1), View(index, 2)])
        assert clean == pytest.approx([audio.mean(), audio.max(), len(audio)], abs=1e-6)
        assert first[2] == second[2] == 1600
        assert first[1] != second[1]  # two seeds
    # any order, over shards
    views = [View(6, 1), View(0, 0), View(3, 2), View(6, 1)]
    assert np.array_equal(cache.read(views), np.stack([cache.read([view])[0] for view in views]))


def test_a_stopped_build_resumes(tmp_path: Path, corpus: Corpus) -> None:
    calls = 0

    def dying(audio: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise KeyboardInterrupt
        return pooled(audio, lengths)

    folder = tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt):
        build_pooled_cache(folder, corpus, SETTINGS, dying, 3, batch_seconds=0.5)
    assert len(list(folder.glob("pooled-*.npy"))) == 1
    with pytest.raises(DataError, match="not a finished cache"):
        PooledCache.load(folder)
    kept = (folder / "pooled-00000.npy").stat().st_mtime_ns
    resumed = _build(folder, corpus)
    assert (folder / "pooled-00000.npy").stat().st_mtime_ns == kept
    whole = _build(tmp_path / "other", corpus)
    everything = [View(index, view) for index in range(7) for view in range(3)]
    assert np.array_equal(resumed.read(everything), whole.read(everything))


def test_processes_share_the_work(tmp_path: Path, corpus: Corpus) -> None:
    whole = _build(tmp_path / "one", corpus)
    for rank in (0, 1):
        build_pooled_cache(tmp_path / "two", corpus, SETTINGS, pooled, 3, rank=rank, world_size=2)
    shared = finish_pooled_cache(tmp_path / "two", corpus, SETTINGS, 3)
    everything = [View(index, view) for index in range(7) for view in range(3)]
    assert np.allclose(shared.read(everything), whole.read(everything), atol=1e-6)


def test_values_that_are_not_finite_name_the_recording(tmp_path: Path, corpus: Corpus) -> None:
    def broken(audio: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        return pooled(audio, lengths) / 0.0

    message = r"3 of 7 utterances cannot be used: pooled statistics of .*\.wav \(view 0\) are not finite"
    with pytest.raises(DataError, match=message):
        build_pooled_cache(tmp_path / "cache", corpus, SETTINGS, broken, 3)
    assert not list((tmp_path / "cache").glob("*.npy"))


def test_full_disk_keeps_finished_shards(tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    save, calls = np.save, []

    def full(file: object, array: np.ndarray) -> None:
        calls.append(file)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        save(file, array)  # type: ignore[arg-type]

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space left"):
        build_pooled_cache(tmp_path / "cache", corpus, SETTINGS, pooled, 3)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["pooled-00000.npy"]


def test_damage_is_reported(tmp_path: Path, corpus: Corpus) -> None:
    folder = tmp_path / "cache"
    _build(folder, corpus)
    shard = folder / "pooled-00001.npy"
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"pooled-00001\.npy is (missing or )?damaged"):
        PooledCache.load(folder)
    with pytest.raises(DataError, match="damaged"):
        build_pooled_cache(folder, corpus, SETTINGS, pooled, 3)
    np.save(shard, np.zeros((3, 3, 4), dtype=np.float32))
    with pytest.raises(DataError, match=r"holds float32 \(3, 3, 4\), expected float32 \(3, 3, 3\)"):
        PooledCache.load(folder)


def test_the_key_changes_with_what_matters(corpus: Corpus) -> None:
    key = cache_key("w", corpus, SETTINGS, {"noise": 0.5})
    assert len(key) == 16 and key == cache_key("w", corpus, SETTINGS, {"noise": 0.5})
    others = {
        cache_key("v", corpus, SETTINGS, {"noise": 0.5}),
        cache_key("w", Corpus.of(corpus.utterances[1:]), SETTINGS, {"noise": 0.5}),
        cache_key("w", corpus, ViewSettings(3, 0.3, 0.1, 6), {"noise": 0.5}),
        cache_key("w", corpus, SETTINGS, {"noise": 0.6}),
    }
    assert len(others | {key}) == 5
    whole = {cache_key("w", corpus, ViewSettings(1, 0.3, crop, seed), {"noise": crop}) for crop in (0.1, 0.2) for seed in (1, 2)}
    assert len(whole) == 1 and cache_key("w", corpus, ViewSettings(1, 0.4, 0.1, 1), {}) not in whole  # no crops, no difference
    with pytest.raises(InputError, match="at least one view"):
        ViewSettings(0, 1.0, 1.0, 0)


def test_an_unreadable_recording_is_left_out_and_listed(tmp_path: Path, corpus: Corpus) -> None:
    whole = _build(tmp_path / "whole", corpus)
    broken = corpus.utterances[4].path
    broken.write_bytes(b"not audio")
    with pytest.raises(DataError, match=rf"1 of 7 utterances cannot be used: {broken}"):
        _build(tmp_path / "strict", corpus)
    build_pooled_cache(tmp_path / "cache", corpus, SETTINGS, pooled, 3, batch_seconds=0.5, max_bad_share=0.2)
    cache = finish_pooled_cache(tmp_path / "cache", corpus, SETTINGS, 3, max_bad_share=0.2)
    assert set(cache.bad) == {View(4, view) for view in range(3)} and str(broken) in cache.bad[View(4, 0)]
    good = [View(index, view) for index in range(7) for view in range(3) if index != 4]
    assert np.allclose(cache.read(good), whole.read(good), atol=1e-6)  # padded to other lengths
    assert np.isnan(cache.read([View(4, 1)])).all()
    assert PooledCache.load(tmp_path / "cache").bad == cache.bad
    excluded = finish_pooled_cache(tmp_path / "cache", corpus, SETTINGS, 3, excluded={4})  # counts for nothing once excluded
    assert set(excluded.bad) == set(cache.bad)


def test_half_precision_takes_half_the_space(tmp_path: Path, corpus: Corpus) -> None:
    whole = _build(tmp_path / "whole", corpus)
    build_pooled_cache(tmp_path / "half", corpus, SETTINGS, pooled, 3, storage="float16")
    half = finish_pooled_cache(tmp_path / "half", corpus, SETTINGS, 3, storage="float16")
    everything = [View(index, view) for index in range(7) for view in range(3)]
    assert np.allclose(half.read(everything), whole.read(everything), rtol=1e-3)
    assert half.read(everything).dtype == np.float32
    sizes = [sum(np.load(path).nbytes for path in folder.folder.glob("*.npy")) for folder in (half, whole)]
    assert 2 * sizes[0] == sizes[1]
    assert cache_key("w", corpus, SETTINGS, {}, storage="float16") != cache_key("w", corpus, SETTINGS, {})


def test_reading_maps_no_file_and_keeps_few_open(tmp_path: Path, corpus: Corpus) -> None:
    """Every file was mapped: resident memory grew with the cache, and past a limit each read mapped a file again."""
    cache = _build(tmp_path / "cache", corpus)
    everything = [View(index, view) for index in (6, 0, 3, 5, 1) for view in (2, 0)]
    expected = cache.read(everything)
    if Path("/proc/self/maps").is_file():
        assert str(tmp_path) not in Path("/proc/self/maps").read_text()
        opened = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.exists()]
        assert sum(str(tmp_path) in target for target in opened) <= 2
    with pytest.raises(IndexError, match="not in a cache of 7 utterances"):
        cache.read([View(7, 0)])
    cache.close()
    assert np.array_equal(cache.read(everything), expected)
