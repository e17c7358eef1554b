"""What an exported model costs a program that has just started: import, opening, first embedding, and memory.

    python benchmarks/bench_runtime.py model.onnx --model my-model --seconds 3

Every measurement is a process of its own, started from nothing: ``mrl.OnnxEmbedder`` on the exported file, and beside it PyTorch
on the model it was made from (``--model``, any MODEL), turn by turn. Reported are medians of wall-clock seconds by part, and the
largest resident memory. The recording is a synthetic voice, written as WAV.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from mrl.audio import SAMPLE_RATE, SyntheticVoice
from mrl.hardware import hardware_line

PARTS = ("import", "open", "first embedding", "second embedding", "total until the first embedding", "peak memory, MB")

_TIMED = """
import json, resource, sys, time
start = time.perf_counter()
{load}
imported = time.perf_counter()
{open}
opened = time.perf_counter()
first = embed({recording!r})
embedded = time.perf_counter()
embed({recording!r})
again = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1 << 20)
print(json.dumps([imported - start, opened - imported, embedded - opened, again - embedded, embedded - start, peak]))
"""


def exported_program(path: Path, recording: Path, threads: int) -> str:
    """Return a program that embeds with an exported file."""
    return _TIMED.format(
        load="from mrl import OnnxEmbedder",
        open=f"embed = OnnxEmbedder({str(path)!r}, threads={threads})",
        recording=str(recording),
    )


def pytorch_program(model: str, weights: str | None, recording: Path, threads: int) -> str:
    """Return a program that embeds with the model by PyTorch."""
    return _TIMED.format(
        load=f"import torch\ntorch.set_num_threads({threads})\nfrom mrl.embeddings import open_model",
        open=f"model = open_model({model!r}, weights={weights!r})\nembed = torch.inference_mode()(model)",
        recording=str(recording),
    )


def measure(program: str) -> list[float]:
    """Run a program in a process of its own and return what it measured."""
    finished = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    values: list[float] = json.loads(finished.stdout)
    return values


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exported", type=Path, help="file that mrl export wrote")
    parser.add_argument("--model", help="the MODEL it was made from, to measure PyTorch beside it")
    parser.add_argument("--weights", help="for a released name: where its file is")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of the recording")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder) / "voice.wav"
        soundfile.write(recording, SyntheticVoice.random(rng).say(rng, options.seconds), SAMPLE_RATE)
        programs = {"OnnxEmbedder": exported_program(options.exported, recording, options.threads)}
        if options.model is not None:
            programs["PyTorch"] = pytorch_program(options.model, options.weights, recording, options.threads)
        runs: dict[str, list[list[float]]] = {name: [] for name in programs}
        for _ in range(options.repeats):
            for name, program in programs.items():
                runs[name].append(measure(program))
    print(f"{options.exported.name}, a recording of {options.seconds:g} s, {options.threads} threads, {hardware_line()}")
    print(f"{'median of ' + str(options.repeats) + ' processes':<34}" + "".join(f"{name:>14}" for name in programs))
    for place, part in enumerate(PARTS):
        values = [statistics.median(run[place] for run in runs[name]) for name in programs]
        form = "{:>14.0f}" if "memory" in part else "{:>12.3f} s"
        print(f"{part:<34}" + "".join(form.format(value) for value in values))


if __name__ == "__main__":
    main()
