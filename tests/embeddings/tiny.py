"""A real but tiny network and a small corpus of synthetic voices, for end-to-end tests."""

from __future__ import annotations

from pathlib import Path

import torch

from mrl.audio import write_synthetic_corpus
from mrl.backbone import ReDimNet, ReDimNetConfig
from mrl.matryoshka import create_mrl
from mrl.pretrained import write_official_checkpoint

TINY_CONFIG = {
    "F": 24,
    "C": 4,
    "block_1d_type": "conv+att",
    "block_2d_type": "basic_resnet",
    "stages_setup": [[1, 1, 1, [[3, 3]], 4], [2, 1, 2, [[3, 3]], 4]],
    "group_divisor": 4,
    "hop_length": 240,
}


def write_models(folder: Path) -> tuple[Path, Path]:
    """Write one tiny network as an official checkpoint and, with a Matryoshka head, as a model folder; return both."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = ReDimNet(ReDimNetConfig.from_model_config(TINY_CONFIG)).eval()
    checkpoint, model_folder = folder / "tiny.pt", folder / "tiny-mrl"
    write_official_checkpoint(checkpoint, *backbone.to_official())
    create_mrl(backbone, embed_dim=256).save_pretrained(model_folder)
    return checkpoint, model_folder


def write_voices(root: Path) -> list[str]:
    """Write six voices with three utterances each; return their names relative to ``root``."""
    files = write_synthetic_corpus(root, num_speakers=6, utterances_per_speaker=3, seconds=(0.5, 0.9), seed=0)
    return [str(file.relative_to(root)) for file in files]
