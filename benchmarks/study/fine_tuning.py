"""Part 3: does unfreezing the backbone help? Full fine-tuning from the recipe's stage 1, one change at a time.

    python -m benchmarks.study.fine_tuning --shared ../shared --epochs 2 --output docs/results/study/standin-b0

Every variant is a run of the project's own trainer from configs/real-speech.yaml with the overrides named below: the same stage 1
on cached statistics (same seed, same head), then ``--epochs`` epochs of stage 2. Writes ``fine-tuning.json`` beside the other
parts; variants that are there already are kept. Minutes per variant and epoch on one core.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from benchmarks.study.data import LISTS, StudyData, load_study_data
from benchmarks.study.measuring import Bench
from benchmarks.study.provenance import provenance

from mrl.embeddings import map_files
from mrl.files import write_json
from mrl.matryoshka import ReDimNetMRL
from mrl.pretrained import load_pretrained_redimnet
from mrl.training import load_config, run_training

STAGE_1_EPOCHS = 18
VARIANTS: dict[str, tuple[str, ...]] = {
    "as configured (backbone rate 0.1, BatchNorm frozen, EMA)": (),
    "backbone rate 0.01": ("advanced.backbone_learning_rate_ratio=0.01",),
    "backbone rate 1": ("advanced.backbone_learning_rate_ratio=1",),
    "BatchNorm statistics move": ("advanced.batch_norm_statistics=update",),
    "pull towards the teacher": ("advanced.teacher_pull=1", "advanced.teacher_init=null"),
    "large margin, 4 s": ("loss.finetune_margin=0.4", "data.finetune_crop_seconds=4"),
    "without EMA": ("advanced.ema_decay=0",),
    "clean crops": ("data.augmentation.noise_probability=0", "data.augmentation.rir_probability=0"),
}


def main() -> int:
    """Parse, train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with corpora/")
    parser.add_argument("--config", type=Path, default=Path("configs/real-speech.yaml"))
    parser.add_argument("--epochs", type=int, default=2, help="of stage 2")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--runs", type=Path, default=Path("runs/study-fine-tuning"), help="run folders")
    parser.add_argument("--cache", type=Path, default=Path("runs/study"))
    parser.add_argument("--output", type=Path, default=Path("docs/results/study/standin-b0"))
    parser.add_argument("--resamples", type=int, default=300)
    arguments = parser.parse_args()
    corpora = arguments.shared / "corpora"
    weights = corpora / "checkpoints" / "b0-standin.pt"
    data = load_study_data(load_pretrained_redimnet(weights=weights), corpora, arguments.cache)
    bench = Bench(data, resamples=arguments.resamples)
    place = arguments.output / "fine-tuning.json"
    systems: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))["systems"] if place.is_file() else {}
    wanted = [("stage 1, before", None), *((name, VARIANTS[name]) for name in arguments.variants)]
    for name, overrides in wanted:
        if name in systems:
            continue
        embedded = [_one_run(arguments, data, corpora, name, overrides, seed) for seed in arguments.seeds]
        systems[name] = bench.measure_embeddings(embedded)
        write_json(
            place,
            {
                **provenance("fine_tuning", weights, seeds=arguments.seeds, resamples=arguments.resamples),
                "systems": systems,
            },
        )
    return 0


def _one_run(
    arguments: argparse.Namespace, data: StudyData, corpora: Path, name: str, overrides: tuple[str, ...] | None, seed: int
) -> dict[str, npt.NDArray[np.float32]]:
    """Train (or go on with) one variant and return the embeddings of every list by the model after the last epoch."""
    folder = arguments.runs / f"{''.join(c if c.isalnum() else '-' for c in name)}-seed{seed}"
    epochs = STAGE_1_EPOCHS + (0 if overrides is None else arguments.epochs)
    config = load_config(
        [arguments.config],
        overrides=[
            f"training.num_epochs={epochs}",
            f"advanced.freeze_backbone_epochs={STAGE_1_EPOCHS}",
            f"training.seed={seed}",
            f"training.output_dir={folder}",
            f"training.precision={arguments.precision}",
            f"training.validate_every_epochs={epochs}",
            "data.validation.max_seconds=3",  # nothing is chosen by it here
            *(overrides or ()),
        ],
    )
    run_training(config, resume="auto")
    model = ReDimNetMRL.from_pretrained(folder / "last")
    with torch.inference_mode():
        if model.backbone_is_unmodified:
            return {listed: model.projection(data.lists[listed].features.float()).numpy() for listed in LISTS}
        return {listed: _embed(model, listed, data.lists[listed].trials.paths(corpora)) for listed in LISTS}


def _embed(model: ReDimNetMRL, description: str, paths: list[Path]) -> npt.NDArray[np.float32]:
    fast = model.optimize_for_inference()

    def raw(waves: list[npt.NDArray[np.float32]]) -> torch.Tensor:
        return fast.project(fast.pooled_statistics(waves))

    return map_files(raw, paths, description=description, batch_seconds=30.0, on_error="raise").matrices[0]


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
