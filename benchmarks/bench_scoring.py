"""Time and memory of scoring all prefixes, beside the naive way, in one run.

    python benchmarks/bench_scoring.py
    python benchmarks/bench_scoring.py --list trials/voxceleb1-o-original.txt.gz --trials 10000000

Embeddings are random: neither time nor memory depends on what they hold. "Naive" is what a script does at first: for every dim
gather both sides of all trials, cut, scale to unit length, multiply. Each way runs in a process of its own, which reports the
most memory that it ever held (resident, the interpreter and its libraries included). "ours and figures" adds the error rates,
costs and convex hulls of every dim.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

DIMS = (16, 32, 64, 128, 192, 256)
REPEATS = 5
_CHUNK = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", type=Path, help="a trial list, such as VoxCeleb1-O; a random one of its size by default")
    parser.add_argument("--trials", type=int, default=10_000_000, help="size of the large random list")
    parser.add_argument("--utterances", type=int, default=20_000, help="utterances of the large random list")
    parser.add_argument("--child", nargs=3, metavar=("WAY", "SIZE", "UTTERANCES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        way, size, utterances = arguments.child
        print(json.dumps(_run(way, arguments.list, int(size), int(utterances))))
        return
    small = ["--list", str(arguments.list)] if arguments.list else []
    for title, size, utterances, source, ways in (
        ("VoxCeleb1-O", 37_720, 4_708, small, ("ours", "naive")),
        (
            f"{arguments.trials:,} trials",
            arguments.trials,
            arguments.utterances,
            [],
            ("idle", "ours", "ours and figures", "naive in chunks"),
        ),
    ):
        print(f"\n{title}, {len(DIMS)} dims up to {DIMS[-1]}")
        found = {way: _child(way, size, utterances, source) for way in ways}
        for way, facts in found.items():
            print(
                f"  {way:16s} {facts['seconds']:8.3f} s   peak memory {facts['peak_mib']:8.0f} MiB   {facts['trials']:,} trials"
            )
        naive = next(way for way in ways if way.startswith("naive"))
        print(f"  {naive} / ours: {found[naive]['seconds'] / found['ours']['seconds']:.1f} times the time")
        print(f"  difference of the mean score at {DIMS[-1]} dims: {found['ours']['checksum'] - found[naive]['checksum']:.1e}")


def _child(way: str, size: int, utterances: int, source: list[str]) -> dict[str, float]:
    command = [sys.executable, __file__, *source, "--child", way, str(size), str(utterances)]
    facts: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return facts


def _run(way: str, path: Path | None, size: int, utterances: int) -> dict[str, float]:
    from mrl.evaluation.measure import SystemEmbeddings, evaluate_systems
    from mrl.scoring.cosine import score_prefixes
    from mrl.trials.lists import TrialList, read_trials

    random = np.random.default_rng(0)
    if path is None:
        names = tuple(f"u{number}" for number in range(utterances))
        pairs = random.integers(0, utterances, (2, size), dtype=np.int32)
        trials = TrialList(names, pairs[0], pairs[1], np.arange(size) % 2 == 0)
    else:
        trials = read_trials(path)
    matrix = random.standard_normal((len(trials.utterances), DIMS[-1]), dtype=np.float32)
    seconds, mean = float("inf"), 0.0
    for _ in range(REPEATS if len(trials) < 1_000_000 else 1):
        started = time.perf_counter()
        if way == "idle":
            scores = {DIMS[-1]: np.zeros(1, dtype=np.float32)}
        elif way == "ours and figures":
            system = SystemEmbeddings("ours", matrix, DIMS)
            scores = dict(zip(DIMS, evaluate_systems([system], trials, bootstrap=0).scores.values(), strict=True))
        elif way == "ours":
            scores = score_prefixes(matrix, trials, DIMS)
        else:
            scores = _naive(matrix, trials.enrol, trials.test, len(trials) if way == "naive" else _CHUNK)
        seconds = min(seconds, time.perf_counter() - started)
        mean = float(scores[DIMS[-1]].mean(dtype=np.float64))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "peak_mib": peak, "trials": len(trials), "checksum": mean}


def _naive(matrix: np.ndarray, enrol: np.ndarray, test: np.ndarray, chunk: int) -> dict[int, np.ndarray]:
    scores = {}
    for dim in DIMS:
        unit = matrix[:, :dim] / np.linalg.norm(matrix[:, :dim], axis=1, keepdims=True)
        parts = [
            (unit[enrol[start : start + chunk]] * unit[test[start : start + chunk]]).sum(axis=1)
            for start in range(0, len(enrol), chunk)
        ]
        scores[dim] = np.concatenate(parts)
    return scores


if __name__ == "__main__":
    main()
