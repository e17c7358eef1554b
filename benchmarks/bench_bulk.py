"""What writing embeddings to a folder of shards costs beside one file: peak memory, and time apart from the network.

    OMP_NUM_THREADS=1 python benchmarks/bench_bulk.py
    OMP_NUM_THREADS=1 python benchmarks/bench_bulk.py --recordings 20000 100000 --shard-size 5000

Makes a few recordings of noise (16-bit FLAC, 0.5 s) and many links to them, and embeds the links with next to no network (two
numbers of each recording, spread over 256 dims), so that everything else is what is measured. Each measurement is a process of
its own; one file is the baseline of the ratios. Memory is the peak above that of the process before it knew the names.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor, nn

DISTINCT = 50


class TwoNumbers(nn.Module):
    """Stands for a network: mean and deviation of the samples, mixed into 256 numbers."""

    embed_dim = 256

    def __init__(self) -> None:
        super().__init__()
        self.mixture = nn.Linear(2, self.embed_dim)
        with torch.no_grad():
            self.mixture.weight.copy_(torch.arange(512.0).sin().reshape(256, 2))

    def pooled_statistics(self, audio: Any) -> Tensor:
        return torch.tensor([[float(waveform.mean()), float(waveform.std())] for waveform in audio])

    def embed_pooled(self, pooled: Tensor) -> Tensor:
        mixed: Tensor = self.mixture(pooled)
        return mixed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recordings", type=int, nargs="+", default=[5_000, 20_000])
    parser.add_argument("--shard-size", type=int, default=2_000)
    parser.add_argument("--measure", nargs=3, metavar=("HOW", "LINKS", "OUTPUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        how, links, output = arguments.measure
        _measure(how, links, output, arguments.shard_size)
        return
    print("| recordings | one file: MB | folder: MB | ratio | one file: s of CPU | folder: s of CPU | ratio |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for count in arguments.recordings:
        with tempfile.TemporaryDirectory() as place:
            _make_links(Path(place), count)
            found = [_in_process(how, Path(place), arguments.shard_size) for how in ("file", "folder")]
        memory, seconds = ([one[key] for one in found] for key in ("megabytes", "seconds"))
        cells = [f"{memory[0]:.0f}", f"{memory[1]:.0f}", f"{memory[1] / memory[0]:.2f}"]
        cells += [f"{seconds[0]:.1f}", f"{seconds[1]:.1f}", f"{seconds[1] / seconds[0]:.2f}"]
        print(f"| {count:,} | {' | '.join(cells)} |", flush=True)


def _make_links(place: Path, count: int) -> None:
    random = np.random.default_rng(0)
    (place / "noise").mkdir()
    for number in range(DISTINCT):
        soundfile.write(place / "noise" / f"{number}.flac", 0.1 * random.standard_normal(8000), 16000, "PCM_16")
    for number in range(count):
        folder = place / "links" / f"speaker{number // 1000:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:08d}.flac").symlink_to(place / "noise" / f"{number % DISTINCT}.flac")


def _in_process(how: str, place: Path, shard_size: int) -> dict[str, float]:
    output = place / ("embeddings" if how == "folder" else "embeddings.safetensors")
    command = [sys.executable, __file__, "--shard-size", str(shard_size)]
    command += ["--measure", how, str(place / "links"), str(output)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def _measure(how: str, links: str, output: str, shard_size: int) -> None:
    from mrl.embeddings import collect_recordings, embed_to_file, embed_to_folder

    model = TwoNumbers().eval()
    torch.set_num_threads(1)
    embed_to_file(model, sorted(Path(links).parent.glob("noise/*")), Path(output).with_name("warm.npz"), model_name="warm")
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    recordings = [str(path) for path in collect_recordings([links])]
    if how == "folder":
        embed_to_folder(model, recordings, output, model_name="two numbers", shard_size=shard_size)
    else:
        embed_to_file(model, recordings, output, model_name="two numbers")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"megabytes": (peak - before) / 1024, "seconds": time.process_time() - begun}))


if __name__ == "__main__":
    main()
