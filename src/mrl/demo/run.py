"""The demonstration: every step that a real project takes, on a small scale, ending in a table and a picture."""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from mrl.demo.corpus import DemoCorpus, split_corpus, synthetic_voices
from mrl.errors import CheckpointError, InputError
from mrl.evaluation import UNMODIFIED_BACKBONE, EvaluationResult, evaluate_model, write_report
from mrl.matryoshka import ReDimNetMRL
from mrl.pretrained import bundled_models, load_pretrained_redimnet, write_official_checkpoint
from mrl.scoring.bootstrap import MINIMUM_SPEAKERS
from mrl.training import TrainConfig, run_training
from mrl.trials import read_trials

_LOG = logging.getLogger(__name__)

_SPEAKERS = 80
_UTTERANCES_PER_SPEAKER = 12
_RESAMPLES = 500
_DIMS = [8, 16, 32, 64, 128, 192, 256]
_BACKBONE, _MATRYOSHKA = "backbone", "matryoshka"  # the folders of the two runs
_FEW_DRAWS = 8  # crops per speaker and epoch where the network is no tiny one, so that minutes suffice

BackboneKind: TypeAlias = Literal["bundled", "tiny"]
"""The network of the model that comes with the package, or a tiny one trained on the fly."""


@dataclass(frozen=True)
class DemoResult:
    """What a demonstration leaves.

    Attributes:
        output: folder with everything in it.
        model: the Matryoshka model's folder.
        report: folder with report.json, table.md, table.csv and the plot.
        evaluation: the figures on the test part.
        corpus: the recordings and how they were split.
        seconds: how long it took.
    """

    output: Path
    model: Path
    report: Path
    evaluation: EvaluationResult
    corpus: DemoCorpus
    seconds: float


def run_demo(
    output: Path,
    *,
    data: Path | None = None,
    weights: str | None = None,
    backbone: BackboneKind | None = None,
    seed: int = 0,
    num_speakers: int = _SPEAKERS,
    backbone_epochs: int = 5,
    stage_1_epochs: int = 8,
    stage_2_epochs: int = 2,
) -> DemoResult:
    """Run the whole job: recordings, backbone, both training stages, evaluation, report.

    Args:
        output: folder for everything that is written; what an earlier demonstration left there is replaced.
        data: a folder with one subfolder per speaker; None makes synthetic voices.
        weights: an official ReDimNet checkpoint as the backbone.
        backbone: which one to take without ``weights``; by default the bundled one for your own recordings, and for synthetic
            voices a tiny one, trained from scratch.
        seed: of voices, split, training and bootstrap.
        num_speakers: how many synthetic voices.
        backbone_epochs: epochs of the tiny backbone.
        stage_1_epochs, stage_2_epochs: epochs of the head alone and of everything.

    Raises:
        DataError: too few speakers or recordings in ``data``.
        CheckpointError: ``weights`` cannot be used.
        InputError: both ``weights`` and ``backbone``.
    """
    started = time.monotonic()
    if weights is not None and backbone is not None:
        raise InputError(f"weights are the backbone already; leave out backbone (found {backbone!r})")
    kind: BackboneKind = backbone or ("tiny" if data is None else "bundled")
    for name in (_BACKBONE, _MATRYOSHKA):
        _forget_run(output / name)
    if data is None:
        _LOG.info("Making %d synthetic voices with %d utterances each", num_speakers, _UTTERANCES_PER_SPEAKER)
        data = synthetic_voices(
            output / "voices", num_speakers=num_speakers, utterances_per_speaker=_UTTERANCES_PER_SPEAKER, seed=seed
        )
    corpus = split_corpus(data, output, seed=seed)
    for part, (speakers, utterances) in corpus.counts.items():
        _LOG.info("%s: %d speakers, %d utterances", part, speakers, utterances)
    draws_per_speaker = None
    if weights is None and kind == "tiny":
        _LOG.info("Training a tiny backbone from scratch, to stand in for a released checkpoint")
        backbone_run = run_training(_backbone_config(corpus, output / _BACKBONE, seed, backbone_epochs)).run_folder
        weights = str(backbone_run / "best" / "official.pt")
    elif weights is None:
        weights = str(_write_bundled_backbone(output / _BACKBONE))
        draws_per_speaker = _FEW_DRAWS
    _LOG.info("Training the Matryoshka model on %s", weights)
    config = _matryoshka_config(corpus, output / _MATRYOSHKA, seed, weights, stage_1_epochs, stage_2_epochs, draws_per_speaker)
    model_folder = run_training(config).run_folder / "best"
    _LOG.info("Evaluating on unseen speakers")
    enough = corpus.counts["test"][0] >= MINIMUM_SPEAKERS
    if not enough:
        _LOG.info(
            "Without intervals: they need at least %d such speakers, there are %d", MINIMUM_SPEAKERS, corpus.counts["test"][0]
        )
    evaluation = evaluate_model(
        ReDimNetMRL.from_pretrained(model_folder),
        read_trials(corpus.trials["test"]),
        corpus.root,
        baseline=load_pretrained_redimnet(weights=weights),
        speakers=corpus.speakers,
        seed=seed,
        bootstrap=_RESAMPLES if enough else 0,
        max_seconds=20.0,
        name="matryoshka",
        baseline_name=UNMODIFIED_BACKBONE,
        provenance={"command": ["mrl", "demo"], "seed": seed, "weights": str(weights)},
    )
    report = output / "report"
    write_report(evaluation, report)
    return DemoResult(output, model_folder, report, evaluation, corpus, time.monotonic() - started)


def _forget_run(folder: Path) -> None:
    """Remove the run that an earlier demonstration left, over which a new one could not begin; nothing else."""
    if (folder / "config.yaml").is_file() and (folder / "checkpoints").is_dir():
        shutil.rmtree(folder)


def _write_bundled_backbone(folder: Path) -> Path:
    """Write the network inside the bundled model as an official checkpoint, which training starts from; return the file."""
    bundled = next(iter(bundled_models()), None)
    if bundled is None:
        raise CheckpointError("this installation has no bundled model; give --weights or --backbone tiny")
    _LOG.info("The backbone is that of the bundled model %s. %s", bundled.name, bundled.release.notice)
    checkpoint = folder / f"{bundled.name}.pt"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    write_official_checkpoint(checkpoint, *ReDimNetMRL.from_pretrained(bundled.folder).backbone.to_official())
    return checkpoint


def _common(corpus: DemoCorpus, folder: Path, seed: int) -> dict[str, dict[str, Any]]:
    return {
        "data": {
            "train": {"manifest": str(corpus.manifest), "root": str(corpus.root), "where": {"part": "train"}},
            "validation": {"trials": str(corpus.trials["validation"]), "root": str(corpus.root)},
            "crop_seconds": 1.5,
        },
        "training": {"seed": seed, "output_dir": str(folder), "device": "auto", "log_every_steps": 10},
    }


def _backbone_config(corpus: DemoCorpus, folder: Path, seed: int, epochs: int) -> TrainConfig:
    settings = _common(corpus, folder, seed)
    settings["model"] = {"embed_dim": 192, "mrl_dims": [192]}
    settings["loss"] = {"margin": 0.1, "margin_warmup_epochs": epochs / 3, "scale": 20.0}
    settings["training"] |= {"num_epochs": epochs, "batch_size": 32, "learning_rate": 4e-3, "validate_every_epochs": epochs}
    settings["advanced"] = {"use_pretrained": False, "model_name": "tiny", "ema_decay": 0.9}
    return TrainConfig.model_validate(settings)


def _matryoshka_config(
    corpus: DemoCorpus,
    folder: Path,
    seed: int,
    weights: str,
    stage_1_epochs: int,
    stage_2_epochs: int,
    draws_per_speaker: int | None,
) -> TrainConfig:
    settings = _common(corpus, folder, seed)
    settings["data"]["draws_per_speaker"] = draws_per_speaker
    settings["model"] = {"embed_dim": 256, "mrl_dims": _DIMS}
    settings["training"] |= {
        "num_epochs": stage_1_epochs + stage_2_epochs,
        "batch_size": 32,
        "learning_rate": 1e-3,
        "finetune_learning_rate": 5e-4,
    }
    settings["advanced"] = {
        "weights": weights,
        "freeze_backbone_epochs": stage_1_epochs,
        "cache_views": 2,
        "projection_init": "lda",
        "ema_decay": 0.9,
    }
    return TrainConfig.model_validate(settings)
