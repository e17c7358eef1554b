"""Training at the size of VoxBlink2: a million utterances, a hundred thousand speakers, pooled statistics beyond main memory.

    python benchmarks/bench_scale.py corpus --utterances 1100000 --speakers 100000
    python benchmarks/bench_scale.py classes --classes 10000 100000 300000
    python benchmarks/bench_scale.py cache --vectors 1000000 --dim 2304 --folder /large/disk

``corpus`` writes a manifest of that many stretches of a few short recordings and measures what a run does with it before and
while it draws: seconds to read and check it, bytes per utterance in this process and in a worker started by spawn, draws per
second, and a resume in the middle of an epoch. ``classes`` measures forward, backward and optimizer step of the loss with all and
with a tenth of the classes. ``cache`` writes random vectors as a cache and measures an epoch of the head from disk (the files are
dropped from the system's memory first) beside the same epoch from main memory; it needs twice the size of the cache on disk or
in memory. Times are processor time where they say so, else wall-clock time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from mrl.data import Corpus, Draw, PooledCache, SpeakerBalancedSampler, UtteranceSampler, View, read_manifest, split_updates
from mrl.files import write_json
from mrl.hardware import hardware_line
from mrl.matryoshka import MatryoshkaLoss, ReDimNetMRL, create_mrl
from mrl.training.feeds import CachedFeed
from mrl.training.system import TrainingSystem
from mrl.training.updates import Updater, build_optimizer, parameter_groups

_FILES = 200
_PAGE = 4096


def main() -> int:
    """Parse and measure one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    corpus = parts.add_parser("corpus")
    corpus.add_argument("--utterances", type=int, default=1_100_000)
    corpus.add_argument("--speakers", type=int, default=100_000)
    classes = parts.add_parser("classes")
    classes.add_argument("--classes", type=int, nargs="+", default=[10_000, 100_000, 300_000])
    classes.add_argument("--batch", type=int, default=256)
    classes.add_argument("--steps", type=int, default=3)
    cache = parts.add_parser("cache")
    cache.add_argument("--vectors", type=int, default=1_000_000)
    cache.add_argument("--dim", type=int, default=2304)
    cache.add_argument("--batch", type=int, default=64)
    cache.add_argument("--batches", type=int, default=2000, help="of the epoch that are timed")
    cache.add_argument("--folder", type=Path)
    given = parser.parse_args()
    print(hardware_line(), f"{torch.get_num_threads()} threads", sep=", ")
    {"corpus": _corpus, "classes": _classes, "cache": _cache}[given.part](given)
    return 0


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def _private() -> int:
    """Memory that this process has written and no other shares, in bytes; what it maps from files can be shared."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_Dirty"))


# --- corpus


def _corpus(given: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        manifest = _write_manifest(Path(folder), given.utterances, given.speakers)
        before, begun, used = _resident(), time.perf_counter(), time.process_time()
        corpus = read_manifest(manifest)
        read, read_used = time.perf_counter() - begun, time.process_time() - used
        corpus.check_files()
        outline = corpus.outline()
        started, started_used = time.perf_counter() - begun, time.process_time() - used
        print(f"{len(corpus):,} utterances of {len(corpus.speakers):,} speakers; {outline['sha256'][:8]}")
        print(f"manifest read: {read:.1f} s ({read_used:.1f} s of processor time)")
        print(f"manifest read and checked: {started:.1f} s ({started_used:.1f} s of processor time)")
        pickled = pickle.dumps(corpus)
        print(f"this process: {(_resident() - before) / len(corpus):.0f} bytes per utterance; a pickle: {len(pickled):,} bytes")
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:
            empty, full = pool.apply(_worker_bytes, (pickled,))
        print(f"a worker by spawn: {(full - empty) / len(corpus):.0f} bytes per utterance of its own, after reading every one")
        for name, sampler in (("speakers", SpeakerBalancedSampler(corpus)), ("utterances", UtteranceSampler(corpus))):
            used = time.process_time()
            draws = sampler.epoch(1)
            updates = split_updates(draws, batch_size=256)
            drawn = time.process_time() - used
            used = time.process_time()
            middle = sum(total for total, _ in updates[: len(updates) // 2])
            resumed = split_updates(sampler.epoch(1), batch_size=256, start=middle)
            again = time.process_time() - used
            same = resumed == updates[len(updates) // 2 :]
            print(f"balance: {name}: {len(draws) / drawn:,.0f} draws per second of processor time")
            print(f"resumed in the middle: {again:.1f} s of processor time; the same draws: {same}")
        print(f"this process at the end: {(_resident() - before) / len(corpus):.0f} bytes per utterance, epochs included")


def _write_manifest(folder: Path, utterances: int, speakers: int) -> Path:
    length = 0.5
    starts = -(-utterances // _FILES)
    for number in range(_FILES):
        noise = np.random.default_rng(number).normal(0, 0.1, 16000).astype(np.float32)
        soundfile.write(folder / f"{number:05}.wav", noise, 16000, subtype="PCM_16")
    manifest = folder / "manifest.csv"
    with manifest.open("w") as stream:
        stream.write("path,speaker,start,duration,seconds,session\n")
        for index in range(utterances):
            start = round(index // _FILES * (0.4 / starts), 7)
            speaker = index * speakers // utterances
            stream.write(f"{index % _FILES:05}.wav,id{speaker:06},{start},{length},{length},v{index // 4:07}\n")
    return manifest


def _worker_bytes(pickled: bytes) -> tuple[int, int]:
    before = _private()
    corpus: Corpus = pickle.loads(pickled)
    for index in range(0, len(corpus), 97):
        corpus.utterances[index]
    int(np.asarray(corpus.labels).sum())
    return before, _private()


# --- classes


def _classes(given: argparse.Namespace) -> None:
    print("| classes | sampled | s of processor time per step | peak memory beyond parameters and optimizer, MB |")
    print("|---|---|---|---|")
    from mrl.training.plan import PeakMemory

    raw = torch.randn(given.batch, 256)
    for classes in given.classes:
        for share in (1.0, 0.1):
            loss = MatryoshkaLoss([16, 64, 128, 256], classes, shared_classes=True, sampled_classes=share)
            optimizer = torch.optim.AdamW(loss.parameters(), lr=1e-3)
            labels = torch.arange(given.batch) * 37 % classes
            times = []
            peak = 0
            for step in range(given.steps + 1):
                used = time.process_time()
                loss.start_step(step)
                with PeakMemory() as memory:
                    loss(raw, labels).total.backward()
                peak = max(peak, memory.bytes)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                times.append(time.process_time() - used)
            print(f"| {classes:,} | {share:.0%} | {np.median(times[1:]):.2f} | {peak / 1e6:.0f} |", flush=True)


# --- cache


def _cache(given: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        place = Path(folder)
        _write_cache(place, given.vectors, given.dim)
        for path in place.glob("*.npy"):  # out of the system's memory
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
        order = np.random.default_rng(0).permutation(given.vectors)[: given.batch * given.batches]
        batches = [
            [Draw(int(index), 0, at + row) for row, index in enumerate(order[at : at + given.batch])]
            for at in range(0, len(order), given.batch)
        ]
        before = _resident()
        seconds, used = _epoch(PooledCache.load(place), batches, given)
        print(f"from disk: {seconds:.1f} s ({used:.1f} s of processor time)")
        print(f"resident memory grew by {(_resident() - before) / 1e6:.0f} MB")
        memory = _InMemory(place, given.vectors, given.dim)
        in_memory, memory_used = _epoch(memory, batches, given)
        print(f"from memory: {in_memory:.1f} s ({memory_used:.1f} s of processor time)")
        print(f"ratios: {seconds / in_memory:.2f} and {used / memory_used:.2f}")


def _write_cache(folder: Path, vectors: int, dim: int) -> None:
    random = np.random.default_rng(0)
    for shard, first in enumerate(range(0, vectors, 256)):
        np.save(folder / f"pooled-{shard:05d}.npy", random.random((min(256, vectors - first), 1, dim), dtype=np.float32))
    write_json(folder / "cache.json", {"format": 1, "utterances": vectors, "views": 1, "pooled_dim": dim})


class _InMemory(PooledCache):
    """The same vectors as one array."""

    def __init__(self, folder: Path, vectors: int, dim: int) -> None:
        super().__init__(folder, vectors, 1, dim)
        self._rows = np.concatenate([np.load(path)[:, 0] for path in sorted(folder.glob("*.npy"))])

    def read(self, views: Sequence[View]) -> Any:
        return self._rows[[view.utterance for view in views]]


class _Head(ReDimNetMRL):
    """A head of any width on a backbone that is not used."""

    def project(self, pooled: torch.Tensor, target_dim: int | None = None) -> torch.Tensor:
        projected: torch.Tensor = self.projection(pooled, target_dim)
        return projected


def _epoch(cache: PooledCache, batches: list[list[Draw]], given: argparse.Namespace) -> tuple[float, float]:
    from mrl.backbone import ReDimNet, scratch_config
    from mrl.matryoshka.projection import MatryoshkaProjection

    torch.manual_seed(0)
    encoder = create_mrl(ReDimNet(scratch_config("tiny")).eval(), freeze_backbone=True)
    encoder.__class__ = _Head
    encoder.projection = MatryoshkaProjection(given.dim, 256)
    system = TrainingSystem(encoder, MatryoshkaLoss([16, 64, 256], 6000, shared_classes=True)).train()
    groups = parameter_groups(system, learning_rate=1e-3, backbone_ratio=1.0, weight_decay=0.0)
    updater = Updater(system, build_optimizer(groups, "adamw"))
    feed = CachedFeed(encoder, cache, _Labels(cache.utterances), seed=0)
    begun, used = time.perf_counter(), time.process_time()
    for inputs in feed.read(batches):
        loss = system(encoder.project(inputs.features), inputs.labels)
        updater.update(iter([(loss, len(inputs.labels))]), total_crops=len(inputs.labels), rate_factor=1.0)
    return time.perf_counter() - begun, time.process_time() - used


class _Labels(Sequence[int]):
    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return index % 6000

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._count))


if __name__ == "__main__":
    sys.exit(main())
