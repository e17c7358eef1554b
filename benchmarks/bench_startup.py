"""How long the command line takes to start, before and after a change: two checkouts, turn by turn.

    python benchmarks/bench_startup.py --against HEAD~20 --output docs/results/speed/startup.json

The revision is checked out beside this repository (a ``git worktree`` in a temporary folder) and started with the same Python:
``mrl --help``, and ``mrl verify`` of two synthetic voices, by default with the model that comes with the package. Every run is a
process of its own, and the two checkouts take turns, the first of each pair in turn too, so that what else the machine does falls
on both alike. Processor seconds are given beside those of the clock: they count the process alone, and are what to compare on a
busy machine. One unmeasured pair comes first: it compiles the modules and fills the file cache.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile

from mrl.audio import SAMPLE_RATE, SyntheticVoice
from mrl.files import write_json
from mrl.hardware import hardware_line

REPOSITORY = Path(__file__).resolve().parents[1]
_START = "from mrl.cli.main import main; import sys; sys.argv[0] = 'mrl'; sys.exit(main())"


def git(*arguments: str) -> str:
    """Return what a git command prints."""
    run = subprocess.run(["git", "-C", str(REPOSITORY), *arguments], check=True, capture_output=True, text=True)
    return run.stdout.strip()


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """Check a revision out while the block runs."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "before"
        git("worktree", "add", "--detach", str(place), revision)
        try:
            yield place
        finally:
            git("worktree", "remove", "--force", str(place))


def seconds_to_run(checkout: Path, arguments: list[str]) -> tuple[float, float]:
    """Return wall-clock and processor seconds of ``mrl`` with these arguments, of one checkout, from start to end."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    run = subprocess.run([sys.executable, "-c", _START, *arguments], env=environment, capture_output=True, text=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if run.returncode not in (0, 1):  # 1: another speaker
        raise SystemExit(f"{checkout}: mrl {' '.join(arguments)} ended with {run.returncode}: {run.stderr.strip()}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(name: str, before: Path, after: Path, arguments: list[str], runs: int) -> dict[str, object]:
    """Return the medians of both checkouts and of their differences, pair by pair; see the top for the two kinds of seconds."""
    pairs = []
    for number in range(runs + 1):
        order = (before, after) if number % 2 else (after, before)
        seconds = {checkout: seconds_to_run(checkout, arguments) for checkout in order}
        pairs.append((seconds[before], seconds[after]))
        print(f"{name}, pair {number} of {runs}: {pairs[-1]}", file=sys.stderr, flush=True)
    result: dict[str, object] = {}
    for place, kind in enumerate(("wall", "processor")):
        measured = [(first[place], second[place]) for first, second in pairs[1:]]
        result[kind] = {
            "before_median_s": statistics.median(pair[0] for pair in measured),
            "after_median_s": statistics.median(pair[1] for pair in measured),
            "median_difference_s": statistics.median(pair[1] - pair[0] for pair in measured),
            "pairs_s": measured,
        }
    return result


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", default="HEAD~1", help="git revision to compare with (default: %(default)s)")
    parser.add_argument("--model", default="mrl-b0-demo", help="MODEL for mrl verify that both know (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=10, help="measured pairs of each command (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder, checked_out(arguments.against) as before:
        recordings = [Path(folder) / name for name in ("a.wav", "b.wav")]
        rng = np.random.default_rng(0)
        for path in recordings:
            soundfile.write(path, SyntheticVoice.random(rng).say(rng, 3.0), SAMPLE_RATE)
        verify = ["verify", *map(str, recordings), "--model", arguments.model]
        commands = {"mrl --help": ["--help"], "mrl verify": verify}
        rows = {name: compare(name, before, REPOSITORY, command, arguments.runs) for name, command in commands.items()}
    result = {
        "before": git("rev-parse", arguments.against),
        "after": git("rev-parse", "HEAD"),
        "hardware": hardware_line(),
        "runs": arguments.runs,
        "results": rows,
    }
    print(json.dumps(result, indent=2))
    if arguments.output is not None:
        write_json(arguments.output, result)


if __name__ == "__main__":
    main()
