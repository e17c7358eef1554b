"""Distils a b0 from the embeddings of a larger network, in a stated time on one CPU core.

    OMP_NUM_THREADS=1 python benchmarks/distil_student.py --minutes 94 --output runs/distil-b0

What configs/distil-b0.yaml does with epochs, this does against the clock: learning rate and crop length follow the share of the
time that is over, whatever else the machine is doing. The teacher is never run: its embeddings of whole recordings are read from
``--teacher``, the student hears short crops with noise and rooms. All recordings are decoded once, into one array on disk. The
same command again goes on where an interrupted one stopped. ``backbone.pt`` (official format, an exponential moving average of
the weights) is a start for configs such as configs/demo-model.yaml (``advanced.weights``).

No model in the package comes from it yet: see docs/how-to/distil.md for what a short run gave.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from mrl import ReDimNetMRL
from mrl.audio import SAMPLE_RATE, Augmenter, find_audio_files, load_audio
from mrl.backbone import ReDimNet
from mrl.embeddings import load_embeddings
from mrl.files import atomic_path
from mrl.pretrained import write_official_checkpoint
from mrl.progress import progress_bar
from mrl.training.distillation import RegressionFit

PROJECT = Path(__file__).resolve().parents[1]
_LOG = logging.getLogger("distil")

# How often an utterance of a corpus is drawn beside one of another: the domain of the trial lists and the long recordings more.
DRAWN = {
    "so762": 1.3,
    "libri_train100": 4.0,
    "libri_mini": 2.0,
    "common_voice": 0.8,
    "common_voice_nolabel": 0.8,
    "speech_commands": 0.6,
    "arabic_commands": 0.7,
}
CROPS = ((0.0, 1.6), (0.5, 2.0), (0.8, 3.0))  # from which share of the time on: seconds
BATCH = 24  # of the shortest crops; longer ones in proportion
RATE, LAST_RATE, WARM_STEPS = 1.5e-3, 0.015, 30
SIMILARITY, CLASSES = 5.0, 0.1  # weights beside that of 1 - cosine
CLASS_SCALE, CLASS_MARGIN = 20.0, 0.1
AVERAGE = 0.99
CHECKPOINT_SECONDS = 480.0


@dataclass(frozen=True)
class Speech:
    """All training utterances, decoded.

    Attributes:
        samples: (samples,) int16, one utterance after the other.
        offsets: (utterances + 1,) where each begins.
        probabilities: (utterances,) how often each is drawn.
        targets: (utterances, dim) the teacher's embeddings, centred, of unit length.
        classes: (utterances,) speaker, or a number of its own where the speaker is not known.
        means: (classes, dim) mean target of each class, of unit length.
    """

    samples: npt.NDArray[np.int16]
    offsets: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]
    targets: torch.Tensor
    classes: torch.Tensor
    means: torch.Tensor

    def crop(self, index: int, length: int, random: np.random.Generator) -> npt.NDArray[np.float32]:
        """Return ``length`` samples from a random place; a shorter utterance is repeated."""
        whole = self.samples[self.offsets[index] : self.offsets[index + 1]]
        if len(whole) >= length:
            start = int(random.integers(len(whole) - length + 1))
            part = whole[start : start + length]
        else:
            part = np.resize(np.roll(whole, -int(random.integers(len(whole)))), length)
        return part.astype(np.float32) / 32768.0


def main() -> int:
    """Parse, decode, train, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=PROJECT.parent / "shared", help="folder with corpora/")
    parser.add_argument("--teacher", type=Path, help="file of embeddings; by default strong/campplus.npz of --shared")
    parser.add_argument("--start", default="mrl-b0-demo", help="model folder or name whose backbone is the student's start")
    parser.add_argument("--minutes", type=float, default=94.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=PROJECT / "runs/distil-b0")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    arguments.output.mkdir(parents=True, exist_ok=True)
    corpora = arguments.shared / "corpora"
    teacher = arguments.teacher or arguments.shared / "strong" / "campplus.npz"
    speech = read_speech(corpora, teacher, arguments.output)
    augmenter = build_augmenter(corpora)
    student = train(speech, augmenter, arguments)
    facts = {"teacher": teacher.name, "minutes": arguments.minutes, "seed": arguments.seed, "start": arguments.start}
    (arguments.output / "facts.json").write_text(json.dumps(facts | student.facts, indent=2) + "\n", encoding="utf-8")
    write_official_checkpoint(arguments.output / "backbone.pt", *student.averaged().to_official())
    _LOG.info("written: %s", arguments.output / "backbone.pt")
    return 0


def read_speech(corpora: Path, teacher: Path, folder: Path) -> Speech:
    """Decode the training utterances into ``folder``, or open what is there, and take the teacher's embeddings of them."""
    rows: list[dict[str, str]] = []
    for name in ("manifest.tsv", "more-speech.tsv"):
        with (corpora / name).open(encoding="utf-8", newline="") as stream:
            rows += [row for row in csv.DictReader(stream, delimiter="\t") if row["part"] == "train"]
    decoded = folder / "speech.npz"
    if not decoded.is_file():
        waveforms = []
        with progress_bar("decoding", len(rows), unit="recordings") as advance:
            for row in rows:
                waveforms.append(np.round(load_audio(corpora / row["path"]) * 32768.0).clip(-32768, 32767).astype(np.int16))
                advance(1)
        offsets = np.cumsum([0, *map(len, waveforms)])
        with atomic_path(decoded) as temporary:
            np.savez(temporary, samples=np.concatenate(waveforms), offsets=offsets)
    with np.load(decoded) as archive:
        samples, offsets = archive["samples"], archive["offsets"]
    table = load_embeddings(teacher)
    place = {name: row for row, name in enumerate(table.ids)}
    raw = functional.normalize(torch.from_numpy(table.matrix[[place[row["path"]] for row in rows]]), dim=1)
    targets = functional.normalize(raw - raw.mean(dim=0), dim=1)
    numbers: dict[str, int] = {}
    classes = torch.tensor([numbers.setdefault(row["speaker"] or row["path"], len(numbers)) for row in rows])
    means = torch.zeros(len(numbers), targets.shape[1]).index_add_(0, classes, targets)
    drawn = np.array([DRAWN[row["corpus"]] for row in rows])
    return Speech(samples, offsets, drawn / drawn.sum(), targets, classes, functional.normalize(means, dim=1))


def build_augmenter(corpora: Path) -> Augmenter:
    """Noise, rooms, level and band of the student's crops; noises that are not for commercial use are left out."""
    noise = tuple(file for file in find_audio_files(corpora / "noise") if not file.name.startswith("sb_esc50"))
    return Augmenter(
        noise_files=noise,
        noise_probability=0.35,
        noise_snr_db=(5.0, 25.0),
        room_files=tuple(find_audio_files(corpora / "rir")),
        room_probability=0.15,
        gain_probability=0.3,
        gain_db=(-12.0, 6.0),
        band_probability=0.05,
        clipping_probability=0.03,
    )


class Student:
    """The network in training, its averaged weights, and how far it is."""

    def __init__(self, network: ReDimNet) -> None:
        self.network = network
        network.requires_grad_(False)
        self.parameters = list(network.trainable_parameters())
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        matrices = [parameter for parameter in self.parameters if parameter.ndim > 1]
        others = [parameter for parameter in self.parameters if parameter.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.99))
        self.average = {name: value.detach().clone() for name, value in network.state_dict().items()}
        self.facts: dict[str, Any] = {"steps": 0, "elapsed_seconds": 0.0, "cpu_seconds": 0.0, "audio_seconds": 0.0}

    def step(self, loss: torch.Tensor, rate: float) -> None:
        """Make one step, and let the average follow."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, 2.0)
        self.optimizer.step()
        self.facts["steps"] += 1
        kept = min(AVERAGE, (1 + self.facts["steps"]) / (10 + self.facts["steps"]))
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1.0 - kept)

    def averaged(self) -> ReDimNet:
        """Return the network with the averaged weights, which end the training."""
        self.network.load_state_dict(self.average)
        return self.network.eval()

    def save(self, path: Path) -> None:
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "facts": self.facts,
        }
        with atomic_path(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average, self.facts = state["average"], state["facts"]


def train(speech: Speech, augmenter: Augmenter, arguments: argparse.Namespace) -> Student:
    """Train until the time is over."""
    torch.manual_seed(arguments.seed)
    student = Student(ReDimNetMRL.from_pretrained(arguments.start).backbone)
    checkpoint = arguments.output / "checkpoint.pt"
    if checkpoint.is_file():
        student.load(checkpoint)
        _LOG.info("going on after step %d", student.facts["steps"])
    else:
        start_head(student.network, speech)
    random = np.random.default_rng((arguments.seed, student.facts["steps"]))
    student.network.train()
    began = time.monotonic() - student.facts["elapsed_seconds"]
    cpu_began = time.process_time() - student.facts["cpu_seconds"]
    saved = time.monotonic()
    while (done := (time.monotonic() - began) / (60.0 * arguments.minutes)) < 1.0:
        rate = RATE * min(1.0, (student.facts["steps"] + 1) / WARM_STEPS)
        rate *= LAST_RATE + (1.0 - LAST_RATE) * 0.5 * (1.0 + math.cos(math.pi * done))
        seconds = [length for share, length in CROPS if done >= share][-1]
        audio, drawn = draw(speech, augmenter, seconds, max(8, int(BATCH * CROPS[0][1] / seconds)), random)
        loss, parts = loss_of(functional.normalize(student.network(audio), dim=1), speech, drawn)
        student.step(loss, rate)
        student.facts["audio_seconds"] += len(drawn) * seconds
        student.facts["elapsed_seconds"] = time.monotonic() - began
        student.facts["cpu_seconds"] = time.process_time() - cpu_began
        if student.facts["steps"] % 10 == 0:
            _LOG.info("step %d, %.1f %% of the time, rate %.2g: %s", student.facts["steps"], 100 * done, rate, parts)
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            student.save(checkpoint)
            saved = time.monotonic()
    student.save(checkpoint)
    return student


@torch.inference_mode()
def start_head(network: ReDimNet, speech: Speech) -> None:
    """Start the last layer at the regression of the teacher on the statistics of clean crops."""
    random = np.random.default_rng(5)
    fast = network.eval().optimize_for_inference()
    batches = [draw(speech, None, 2.5, 16, random) for _ in range(150)]
    pooled = torch.cat([fast.pooled_statistics(audio) for audio, _ in batches])
    drawn = torch.cat([indices for _, indices in batches])
    fit = RegressionFit()
    fit.add(network.normalise_pooled(pooled), speech.targets[drawn])
    head = fit.result(network.embed_dim)
    network.embedding.weight.copy_(head.weight)
    network.embedding.bias.copy_(head.bias)


def draw(
    speech: Speech, augmenter: Augmenter | None, seconds: float, count: int, random: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return crops (count, samples) of different utterances, and which these are (count,)."""
    crops: list[npt.NDArray[np.float32]] = []
    chosen: list[int] = []
    while len(crops) < count:
        index = int(random.choice(len(speech.probabilities), p=speech.probabilities))
        if index in chosen:
            continue
        crop = speech.crop(index, round(seconds * SAMPLE_RATE), random)
        if crop.any():
            crops.append(crop if augmenter is None else augmenter(crop, int(random.integers(1 << 31))))
            chosen.append(index)
    return torch.from_numpy(np.stack(crops)), torch.tensor(chosen)


def loss_of(unit: torch.Tensor, speech: Speech, drawn: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss of unit-length embeddings (batch, dim), and its parts.

    Regression on the teacher's embedding; the cosines of all pairs after the teacher's; and a little margin softmax against the
    teacher's mean embedding of every speaker.
    """
    target, classes = speech.targets[drawn], speech.classes[drawn]
    regression = 1.0 - (unit * target).sum(dim=1).mean()
    different = ~torch.eye(len(unit), dtype=torch.bool)
    similarity = (unit @ unit.T - target @ target.T)[different].square().mean()
    logits = unit @ speech.means.T - CLASS_MARGIN * functional.one_hot(classes, len(speech.means))
    softmax = functional.cross_entropy(CLASS_SCALE * logits, classes)
    parts = {"cosine": 1.0 - regression.item(), "similarity": similarity.item(), "softmax": softmax.item()}
    return regression + SIMILARITY * similarity + CLASSES * softmax, {name: round(value, 4) for name, value in parts.items()}


if __name__ == "__main__":
    sys.exit(main())
