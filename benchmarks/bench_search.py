"""Time, recall and memory of searching a million voices, beside comparing with all of them, in one run.

    python benchmarks/bench_search.py
    python benchmarks/bench_search.py --voices 100000 --usearch

Voices are drawn, not recorded: speakers with within-speaker noise of the same shape, whose energy per dimension falls as it does
in this project's Matryoshka models on real speech (60 % in the first 32 of 256 numbers, 82 % in 64, 96 % in 128). A query is a
voice plus noise, so that its cosine with the voice is what ``--cosine`` says; each enrolled voice is one noisy sample too. The
ways take turns, and ratios are medians of the ratios within one turn. Memory is that of the arrays that a way reads in full, and
the peak of the whole process. The exact funnel and "one product", a script's way, are checked on the first 64 queries.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from mrl.identification import ExactSearch, FunnelSearch, Hits, UsearchSearch, voices_in_memory

DIM = 256
ENERGY = ((0, 0.0), (16, 0.36), (32, 0.60), (64, 0.82), (128, 0.96), (192, 0.995), (256, 1.0))
_BLOCK = 50_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--voices", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1000, help="for the recall")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--cosine", type=float, nargs="+", default=[0.75, 0.65], help="of query and voice, on average")
    parser.add_argument("--usearch", action="store_true", help="build a graph index too (slow)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random = np.random.default_rng(arguments.seed)
    matrix = np.empty((arguments.voices, DIM), dtype=np.float32)
    for first in range(0, len(matrix), _BLOCK):
        matrix[first : first + _BLOCK] = _directions(random, min(_BLOCK, len(matrix) - first))
    started = time.perf_counter()
    voices = voices_in_memory(matrix)
    print(f"{len(voices):,} voices x {DIM} dims, float32; laid out in {time.perf_counter() - started:.0f} s", flush=True)
    assert voices.heads is not None and voices.signs is not None
    threads = int(os.environ.get("OMP_NUM_THREADS", "0")) or None  # as the matrix products of the others
    ways = {
        "brute force": ExactSearch(voices),
        "one product": _OneProduct(matrix),
        "signs": FunnelSearch(voices, by="signs", shortlist=3000, threads=threads),
        "prefix 32": FunnelSearch(voices, by=32, shortlist=10_000),
        "prefix 64": FunnelSearch(voices, by=64),
        "exact funnel": FunnelSearch(voices, exact=True),
    }
    if arguments.usearch:
        started = time.perf_counter()
        ways["usearch"] = UsearchSearch(voices)
        print(f"graph index built in {time.perf_counter() - started:.0f} s", flush=True)
    mebibyte = 2**20
    print(
        f"read in full: brute force {voices.encoded.nbytes / mebibyte:.0f} MiB, signs {voices.signs.nbytes / mebibyte:.0f} MiB, "
        f"heads {voices.heads.nbytes / mebibyte:.0f} MiB"
    )
    queries = {}
    for cosine in arguments.cosine:
        chosen = random.choice(len(matrix), min(arguments.queries, len(matrix)), replace=False)
        noise = np.sqrt(1.0 / cosine**2 - 1.0)
        queries[cosine] = matrix[chosen] + np.float32(noise) * _directions(random, len(chosen))
        found = {
            name: _best(way.search(queries[cosine][: 64 if name in ("exact funnel", "one product") else None], 1))
            for name, way in ways.items()
        }
        truth = found["brute force"]
        print(f"cosine {cosine:g}: brute force finds the speaker in {np.mean(truth == chosen):.4f}; recall@1 of", end="")
        print(
            *(f" {name} {np.mean(one == truth[: len(one)]):.4f}" for name, one in found.items() if name != "brute force"),
            sep=";",
            flush=True,
        )
    strangers = _directions(random, 200)
    closest = _best(ways["brute force"].search(strangers, 1))
    shares = {name: np.mean(_best(way.search(strangers, 1)) == closest) for name, way in ways.items() if name != "exact funnel"}
    print("strangers: the voice most like them is found by", "; ".join(f"{name} {share:.3f}" for name, share in shares.items()))
    for cosine, rows in queries.items():
        for batch in (1, 32):
            _race(f"cosine {cosine:g}, batch {batch}", ways, rows, batch, arguments.turns)
    print(f"peak memory of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', '')}")


class _OneProduct:
    """What a script does: one matrix product and the highest score."""

    def __init__(self, matrix: np.ndarray) -> None:
        self._matrix = matrix

    def search(self, queries: np.ndarray, count: int) -> list[Hits]:
        found = []
        for row in np.atleast_2d(queries) if len(queries) == 1 else (self._matrix @ queries.T).T:
            scores = self._matrix @ row if len(queries) == 1 else row
            best = int(scores.argmax())
            found.append(Hits(np.array([best]), scores[best : best + 1]))
        return found


def _directions(random: np.random.Generator, count: int) -> np.ndarray:
    steps = [(high - low, (end - begin) / (high - low)) for (low, begin), (high, end) in pairwise(ENERGY)]
    scale = np.sqrt(np.concatenate([np.full(width, energy) for width, energy in steps])).astype(np.float32)
    rows = random.standard_normal((count, DIM), dtype=np.float32) * scale
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _best(found: list) -> np.ndarray:
    return np.array([one.numbers[0] for one in found])


def _race(title: str, ways: dict, rows: np.ndarray, batch: int, turns: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns):
        first = (turn * batch) % (len(rows) - batch + 1)
        for name, way in ways.items():
            seconds[name].append(_time(lambda way=way, first=first: way.search(rows[first : first + batch], 1)))
    base = np.array(seconds["brute force"])
    print(title)
    for name, taken in seconds.items():
        ratio = np.median(base / np.array(taken))
        print(f"  {name:20s} {1e3 * np.median(taken) / batch:9.2f} ms per query   {ratio:6.1f} times as fast", flush=True)


def _time(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
