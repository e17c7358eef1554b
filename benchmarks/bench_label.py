"""Naming the speakers of composed conversations: how many are named, left unknown, and named wrongly.

    mrl calibrate MODEL --trials ../shared/corpora/trials/so762-child.txt.gz --root ../shared/corpora   # another list
    python benchmarks/bench_label.py --model MODEL --output docs/results/label.json

Each recording is a conversation of four speakers with exact turns: three utterances of each, in random order, one turn in four
beginning before the last one has ended, noise below it all. Two thirds of the speakers are enrolled, from two other utterances
each; the others are strangers. The turns are given as they are, so that only the naming is measured, not a diarisation tool.
Beside the way of ``mrl label`` (one embedding of all speech alone) stands the usual one: the mean of one embedding per turn.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import soundfile

from mrl.audio import SAMPLE_RATE, add_noise, load_audio
from mrl.embeddings import EmbeddedRecording, Embedder, embed_recording, open_embedder
from mrl.files import write_json
from mrl.hardware import hardware_line
from mrl.identification import LabelSettings, Turn, Turns, VoiceStore, enrol, identify, label_speakers

SPEAKERS, UTTERANCES, ENROLLED = 4, 3, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mrl-b0-demo")
    parser.add_argument("--corpora", type=Path, default=Path("../shared/corpora"))
    parser.add_argument("--corpus", default="so762_adult")
    parser.add_argument("--conversations", type=int, default=60)
    parser.add_argument("--snr", type=float, default=15.0, help="of the noise, in dB")
    parser.add_argument("--margins", type=float, nargs="+", default=[0.0, 1.0, 2.0])
    parser.add_argument("--max-far", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    random = np.random.default_rng(given.seed)
    by_speaker: dict[str, list[Path]] = defaultdict(list)
    noises: list[Path] = []
    with (given.corpora / "manifest.tsv").open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            if row["corpus"] == given.corpus:
                by_speaker[row["speaker"]].append(given.corpora / row["path"])
            elif row["corpus"] == "noise":
                noises.append(given.corpora / row["path"])
    speakers = [str(name) for name in random.permutation(sorted(by_speaker))]
    enrolled = set(speakers[: 2 * len(speakers) // 3])
    embedder = open_embedder(given.model)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        store_file = Path(folder) / "voices.sqlite"
        for name in sorted(enrolled):
            enrol(embedder, name, by_speaker[name][:ENROLLED], store_file)
        store = VoiceStore(store_file)
        for _ in range(given.conversations):
            talk = Path(folder) / "talk.wav"
            samples, turns = _conversation(random, speakers, by_speaker, noises, given.snr)
            soundfile.write(talk, samples, SAMPLE_RATE)
            for margin in given.margins:
                settings = LabelSettings(margin=margin)
                for labelled in label_speakers(embedder, turns, talk, store, settings, max_false_accept=given.max_far):
                    counts[f"all speech, margin {margin:g}"][_outcome(labelled.speaker, labelled.name, enrolled)] += 1
            for speaker, stretches in turns.alone().items():
                mean = _mean_of_turns(embedder, talk, stretches)
                identified = identify(embedder, mean, store, top=1, max_false_accept=given.max_far)
                counts["mean of turns"][_outcome(speaker, identified.name, enrolled)] += 1
    shown = {
        "hardware": hardware_line("cpu"),
        "settings": {name: str(value) for name, value in vars(given).items() if name != "output"},
        "enrolled": len(enrolled),
        "seconds": round(time.perf_counter() - begun, 1),
        "counts": {name: dict(sorted(found.items())) for name, found in counts.items()},
    }
    print(json.dumps(shown, indent=2))
    if given.output:
        write_json(given.output, shown)


def _conversation(
    random: np.random.Generator, speakers: list[str], by_speaker: dict[str, list[Path]], noises: list[Path], snr: float
) -> tuple[np.ndarray, Turns]:
    names = [str(name) for name in random.choice(speakers, SPEAKERS, replace=False)]
    queue = [
        (name, by_speaker[name][number])
        for name in names
        for number in random.choice(np.arange(ENROLLED, len(by_speaker[name])), UTTERANCES, replace=False)
    ]
    turns: list[Turn] = []
    parts: list[tuple[int, np.ndarray]] = []
    end = 0
    for place in random.permutation(len(queue)):
        name, path = queue[place]
        speech = load_audio(path)
        start = max(0, end - len(speech) // 3) if random.random() < 0.25 else end
        parts.append((start, speech))
        turns.append(Turn(name, start / SAMPLE_RATE, (start + len(speech)) / SAMPLE_RATE))
        end = max(end, start + len(speech))
    mixture = np.zeros(end, dtype=np.float32)
    for start, speech in parts:
        mixture[start : start + len(speech)] += speech
    noise = load_audio(noises[random.integers(len(noises))])
    noise = np.resize(noise, len(mixture))
    noisy = add_noise(mixture, noise, snr, random)
    return noisy / max(1.0, float(np.abs(noisy).max())), Turns(tuple(turns), lambda names: "", Path("composed.rttm"))


def _mean_of_turns(embedder: Embedder, talk: Path, stretches: list[tuple[float, float]]) -> EmbeddedRecording:
    rows = [
        embed_recording(embedder, load_audio(talk, offset=start, duration=end - start))
        for start, end in stretches
        if end - start >= 0.5
    ]
    mean = np.mean([row.embedding for row in rows], axis=0)
    seconds = sum(row.seconds for row in rows)
    return EmbeddedRecording((mean / np.linalg.norm(mean)).astype(np.float32), seconds, seconds)


def _outcome(speaker: str, name: str | None, enrolled: set[str]) -> str:
    if speaker in enrolled:
        return "enrolled, " + ("unknown" if name is None else "named" if name == speaker else "wrong name")
    return "stranger, " + ("unknown" if name is None else "wrong name")


if __name__ == "__main__":
    main()
