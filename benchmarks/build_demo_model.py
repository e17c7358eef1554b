"""Builds the model that ships with the package: head, measurement, model folder with its card.

    OMP_NUM_THREADS=1 python benchmarks/build_demo_model.py --weights runs/from-scratch-b0/best/official.pt

The backbone is that of a run of configs/from-scratch-b0.yaml and stays as it is; ``--weights`` may also be the ``best`` folder of
a further run that began from it (then ``--earlier-run runs/from-scratch-b0``). The head is trained with configs/demo-model.yaml
on cached statistics; the model is rounded to float16, loaded again, and measured as users will have it. Every figure in the card
is from this measurement or from the run. The same command again goes on where an interrupted one stopped.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import hashlib
import json
import logging
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mrl.errors import CheckpointError
from mrl.evaluation import DimFigures, EvaluationResult, SystemResult, evaluate_model
from mrl.files import sha256_of
from mrl.hardware import hardware_line
from mrl.matryoshka import ReDimNetMRL, get_model_info
from mrl.matryoshka.saving import read_model_config
from mrl.pretrained import Release, ReleaseCorpus, ReleaseRate, ReleaseResult, write_official_checkpoint
from mrl.training import TrainConfig, TrainingResult, load_config, run_training
from mrl.training.folders import atomic_folder
from mrl.trials import read_trials

PROJECT = Path(__file__).resolve().parents[1]
NAME = "mrl-b0-demo"
LICENCE = "CC-BY-4.0"
LISTS = {"so762-adult": "", "libri-test-other": "", "so762-child": "the choice among epochs was made on this list"}
SMALLEST_COSINE = 0.9999  # between the float32 and the float16 model, at every prefix length
_COMPARED = 40  # utterances

# What the folder of the recordings says about them, and whom to name.
_SOURCES = {
    "so762": (
        "speechocean762, train part",
        "CC-BY-4.0",
        "[OpenSLR 101](https://www.openslr.org/101/), Zhang et al. 2021; Mandarin speakers reading English, half children",
    ),
    "libri_train100": (
        "LibriSpeech train-clean-100, one utterance each",
        "CC-BY-4.0",
        "[OpenSLR 12](https://www.openslr.org/12/), Panayotov et al. 2015; public-domain audiobooks of LibriVox",
    ),
    "noise": (
        "kitchens, crowds, machines, hum, stationary noise",
        "CC BY, Apache-2.0, MIT",
        "collections of open speech toolkits; clips for non-commercial use only were left out",
    ),
    "rir": ("measured room impulse responses", "Creative Commons, Apache-2.0, MIT", "collections of open speech toolkits"),
}
_NON_COMMERCIAL = "sb_esc50_"


def main() -> int:
    """Parse, train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=PROJECT / "runs/from-scratch-b0/best/official.pt")
    parser.add_argument("--earlier-run", type=Path, action="append", default=[], help="run that the run of --weights began from")
    parser.add_argument("--backbone-minutes", type=float, help="how long the backbone was trained, for the card")
    parser.add_argument("--config", type=Path, default=PROJECT / "configs/demo-model.yaml")
    parser.add_argument("--shared", type=Path, default=PROJECT.parent / "shared", help="folder with corpora/")
    parser.add_argument("--runs", type=Path, default=PROJECT / "runs", help="folder for the head's run")
    parser.add_argument("--output", type=Path, default=PROJECT / "src/mrl/assets" / NAME)
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    started = time.monotonic()
    weights = official_file(arguments.weights, arguments.runs)
    config, trained = train_head(arguments.config, weights, arguments.runs, arguments.seed)
    best = ReDimNetMRL.from_pretrained(trained.run_folder / "best")
    describe_source(best, weights)
    corpora = arguments.shared / "corpora"
    with tempfile.TemporaryDirectory() as folder:
        best.save_pretrained(folder, dtype=torch.float16)
        model = ReDimNetMRL.from_pretrained(folder)
    cosine = smallest_cosine(best, model, corpora)
    if cosine < SMALLEST_COSINE:
        raise CheckpointError(f"float16 changes the embeddings: cosine {cosine:.6f}, expected {SMALLEST_COSINE} or more")
    results = {}
    for name in LISTS:
        trials = read_trials(corpora / "trials" / f"{name}.txt.gz")
        results[name] = evaluate_model(model, trials, corpora, bootstrap=arguments.bootstrap, seed=arguments.seed)
    run = arguments.weights.resolve() if arguments.weights.is_dir() else arguments.weights.resolve().parent
    backbone = backbone_facts([*(one / "best" for one in arguments.earlier_run), run], arguments.backbone_minutes)
    release = make_release(model, read_corpora(corpora / "manifest.tsv"), results, backbone, head_facts(config, trained, cosine))
    with atomic_folder(arguments.output) as temporary:
        model.save_pretrained(temporary, release=release, dtype=torch.float16)
        for file in temporary.iterdir():
            file.chmod(0o644)
    for name in LISTS:
        found = "  ".join(f"{rate.dim}: {100 * rate.equal_error_rate:.2f}" for rate in _result(release, name).model)
        print(f"{name}  EER %  {found}  backbone {100 * _result(release, name).baseline[-1].equal_error_rate:.2f}")
    size = (arguments.output / "model.safetensors").stat().st_size
    print(f"float16 against float32: smallest cosine {cosine:.7f}; {size:,} bytes; {time.monotonic() - started:.0f} s")
    print("Now run benchmarks/calibrate_demo_model.py: the earlier calibration went with the earlier weights.")
    print(f"written: {arguments.output}; SHA-256 {sha256_of(arguments.output / 'model.safetensors')}")
    return 0


def official_file(weights: Path, runs: Path) -> Path:
    """Return a checkpoint in the official format: ``weights`` itself, or one made from a model folder's whole embedding."""
    if not weights.is_dir():
        return weights
    key = str(read_model_config(weights)["weights_sha256"])[:8]
    made = runs / f"demo-backbone-{key}.pt"
    if not made.is_file():
        write_official_checkpoint(made, *ReDimNetMRL.from_pretrained(weights).to_backbone().to_official())
    return made


def train_head(config_file: Path, weights: Path, runs: Path, seed: int) -> tuple[TrainConfig, TrainingResult]:
    """Train the head in a run folder that belongs to these weights and settings, or go on with the run that is there."""
    given = [f"advanced.weights={weights.resolve()}", f"training.seed={seed}"]
    settings = load_config([config_file], given).to_dict()
    settings["training"].pop("output_dir")
    key = hashlib.sha256(f"{sha256_of(weights)} {json.dumps(settings, sort_keys=True)}".encode()).hexdigest()[:8]
    config = load_config([config_file], [*given, f"training.output_dir={runs.resolve() / f'demo-model-{key}'}"])
    return config, run_training(config, resume="auto")


def describe_source(model: ReDimNetMRL, weights: Path) -> None:
    """State where the backbone comes from, in the form in which released checkpoints state it."""
    model.backbone.pretrained_source = {
        "file": weights.name,
        "sha256": sha256_of(weights),
        "model_name": "b0",
        "train_type": "from scratch",
        "dataset": "speechocean762 and LibriSpeech train-clean-100",
        "licence": LICENCE,
    }


@torch.inference_mode()
def smallest_cosine(one: ReDimNetMRL, other: ReDimNetMRL, corpora: Path) -> float:
    """Return the smallest cosine between two models' embeddings of some recordings, over all prefix lengths."""
    names = read_trials(corpora / "trials" / "so762-child.txt.gz").utterances[:_COMPARED]
    found = []
    for name in names:
        first, second = (model(corpora / name, return_all_dims=True) for model in (one, other))
        found += [float(first[dim] @ second[dim]) for dim in first]
    return min(found)


def read_corpora(manifest: Path) -> tuple[ReleaseCorpus, ...]:
    """Return what the backbone and the head were made with, counted in the manifest."""
    with manifest.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream, delimiter="\t") if row["part"] != "eval"]
    found = []
    for corpus, (name, licence, source) in _SOURCES.items():
        own = [row for row in rows if row["corpus"] == corpus and not Path(row["path"]).name.startswith(_NON_COMMERCIAL)]
        found.append(
            ReleaseCorpus(
                name=name,
                purpose={"noise": "noise, for the backbone only", "rir": "rooms, for the backbone only"}.get(corpus, "training"),
                speakers=len({row["speaker"] for row in own}) if corpus not in ("noise", "rir") else None,
                utterances=len(own),
                hours=sum(float(row["seconds"]) for row in own) / 3600,
                licence=licence,
                source=source,
            )
        )
    return tuple(found)


@dataclasses.dataclass(frozen=True)
class BackboneFacts:
    """What the runs that the weights are from tell about themselves."""

    speakers: int
    epochs: int
    steps: int
    threads: int
    minutes: float | None
    configs: tuple[str, ...]

    @property
    def cores(self) -> str:
        return "one CPU core" if self.threads == 1 else f"{self.threads} CPU cores"

    @property
    def effort(self) -> str:
        length = f"{self.epochs} epochs" if self.minutes is None else f"{self.minutes:.0f} minutes"
        return f"for {length} on {self.cores}"


def backbone_facts(models: Sequence[Path], minutes: float | None) -> BackboneFacts:
    """Add up the facts in the model folders of successive runs, and in the run folders above them."""
    trainings: list[dict[str, Any]] = [read_model_config(model)["training"] for model in models]
    environments = [json.loads((model.parent / "environment.json").read_text(encoding="utf-8")) for model in models]
    return BackboneFacts(
        speakers=max(int(training["training_speakers"]) for training in trainings),
        epochs=sum(int(training["epochs"]) for training in trainings),
        steps=sum(int(training["steps"]) for training in trainings),
        threads=max(int(environment["torch_threads"]) for environment in environments),
        minutes=minutes,
        configs=tuple(_config_name(model.parent) for model in models),
    )


def _config_name(run: Path) -> str:
    """The file in configs/ that the run's folder is named after."""
    return f"configs/{run.name}.yaml"


def head_facts(config: TrainConfig, trained: TrainingResult, cosine: float) -> dict[str, str | int | float]:
    """Return how the head was made."""
    return {
        "head": f"closed form ({config.advanced.projection_init}), then {trained.best_epoch} epochs on cached statistics of the "
        "frozen backbone (configs/demo-model.yaml)",
        "weights": f"float16; cosine with float32 at least {cosine:.6f}",
        "seed": config.training.seed,
        "hardware": hardware_line(),
        "commit": _commit(),
        "command": shlex.join(["python", "benchmarks/build_demo_model.py", *sys.argv[1:]]).replace(f"{PROJECT}/", ""),
    }


def make_release(
    model: ReDimNetMRL,
    corpora: Sequence[ReleaseCorpus],
    results: dict[str, EvaluationResult],
    backbone: BackboneFacts,
    head: dict[str, str | int | float],
) -> Release:
    """Put the statement together."""
    measured = tuple(_list_result(name, result) for name, result in results.items())
    return Release(
        name=NAME,
        notice=f"{NAME} is a demonstration model of {backbone.speakers} speakers with a starter calibration: "
        "not for any real decision.",
        licence=LICENCE,
        num_parameters=get_model_info(model)["parameters"],
        training_speakers=backbone.speakers,
        corpora=tuple(corpora),
        results=measured,
        intended_use=(
            "For trying out this package on recordings of your own without a network: embedding, comparing, enrolling, "
            "searching, serving, exporting; for teaching; for testing software that will use a better model.",
        ),
        limits=(
            "Not for any real decision: not for giving access, not for telling in earnest who somebody is, not as evidence.",
            "It has heard read English only, by Mandarin speakers and by readers of audiobooks, each recorded in one session on "
            "one device. Other languages, telephones, far or noisy recordings and sessions days apart were not measured.",
            "The error rates below are of clean recordings from one session each, an easy task; "
            f"they differ between groups of speakers: {_groups(measured, model.embed_dim)}.",
            "Its starter calibration is fitted to short clips of Mozilla Common Voice, most of one session per speaker: on other "
            f"recordings probabilities and decisions are off. Copy it (mrl pretrained copy {NAME} FOLDER) and run mrl calibrate "
            "on trials of your own.",
        ),
        making={
            "backbone": f"ReDimNet b0 from random weights, {backbone.epochs} epochs ({backbone.steps:,} optimizer steps) "
            f"{f'on {backbone.cores}' if backbone.minutes is None else backbone.effort} ({', then '.join(backbone.configs)})",
            **head,
        },
    )


def _list_result(name: str, result: EvaluationResult) -> ReleaseResult:
    own, backbone = result.systems[0], result.systems[1]
    facts = result.trial_list
    assert facts.speakers is not None  # intervals were asked for
    return ReleaseResult(
        name, LISTS[name], facts.speakers, facts.trials, _rates(own, "this model"), _rates(backbone, "backbone alone")
    )


def _rates(system: SystemResult, name: str) -> tuple[ReleaseRate, ...]:
    return tuple(_rate(figures, name) for figures in system.figures)


def _rate(figures: DimFigures, name: str) -> ReleaseRate:
    interval = figures.equal_error_rate_interval
    assert interval is not None  # intervals were asked for
    return ReleaseRate(name, figures.dim, figures.equal_error_rate, interval.low, interval.high)


def _groups(results: Sequence[ReleaseResult], dim: int) -> str:
    rates = {result.trial_list: rate for result in results for rate in result.model if rate.dim == dim}
    adult, child = (100 * rates[name].equal_error_rate for name in ("so762-adult", "so762-child"))
    return f"at {dim} numbers {adult:.1f} % among adults and {child:.1f} % among children of the same collection"


def _result(release: Release, name: str) -> ReleaseResult:
    return next(result for result in release.results if result.trial_list == name)


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=PROJECT, capture_output=True, text=True, check=True).stdout.strip()

    changed = " with uncommitted changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    return f"{git('rev-parse', '--short=12', 'HEAD')}{changed}"


if __name__ == "__main__":
    sys.exit(main())
