"""What it costs to examine a corpus, against only decoding it.

    python benchmarks/bench_preparing.py
    python benchmarks/bench_preparing.py --folder /speech/voxceleb2/dev/aac --files 2000 --workers 8

Makes a corpus of noise (16-bit FLAC, 3 to 9 s), or takes the first recordings of a folder, and measures, each the best of three:
CPU time per recording of reading headers, of the whole examination, and of `load_audio` alone (the baseline of the ratios);
recordings per second with several processes; how quickly an interrupted survey goes on when all is in its journal; and the peak
of memory.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from mrl.audio import find_audio_files, load_audio
from mrl.audio.examining import Stretch, examine_all

REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="recordings to measure with; noise is made by default")
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = arguments.folder or _make_noise(Path(place) / "noise", arguments.files)
        files = find_audio_files(folder)[: arguments.files]
        _measure(files, arguments.workers, Path(place) / "journal")


def _measure(files: list[Path], workers: int, journal: Path) -> None:
    # Not above: the processes that a survey starts import this file, but need no torch, which mrl.data does.
    from mrl.data.surveying import survey

    stretches = [Stretch(file) for file in files]
    for file in files:
        file.read_bytes()  # into the page cache: the disk is not what is measured
    decoding = _best(time.process_time, lambda: _decode(files))
    examining = _best(time.process_time, lambda: examine_all(stretches))
    headers = _best(time.process_time, lambda: examine_all(stretches, decode=False))
    count = len(files)
    print(f"{count} recordings; CPU per recording, and as a share of decoding alone")
    for what, seconds in (("load_audio", decoding), ("examination", examining), ("headers only", headers)):
        print(f"  {what:<14}{1000 * seconds / count:8.3f} ms  {seconds / decoding:6.2f}")
    for number in sorted({1, workers}):
        wall = _best(time.perf_counter, lambda number=number: survey(stretches, num_workers=number, show_progress=False))
        print(f"  {number} process{'es' if number > 1 else ''}: {count / wall:.0f} recordings/s")
    survey(stretches, num_workers=workers, journal=journal, show_progress=False)
    again = _best(time.perf_counter, lambda: survey(stretches, journal=journal, show_progress=False))
    print(f"  going on from a full journal: {count / again:.0f} recordings/s")
    print(f"  peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB (torch among it)")


def _decode(files: list[Path]) -> None:
    for file in files:
        load_audio(file, allow_silence=True)


def _best(clock: Callable[[], float], work: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        started = clock()
        work()
        times.append(clock() - started)
    return min(times)


def _make_noise(folder: Path, count: int) -> Path:
    random = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"speaker{number % 50:02d}" / f"{number:05d}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = 0.1 * random.standard_normal(round(16000 * random.uniform(3, 9)))
        soundfile.write(path, samples, 16000, subtype="PCM_16")
    return folder


if __name__ == "__main__":
    main()
