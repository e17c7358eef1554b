"""CPU time of each kind of augmentation per crop, as a ratio to cutting the crop from its file without any.

    python benchmarks/bench_augmentation.py recordings/ [--config config.yaml] [--crops 100] [--seconds 3]

Process CPU time of one process; the kinds are interleaved crop by crop, and medians over crops are compared. Pools of simulated
rooms are made before the clock starts; how long that takes and how near their T30 comes to the target is printed first.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from mrl.audio import SAMPLE_RATE, RoomSimulation, find_audio_files, reverberation_time
from mrl.audio.simulated_rooms import draw_room, simulate
from mrl.data import Corpus, Utterance
from mrl.data.crops import augmented_crop
from mrl.training import load_config
from mrl.training.listening import CLEAN, augmenters_by_kind


def rooms(settings: RoomSimulation) -> None:
    errors, seconds = [], []
    for index in range(settings.count):
        room = draw_room(settings, index)
        start = time.process_time()
        response = simulate(room)
        seconds.append(time.process_time() - start)
        errors.append(reverberation_time(response, SAMPLE_RATE) / room.rt60 - 1.0)
    print(
        f"{settings.count} simulated rooms: {sum(seconds):.1f} s of CPU, T30 against target: "
        f"median error {100 * np.median(np.abs(errors)):.1f} %, worst {100 * np.max(np.abs(errors)):.1f} %"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="recordings at any depth")
    parser.add_argument("--config", type=Path, help="training configuration with the folders of noise and rooms")
    parser.add_argument("--crops", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    config = load_config([] if arguments.config is None else [arguments.config]).data.augmentation
    rooms(RoomSimulation(**config.simulated_rooms.model_dump(exclude={"probability"})))
    corpus = Corpus.of(Utterance(file, file.parent.name) for file in find_audio_files(arguments.folder))
    kinds, left_out = augmenters_by_kind(config, corpus)
    samples = round(arguments.seconds * SAMPLE_RATE)
    spent: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(-5, arguments.crops):  # the first five warm up
        utterance = corpus.utterances[(number * 7919) % len(corpus)]
        for kind, augmenter in kinds.items():
            start = time.process_time()
            augmented_crop(utterance, samples, (0, 0, number + 5), augmenter)
            if number >= 0:
                spent[kind].append(time.process_time() - start)
    base = float(np.median(spent[CLEAN]))
    print(f"{'kind':16} {'ms per crop':>12} {'ratio':>7}")
    for kind, times in spent.items():
        print(f"{kind:16} {1000 * float(np.median(times)):12.2f} {float(np.median(times)) / base:7.2f}")
    for kind, reason in left_out.items():
        print(f"no {kind}: {reason}")


if __name__ == "__main__":
    main()
