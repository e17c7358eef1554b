"""How fast training crops come from tar shards, against one file per utterance.

    python benchmarks/bench_shards.py --folder /disk/to/measure

Makes a corpus of noise (16-bit FLAC, 2 to 8 s), writes it as shards too, and reads each utterance once as a 3 s crop, in three
ways: single files in random order (the baseline), shards in random order, shards in shard order. "cold" asks the kernel to forget
the files first (posix_fadvise); on a network or spinning disk that is what training meets. "bytes" reads without decoding; of
shards it compares each checksum. With --index N it also opens an index of N utterances that has no audio behind it. Ratios above
1 are faster than the baseline.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import soundfile

from mrl.data import Corpus, CropDataset, Draw, ShardIndex, ShardSampler, UtteranceSampler, scan_speaker_folders, write_shards
from mrl.data.shards import ROW, Shard, write_index

REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where to make the data; a temporary folder by default")
    parser.add_argument("--speakers", type=int, default=100)
    parser.add_argument("--utterances", type=int, default=20, help="per speaker")
    parser.add_argument("--shard-megabytes", type=float, default=64.0)
    parser.add_argument("--index", type=int, default=0, help="also open an index of so many utterances")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        _open_large(arguments.child)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as place:
        _measure(Path(place), arguments.speakers, arguments.utterances, arguments.shard_megabytes)
        if arguments.index:
            _measure_index(Path(place) / "large", arguments.index)


def _measure(place: Path, speakers: int, utterances: int, megabytes: float) -> None:
    _write_noise(place / "files", speakers, utterances)
    started = time.perf_counter()
    write_shards(scan_speaker_folders(place / "files"), place / "shards", shard_megabytes=megabytes, encoding="as-is")
    written = time.perf_counter() - started
    files, scanned = _timed(lambda: _checked(scan_speaker_folders(place / "files")))
    shards, opened = _timed(lambda: _checked(ShardIndex.load(place / "shards").corpus()))
    size = sum(path.stat().st_size for path in (place / "shards").glob("*.tar"))
    count = len(files)
    print(f"{count} utterances, {size / 1e6:.0f} MB in {len(list((place / 'shards').glob('*.tar')))} shards, written at")
    print(f"  {count / written:.0f} utterances/s; a corpus is opened in {scanned:.3f} s from files, {opened:.3f} s from shards")
    ways = {
        "files, random order": (files, UtteranceSampler(files).epoch(0)),
        "shards, random order": (shards, UtteranceSampler(shards).epoch(0)),
        "shards, shard order": (shards, ShardSampler(shards, shuffle_buffer=256).epoch(0)),
    }
    for state in ("cold", "warm"):
        for what, read in (("bytes", _read_bytes), ("crops", _read_crops)):
            best = dict.fromkeys(ways, float("inf"))
            for _ in range(REPEATS):  # in turn, so that a busy moment hits all of them
                for way, (corpus, draws) in ways.items():
                    if state == "cold":
                        _forget({one.file for one in corpus.utterances})
                    best[way] = min(best[way], _timed(lambda: read(corpus, draws))[1])  # noqa: B023 - called at once
            baseline = best["files, random order"]
            for way, seconds in best.items():
                print(f"  {state} {what}  {way:22s} {count / seconds:8.0f} utterances/s   {baseline / seconds:5.2f} x")


def _write_noise(folder: Path, speakers: int, utterances: int) -> None:
    random = np.random.default_rng(0)
    for speaker in range(speakers):
        (folder / f"id{speaker:05d}").mkdir(parents=True)
        for number in range(utterances):
            noise = random.normal(0.0, 0.05, int(random.uniform(2, 8) * 16000)).astype(np.float32)
            soundfile.write(folder / f"id{speaker:05d}" / f"{number:05d}.flac", noise, 16000)


def _checked(corpus: Corpus) -> Corpus:
    corpus.check_files()
    return corpus


def _read_crops(corpus: Corpus, draws: Iterable[Draw]) -> None:
    crops = CropDataset(corpus, 3.0)
    for draw in draws:
        crops[draw]


def _read_bytes(corpus: Corpus, draws: Iterable[Draw]) -> None:
    for draw in draws:
        one = corpus.utterances[draw.utterance]
        if one.slice is None:
            one.path.read_bytes()
        else:
            one.slice.read()


def _forget(files: set[Path]) -> None:
    for path in files:
        with path.open("rb") as stream:
            os.fdatasync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _timed(work: Callable[[], Corpus | None]) -> tuple[Corpus, float]:
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started  # type: ignore[return-value]


def _measure_index(folder: Path, count: int) -> None:
    folder.mkdir()
    shards = []
    per_shard = 5000
    for number in range(-(-count // per_shard)):
        (folder / f"shard-{number:05d}.tar").write_bytes(b"x")
        held = min(per_shard, count - number * per_shard)
        shards.append(Shard(f"shard-{number:05d}.tar", 1, hashlib.sha256(b"x").hexdigest(), held))
    rows = np.zeros(count, dtype=ROW)
    rows["shard"] = np.arange(count) // per_shard
    rows["offset"] = np.arange(count) % per_shard * 100_000
    rows["length"], rows["seconds"], rows["suffix"] = 90_000, 5.0, b".flac"
    rows["speaker"], rows["session"] = np.arange(count) % 6000, np.arange(count) % 150_000
    write_index(
        folder,
        shards,
        rows,
        speakers=[f"id{i:05d}" for i in range(6000)],
        sessions=[f"v{i:06d}" for i in range(150_000)],
        facts={},
    )
    subprocess.run([sys.executable, __file__, "--child", str(folder)], check=True)


def _open_large(folder: Path) -> None:
    def memory() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    before, started = memory(), time.perf_counter()
    index = ShardIndex.load(folder)
    opened, mapped = time.perf_counter() - started, memory()
    started = time.perf_counter()
    corpus = index.corpus()
    made, held = time.perf_counter() - started, memory()
    started = time.perf_counter()
    sampler = ShardSampler(corpus)
    prepared = time.perf_counter() - started
    started = time.perf_counter()
    sampler.epoch(0)
    drawn = time.perf_counter() - started
    print(f"index of {len(index):,} utterances: opened in {opened:.2f} s with {mapped - before:.0f} MiB (memory-mapped)")
    print(f"  as a corpus in {made:.1f} s with {held - mapped:.0f} MiB")
    print(f"  sampler in {prepared:.1f} s, the order of an epoch in {drawn:.1f} s")


if __name__ == "__main__":
    main()
