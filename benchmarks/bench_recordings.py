"""Long, silent and noisy recordings: what windows and speech detection do to the error rate, and what an hour costs.

    python benchmarks/bench_recordings.py windows --corpora ../shared/corpora
    python benchmarks/bench_recordings.py silence --corpora ../shared/corpora
    python benchmarks/bench_recordings.py hour

``windows``: utterances of one speaker joined to recordings of about 40 s, embedded whole and in windows, each compared with other
utterances of all speakers; error rate, and cosine with the embedding of the whole. ``silence``: an utterance somewhere in a
recording that is otherwise silence or noise, with noise added throughout, compared with clean utterances of all speakers, under
every way to detect speech; beside the error rate, the cosine with the utterance alone, and the seconds of speech found.
``hour``: a file of an hour in a fresh process: seconds, and the highest memory in use.
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
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from mrl.audio import SAMPLE_RATE, find_speech, load_audio
from mrl.audio.decoded import Waveform
from mrl.embeddings import Embedder, Extraction, embed_recording, open_embedder
from mrl.errors import AudioLoadingError
from mrl.scoring.metrics import equal_error_rate

Matrix = npt.NDArray[np.float32]
_WHOLE = 1000.0  # window_seconds: longer than any recording here


def utterances(corpora: Path, corpus: str, speakers: int) -> list[list[Path]]:
    """Return the eval utterances of evenly chosen speakers of a corpus, sorted."""
    by_speaker: dict[str, list[Path]] = defaultdict(list)
    for line in (corpora / "manifest.tsv").read_text().splitlines()[1:]:
        path, part, of, speaker = line.split("\t")[:4]
        if part == "eval" and of == corpus:
            by_speaker[speaker].append(corpora / path)
    every = max(1, len(by_speaker) // speakers)
    return [sorted(by_speaker[speaker]) for speaker in sorted(by_speaker)[::every]]


def error_rate(enrolled: Matrix, tests: Matrix, per_speaker: int) -> float:
    """Return the equal error rate in percent of every enrolled row against every test row, ``per_speaker`` of each in order."""
    scores = enrolled @ tests.T
    same = np.arange(len(enrolled))[:, None] == (np.arange(len(tests)) // per_speaker)[None]
    return 100 * equal_error_rate(scores.reshape(-1), same.reshape(-1))


def embed(embedder: Embedder, recordings: Sequence[Waveform], how: Extraction) -> Matrix:
    """Return unit-length embeddings; a recording without enough speech gives zeros, which is like nobody."""
    rows = []
    for recording in recordings:
        try:
            rows.append(embed_recording(embedder, recording, how, sample_rate=SAMPLE_RATE).embedding)
        except AudioLoadingError:
            rows.append(np.zeros(embedder.embed_dim, dtype=np.float32))
    return np.stack(rows)


def compare_windows(embedder: Embedder, corpora: Path, speakers: int, corpus: str) -> None:
    """Print error rates and cosines of recordings of 30 to 60 s, whole and in windows."""
    joined = 6 if corpus == "libri_test_other" else 10
    files = utterances(corpora, corpus, speakers)
    long = [np.concatenate([load_audio(file) for file in own[:joined]]) for own in files]
    tests = embed(embedder, [load_audio(file) for own in files for file in own[joined : joined + 3]], Extraction(vad="none"))
    lengths = np.array([len(audio) for audio in long]) / SAMPLE_RATE
    print(f"{corpus}: {len(files)} speakers, recordings of {lengths.min():.0f} to {lengths.max():.0f} s")
    whole = embed(embedder, long, Extraction(window_seconds=_WHOLE, vad="none"))
    print(f"  whole                    EER {error_rate(whole, tests, 3):5.2f} %")
    for size, overlap in ((20.0, 0.0), (20.0, 5.0), (10.0, 0.0)):
        rows = embed(embedder, long, Extraction(window_seconds=size, overlap_seconds=overlap, vad="none"))
        cosines = (rows * whole).sum(axis=1)
        print(
            f"  {size:4.0f} s, overlap {overlap:.0f} s      EER {error_rate(rows, tests, 3):5.2f} %, cosine with the whole "
            f"{cosines.mean():.4f}, at least {cosines.min():.4f}"
        )


def compare_detectors(
    embedder: Embedder, corpora: Path, speakers: int, corpus: str, shares: Sequence[float], ratios: Sequence[float]
) -> None:
    """Print error rates of utterances in silence and noise, under every way to detect speech."""
    files = utterances(corpora, corpus, speakers)
    clean = embed(embedder, [load_audio(file) for own in files for file in own[:3]], Extraction(vad="none"))
    noises = [load_audio(file) for file in sorted((corpora / "noise").glob("*.opus"))]
    chosen = [load_audio(own[5]) for own in files]
    own_clean = embed(embedder, chosen, Extraction(vad="none"))
    speech = np.mean([find_speech([audio], "none").speech_seconds for audio in chosen])
    print(f"{corpus}: {len(files)} speakers, a recording each with {speech:.1f} s of speech, against 3 clean utterances of all")
    for share in shares:
        for snr in ratios:
            rng = np.random.default_rng(0)
            recordings = [_in_silence(audio, share, snr, noises, rng) for audio in chosen]
            row = f"  {share:4.0%} silence, {'no noise' if np.isinf(snr) else f'SNR {snr:.0f} dB':>9}: "
            for detector in ("none", "energy", "silero"):
                rows = embed(embedder, recordings, Extraction(vad=detector))  # type: ignore[arg-type]
                kept = np.mean([find_speech([audio], detector).speech_seconds for audio in recordings])  # type: ignore[arg-type]
                cosine = (rows * own_clean).sum(axis=1).mean()
                row += f" {detector}: EER {error_rate(rows, clean, 3):.1f} %, cosine {cosine:.2f}, {kept:.1f} s;"
            print(row, flush=True)


def _in_silence(speech: Waveform, share: float, snr: float, noises: Sequence[Waveform], rng: np.random.Generator) -> Waveform:
    """Put speech somewhere into silence that is ``share`` of the whole, and noise over all of it."""
    silence = round(len(speech) * share / (1 - share))
    before = int(rng.integers(silence + 1))
    recording = np.pad(speech, (before, silence - before))
    noise = np.resize(noises[int(rng.integers(len(noises)))], len(recording))
    if np.isinf(snr):
        return recording
    level = np.sqrt(np.mean(speech**2) / np.mean(noise**2)) * 10 ** (-snr / 20)
    return np.clip(recording + level * noise, -1, 1).astype(np.float32)


def measure_hour(model: str, minutes: float, threads: int) -> None:
    """Print seconds and peak memory of one long file in a process of its own, beside the network on its windows in memory."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "long.wav"
        rng = np.random.default_rng(0)
        with soundfile.SoundFile(file, "w", SAMPLE_RATE, 1) as out:
            for _ in range(round(minutes * 6)):
                time_ = np.arange(10 * SAMPLE_RATE) / SAMPLE_RATE
                hum = np.sin(2 * np.pi * rng.uniform(90, 250) * time_) * np.sin(2 * np.pi * 3 * time_)
                out.write((0.1 * hum + 0.02 * rng.standard_normal(len(time_))).astype(np.float32))
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
        command = [sys.executable, __file__, "one", model, str(file)]
        found = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    print(f"{model}: {minutes:g} min, {threads} threads: " + ", ".join(f"{name} {value:.2f}" for name, value in found.items()))


def embed_one(model: str, file: str) -> None:
    """Embed a file and print, as JSON, what that took; then the network on as many windows in memory."""
    embedder = open_embedder(model, threads=int(os.environ["OMP_NUM_THREADS"]))
    how = Extraction(show_progress=False)
    embed_recording(embedder, load_audio(file, duration=2.0), how)
    before, cpu = time.perf_counter(), time.process_time()
    embed_recording(embedder, file, how)
    took, cpu = time.perf_counter() - before, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    window = load_audio(file, duration=how.window_seconds)
    batch, rounds = [window] * 3, 5
    begun = time.process_time()
    with embedder.ready():
        for _ in range(rounds):
            embedder.raw(batch)
    network = (time.process_time() - begun) * soundfile.info(file).duration / how.window_seconds / len(batch) / rounds
    print(json.dumps({"seconds": took, "cpu seconds": cpu, "cpu seconds of the network alone": network, "peak MB": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("windows", "silence", "hour", "one"))
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--corpora", type=Path, default=Path("../shared/corpora"))
    parser.add_argument("--model", help="by default the stand-in b0 of the corpora, or mrl-b0-demo for the hour")
    parser.add_argument("--speakers", type=int, default=30)
    parser.add_argument("--corpus", default="so762_adult")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.5, 0.8, 0.95], help="of silence")
    parser.add_argument("--snr", type=float, nargs="+", default=[np.inf, 30.0, 10.0], help="of noise over all of it, in dB")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    if chosen.part == "one":
        embed_one(*chosen.arguments)
    elif chosen.part == "hour":
        measure_hour(chosen.model or "mrl-b0-demo", chosen.minutes, chosen.threads)
    else:
        embedder = open_embedder(chosen.model or chosen.corpora / "checkpoints" / "b0-standin.pt")
        if chosen.part == "windows":
            compare_windows(embedder, chosen.corpora, chosen.speakers, chosen.corpus)
        else:
            compare_detectors(embedder, chosen.corpora, chosen.speakers, chosen.corpus, chosen.shares, chosen.snr)


if __name__ == "__main__":
    main()
