"""Stage 1 on cached pooled statistics against the naive way, which runs the frozen backbone at each step.

    python benchmarks/bench_stage1.py --shared ../shared --speakers 12 --utterances 4 --epochs 5

Both train the same head from the same start on the same corpus (augmented crops; the cache holds 4 views of each utterance).
Prints, as processor time, what passes before the first step (the cache is in it), an epoch, and the total of 5, 20 and 40 epochs:
measured start + number of epochs x measured epoch. Then the error rates of both heads on a trial list, with their intervals.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from mrl.data import read_manifest
from mrl.embeddings import map_files
from mrl.evaluation import SystemEmbeddings, evaluate_systems
from mrl.hardware import hardware_line
from mrl.matryoshka import ReDimNetMRL
from mrl.training import load_config, run_training
from mrl.trials import TrialList, read_trials

TOTALS = (5, 20, 40)


@dataclasses.dataclass(frozen=True)
class Timing:
    """Processor seconds from the call to the first step, median seconds of an epoch, and the head that came out."""

    start: float
    epoch: float
    model: ReDimNetMRL

    def total(self, epochs: int) -> float:
        return self.start + epochs * self.epoch


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with corpora/")
    parser.add_argument("--weights", type=Path, help="checkpoint; default: the stand-in among the corpora")
    parser.add_argument("--speakers", type=int, default=12)
    parser.add_argument("--utterances", type=int, default=4, help="of each speaker")
    parser.add_argument("--epochs", type=int, default=5, help="epochs that are really run, both ways")
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--crop-seconds", type=float, default=2.0)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--trials", default="so762-adult", help="list among the corpora")
    parser.add_argument("--trial-recordings", type=int, default=60, help="use the trials among the first so many recordings")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.getLogger("mrl").setLevel(logging.INFO)
    corpora = arguments.shared / "corpora"
    weights = arguments.weights or corpora / "checkpoints" / "b0-standin.pt"
    with tempfile.TemporaryDirectory() as place:
        manifest = Path(place) / "train.csv"
        count = _write_subset(corpora, manifest, arguments.speakers, arguments.utterances)
        timings = {name: _train(arguments, corpora, weights, manifest, Path(place) / name, name) for name in ("naive", "cached")}
    print(f"{count} utterances of {arguments.speakers} speakers, {arguments.views} views, crops of {arguments.crop_seconds:g} s")
    print(f"seed {arguments.seed}; {hardware_line()}; {torch.get_num_threads()} threads\n")
    print("| | before the first step, s | epoch, s | " + " | ".join(f"{epochs} epochs, s" for epochs in TOTALS) + " |")
    print("|---" * (3 + len(TOTALS)) + "|")
    for name, timing in timings.items():
        cells = " | ".join(f"{timing.total(epochs):.1f}" for epochs in TOTALS)
        print(f"| {name} | {timing.start:.1f} | {timing.epoch:.3f} | {cells} |")
    naive, cached = timings["naive"], timings["cached"]
    ratios = " | ".join(f"{naive.total(epochs) / cached.total(epochs):.1f}" for epochs in TOTALS)
    print(f"| naive / cached | | {naive.epoch / cached.epoch:.0f} | {ratios} |\n")
    _compare(arguments, corpora, timings)
    return 0


class _Clock(logging.Handler):
    """Notes when a run's stage begins and when each of its epochs ends, by what it logs."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.begun = time.process_time()
        self.marks: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        if str(record.msg).startswith(("Stage %d: epochs", "Epoch %d: loss")):
            self.marks.append(time.process_time())


def _train(arguments: argparse.Namespace, corpora: Path, weights: Path, manifest: Path, output: Path, name: str) -> Timing:
    config = load_config(
        [],
        [
            f"data.train.manifest={manifest}",
            f"data.train.root={corpora.resolve()}",
            f"data.crop_seconds={arguments.crop_seconds}",
            f"data.augmentation.noise_folders=[{(corpora / 'noise').resolve()}]",
            "data.augmentation.noise_probability=0.5",
            f"training.num_epochs={arguments.epochs}",
            f"training.batch_size={arguments.batch_size}",
            f"training.seed={arguments.seed}",
            f"training.output_dir={output.resolve()}",
            "training.device=cpu",
            f"advanced.weights={weights.resolve()}",
            f"advanced.freeze_backbone_epochs={arguments.epochs}",
            f"advanced.cache_views={arguments.views}",
            f"advanced.cache_pooled_statistics={'true' if name == 'cached' else 'false'}",
        ],
    )
    clock = _Clock()
    logger = logging.getLogger("mrl")
    logger.addHandler(clock)
    try:
        folder = run_training(config).run_folder
    finally:
        logger.removeHandler(clock)
    epochs = np.diff(clock.marks)
    return Timing(clock.marks[0] - clock.begun, float(np.median(epochs)), ReDimNetMRL.from_pretrained(folder / "best"))


def _write_subset(corpora: Path, manifest: Path, speakers: int, utterances: int) -> int:
    """Write a manifest of the first speakers that have enough utterances, and return how many utterances it has."""
    corpus = read_manifest(corpora / "manifest.tsv", where={"part": "train"})
    rich = [members[:utterances] for members in corpus.indices_by_speaker() if len(members) >= utterances][:speakers]
    if len(rich) < speakers:
        sys.exit(f"only {len(rich)} speakers have {utterances} utterances or more")
    chosen = [corpus.utterances[member] for members in rich for member in members]
    lines = ["path,speaker", *(f"{one.path.relative_to(corpora)},{one.speaker}" for one in chosen)]
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(chosen)


def _compare(arguments: argparse.Namespace, corpora: Path, timings: dict[str, Timing]) -> None:
    listed = read_trials(corpora / "trials" / f"{arguments.trials}.txt.gz")
    kept = set(listed.utterances[: arguments.trial_recordings])
    pairs = [
        (bool(label), listed.utterances[one], listed.utterances[two])
        for label, one, two in zip(listed.labels, listed.enrol, listed.test, strict=True)
        if listed.utterances[one] in kept and listed.utterances[two] in kept
    ]
    trials = TrialList.from_pairs(pairs, source=arguments.trials)
    model = timings["cached"].model
    pooled = map_files(model.pooled_statistics, trials.paths(corpora), on_error="raise").matrices[0]
    systems = []
    with torch.inference_mode():
        for name, timing in timings.items():
            raw = timing.model.project(torch.from_numpy(pooled)).numpy()  # the backbone is frozen: its statistics are the same
            systems.append(SystemEmbeddings(name, raw, (16, 64, 256)))
    result = evaluate_systems(systems, trials, bootstrap=500, seed=arguments.seed)
    print(f"EER, % (95 % interval over speakers), {len(trials)} trials of {arguments.trials}:\n")
    print("| | 16 | 64 | 256 |\n|---|---|---|---|")
    for system in result.systems:
        cells = []
        for figures in system.figures:
            interval = figures.equal_error_rate_interval
            between = "" if interval is None else f" ({100 * interval.low:.1f}–{100 * interval.high:.1f})"
            cells.append(f"{100 * figures.equal_error_rate:.2f}{between}")
        print(f"| {system.name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    sys.exit(main())
